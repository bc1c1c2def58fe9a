"""The clock: training is what lies between the first step and the end, but for what is named apart."""

import time

import pytest

from uniemox_jax.clock import Clock, duration


def test_rate_leaves_out_what_is_apart_and_what_came_before_the_start():
  clock = Clock()
  with clock.apart('compile'):
    time.sleep(0.05)
  clock.count_step()
  assert clock.lap() is None
  clock.start()
  for _ in range(4):
    time.sleep(0.01)
    clock.count_step()
  with clock.apart('save'):
    time.sleep(0.2)
  assert 0.01 <= clock.lap() < 0.04
  assert clock.lap() is None
  assert clock.seconds['save'] >= 0.2 and clock.seconds['compile'] >= 0.05


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
