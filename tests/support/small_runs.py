"""Runs small enough for tests, of the real verbs on real records: pretraining and fine-tuning in seconds."""

from collections.abc import Sequence
import os
from pathlib import Path
import re
import signal
import socket
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from configs import demo, probe
from data_pipelines import build
from data_pipelines.synthetic import datasets
from tests.support.fork_server import ROOT, ForkedProcess
from uniemox_jax.models.clip import CLIPConfig, Tower
from uniemox_jax.teacher.frozen_clip import abstract_clip, save_clip
from uniemox_jax.train.checkpoint import load_checkpoint

DEVICE_COUNT = '--xla_force_host_platform_device_count='
ENCODER = {'image_size': 32, 'patch_size': 8, 'width': 16, 'depth': 2, 'heads': 2}
_started: list[ForkedProcess] = []


def write_records(folder: Path, seed: int = 0) -> str:
  """Records of small drawn sets, 40 train, 16 val and 24 test images each; their data_dir."""
  for dataset in ('emoset', 'emo8'):
    plans = datasets.plan_images(dataset, {'train': 40, 'val': 16, 'test': 24}, seed=seed)
    datasets.write_dataset(folder / 'raw' / dataset, dataset, plans, {})
    build.build(dataset, folder / 'raw' / dataset, folder / 'data')
  return str(folder / 'data')


def random_clip() -> tuple[CLIPConfig, dict[str, Any]]:
  """A CLIP of 16-wide towers with OpenAI's vocabulary, its parameters random and none of them zero."""
  config = CLIPConfig(
      vision=Tower(16, 2, 2, 32), text=Tower(16, 3, 4, 24), image_size=32, patch_size=8, projection_dim=12)
  rng = np.random.default_rng(0)
  return config, jax.tree.map(
      lambda x: (0.2 * rng.standard_normal(x.shape)).astype(np.float32),
      abstract_clip(config)[1])


def write_teacher(folder: Path) -> Path:
  """`random_clip` in Hugging Face form."""
  save_clip(folder, *random_clip())
  return folder


def pretrain_config(data_dir: str, teacher: Path, epochs: int = 2) -> ConfigDict:
  """7 steps an epoch."""
  config = demo.get_config('pretrain')
  config.data_dir, config.teacher = data_dir, str(teacher)
  config.batch_size, config.epochs, config.log_every, config.save_every, config.images_every = 8, epochs, 1, 3, 6
  config.model.update(ENCODER | {'decoder_width': 12, 'decoder_depth': 1, 'decoder_heads': 2})
  return config


def shared_pretrain_config(data_dir: str, teacher: Path) -> ConfigDict:
  """Of the fixture `pretrained_run`: on eight devices, and for targets of which each patch is normalised."""
  config = pretrain_config(data_dir, teacher)
  config.mesh.data, config.loss.norm_pix = 8, True
  return config


def finetune_config(data_dir: str, epochs: int = 2) -> ConfigDict:
  """5 steps an epoch, all of them with mixup, cutmix and drop-path."""
  config = demo.get_config('finetune')
  config.data_dir, config.batch_size, config.epochs, config.eval_every_epochs = data_dir, 8, epochs, 1
  config.log_every = 1
  config.model.update(ENCODER)
  config.regularisation.update({'mixup': 0.8, 'cutmix': 1.0, 'drop_path': 0.2})
  return config


def probe_config(data_dir: str, protocol: str = 'knn', **values: Any) -> ConfigDict:
  """A probe of `ENCODER`."""
  config = probe.get_config('emo8')
  config.data_dir, config.batch_size, config.protocol = data_dir, 16, protocol
  config.model.update(ENCODER)
  config.update(values)
  return config


def command(verb: str, config: ConfigDict, workdir: Path, *arguments: str) -> list[str]:
  """Arguments of python that run a verb with this config, written beside the workdir."""
  path = workdir.with_name(f'{workdir.name}_config.py')
  path.write_text(
      'from ml_collections import ConfigDict\ndef get_config():\n'
      f'  return ConfigDict({config.to_dict()!r})\n')
  return ['-m', verb, f'--config={path}', f'--workdir={workdir}', *arguments]


def start(arguments: Sequence[object], devices: int = 1, cwd: Path = ROOT, **environment: str) -> ForkedProcess:
  """Starts python with `-m` or `-c`, or another command, on emulated devices; its output can be read line by line.

  It compiles as the tests themselves do, and ends with the test that started it.
  """
  flags = re.sub(DEVICE_COUNT + r'\d+', f'{DEVICE_COUNT}{devices}', os.environ['XLA_FLAGS'])
  process = ForkedProcess(arguments, os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags} | environment, cwd)
  _started.append(process)
  return process


def end_started() -> None:
  """Kills what was started and has not ended, with its group: nothing goes on after a test that failed."""
  while _started:
    process = _started.pop()
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()


def same_weights(one: Path, other: Path) -> bool:
  """Whether two runs ended at the same step with the same parameters, to the bit."""
  ours, theirs = load_checkpoint(str(one)), load_checkpoint(str(other))
  return ours.step == theirs.step and jax.tree.structure(ours.params) == jax.tree.structure(theirs.params) and all(
      a.tobytes() == b.tobytes() for a, b in zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params)))


def free_port() -> int:
  """A port of this machine that nothing listens on."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def start_group(arguments: Sequence[object], processes: int, devices: int = 1,
                **environment: str) -> list[ForkedProcess]:
  """Starts a command in several processes that find each other, with so many emulated devices each."""
  if processes == 1:
    return [start(arguments, devices, **environment)]
  address = f'127.0.0.1:{free_port()}'
  return [
      start(
          arguments, devices, JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES=str(processes),
          JAX_PROCESS_ID=str(index), **environment) for index in range(processes)]


def finish(*group: ForkedProcess, code: int = 0) -> list[str]:
  """What each says until it ends, all with this exit code."""
  said = [process.communicate(timeout=300)[0] for process in group]
  assert [process.returncode for process in group] == [code] * len(group), said
  return said
