"""Pre-emption: SIGTERM ends a run where every process can save the same step, with an exit code that means "again".

One process catches the signal itself, with or without `jax.distributed`. Of several, any one may get it: jax's
pre-emption service tells the others and agrees on a point that all of them reach (it counts the calls of `poll`).

A compiler holds the main thread for minutes, and none of that waits for it: where nothing has been done that ending
would lose, a thread of its own ends the process at once. Several must agree that nothing has (`begin`).
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
"""EX_TEMPFAIL of sysexits.h: run the same command again."""
NOTICE = 'RECEIVED_PREEMPTION_NOTICE'
"""The key by which jax's pre-emption service tells all processes of a SIGTERM (preemption_sync_manager.cc of xla)."""
ENDING = 'uniemox_jax/ending'
"""The key by which a process that has not begun tells all that the run ends here."""
LISTEN_SECONDS = 0.5
FOREVER_MS = 2**31 - 1
TOGETHER_MS = 10_000
"""How long processes that end wait for each other."""
LAST_SECONDS = 2
"""How much later the one goes that serves their coordination: the others must not miss it."""


class Preempted(Exception):
  """The run was asked to end and what it had done is saved; the message says where it stands."""


class _Watch:
  """What is known of the signal: there is one per process, as there is one handler.

  noticed: where to end is agreed on, and reached.
  polls: of jax's service.
  unsaved: something was done since the last save (asked where there is one process).
  listening: whether `watch` was called where there are several.
  begun, ending: of several, whether this one may do what ending would lose, or never will. At most one is true, and
    both change under the lock.
  all_begun: as it says, or that this process ends by itself.
  """

  def __init__(self) -> None:
    self.noticed = threading.Event()
    self.polls = 0
    self.unsaved = False
    self.lock = threading.Lock()
    self.listening = False
    self.begun = False
    self.ending = False
    self.all_begun = threading.Event()


_watch = _Watch()


def watch() -> None:
  """Catches SIGTERM from here on: by a handler of its own where this is the only process, see above."""
  if _are_several():
    listener = threading.Thread(target=_listen_together, daemon=True, name='preemption')
    atexit.register(_stop, listener)
    _watch.listening = True
    listener.start()
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
  """A thread inside of jax when Python ends would crash the process."""
  _watch.all_begun.set()
  listener.join()


def _end_at_once(together: bool = False) -> NoReturn:
  try:
    print('pre-empted: nothing is unsaved; run the same command again', file=sys.stderr, flush=True)
    sys.stdout.flush()
    if together:
      _take_leave()
  finally:
    os._exit(EXIT_CODE)


def _take_leave() -> None:
  """Tells the others that all end, and waits until they know."""
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    _client().key_value_set(ENDING, '', allow_overwrite=True)
    _client().wait_at_barrier(ENDING, TOGETHER_MS)
  if global_state.service is not None:
    # What the main thread meanwhile meets, where the others are gone, is of no interest.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    time.sleep(LAST_SECONDS)


def _are_several() -> bool:
  """Whether other processes take part. Counting them takes the accelerator, which one process alone may have to leave
  to those that it starts; so the count comes second."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def begin() -> None:
  """Called by all processes, before work that could be lost. Until the last one comes a signal ends all of them at once
  (where they `watch`); from then on `poll` says where to end."""
  _begin(FOREVER_MS)


def end_together() -> None:
  """Called by all processes when they have done everything, so that none ends by a signal where others no longer can.

  It does not insist: one that fails never comes here.
  """
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    _begin(TOGETHER_MS)


def _begin(patience_ms: int) -> None:
  if not _are_several() or _watch.begun:
    return
  with _watch.lock:
    _watch.begun = not _watch.ending
  if _watch.ending:
    threading.Event().wait()
  # One that is ending never comes here: then all wait until their listeners end them.
  _client().wait_at_barrier('uniemox_jax/begin', patience_ms)
  _watch.all_begun.set()


def set_unsaved(unsaved: bool) -> None:
  """Says whether this process has done something since the last save that ending now would lose."""
  _watch.unsaved = unsaved


def poll() -> bool:
  """Whether to save and end here. All processes must call it at the same points of their work, each step or so."""
  if not _watch.noticed.is_set() and (_watch.begun or not _watch.listening and _are_several()):
    _watch.polls += 1
    # Once the agreed point is reached it stays reached; the service itself says so only once.
    if multihost_utils.reached_preemption_sync_point(_watch.polls):
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
