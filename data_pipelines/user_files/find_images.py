"""Pictures and videos as a user names them: files, folders, globs, text lists; all that is found, as one list."""

import collections
from collections.abc import Iterator, Sequence
import dataclasses
import glob
import os
import pathlib

from data_pipelines import images, raw_files
from data_pipelines.errors import UserError
from data_pipelines.user_files import video

LIST_SUFFIX = '.txt'


@dataclasses.dataclass(frozen=True)
class Found:
  """What the arguments name.

  Attributes:
    paths: of pictures and videos, each once, in the order of the arguments and sorted within a folder or glob. Files
      that are named one by one are among them whatever they are, and whether they exist or not if a list names them.
    passed_over: kind -> number of the files in folders that are neither pictures nor videos.
    duplicates: how often a path was met again.
  """

  paths: list[str]
  passed_over: dict[str, int]
  duplicates: int


def find(arguments: Sequence[str]) -> Found:
  """Looks up files, folders (with all in them), globs, and text lists (*.txt) with one file or folder a line.

  Raises:
    UserError: an argument does not exist or a glob matches nothing; nothing was found; a video is named and cannot be
      decoded here.
  """
  passed_over: collections.Counter[str] = collections.Counter()
  paths: dict[str, str] = {}
  met = 0
  for argument in arguments:
    for path in _named(argument, passed_over):
      met += 1
      paths.setdefault(os.path.abspath(path), path)
  if not paths:
    others = ', '.join(f'{count} {kind}' for kind, count in sorted(passed_over.items()))
    raise UserError(
        f"no pictures in {', '.join(arguments)}" + (f' (passed over: {others})' if others else '') +
        f": give picture files, folders that hold some, globs, or a list {LIST_SUFFIX} with a path a line")
  return Found(list(paths.values()), dict(sorted(passed_over.items())), met - len(paths))


def _named(argument: str, passed_over: collections.Counter[str]) -> Iterator[str]:
  if not os.path.lexists(argument):
    matches = sorted(glob.glob(argument, recursive=True))
    if not matches:
      wrong = 'matches nothing' if glob.has_magic(argument) else 'does not exist'
      raise UserError(f"'{argument}' {wrong}: give picture files, folders, globs in quotes, or a list {LIST_SUFFIX}")
    for match in matches:
      yield from _in_folder(match, passed_over)
  elif argument.lower().endswith(LIST_SUFFIX) and os.path.isfile(argument):
    for line in _lines(argument):
      yield from _in_folder(line, passed_over)
  else:
    if video.is_video(argument):
      video.check_installed(argument)
    yield from _in_folder(argument, passed_over)


def _in_folder(path: str, passed_over: collections.Counter[str]) -> Iterator[str]:
  """The path itself, or all pictures and videos under it."""
  if not os.path.isdir(path):
    yield path
    return
  for file in raw_files.files(pathlib.Path(path), lambda kind: passed_over.update([kind])):
    if video.is_video(file) or images.is_picture(file):
      yield os.fspath(file)
    else:
      passed_over[f'*{file.suffix}' if file.suffix else file.name] += 1


def _lines(path: str) -> list[str]:
  """Lines that are not empty; names in another encoding than UTF-8 keep their bytes."""
  try:
    with open(path, encoding='utf-8-sig', errors='surrogateescape', newline='') as file:
      return [name for line in file.read().split('\n') if (name := line.removesuffix('\r')).strip()]
  except OSError as error:
    raise UserError(f"'{path}' cannot be read ({error.strerror}): give a list that can, one path a line") from error
