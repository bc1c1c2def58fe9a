"""Lists the files of a raw folder, without those of file managers and editors."""

import bisect
from collections import deque
from collections.abc import Callable, Iterable, Iterator
import contextlib
import hashlib
import itertools
import os
import pathlib

from data_pipelines import storage
from data_pipelines.errors import UserError

_JUNK = ('thumbs.db', 'desktop.ini')
_SAMPLE, _BEGINNING = 64, 2**16
"""Files whose beginning a fingerprint reads, at most, and its bytes."""


class Listing:
  """All files below a folder, found once. Symbolic links are followed, and each folder is entered once.

  Where several ways lead to a folder, its name is the one without links, else that of the first link in sorted order.

  Args:
    folder: the folder that is listed; if it does not exist, there are no files.
    without: folders in it that are not entered, such as those of what is made of its files.

  Attributes:
    entered_before: the links and folders that were not entered, since their files have a name already.

  Raises:
    UserError: a link leads back to a folder that holds it.
    OSError: a folder cannot be read.
  """

  def __init__(self, folder: pathlib.Path, without: Iterable[str | os.PathLike] = ()):
    self._folder = folder
    self._without = set(map(os.path.realpath, without)) - {os.path.realpath(folder)}
    self.entered_before: list[pathlib.Path] = []
    self._paths = sorted(self._walk()) if folder.is_dir() else []
    self.entered_before.sort()

  def _walk(self) -> Iterator[pathlib.Path]:
    entered: set[str] = set()
    links: deque[tuple[pathlib.Path, tuple[str, ...]]] = deque([(self._folder, ())])
    while links:
      link, holders = links.popleft()
      target = os.path.realpath(link)
      if any(os.path.commonpath([holder, target]) == target for holder in holders):
        raise UserError(f'{link} is a link that leads back to {target}, which holds it: remove the link')
      pending, found = [link], []
      while pending:
        folder = pending.pop()
        if (real := os.path.realpath(folder)) in self._without:
          continue
        if real in entered:
          self.entered_before.append(folder)
          continue
        entered.add(real)
        for path in folder.iterdir():
          if not path.is_dir() or path.is_symlink() and self._is_hidden(path):
            yield path
          elif path.is_symlink():
            found.append((path, (*holders, real)))
          else:
            pending.append(path)
      links.extend(sorted(found))

  def _is_hidden(self, path: pathlib.Path) -> bool:
    return any(part.startswith('.') for part in path.relative_to(self._folder).parts)

  def files(
      self, folder: pathlib.Path, ignore: Callable[[str], None],
      wanted: Callable[[pathlib.Path], bool] = lambda path: True) -> list[pathlib.Path]:
    """Lists the wanted files in the folder or one below it, sorted.

    `ignore` is called with the kind of each file that is left out: hidden ones (`.*`, or inside such a folder), backups
    (`*~`), Thumbs.db and desktop.ini; those that are not wanted, by their suffix, or by their name if they have none;
    and once for each of `entered_before`.
    """
    kept = []
    for path in _below(folder, self._paths):
      if any(part.startswith('.') for part in path.relative_to(folder).parts):
        ignore('.*')
      elif path.name.endswith('~'):
        ignore('*~')
      elif path.name.lower() in _JUNK:
        ignore(path.name)
      elif wanted(path):
        kept.append(path)
      else:
        ignore(f'*{path.suffix}' if path.suffix else path.name)
    for _ in _below(folder, self.entered_before):
      ignore('linked folder, read by another name')
    return kept

  def leads_elsewhere(self, path: pathlib.Path) -> bool:
    """Whether this is, or lies in, one of `entered_before`."""
    return any(path.is_relative_to(link) for link in self.entered_before)

  def fingerprint(self) -> dict[str, object]:
    """How many files there are, and a SHA-256 of their names and sizes, and of how some of them begin.

    It is the same for a copy at another place. Two folders may have equal names and sizes, so some contents are read.
    """
    digest, paths = hashlib.sha256(), self.files(self._folder, lambda kind: None)
    for number, path in enumerate(paths):
      size = path.stat().st_size if path.is_file() else None  # None of a pipe, or a link to nothing.
      digest.update(f'{path.relative_to(self._folder).as_posix()}\n{size}\n'.encode(errors='surrogateescape'))
      if size and number % (len(paths) // _SAMPLE + 1) == 0:
        with contextlib.suppress(OSError), storage.open_local(path) as file:
          digest.update(file.read(_BEGINNING))
    return {'files': len(paths), 'listing_sha256': digest.hexdigest()}


def _below(folder: pathlib.Path, paths: list[pathlib.Path]) -> Iterator[pathlib.Path]:
  """The sorted paths that are the folder, or lie in it."""
  start = bisect.bisect_left(paths, folder)
  return itertools.takewhile(lambda path: path.is_relative_to(folder), itertools.islice(paths, start, None))


def list_files(
    folder: pathlib.Path, ignore: Callable[[str], None],
    wanted: Callable[[pathlib.Path], bool] = lambda path: True) -> list[pathlib.Path]:
  """Lists `Listing.files` of the whole folder."""
  return Listing(folder).files(folder, ignore, wanted)
