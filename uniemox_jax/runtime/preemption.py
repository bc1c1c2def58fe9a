"""Pre-emption: SIGTERM ends a run where every process can save the same step; exit code 75 means "run it again".

A single process catches the signal itself. Of several, any one may receive it: jax's pre-emption service informs the
others, and all agree on a point that each of them reaches, counted in calls of `poll`.

A compiler can hold the main thread for minutes. So while there is nothing to lose, a thread ends the process at once.
Several processes must first agree that there is nothing to lose (`begin`).
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn

import jax
from jax._src.distributed import global_state  # the service by which processes find each other has no public name
from jax.experimental import multihost_utils

EXIT_CODE = 75
"""The exit code EX_TEMPFAIL of sysexits.h: run the same command again."""
NOTICE = 'RECEIVED_PREEMPTION_NOTICE'
"""The key that jax's pre-emption service sets for all processes after a SIGTERM (preemption_sync_manager.cc of xla)."""
ENDING = 'uniemox_jax/ending'
"""The key that a process sets which has not begun, so that the run ends here."""
LISTEN_SECONDS = 0.5
FOREVER_MS = 2**31 - 1
TOGETHER_MS = 10_000
"""How long processes that end wait for each other."""
LAST_SECONDS = 2
"""How much later the process ends that serves the coordination, since the others must not miss it."""


class Preempted(Exception):
  """The run was asked to end, and its work is saved; the message names the step."""


class _Watch:
  """The state of this process, which has one signal handler."""

  def __init__(self) -> None:
    self.noticed = threading.Event()  # the point at which all end is agreed on and reached
    self.polls = 0  # calls of jax's service so far
    self.unsaved = False  # is there work since the last save? read where there is one process
    self.listening = False  # was `watch` called where there are several?
    # Whether this one of several may do work that could be lost, or never will. At most one is true.
    self.begun = self.ending = False
    self.lock = threading.Lock()  # held to change these two
    self.all_begun = threading.Event()  # all have begun, or this process ends by itself


_watch = _Watch()


def watch() -> None:
  """Catches SIGTERM, and SIGHUP of a closed terminal, from here on: by its own handler, or with several processes
  through jax's service."""
  if _are_several():
    if signal.SIGHUP in _endings():
      signal.signal(signal.SIGHUP, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
    listener = threading.Thread(target=_listen_together, daemon=True, name='preemption')
    atexit.register(_stop, listener)
    _watch.listening = True
    listener.start()
    return
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  for number in _endings():
    signal.signal(number, lambda number, frame: None)
  threading.Thread(target=_listen, args=(reader,), daemon=True, name='preemption').start()


def _endings() -> list[signal.Signals]:
  """Signals that end a run; of a process that nohup started, a closed terminal does not."""
  return [
      number for number in (signal.SIGTERM, signal.SIGHUP)
      if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN]


def _listen(reader: int) -> None:
  while True:
    if set(os.read(reader, 1)) & {signal.SIGTERM, signal.SIGHUP}:
      _watch.noticed.set()
      if not _watch.unsaved:
        _end_at_once()


def _listen_together() -> None:
  while not _watch.all_begun.wait(LISTEN_SECONDS):
    if _is_set(NOTICE):
      with _watch.lock:
        _watch.ending = not _watch.begun
    if _watch.ending or _is_set(ENDING):
      _end_at_once(together=True)


def _client() -> Any:
  """jax's coordination client; it has no public name."""
  return global_state.client


def _is_set(key: str) -> bool:
  try:
    _client().key_value_try_get(key)
  except jax.errors.JaxRuntimeError:
    return False
  return True


def _stop(listener: threading.Thread) -> None:
  """Joins the thread: inside jax while Python ends, it would crash the process."""
  _watch.all_begun.set()
  listener.join()


def _end_at_once(together: bool = False) -> NoReturn:
  try:
    print('pre-empted: nothing is unsaved; run the same command again', file=sys.stderr, flush=True)
    sys.stdout.flush()
    if together:
      _announce_end()
  finally:
    os._exit(EXIT_CODE)


def _announce_end() -> None:
  """Informs the others that the run ends, and waits until they know."""
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    _client().key_value_set(ENDING, '', allow_overwrite=True)
    _client().wait_at_barrier(ENDING, TOGETHER_MS)
  if global_state.service is not None:
    # The main thread may report that the others are gone: that is of no interest.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    time.sleep(LAST_SECONDS)


def _are_several() -> bool:
  """Whether other processes take part.

  Counting them acquires the accelerator, which a single process may have to leave to the processes that it starts. So
  the count comes second.
  """
  return jax.distributed.is_initialized() and jax.process_count() > 1


def end_together() -> None:
  """Waits for all processes after their work, so that no signal ends one while the others no longer can end.

  All processes call it. It waits for a limited time, since a process that failed never calls it.
  """
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    begin(TOGETHER_MS)


def begin(patience_ms: int = FOREVER_MS) -> None:
  """Begins work that could be lost. All processes call it.

  Until the last one calls it, a signal ends all that `watch` at once; from then on `poll` says where to end.
  """
  if not _are_several() or _watch.begun:
    return
  with _watch.lock:
    _watch.begun = not _watch.ending
  if _watch.ending:
    threading.Event().wait()
  # A process that is ending never reaches this barrier: the others wait until their listeners end them.
  _client().wait_at_barrier('uniemox_jax/begin', patience_ms)
  _watch.all_begun.set()


def set_unsaved(unsaved: bool) -> None:
  """Records whether this process has work since the last save that ending now would lose."""
  _watch.unsaved = unsaved


def poll() -> bool:
  """Whether to save and end here. All processes must call it at the same points of their work, such as each step."""
  if not _watch.noticed.is_set() and (_watch.begun or not _watch.listening and _are_several()):
    _watch.polls += 1
    # The service reports the agreed point only once.
    if multihost_utils.reached_preemption_sync_point(_watch.polls):
      _watch.noticed.set()
  return _watch.noticed.is_set()


def raise_if_preempted() -> None:
  """Raises Preempted if `poll` says to end; for work that leaves nothing to save."""
  if poll():
    raise Preempted('nothing is unsaved')


def leave(reason: Preempted) -> NoReturn:
  """Ends the process as pre-empted."""
  print(f'pre-empted: {reason}; run the same command again', file=sys.stderr, flush=True)
  sys.exit(EXIT_CODE)
