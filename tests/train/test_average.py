"""Averaged weights: by their formula; saved, sharded and skipped as parameters are; and what every reader gets."""

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flax import nnx
import jax
from ml_collections import ConfigDict
import numpy as np
import optax
import pytest

from data_pipelines.errors import UserError
from data_pipelines.storage import read_json
from tests.support import small_runs
from tests.support.predictions import student_view
from tests.support.steps import finetune_step
import uniemox_jax
from uniemox_jax.eval.run_evaluation import evaluate
from uniemox_jax.finetune import finetune
from uniemox_jax.models.classifier import Classifier
from uniemox_jax.plan import step_compiler
from uniemox_jax.pretrain import pretrain
from uniemox_jax.runtime import sharding
from uniemox_jax.runtime.preemption import Preempted
from uniemox_jax.runtime.run_log import read_metrics
from uniemox_jax.runtime.sharding import make_mesh
from uniemox_jax.train import loop, optimizer
from uniemox_jax.train.checkpoint import Checkpoints, load_checkpoint
from uniemox_jax.train.config import FinetuneConfig
from uniemox_jax.train.run_folder import keep_config
from uniemox_jax.train.schema import parse
from uniemox_jax.train.state import TrainState, builder, create_state, graphdef_of, state_template

pytestmark = pytest.mark.usefixtures('one_device')
MODEL = dict(image_size=32, patch_size=8, width=24, depth=2, heads=2, classes=8)
DECAY, STEPS = 0.5, 12
REGULARISED = dict(mixup=0.8, cutmix=1.0, smoothing=0.1, drop_path=0.2)


def batch_of(step: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(step)
  return {'image': rng.integers(0, 256, (8, 32, 32, 3), np.uint8), 'label': rng.integers(0, 8, 8, np.int32)}


def states(
    steps: int = STEPS, devices: int = 1, fsdp: int = 1, averaged: bool = True, loaded: Any = None,
    **options: Any) -> list[TrainState]:
  """The state before and after each step, on the host; the device's buffers are donated, as in training."""
  mesh, build = make_mesh(fsdp=fsdp, devices=jax.devices()[:devices]), builder(Classifier, **MODEL)
  tx = optimizer.adamw(lambda step: 1e-2)
  state = create_state(state_template(build, tx, mesh, averaged), build, tx, 0, loaded)
  step_fn = finetune_step(graphdef_of(build), tx, **REGULARISED | options, ema_decay=DECAY if averaged else 0.0)
  step, found = loop.jit_step(step_fn, state), [jax.device_get(state)]
  with jax.set_mesh(mesh):
    for number in range(steps):
      state, _ = step(state, (), sharding.global_batch(batch_of(number), mesh), jax.random.key(0))
      if averaged:
        assert jax.tree.all(jax.tree.map(lambda leaf, raw: leaf.sharding == raw.sharding, state.average, state.params))
      found.append(jax.device_get(state))
  return found


@pytest.fixture(scope='module')
def whole() -> list[TrainState]:
  return states()


def averaged(decay: float, old: np.ndarray, new: np.ndarray) -> np.ndarray:
  return decay * old + (1 - decay) * new


def test_average_is_what_a_plain_loop_makes_of_the_same_updates(whole):
  found, average = whole, jax.tree.map(np.float64, whole[0].params)
  assert jax.tree.all(jax.tree.map(np.array_equal, found[0].average, found[0].params))
  for step, state in enumerate(found[1:]):
    average = jax.tree.map(functools.partial(averaged, min(DECAY, (1 + step) / (10 + step))), average, state.params)
  jax.tree.map(
      lambda ours, plain: np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-7), found[-1].average, average)
  assert (1 + STEPS - 1) / (10 + STEPS - 1) > DECAY  # both branches were there
  assert {leaf.dtype for leaf in jax.tree.leaves(found[-1].average)} == {np.dtype(np.float32)}


def test_averaging_does_not_change_what_is_trained(whole):
  one, other = whole[4], states(4, averaged=False)[-1]
  assert other.average is None and other.evaluated is other.params
  assert jax.tree.all(jax.tree.map(np.array_equal, (one.params, one.opt_state), (other.params, other.opt_state)))


def test_start_from_given_weights_is_averaged_from_there():
  head = {'head': {'bias': np.arange(8, dtype=np.float32)}}
  first = states(0, loaded=head)[0]
  np.testing.assert_array_equal(first.average['head']['bias'], np.arange(8))


@pytest.mark.parametrize(('options', 'devices'),
                         [pytest.param({'accum_steps': 4}, 1, marks=pytest.mark.slow), ({'fsdp': 4}, 8)])
def test_accumulation_and_devices_change_no_average(options, devices, whole):
  one, other = whole[3], states(3, devices, **options)[-1]
  distance = optax.tree.norm(jax.tree.map(np.subtract, one.average, other.average)) / optax.tree.norm(one.average)
  assert distance < 1e-3  # Adam makes much of the last bits of small gradients


def test_skipped_step_leaves_every_bit_of_the_average():
  before, after = states(2, max_gradient_norm=0.0)[-2:]
  assert after.step == before.step + 1
  assert jax.tree.all(jax.tree.map(np.array_equal, before._replace(step=0), after._replace(step=0)))


def test_off_the_state_and_its_checkpoint_are_what_they_were(tmp_path):
  state = states(0, averaged=False)[0]
  assert jax.tree.structure(tuple(state)[:3]).num_leaves == jax.tree.structure(state).num_leaves
  checkpoints = Checkpoints(str(tmp_path), {'kind': 'classifier'}, 'a device')
  checkpoints.save(jax.device_put(state))
  checkpoints.close()
  record = json.loads((tmp_path / 'checkpoints' / '0' / 'record' / 'metadata').read_text())
  assert {'/'.join(name.split('/')[:2]) for name in record['leaves']
         } == {'params/encoder', 'params/fc_norm', 'params/head', 'optimizer/step', 'optimizer/opt_state'}


def averaged_config(data_dir: str) -> ConfigDict:
  config = small_runs.finetune_config(data_dir)
  config.ema_decay = 0.9
  return config


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory, data_dir: str) -> Path:
  """A run with averaged weights; read only."""
  workdir = tmp_path_factory.mktemp('averaged') / 'run'
  finetune(averaged_config(data_dir), str(workdir))
  return workdir


@pytest.mark.slow
def test_resumed_run_ends_bit_equal(run, data_dir, tmp_path):
  """Stopped after 7 of 10 steps, within its second epoch."""
  parts, polls = tmp_path / 'parts', iter([False] * 7 + [True])
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
        loop, 'preemption',
        SimpleNamespace(
            poll=lambda: next(polls), Preempted=Preempted, begin=lambda: None, raise_if_preempted=lambda: None,
            set_unsaved=lambda _: None))
    with pytest.raises(Preempted):
      finetune(averaged_config(data_dir), str(parts))
  assert load_checkpoint(str(parts / 'checkpoints' / '7')).step == 7
  finetune(averaged_config(data_dir), str(parts))
  assert small_runs.same_weights(run, parts)
  records = [
      json.loads((workdir / 'checkpoints' / '10' / 'record' / 'metadata').read_text()) for workdir in (run, parts)]
  assert records[0]['leaves'] == records[1]['leaves']
  assert any(name.startswith('optimizer/params/') for name in records[0]['leaves'])
  assert (run / 'result.json').read_bytes() == (parts / 'result.json').read_bytes()


@pytest.mark.slow
def test_readers_get_the_averaged_weights(run):
  """The checkpoint's `params` are the average: val scores and result.json are theirs, the raw ones lie elsewhere."""
  build, tx = builder(Classifier, **small_runs.ENCODER,
                      classes=8), optimizer.adamw(lambda step: 0.0, b2=0.999, layer_decay=0.75)
  template = state_template(build, tx, make_mesh(), averaged=True)
  checkpoints = Checkpoints(str(run), {}, 'a device')
  state = checkpoints.restore_latest(template).state
  checkpoints.close()
  last = load_checkpoint(str(run / 'checkpoints' / '10')).params
  assert jax.tree.all(jax.tree.map(np.array_equal, last, jax.device_get(state.average)))
  assert not np.array_equal(last['head']['kernel'], np.asarray(state.params['head']['kernel']))
  best = load_checkpoint(str(run))
  scores = {line['step']: line['val_top1'] for line in read_metrics(str(run)) if 'val_top1' in line}
  assert evaluate(str(run), 'val')['top1'] == pytest.approx(scores[best.step], abs=1e-6)
  images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
  classifier = uniemox_jax.load_classifier(str(run / 'checkpoints' / '10'))
  module = nnx.merge(graphdef_of(build), jax.device_get(state.average))
  np.testing.assert_allclose(
      classifier.predict_proba(images), jax.nn.softmax(module(student_view(images, 32))), rtol=1e-5)


def test_pretraining_hands_on_the_average_and_trains_as_without(tmp_path, data_dir, clip_folder):
  checksums = []
  for decay in (0.0, 0.9):
    config, workdir = small_runs.pretrain_config(data_dir, clip_folder, epochs=1), tmp_path / f'decay_{decay}'
    config.ema_decay = decay
    pretrain(config, str(workdir))
    checksums.append(json.loads((workdir / 'checkpoints' / '7' / 'record' / 'metadata').read_text())['leaves'])
  plain, averaged = checksums
  trained = {name: sums for name, sums in plain.items() if name.startswith('params/')}
  assert trained == {name: averaged[f'optimizer/{name}'] for name in trained}
  assert all(averaged[name] != sums for name, sums in trained.items() if name.endswith('kernel'))


def test_decay_that_is_none_is_refused_and_older_configs_resume(tmp_path, data_dir):
  config = small_runs.finetune_config(data_dir)
  keep_config(parse(FinetuneConfig, config), str(tmp_path))
  older = read_json(tmp_path / 'config.json')
  del older['ema_decay'], older['model']['pre_norm'], older['model']['activation'], older['model']['norm_eps']
  (tmp_path / 'config.json').write_text(json.dumps(older))
  keep_config(parse(FinetuneConfig, config), str(tmp_path))
  config.ema_decay = 0.9
  with pytest.raises(UserError, match='other values of ema_decay'):
    keep_config(parse(FinetuneConfig, config), str(tmp_path))
  config.ema_decay = 1.0
  with pytest.raises(UserError, match="'ema_decay' is 1.0: it must be at least 0 and below 1"):
    finetune(config, str(tmp_path / 'run'))


@pytest.mark.parametrize('verb', ['pretrain', 'finetune'])
def test_plan_counts_the_average_with_the_optimizer(verb, data_dir, clip_folder):
  pretraining = small_runs.pretrain_config(data_dir, clip_folder)
  config = pretraining if verb == 'pretrain' else small_runs.finetune_config(data_dir)
  off = step_compiler.sizes(step_compiler.training_program(config, jax.devices()[:1]))
  config.ema_decay = 0.9
  on = step_compiler.sizes(step_compiler.training_program(config, jax.devices()[:1]))
  grown = {name: on[name] - off[name] for name in on if on[name] != off[name]}
  assert grown == {'optimizer_bytes_per_device': on['params_bytes_per_device']}


def test_a_compiled_program_donates_the_average_with_the_optimizer(data_dir):
  config = small_runs.finetune_config(data_dir)
  config.ema_decay = 0.9
  program = step_compiler.training_program(config, jax.devices()[:1])
  on = step_compiler.sizes(program)
  compiled = step_compiler.compile_program(program).memory_analysis()
  donated = on['params_bytes_per_device'] + on['optimizer_bytes_per_device']
  assert compiled.argument_size_in_bytes == pytest.approx(donated + on['batch_bytes_per_device'], rel=0.01)
  assert compiled.alias_size_in_bytes == pytest.approx(donated, rel=0.01)
