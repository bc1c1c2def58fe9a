"""Pre-emption: SIGTERM ends a run where every process can save the same step, with an exit code that means "again".

One process catches the signal itself, with or without `jax.distributed`. Of several, any one may get it: jax's
pre-emption service tells the others and agrees on a point that all of them reach (it counts the calls of `poll`).
"""

import os
import signal
import sys
import threading
from typing import NoReturn

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: run the same command again."""


class Preempted(Exception):
  """The run was asked to end and what it had done is saved; the message says where it stands."""


class _Watch:
  """What is known of the signal: there is one per process, as there is one handler."""

  def __init__(self) -> None:
    self.noticed = threading.Event()
    self.polls = 0
    self.unsaved = False


_watch = _Watch()


def watch() -> None:
  """Catches SIGTERM from here on; only where this is the only process, see above.

  A compiler holds the main thread for minutes, and Python's handlers wait for it. So a thread of its own hears the
  signal, and ends the process at once where nothing would be lost.
  """
  if _are_several():
    return
  heard, told = os.pipe()
  os.set_blocking(told, False)
  signal.set_wakeup_fd(told, warn_on_full_buffer=False)
  signal.signal(signal.SIGTERM, lambda number, frame: None)
  threading.Thread(target=_listen, args=(heard,), daemon=True, name='preemption').start()


def _listen(heard: int) -> None:
  while True:
    if signal.SIGTERM in os.read(heard, 1):
      _watch.noticed.set()
      if not _watch.unsaved:
        print('pre-empted: nothing is unsaved; run the same command again', file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(EXIT_CODE)


def _are_several() -> bool:
  """Whether other processes take part. Counting them takes the accelerator, which one process alone may have to leave
  to those that it starts; so the count comes second."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def set_unsaved(unsaved: bool) -> None:
  """Says whether this process has done something since the last save that ending now would lose."""
  _watch.unsaved = unsaved


def poll() -> bool:
  """Whether to save and end here. All processes must call it at the same points of their work, each step or so."""
  _watch.polls += 1
  # Once the agreed point is reached it stays reached; the service itself says so only once.
  if (not _watch.noticed.is_set() and _are_several()
      and multihost_utils.reached_preemption_sync_point(_watch.polls)):
    _watch.noticed.set()
  return _watch.noticed.is_set()


def check() -> None:
  """Raises Preempted where `poll` says to end: for work that leaves nothing to save."""
  if poll():
    raise Preempted('nothing is unsaved')


def leave(reason: Preempted) -> NoReturn:
  """Ends the process as pre-empted."""
  print(f'pre-empted: {reason}; run the same command again', file=sys.stderr, flush=True)
  sys.exit(EXIT_CODE)
