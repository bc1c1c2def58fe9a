"""What runs keep, and take up when they are resumed: config, log, states, caches."""

from collections.abc import Callable
import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from jax.experimental.compilation_cache import compilation_cache
import jax.numpy as jnp
import numpy as np

from configs import demo
from data_pipelines.batches.pipeline import RecurringCrops
from data_pipelines.records.reader import Split, open_split
from tests.corruption.subject import Subject, list_files
from tests.corruption.world import World
from uniemox_jax.demo import Stages
from uniemox_jax.eval.features import load_frozen, split_features
from uniemox_jax.models.classifier import Classifier
from uniemox_jax.runtime.run_log import RunLog, read_metrics
from uniemox_jax.runtime.sharding import make_mesh
from uniemox_jax.teacher.caption_embeddings import embed_captions, tokenized_captions
from uniemox_jax.teacher.step_teacher import make_teacher
from uniemox_jax.teacher.view_embeddings import Scenes, ViewEmbeddings, embed_views
from uniemox_jax.train.checkpoint import Checkpoints, load_checkpoint
from uniemox_jax.train.config import FinetuneConfig
from uniemox_jax.train.loop import use_compilation_cache
from uniemox_jax.train.optimizer import make_optimizer
from uniemox_jax.train.run_folder import keep_config
from uniemox_jax.train.schema import parse
from uniemox_jax.train.state import builder, state_template


def kept_config(world: World, twin: World) -> Subject:
  folder = world.folder / 'kept'
  configs = {}
  for name, seed in (('kept', 0), ('kept_twin', 1)):
    given = demo.get_config('finetune')
    given.seed = seed
    configs[name] = parse(FinetuneConfig, given)
    (world.folder / name / 'checkpoints' / '7').mkdir(parents=True)
    keep_config(configs[name], str(world.folder / name), {'data_dir': f'digest {seed}', 'init': None})

  def read() -> Any:
    return keep_config(configs['kept'], str(folder), {'data_dir': 'digest 0', 'init': None})

  return Subject(folder, list_files(folder, '*'), read, twin=world.folder / 'kept_twin')


def stages(world: World, twin: World) -> Subject:
  folder = world.new_folder('stages')
  with_stages = Stages(str(folder))
  for name in ('draw', 'build emoset', 'train_clip'):
    with_stages.run(name, lambda: None)
  whole = dict(with_stages.seconds)

  def read() -> Any:
    again = Stages(str(folder))
    found = dict(again.seconds)
    for name in whole:  # What is not known to be done is done again.
      again.run(name, lambda: None)
    return [(name, found.get(name, whole.get(name))) for name in again.seconds]

  return Subject(folder, list_files(folder, '*'), read)


def metrics(world: World, twin: World) -> Subject:
  """metrics.jsonl as a resumed run takes it up."""
  folders, seals = [world.folder / 'log', world.folder / 'log_twin'], []
  for number, folder in enumerate(folders):
    log = RunLog(str(folder), name='finetune', total_steps=20, batch_size=8, start_step=0)
    for step in range(1, 16):
      values = {'loss': jnp.float32(1 / step + number), 'lr': jnp.float32(0.1), 'skipped': jnp.bool_(False)}
      log.add(step, values, np.arange(8))
      if step % 3 == 0:
        log.flush(3, 'none')
    log.close()
    seals.append(log.seal)

  def read() -> Any:
    log = RunLog(str(folders[0]), name='finetune', total_steps=20, batch_size=8, start_step=15, seal=seals[0])
    log.close()
    return read_metrics(str(folders[0])), log.skipped_in_row

  return Subject(folders[0], [folders[0] / 'metrics.jsonl'], read, twin=folders[1])


def resumed(world: World, twin: World) -> Subject:
  """What a resumed run takes up: its newest state, config.json, inputs.json and metrics.jsonl."""

  folder = world.finetuned
  config, kept = parse(FinetuneConfig, world.finetune_config), json.loads((folder / 'inputs.json').read_text())
  newest = max(int(path.name) for path in (folder / 'checkpoints').iterdir() if path.name.isdigit())
  description = load_checkpoint(str(folder)).description
  build = builder(Classifier, dtype='float32', **description['model'])
  template = state_template(build, make_optimizer(config, 5).tx, make_mesh(), averaged=False)
  inputs = {name: digest for name, digest in kept.items() if name != 'seal'}

  def read() -> Any:
    keep_config(config, str(folder), inputs)
    checkpoints = Checkpoints(str(folder), {}, '')
    try:
      restored = checkpoints.restore_latest(template)
    finally:
      checkpoints.close()
    assert restored is not None
    log = RunLog(
        str(folder), name='x', total_steps=10, batch_size=8, start_step=int(restored.state.step), seal=restored.log)
    log.close()
    return jax.tree.leaves(jax.device_get(restored.state)), read_metrics(str(folder)), log.skipped_in_row

  files = [*list_files(folder / 'checkpoints' / str(newest), '**/*'), *list_files(folder, '*.json*')]
  return Subject(folder, [path for path in files if not path.name.startswith('result')], read, twin=twin.finetuned)


def _cache(folder: Path, read: Callable[[], Any], read_another: Callable[[], Any]) -> Subject:
  """The files that a reader makes in a folder if they are not there; the twins are those of another reader."""
  read_another()
  others = list_files(folder, '**/*')
  read()
  files = [path for path in list_files(folder, '**/*') if path not in others]
  twins = folder.with_name(f'{folder.name}_twin')
  for path, another in zip(files, others, strict=True):
    twin = twins / path.relative_to(folder)
    twin.parent.mkdir(parents=True, exist_ok=True)
    twin.write_bytes(another.read_bytes())
  return Subject(folder, files, read, twin=twins)


def _splits(world: World) -> list[Split]:
  return [open_split(world.records('emo8').parents[1], 'emo8', name) for name in ('val', 'test')]


def captions(world: World, twin: World) -> Subject:
  folder = world.folder / 'caption_cache'
  texts = [f'a picture of a {word}' for word in ('tree', 'house', 'face', 'street')]

  def embed(*captions: str) -> Any:
    return embed_captions(world.clip, captions, folder, '', len(captions)).at(np.arange(len(captions)))

  return _cache(folder, lambda: embed(*texts), lambda: embed('another', *texts))


def token_ids(world: World, twin: World) -> Subject:
  folder = world.folder / 'token_ids'
  val, test = _splits(world)

  def read(split: Split) -> Any:
    return tokenized_captions(world.clip, split, True, 'natural', str(folder)).at(np.arange(split.num_examples))

  return _cache(folder, lambda: read(val), lambda: read(test))


def views(world: World, twin: World) -> Subject:
  folder = world.folder / 'view_cache'
  teacher, frozen = make_teacher(world.clip, 'float32')
  val, test = _splits(world)

  def read(split: Split) -> Any:
    scenes = Scenes(split, RecurringCrops(2, seed=0), 32, (0.4, 1.0))
    kept = ViewEmbeddings(str(folder), scenes, 'teacher', teacher.width, 'float32')
    embed_views(kept, scenes, teacher, frozen, mesh=make_mesh(), batch_size=8, sharded=False)
    return [kept.at(view, np.arange(split.num_examples)) for view in range(2)]

  return _cache(folder, lambda: read(val), lambda: read(test))


def features(world: World, twin: World) -> Subject:
  folder = world.folder / 'features'
  model = {'image_size': 32, 'patch_size': 8, 'width': 16, 'depth': 1, 'heads': 2}
  frozen = load_frozen(None, model, dtype='float32', seed=0)
  val, test = _splits(world)

  def read(split: Split) -> Any:
    return split_features(frozen, split, str(folder), image_size=32, batch_size=8, mesh=make_mesh())

  return _cache(folder, lambda: read(val), lambda: read(test))


def programs(world: World, twin: World) -> Subject:
  """Compiled programs, which JAX keeps."""
  folder, numbers_8x8 = world.new_folder('programs'), np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
  wanted = {
      'jax_compilation_cache_dir': str(folder), 'jax_persistent_cache_min_compile_time_secs': 0.0,
      'jax_persistent_cache_min_entry_size_bytes': -1}

  def read() -> Any:
    usual = {name: getattr(jax.config, name) for name in wanted}
    with mock.patch.dict(os.environ, JAX_COMPILATION_CACHE_DIR=str(folder)):
      use_compilation_cache()
    try:
      for name, value in wanted.items():
        jax.config.update(name, value)
      compilation_cache.reset_cache()
      return np.asarray(jax.jit(lambda x: jnp.sort(jnp.tanh(x @ x)))(numbers_8x8))
    finally:
      for name, value in usual.items():
        jax.config.update(name, value)
      compilation_cache.reset_cache()

  read()
  return Subject(folder, list_files(folder, '*-cache'), read)
