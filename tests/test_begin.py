"""SIGTERM in processes of one run around the moment in which all begin: all of them end, with 75, and nobody waits."""

import signal
import subprocess
import sys
import time

import pytest

from tests import small_runs
from uniemox_jax.preemption import EXIT_CODE, TOGETHER_MS

PATIENT_SECONDS = 60


def start(*arguments: str) -> list[subprocess.Popen]:
  """A process of `tests.beginner` for each argument, all of them past their imports."""
  group = small_runs.start_group([sys.executable, '-m', 'tests.beginner', *arguments], len(arguments))
  for process in group:
    assert 'compiling' in process.stdout.readline()
  return group


def end(group: list[subprocess.Popen], signalled: int, seconds: float) -> list[str]:
  """What each said until it ended by a signal to one."""
  began = time.monotonic()
  group[signalled].send_signal(signal.SIGTERM)
  said = [process.communicate(timeout=120)[0] for process in group]
  assert [process.returncode for process in group] == [EXIT_CODE] * len(group), said
  assert all(text.count('pre-empted: nothing is unsaved') == 1 for text in said), said
  assert time.monotonic() - began < seconds
  return said


@pytest.mark.parametrize('signalled', range(3))
def test_processes_that_compile_and_those_that_wait_for_them_end_at_once(signalled):
  said = end(start('0', '300', '300'), signalled, PATIENT_SECONDS)
  assert not any('begun' in text for text in said)


def test_processes_that_only_watch_until_their_work_is_done_end_at_once():
  said = end(start('only 0', 'only 300'), 0, PATIENT_SECONDS)
  assert not any('done' in text for text in said)


def test_one_that_fails_keeps_the_others_no_longer_than_they_wait_for_each_other():
  group = start('only 0', 'fail 0')
  began = time.monotonic()
  said = [process.communicate(timeout=120)[0] for process in group]
  assert [process.returncode for process in group] == [0, 2], said
  assert time.monotonic() - began < TOGETHER_MS / 1000 + PATIENT_SECONDS / 2


@pytest.mark.slow
def test_signal_just_before_or_after_the_beginning_ends_all_the_same_way():
  outcomes = []
  for wait in (0, 0.5, 0.8, 1, 1.1, 1.2, 1.4, 1.8, 2.5):
    group = start('1.5', '1.6')
    time.sleep(wait)  # the service looks for signals once a second
    begun = {'begun' in text for text in end(group, 1, TOGETHER_MS / 1000)}
    assert len(begun) == 1
    outcomes += begun
  assert set(outcomes) == {True, False}
