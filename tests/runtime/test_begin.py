"""SIGTERM in processes of one run around the moment in which all begin: all of them end, with 75, and nobody waits."""

from collections.abc import Callable
import signal
import time

import pytest

from tests.support import small_runs
from tests.support.fork_server import ForkedProcess
from uniemox_jax.runtime.preemption import EXIT_CODE, TOGETHER_MS

PATIENT_SECONDS = 60
Start = Callable[..., list[ForkedProcess]]


@pytest.fixture
def start() -> Start:
  """Starts a process of `tests.support.beginner` for each argument, and gives them when all are past their imports."""

  def make(*arguments: str, **environment: str) -> list[ForkedProcess]:
    group = small_runs.start_group(['-m', 'tests.support.beginner', *arguments], len(arguments), **environment)
    for process in group:
      assert any('compiling' in line for line in process.stdout)
    return group

  return make


def ended(group: list[ForkedProcess], codes: list[int], seconds: float) -> list[str]:
  """What each said until it ended, with these exit codes."""
  began = time.monotonic()
  said = [process.communicate(timeout=120)[0] for process in group]
  assert [process.returncode for process in group] == codes, said
  assert time.monotonic() - began < seconds
  assert not any('Traceback' in text for text in said), said
  return said


def preempted(group: list[ForkedProcess], signalled: int, seconds: float = PATIENT_SECONDS) -> list[str]:
  """What each said until it ended by a signal to one."""
  group[signalled].send_signal(signal.SIGTERM)
  said = ended(group, [EXIT_CODE] * len(group), seconds)
  assert all(text.count('pre-empted: nothing is unsaved') == 1 for text in said), said
  return said


@pytest.mark.parametrize('signalled', [0, pytest.param(1, marks=pytest.mark.slow), 2])
def test_processes_that_compile_and_those_that_wait_for_them_end_at_once(start: Start, signalled: int) -> None:
  said = preempted(start('0', '300', '300'), signalled)
  assert not any('begun' in text for text in said)


@pytest.mark.parametrize('arguments', [('only 0', 'only 300'), ('together 300', 'together 300')], ids=str)
def test_processes_that_only_watch_until_their_work_is_done_end_at_once(
    start: Start, arguments: tuple[str, str]) -> None:
  preempted(start(*arguments), 1)


@pytest.mark.parametrize('patience_ms', [2000, pytest.param(TOGETHER_MS, marks=pytest.mark.slow)])
def test_one_that_fails_keeps_the_others_no_longer_than_they_wait_for_each_other(
    start: Start, patience_ms: int) -> None:
  group = start('only 0', 'fail 0', TOGETHER_MS=str(patience_ms))
  ended(group, [0, 2], patience_ms / 1000 + PATIENT_SECONDS / 2)


def test_all_find_that_they_differ(start: Start) -> None:
  said = ended(start('differ 0', 'differ 0'), [2, 2], PATIENT_SECONDS)
  assert all('error: as asked' in text for text in said)


@pytest.mark.slow
def test_signal_just_before_or_after_the_beginning_ends_all_the_same_way(start: Start) -> None:
  outcomes = []
  for wait in (0, 0.5, 0.8, 1, 1.1, 1.2, 1.4, 1.8, 2.5):
    group = start('1.5', '1.6')
    time.sleep(wait)  # the service looks for signals once a second
    begun = {'begun' in text for text in preempted(group, 1, TOGETHER_MS / 1000)}
    assert len(begun) == 1
    outcomes += begun
  assert set(outcomes) == {True, False}
