"""The benchmark of the step compares like with like: the same losses, FLOPs as counted, and a report that is whole."""

from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from benchmarks import train_step
from benchmarks.steps import step_profile, step_sizes
from data_pipelines.storage import read_json, write_json
from uniemox_jax.convert import clip_weights, mae_weights, name_table

torch = pytest.importorskip('torch')
from benchmarks.steps.torch_step import TorchStep, TwoViews  # noqa: E402

BATCH = 3


@pytest.fixture
def config() -> ConfigDict:
  config = step_sizes.load('demo')
  config.size, config.batch_size = 'tiny', BATCH
  config.model.update(
      image_size=32, patch_size=8, width=24, depth=2, heads=2, decoder_width=12, decoder_depth=1, decoder_heads=2)
  config.teacher_shape.update(image_size=32, patch_size=8, width=16, depth=2, heads=2, projection=12)
  config.text_shape.update(width=16, depth=1, heads=2)
  return config


def torch_tensors(ours: Any, config: ConfigDict) -> dict[str, Any]:
  """Our parameters by the names of `TwoViews`."""
  rules = mae_weights.student_rules('uniemox', config.model.to_dict() | {'semantic': True, 'reconstruct': True})
  student, vision = (jax.device_get(params) for params in (ours.state.params, {'vision': ours.frozen['vision']}))
  tower = [rule for rule in clip_weights.OPENAI_RULES if rule.ours.startswith('vision/')]
  flat = {f'clip.{name}': array for name, array in name_table.export_params(tower, vision).items()}
  for name, array in name_table.export_params(rules, student).items():
    fuses = name.startswith(mae_weights.FUSION_PREFIX)
    flat[name.replace(mae_weights.FUSION_PREFIX, 'fusion.') if fuses else f'student.{name}'] = array
  return {name: torch.tensor(array.copy()) for name, array in flat.items()}


def test_both_steps_have_the_same_losses(config: ConfigDict) -> None:
  from benchmarks.steps.ours_step import OurStep
  batch = step_sizes.random_batch(config)
  ours, theirs = OurStep(config, batch), TorchStep(config, batch)
  missing, unexpected = theirs.module.load_state_dict(torch_tensors(ours, config), strict=False)
  text_tower = (
      'clip.transformer.', 'clip.token_embedding.', 'clip.positional_embedding', 'clip.ln_final.',
      'clip.text_projection', 'clip.logit_scale')
  assert not unexpected and all(name.startswith(text_tower) for name in missing)
  noise = jax.random.uniform(jax.random.fold_in(ours.key, 0), (BATCH, 2, 16))
  with torch.no_grad():
    text_BxE = torch.nn.functional.normalize(theirs.module.clip.encode_text(theirs.batch['ids']))
    ours.batch['text'] = jax.device_put(text_BxE.numpy(), ours.batch['text'].sharding)
    losses = theirs.module(
        theirs.batch['scene'], theirs.batch['person'], theirs.batch['ids'],
        torch.tensor(np.asarray(noise)).transpose(0, 1))
  with jax.default_matmul_precision('highest'):
    assert ours.run(1) == pytest.approx(sum(losses.values()).item(), rel=1e-5)


@pytest.mark.parametrize(
    'size',
    ['tiny', *(pytest.param(size, marks=pytest.mark.slow) if size == 'vitl16' else size for size in step_sizes.SIZES)])
def test_flops_of_the_original_are_those_that_pytorch_counts(config: ConfigDict, size: str) -> None:
  from torch.utils.flop_counter import FlopCounterMode
  if size != 'tiny':
    config = step_sizes.load(size)
    config.batch_size = BATCH
  parts = step_sizes.original_flops(config)
  model, patches = config.model, (config.model.image_size // config.model.patch_size)**2
  with torch.device('meta'), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
    module = TwoViews(config)
    batch = {name: torch.tensor(rows, device='meta') for name, rows in step_sizes.random_batch(config).items()}
    with FlopCounterMode(display=False) as forward:
      losses = module(batch['scene'], batch['person'], batch['ids'], noise_2xBxL=torch.rand(2, BATCH, patches))
    with FlopCounterMode(display=False) as backward:
      sum(losses.values()).backward()
  assert forward.get_total_flops() == BATCH * sum(parts.values())
  # The convention is twice the forward pass; but pixels and caption embeddings need no gradient.
  never = 2 * 2 * patches * 3 * model.patch_size**2 * model.width + 2 * BATCH * model.decoder_width
  assert backward.get_total_flops() == BATCH * (2 * parts['student'] - never)
  assert step_sizes.original_training_flops(config) == sum(parts.values()) + 2 * parts['student']


@pytest.mark.parametrize('size', step_sizes.SIZES)
def test_our_step_needs_at_most_90_percent_of_the_originals_flops(size: str) -> None:
  config = step_sizes.load(size)
  ours = step_sizes.our_program(config).work.training.flops
  assert ours <= train_step.MAX_WORK_RATIO * step_sizes.original_training_flops(config)


@pytest.mark.slow
def test_report_is_whole_and_no_process_loads_tensorflow(config: ConfigDict, tmp_path, monkeypatch) -> None:
  monkeypatch.setattr(train_step, 'sees_gpu', lambda: False)  # needs a process too; `--platform=gpu` below asks it
  report = train_step.measure(config, 'cpu', steps=1, turns=2, profile=True)
  assert report['implementations'].keys() == {'ours', 'read', 'eager'}
  for row in report['implementations'].values():
    assert np.isfinite(row['loss']) and row['examples_per_second'] > 0 and row['cpu_milliseconds_per_example'] > 0
    assert len(row['examples_per_second_by_turn']) == 2 and row['mfu'] is None
    assert 'jax' in row['modules'] and 'tensorflow' not in row['modules']
  read, ours = (report['implementations'][name]['flops_per_example'] for name in ('read', 'ours'))
  assert read < ours
  assert report['times_as_fast_as']['eager']['least'] <= report['times_as_fast_as']['eager']['median']
  assert sum(row['share'] for row in report['profile']) == pytest.approx(1.0)
  assert {row['kind'] for row in report['profile']} <= set(step_profile.KINDS)
  assert report['profile'][0]['longest']
  table = train_step.table(report)
  assert 'not measured' in table
  assert all(f'| {title} |' in table for title in ('ours', 'ours, teacher_views', 'PyTorch'))
  write_json(str(tmp_path / 'report.json'), report)
  assert read_json(str(tmp_path / 'report.json')) == report


def test_of_several_sizes_and_batches_each_has_its_rows_or_why_it_was_not_measured(monkeypatch) -> None:
  clock = iter([0.0, 1.0, 100.0, 1000.0])
  monkeypatch.setattr(train_step.time, 'monotonic', lambda: next(clock))

  def fake(config: ConfigDict, platform: str, steps: int) -> dict[str, Any]:
    if config.batch_size == 512:
      raise train_step.UserError('ours failed (out of memory)')
    row = {'examples_per_second': 10.0 * steps, 'mfu': 0.51}
    return {
        'size': config.size, 'batch_size': config.batch_size, 'implementations': {'ours': row, 'eager': row},
        'times_as_fast_as': {'eager': {'median': 2.5}}}

  monkeypatch.setattr(train_step, 'measure', fake)
  monkeypatch.setattr(train_step, 'table', lambda report: '')
  configs = [train_step._config('vitb16', 'gpu', batch, None) for batch in (128, 512, 64)]
  text = train_step.summary(train_step.measure_all(configs, 'gpu', minutes=9, steps=3))
  assert text.splitlines()[2:] == [
      '| vitb16 | 128 | ours | 30 | 51% |  |', '| vitb16 | 128 | PyTorch | 30 | 51% | 2.50 |',
      '| vitb16 | 512 | not measured: ours failed (out of memory) | | | |',
      '| vitb16 | 64 | not measured: the 9 minutes were over | | | |']


def test_utilisation_is_of_the_devices_peak_where_it_is_known() -> None:
  timed = [{'seconds': 2.0, 'cpu_seconds': 1.0, 'loss': 1.0}]
  row = train_step._implementation({'device': 'NVIDIA H100 80GB HBM3'}, timed, 10, flops=10**13, product=10**14)
  assert row['mfu'] == pytest.approx(5 * 1e13 / 989e12)
  assert row['share_of_product_rate'] == pytest.approx(0.5)


@pytest.mark.parametrize(('argument', 'thing', 'remedy'), [('--size=huge', '--size', 'vitb16'),
                                                           ('--batch_size=8,x', '--batch_size=x', 'positive number'),
                                                           ('--platform=gpu', '--platform=gpu', 'install')])
def test_mistakes_end_in_one_line(argument, thing, remedy, command, assert_one_line, capsys, monkeypatch) -> None:
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
  assert_one_line(command('benchmarks.train_step', argument), capsys.readouterr().err, thing, remedy)


def test_a_step_that_cannot_be_built_ends_in_one_line(config: ConfigDict) -> None:
  config.model.patch_size = 7
  with pytest.raises(train_step.UserError, match=r'ours failed .*not divisible.*--batch_size'):
    train_step.measure(config, 'cpu', steps=1, turns=1, profile=False)
