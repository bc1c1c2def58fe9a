"""Keeps the file of votes: a vote is a line, which is on the disk before it is confirmed, and never changed."""

from collections.abc import Iterable
import contextlib
import datetime
import errno
import os
import threading
from typing import Any, NamedTuple
import unicodedata

from data_pipelines import seals, storage
from data_pipelines.errors import UserError

FILE_NAME = 'votes.jsonl'
VOTE, SKIP, UNDO = 'vote', 'skip', 'undo'
_MAX_NAME = 80
_REMEDY = 'restore it from a copy; if there is none, delete annotation.json beside it, and go on with what is left'


class Action(NamedTuple):
  """What an annotator did: a line of the file.

  key: one that the page makes anew for each action, so that an action that is sent twice counts once. time: UTC, ISO
  8601. kind: a vote, a skip, or the undoing of the last of these that still stood. image: its name. answer: a vote's
  answers by question.
  """

  key: str
  time: str
  annotator: str
  kind: str
  image: str
  answer: dict[str, Any]


class Vote(NamedTuple):
  """An answer that stands. A question that was not asked has an empty label or style, or None."""

  image: str
  annotator: str
  label: str = ''
  style: str = ''
  valence: int | None = None
  arousal: int | None = None
  dominance: int | None = None


def annotator_name(given: Any) -> str:
  """Puts a name in one normal form. Raises UserError if it is empty, long, or has characters that cannot be seen."""
  name = unicodedata.normalize('NFC', ' '.join(given.split())) if isinstance(given, str) else ''
  if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
    raise UserError(f'a name must have 1 to {_MAX_NAME} letters, on one line')
  return name


class VoteLog:
  """Reads the file, and appends to it. Threads may share it, but only one process may have it (`ownership.owned`).

  A line counts once it is flushed to the disk. What a crash left of a line that never counted is cut off.

  Args:
    path: the file; its folder exists.
    last: the seal of a line that was there before, see `seal`; '' for none.

  Attributes:
    actions: the actions of each annotator, in the order of the file, without those undone.
    dropped: how many bytes of an incomplete last line were cut off.
    seal: the seal of the last line, '' without lines; it vouches for all lines.

  Raises:
    UserError: a line is not what was written, or lines are missing; the message names the file.
    OSError: the file cannot be read or written.
  """

  def __init__(self, path: str | os.PathLike, last: str = ''):
    self._lock = threading.Lock()
    self._file = storage.open_local(path, 'a+b', buffering=0)
    self._file.seek(0)
    content = self._file.read()
    self._length = content.rfind(b'\n') + 1
    self.dropped = len(content) - self._length
    self.actions: dict[str, list[Action]] = {}
    self._by_key: dict[str, Action] = {}
    with storage.parsing(path, _REMEDY):
      lines, self.seal = seals.read_lines(content[:self._length])
      if last.encode() not in content[:self._length]:
        raise ValueError('its last lines are missing')
      for line in lines:
        self._count(Action(**line))
    if self.dropped:
      self._file.truncate(self._length)

  def known_name(self, name: str) -> str:
    """The name as this annotator first wrote it. Another case does not make another person."""
    with self._lock:
      return next((known for known in self.actions if known.casefold() == name.casefold()), name)

  def add(self, key: str, annotator: str, kind: str, image: str = '', answer: dict[str, Any] | None = None) -> Action:
    """Appends a line, and returns it once it is on the disk. With the key of an earlier line, it returns that one.

    The image of an undo is that of the action undone.

    Raises:
      UserError: there is nothing to undo.
      OSError: it cannot be written; then the file is as before.
    """
    with self._lock:
      if key in self._by_key:
        return self._by_key[key]
      if kind == UNDO:
        if not self.actions.get(annotator):
          raise UserError('there is nothing to undo')
        image = self.actions[annotator][-1].image
      time = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
      action = Action(key, time, annotator, kind, image, answer or {})
      (line, seal), = seals.seal_lines([action._asdict()], self.seal)
      self._append(line.encode())
      self.seal = seal
      self._count(action)
      return action

  def _append(self, line: bytes) -> None:
    try:
      self._file.truncate(self._length)  # A write that failed may have left a part of its line.
      if self._file.write(line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      os.fsync(self._file.fileno())
    except OSError as error:
      with contextlib.suppress(OSError):
        self._file.truncate(self._length)
      error.filename = self._file.name
      raise
    self._length += len(line)

  def _count(self, action: Action) -> None:
    self._by_key[action.key] = action
    stack = self.actions.setdefault(action.annotator, [])
    if action.kind != UNDO:
      stack.append(action)
    elif stack:
      stack.pop()

  def standing(self, annotator: str) -> dict[str, Action]:
    """The last action of this annotator on each image."""
    with self._lock:
      return {action.image: action for action in self.actions.get(annotator, ())}

  def everything(self) -> dict[str, list[Action]]:
    """A copy of `actions`."""
    with self._lock:
      return {annotator: list(actions) for annotator, actions in self.actions.items()}

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def standing_votes(actions: Iterable[Iterable[Action]]) -> list[Vote]:
  """The votes among each annotator's last actions on an image, sorted by image and annotator."""
  last = {(action.image, action.annotator): action for of_one in actions for action in of_one}
  return [
      Vote(image, annotator, **action.answer)
      for (image, annotator), action in sorted(last.items())
      if action.kind == VOTE]
