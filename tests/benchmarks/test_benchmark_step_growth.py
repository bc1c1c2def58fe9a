"""The growth of a step: one axis changes at a time, points are measured once, the figure shows what a folder holds."""

import pytest

from benchmarks import step_growth
from benchmarks.steps import step_sizes
from data_pipelines.storage import read_json_object


@pytest.mark.parametrize('kind', step_growth.AXES)
def test_every_point_differs_from_the_base_in_one_axis_and_is_a_model(kind):
  base, *others = step_growth.points(kind)
  for point in others:
    assert sum(point[axis] != base[axis] for axis in base) == 1
    model = step_sizes.checked(step_growth.config_of(kind, point)).model
    assert (model.image_size // model.patch_size)**2 == point['tokens'] and not model.width % model.heads
  assert len(others) == sum(len(values) - 1 for values in step_growth.AXES[kind].values())


def test_points_of_an_earlier_try_are_not_measured_again(tmp_path, monkeypatch):
  asked = []

  def measure(point):
    asked.append(point)
    if len(asked) == 4:
      raise KeyboardInterrupt
    return {'seconds': point['batch'] * point['depth'] / 1000, 'cpu_seconds': point['batch'] * point['depth'] / 500}

  monkeypatch.setattr(step_growth, 'time_on_cpu', measure)
  with pytest.raises(KeyboardInterrupt):
    step_growth.grow('cpu', str(tmp_path))
  found = step_growth.grow('cpu', str(tmp_path))
  assert len(found) == len(step_growth.points('cpu')) == len(asked) - 1
  assert read_json_object(str(tmp_path / 'cpu.json'))['points'] == found
  step_growth.draw(str(tmp_path))
  assert (tmp_path / 'step_growth.png').stat().st_size > 10_000


def test_growth_is_a_power_and_memory_a_fixed_part_and_one_an_example():
  points = step_growth.points('compiler')
  run = {
      'on': 'v5e:1x1', 'points': [
          point | {
              'seconds': point['batch'] * point['tokens']**2 * point['depth']**0.5 / 1e6,
              'bytes': 2**30 + point['batch'] * 2**21} for point in points]}
  table = step_growth.powers(run)
  assert '| batch | 1.00 |' in table and '| tokens | 2.00 |' in table and '| depth | 0.50 |' in table
  assert 'memory by batch: 1.00 GiB, and 2.0 MiB an example' in table
