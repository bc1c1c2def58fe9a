"""The clock: training is what lies between the first step and the end, but for what is named apart."""

from collections.abc import Callable
import time

import pytest

from uniemox_jax.runtime.clock import Clock, duration


@pytest.fixture
def wait(monkeypatch) -> Callable[[float], None]:
  """Lets the time go by that the clock sees."""
  now = [100.0]
  monkeypatch.setattr(time, 'perf_counter', lambda: now[0])

  def go_by(seconds: float) -> None:
    now[0] += seconds

  return go_by


def test_rate_leaves_out_what_is_apart_and_what_came_before_the_start(wait):
  clock = Clock()
  with clock.apart('compile'):
    wait(5)
  clock.count_step()
  assert clock.lap() is None
  clock.start()
  for _ in range(4):
    wait(0.25)
    clock.count_step()
  with clock.apart('save'):
    wait(20)
  assert clock.lap() == 0.25
  assert clock.lap() is None
  assert clock.seconds == {'compile': 5, 'train': 1, 'save': 20}


def test_time_apart_is_told_once():
  clock = Clock()
  with pytest.raises(KeyError), clock.apart('evaluate'):
    raise KeyError
  assert list(clock.newly_apart()) == ['evaluate_seconds']
  assert clock.newly_apart() == {}
  assert clock.summary().startswith('evaluate ')


@pytest.mark.parametrize(('seconds', 'said'), [(41.6, '42s'), (185, '3m05s'), (7800, '2h10m')])
def test_durations_are_short(seconds, said):
  assert duration(seconds) == said
