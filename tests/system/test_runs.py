"""The verbs on tiny records: what they leave behind, resuming after a kill, and one way to read every checkpoint."""

import json
import os
from pathlib import Path
import shutil
import signal
import time
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.records import reader
from data_pipelines.storage import read_json
from tests.runtime.test_preemption import ONE_OF_TWO, PATIENT_SECONDS, check_ends
from tests.support import small_runs
import uniemox_jax
from uniemox_jax.eval.run_evaluation import evaluate, load_trained, predict_split
from uniemox_jax.finetune import finetune
from uniemox_jax.pretrain import pretrain
from uniemox_jax.runtime import sharding
from uniemox_jax.runtime.clock import Profile
from uniemox_jax.runtime.run_log import RunLog, read_metrics
from uniemox_jax.teacher.frozen_clip import save_clip
from uniemox_jax.train.checkpoint import load_checkpoint
from uniemox_jax.train.config import PretrainConfig
from uniemox_jax.train.run_folder import keep_config
from uniemox_jax.train.schema import parse


@pytest.fixture
def pretrain_config(data_dir: str, clip_folder: Path) -> ConfigDict:
  return small_runs.shared_pretrain_config(data_dir, clip_folder)


@pytest.fixture
def finetune_config(data_dir: str) -> ConfigDict:
  return small_runs.finetune_config(data_dir)


@pytest.fixture(scope='module')
def pretrained(pretrained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
  """Workdir of a pretraining run of which steps 2 and 3 are traced; read only."""
  return str(shutil.copytree(pretrained_run, tmp_path_factory.mktemp('pretrained') / 'run'))


@pytest.fixture(scope='module')
def finetuned(finetuned_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
  """Workdir of a fine-tuning run that started from it; read only but for result files."""
  return str(shutil.copytree(finetuned_run, tmp_path_factory.mktemp('finetuned') / 'run'))


def leaves(path: str) -> list[np.ndarray]:
  return jax.tree.leaves(load_checkpoint(path).params)


def test_pretraining_leaves_what_the_design_promises(pretrained):
  assert {'checkpoints', 'metrics.jsonl', 'tensorboard', 'reconstructions',
          'config.json'} <= set(os.listdir(pretrained))
  lines = read_metrics(pretrained)
  assert [line['step'] for line in lines] == list(range(1, 15))
  assert {'loss', 'contrastive', 'similarity', 'reconstruction', 'lr'} <= lines[0].keys()
  assert lines[-1]['examples_per_second'] == pytest.approx(8 * lines[-1]['examples_per_second_per_device'])
  assert {'compile_seconds', 'evaluate_seconds', 'save_seconds'} <= {name for line in lines for name in line}
  assert 'examples_per_second' not in lines[0]
  assert list(Path(pretrained, 'profile').rglob('*.xplane.pb'))
  assert any(name.startswith('events') for name in os.listdir(Path(pretrained, 'tensorboard')))


def test_running_again_after_the_end_changes_nothing(pretrain_config, pretrained):
  before, lines = leaves(pretrained), read_metrics(pretrained)
  pretrain(pretrain_config, pretrained)
  assert all(np.array_equal(a, b) for a, b in zip(before, leaves(pretrained), strict=True))
  assert read_metrics(pretrained) == lines


def test_a_resumed_run_goes_on_saying_what_it_began_from(pretrain_config, pretrained, capsys):
  pretrain_config.init = 'elsewhere'
  keep_config(parse(PretrainConfig, pretrain_config), pretrained)
  assert "--config.init=elsewhere is not used: the run" in capsys.readouterr().out
  assert json.loads(Path(pretrained, 'config.json').read_text())['init'] == 'none'


@pytest.mark.parametrize(('profile', 'traced'), [(Profile(1, 2, from_start=True), True), (Profile(10, 13), True),
                                                 (Profile(13, 50), True), (Profile(2, 5), False)])
def test_a_resumed_log_traces_what_is_left_of_the_steps_asked_for(tmp_path, capsys, profile, traced):
  log = RunLog(str(tmp_path), name='x', total_steps=14, batch_size=1, start_step=12, profile=profile)
  for step in (12, 13):
    with log.stepping(step, step == 12):
      log.add(step + 1, {'loss': jnp.ones(())}, np.zeros(1))
  log.close()
  assert bool(list((tmp_path / 'profile').rglob('*.xplane.pb'))) == traced
  said = capsys.readouterr().out
  assert ('profile: ' in said, 'step 5 is over, the run resumes at 12' in said) == (True, not traced)


@pytest.mark.slow
def test_a_resumed_run_is_traced(pretrain_config, pretrained, tmp_path):
  shutil.copytree(pretrained, tmp_path / 'run', ignore=shutil.ignore_patterns('14', 'profile'))
  pretrain(pretrain_config, str(tmp_path / 'run'), Profile(10, 13))
  assert list((tmp_path / 'run' / 'profile').rglob('*.xplane.pb'))


def test_killed_run_ends_bit_equal(pretrain_config, tmp_path, pretrained):
  """SIGKILL after the first checkpoint, then the same command: the end is that of the uninterrupted run."""
  command = small_runs.command('uniemox_jax.pretrain', pretrain_config, tmp_path / 'run')
  process = small_runs.start(command, devices=8)
  deadline = time.monotonic() + 300
  checkpoints = tmp_path / 'run' / 'checkpoints'
  while not (checkpoints.is_dir() and any(path.name.isdigit() for path in checkpoints.iterdir())):
    assert process.poll() is None, process.stdout.read()
    assert time.monotonic() < deadline
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  [said] = small_runs.finish(small_runs.start(command, devices=8))
  assert 'resumes at step' in said
  assert load_checkpoint(pretrained).step == 14
  assert small_runs.same_weights(Path(pretrained), tmp_path / 'run')
  assert [line['step'] for line in read_metrics(str(tmp_path / 'run'))] == list(range(1, 15))


@pytest.fixture(scope='module')
def two_processes(data_dir: str, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
  """Workdir of a run in two processes of four devices each, of which one got SIGTERM after some steps; read only."""
  workdir = tmp_path_factory.mktemp('two') / 'run'
  config = small_runs.shared_pretrain_config(data_dir, clip_folder)
  config.mesh.data, config.mesh.fsdp, config.teacher_sharded, config.images_every = 4, 2, True, 0
  check_ends(
      small_runs.command('uniemox_jax.pretrain', config, workdir), workdir, ONE_OF_TWO, PATIENT_SECONDS, devices=4)
  return workdir


def test_two_processes_that_end_together_at_a_signal_to_one_have_lost_as_one_process(two_processes, pretrained):
  together, alone = ([line['loss'] for line in read_metrics(str(run))] for run in (two_processes, pretrained))
  assert 4 <= len(together) < len(alone)
  assert together == pytest.approx(alone[:len(together)], rel=1e-3)


def test_resuming_in_another_number_of_processes_goes_on_and_says_so(pretrain_config, two_processes, tmp_path, capsys):
  shutil.copytree(two_processes, tmp_path / 'run')
  pretrain_config.images_every = 0
  pretrain(pretrain_config, str(tmp_path / 'run'))
  said = capsys.readouterr().out
  assert 'saved on 8 x cpu in 2 processes' in said and 'resumed on 8 x cpu in 1 processes' in said
  assert 'last bits may differ' in said
  assert [line['step'] for line in read_metrics(str(tmp_path / 'run'))] == list(range(1, 15))


@pytest.mark.slow
def test_resuming_on_other_devices_goes_on_and_says_so(pretrain_config, pretrained, tmp_path):
  shutil.copytree(pretrained, tmp_path / 'run', ignore=shutil.ignore_patterns('14', 'profile'))
  pretrain_config.mesh.data = 2
  command = small_runs.command('uniemox_jax.pretrain', pretrain_config, tmp_path / 'run')
  [said] = small_runs.finish(small_runs.start(command, devices=2))
  assert 'saved on 8 x cpu' in said and 'resumed on 2 x cpu' in said and 'last bits may differ' in said
  assert [line['step'] for line in read_metrics(str(tmp_path / 'run'))] == list(range(1, 15))


def test_finetuning_from_pretraining_is_evaluated_the_same_again(finetuned):
  path = Path(finetuned, 'result.json')
  written = path.read_bytes()
  result = json.loads(written)
  assert result['split'] == 'test'
  assert result['examples'] == 24
  evaluate(finetuned)
  assert path.read_bytes() == written
  evaluate(finetuned, 'val')
  assert json.loads(path.with_name('result_val.json').read_text())['examples'] == 16


def test_evaluation_in_a_new_process_is_the_same_to_the_bit_and_on_one_device_but_for_rounding(finetuned, tmp_path):
  shutil.copytree(finetuned, tmp_path / 'run')
  written = Path(finetuned, 'result.json').read_bytes()
  for devices, workdir in ((8, Path(finetuned)), (1, tmp_path / 'run')):
    (workdir / 'result.json').unlink()
    small_runs.finish(small_runs.start(['-m', 'uniemox_jax.evaluate', f'--workdir={workdir}'], devices))
  assert Path(finetuned, 'result.json').read_bytes() == written
  again = read_json(tmp_path / 'run' / 'result.json')
  assert again['confusion'] == json.loads(written)['confusion']
  assert again['loss'] == pytest.approx(json.loads(written)['loss'], rel=1e-5)


def test_a_fine_tuned_model_predicts_the_same_on_one_device_and_eight(data_dir, finetuned):
  checkpoint, classifier = load_trained(finetuned)
  split = reader.open_split(data_dir, 'emo8', 'test')
  predicted = []
  for devices in (1, 8):
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    params = sharding.replicate(checkpoint.params, mesh)
    predicted.append(predict_split(classifier, params, split, ['label'], image_size=32, batch_size=8, mesh=mesh))
  one, eight = predicted
  assert (one['label'] == eight['label']).all()
  assert (one['outputs'].argmax(axis=1) == eight['outputs'].argmax(axis=1)).all()
  np.testing.assert_allclose(one['outputs'], eight['outputs'], rtol=1e-5, atol=1e-6)


def test_best_checkpoint_is_the_best_on_val(finetuned):
  scores = {line['step']: line['val_top1'] for line in read_metrics(finetuned) if 'val_top1' in line}
  assert scores[load_checkpoint(finetuned).step] == max(scores.values())


def test_labels_of_batches_are_those_of_the_folders(finetuned):
  result = read_json(Path(finetuned, 'result.json'))
  assert [row['examples'] for row in result['per_class']] == [3] * 8


def test_every_checkpoint_path_loads(pretrained, finetuned):
  images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
  step = load_checkpoint(pretrained).path
  for path in (pretrained, step):
    encoder = uniemox_jax.load_encoder(path)
    assert encoder.tokens(images).shape == (3, 17, 16)
    assert encoder.features(images).shape == (3, 16)
  classifier = uniemox_jax.load_classifier(finetuned)
  assert classifier.labels[0] == 'amusement'
  np.testing.assert_allclose(classifier.predict_proba(images).sum(1), 1, rtol=1e-5)
  assert uniemox_jax.load_encoder(finetuned).features(images).shape == (3, 16)


def test_images_of_another_kind_are_refused(pretrained):
  with pytest.raises(ValueError, match=r'float64 \(2, 32, 32, 3\) from 200\.5 to 200\.5 is no image; wanted a path'):
    uniemox_jax.load_encoder(pretrained).tokens(np.full((2, 32, 32, 3), 200.5))


def assert_refused(call: Any, match: str) -> None:
  with pytest.raises(UserError, match=match) as error:
    call()
  assert '\n' not in str(error.value)


def test_checkpoint_of_another_model_is_refused(finetune_config, tmp_path, pretrained):
  finetune_config.init, finetune_config.model.width = pretrained, 24
  assert_refused(
      lambda: finetune(finetune_config, str(tmp_path / 'run')),
      'was trained with width 16, config.model.width is 24: set --config.model.width=16')
  assert not (tmp_path / 'run').exists()


def test_missing_checkpoint_is_named(finetune_config, tmp_path):
  finetune_config.init = str(tmp_path)
  assert_refused(lambda: finetune(finetune_config, str(tmp_path / 'run')), 'holds no checkpoint')


def test_pretrained_encoder_cannot_be_evaluated(pretrained):
  assert_refused(lambda: evaluate(pretrained), 'without a classifier: fine-tune it first')
  assert_refused(lambda: uniemox_jax.load_classifier(pretrained), 'names no emotions')


def test_workdir_of_another_run_is_refused(pretrain_config, pretrained):
  pretrain_config.seed = 5
  assert_refused(lambda: pretrain(pretrain_config, pretrained), 'other values of seed')


def test_a_run_resumes_from_moved_files_and_never_from_others(
    pretrain_config, finetune_config, tmp_path, pretrained, finetuned, capsys):
  pretraining, finetuning = (shutil.copytree(run, tmp_path / Path(run).parent.name) for run in (pretrained, finetuned))
  config, params = small_runs.random_clip()
  save_clip(tmp_path / 'moved', config, params)
  save_clip(tmp_path / 'other', config, params | {'logit_scale': params['logit_scale'] + 1})
  other_data = small_runs.write_records(tmp_path / 'other_data', seed=1)
  # Built again: another process writes the fields of a record in another order.
  again = f'from tests.support import small_runs; small_runs.write_records(small_runs.Path({str(tmp_path)!r}))'
  small_runs.finish(small_runs.start(['-c', again]))
  pretrain_config.teacher, pretrain_config.data_dir = str(tmp_path / 'moved'), str(tmp_path / 'data')
  pretrain(pretrain_config, str(pretraining))
  assert 'pretrain resumes at step 14 of 14' in capsys.readouterr().out
  before = (pretraining / 'config.json').read_bytes()
  pretrain_config.teacher = str(tmp_path / 'other')
  assert_refused(lambda: pretrain(pretrain_config, str(pretraining)), 'other files than --config.teacher names now')
  pretrain_config.data_dir = other_data
  assert_refused(
      lambda: pretrain(pretrain_config, str(pretraining)),
      'other files than --config.data_dir and --config.teacher names now')
  assert (pretraining / 'config.json').read_bytes() == before
  finetune_config.data_dir = other_data
  finetune_config.init = pretrained
  assert_refused(lambda: finetune(finetune_config, str(finetuning)), 'other files than --config.data_dir names now')
  capsys.readouterr()
  (pretraining / 'inputs.json').unlink()
  pretrain(pretrain_config, str(pretraining))
  unknown = '--config.data_dir and --config.teacher and --config.teacher (tokenizer)'
  assert f'{unknown}: not compared with' in capsys.readouterr().err


def test_steps_skipped_in_a_row_are_counted_across_a_restart(tmp_path):
  lines = [{'step': 1, 'loss': 1.0}, *({'step': step, 'skipped': 'why'} for step in (2, 4, 5, 6)), {'step': 5, 'lr': 0}]
  (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  counted = [
      RunLog(str(tmp_path), name='x', total_steps=9, batch_size=1, start_step=step).skipped_in_row
      for step in (6, 5, 4, 3, 2, 1, 0)]
  assert counted == [3, 2, 1, 0, 1, 0, 0]


def test_steps_that_are_not_finite_are_skipped_counted_and_stop_the_run(pretrain_config, tmp_path):
  pretrain_config.optimizer.base_lr, pretrain_config.warmup_epochs, pretrain_config.max_skipped_steps = 1e30, 0, 4
  assert_refused(
      lambda: pretrain(pretrain_config, str(tmp_path)),
      r'step 5: gradient_norm is nan, loss nan, and 4 steps in a row .* ids \d+, \d+, .*checkpoints/3')
  lines = read_metrics(str(tmp_path))
  skipped = [line for line in lines if 'skipped' in line]
  assert [line['step'] for line in skipped] == [2, 3, 4, 5]
  assert all(len(set(line['example_ids'])) == 8 for line in skipped)
  assert [line['skipped_steps'] for line in lines if 'skipped_steps' in line] == [0, 1, 1, 1]
