"""Compares names of files inside other files, in one normal form."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
import os
import posixpath
import re
import sys
import unicodedata

from data_pipelines.errors import UserError, join_names
from data_pipelines.plain_text import single_line


def tidy_name(name: str) -> str:
  """Puts a path, as another file has it, in one form: `/` between folders, no `.`, `..` or `//`, Unicode composed."""
  return unicodedata.normalize('NFC', posixpath.normpath(re.sub(r'[\\/]+', '/', name.strip(' \t\n"'))))


def real_place(path: str | os.PathLike) -> str:
  """The absolute path, without links to folders in it: the same however the file was reached. A link stays one."""
  folder, name = os.path.split(os.path.abspath(path))
  return os.path.join(os.path.realpath(folder), name)


class FileNames:
  """Finds files by the names that other files have for them.

  A name is compared as it is; else as `tidy_name`; else in any case, which Windows and macOS do not tell apart. A form
  that two files have finds neither.

  Args:
    names: the names of the files.
    folder: the folder to which the names are relative, and with which those in other files may begin; None for absolute
      names.
  """

  def __init__(self, names: Iterable[str], folder: str | os.PathLike | None = None):
    self._names = set(names)
    self._tidy: dict[str, list[str]] = {}
    self._caseless: dict[str, list[str]] = {}
    for name in self._names:
      tidy = tidy_name(name)
      self._tidy.setdefault(tidy, []).append(name)
      self._caseless.setdefault(tidy.casefold(), []).append(name)
    places = [] if folder is None else [os.path.abspath(folder), os.path.realpath(folder)]
    self._folders = [f'{tidy_name(place)}/' for place in places]

  def find(self, name: str) -> str | None:
    """Finds the file that is meant; None if there is none."""
    found = self.candidates(name)
    return found[0] if len(found) == 1 else None

  def candidates(self, name: str) -> Sequence[str]:
    """Finds the files that may be meant: one, or none, or several that differ only in case, for example."""
    if name in self._names:
      return [name]
    tidy = tidy_name(name)
    for folder in self._folders:
      tidy = tidy.removeprefix(folder)
    return self._tidy.get(tidy) or self._caseless.get(tidy.casefold()) or ()

  def find_all(self, given: Collection[str], table: str | os.PathLike, anywhere: bool = False) -> dict[str, str]:
    """Finds the files that the names in a table mean, and says on standard error which names mean none.

    Args:
      given: the names.
      table: the table, for messages.
      anywhere: whether a file may have been moved to another folder, such as that of another class. Then a name that
        means none means the file with the same last part, if there is one such file and one such name. How many are
        found so is said, too.

    Raises:
      UserError: there are names, and none of them means a file.
    """
    found = {name: file for name in given if (file := self.find(name)) is not None}
    moved = self._moved([name for name in given if name not in found], given) if anywhere else {}
    if moved:
      first, file = next(iter(moved.items()))
      print(
          single_line(
              f'{table}: {len(moved)} of its {len(given)} names are taken for images in other folders, as {first} for '
              f'{file}'), file=sys.stderr, flush=True)
    found |= moved
    unmet = [name for name in given if name not in found]
    if unmet and not found:
      raise UserError(
          f"{table} names no image that is here: it says '{unmet[0]}', where images are named like "
          f"'{min(self._names, default='')}': write the names so, or leave the file out")
    if unmet:
      print(
          single_line(f'{table}: {len(unmet)} of its {len(given)} names are of no image here: {join_names(unmet)}'),
          file=sys.stderr, flush=True)
    return found

  def _moved(self, unmet: Collection[str], given: Collection[str]) -> dict[str, str]:
    """The files in other folders that these names mean by their last part."""

    def last(name: str) -> str:
      return posixpath.basename(tidy_name(name))

    if not unmet:
      return {}
    times = Counter(map(last, given))
    files: dict[str, list[str]] = {}
    for file in self._names:
      files.setdefault(last(file), []).append(file)
    return {
        name: files[last(name)][0] for name in unmet if times[last(name)] == 1 and len(files.get(last(name), ())) == 1}
