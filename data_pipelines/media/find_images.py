"""Finds images and videos as a user names them: files, folders, archives, globs and text lists."""

import collections
from collections.abc import Callable, Sequence
import functools
import glob
import os
import pathlib
from typing import NamedTuple

from data_pipelines import images, storage
from data_pipelines.errors import UserError
from data_pipelines.media import archives, video
from data_pipelines.source_files import raw_files
from data_pipelines.source_files.file_names import FileNames, real_place, tidy_name
from data_pipelines.source_files.text_files import read_text

LIST_SUFFIX = '.txt'


class FoundFiles(NamedTuple):
  """What the arguments name.

  paths: those of images and videos, each once, in the order of the arguments and sorted within a folder or glob. A file
  that is named itself is among them whatever it is, and from a list even if it does not exist. An image in an archive
  is ARCHIVE/NAME, and ARCHIVE itself comes after these if not all of it can be read. passed_over: kind -> number of the
  files in folders and archives that are neither images nor videos. duplicates: how often a path was named again.
  """

  paths: list[str]
  passed_over: dict[str, int]
  duplicates: int


def find(arguments: Sequence[str]) -> FoundFiles:
  """Looks up files, folders (with all in them), archives, globs, and text lists (*.txt) with one of these a line.

  Raises:
    UserError: an argument does not exist or is an address, a glob matches nothing, nothing was found, or a video is
      named and cannot be decoded here.
  """
  passed_over: collections.Counter[str] = collections.Counter()
  paths: dict[str, str] = {}
  total = 0
  for argument in arguments:
    for named in _expand(argument):
      for path in _inside(named, passed_over):
        total += 1
        paths.setdefault(real_place(path), path)
  if not paths:
    others = ', '.join(f'{count} {kind}' for kind, count in sorted(passed_over.items()))
    raise UserError(
        f"no images in {', '.join(arguments)}" + (f' (passed over: {others})' if others else '') +
        f": give image files, folders that hold some, globs, or a list {LIST_SUFFIX} with a path a line")
  return FoundFiles(list(paths.values()), dict(sorted(passed_over.items())), total - len(paths))


def _expand(argument: str) -> list[str]:
  """The files and folders of a glob or a text list; else the argument itself."""
  _check_local(argument)
  if not argument:
    raise UserError('an argument is empty, such as a variable of the shell that has no value: name files or folders')
  if argument.lower().endswith(archives.OTHERS) and pathlib.Path(argument).is_file():
    raise UserError(f"'{argument}' is an archive of a kind that is not read: unpack it, or make it a zip or tar.gz")
  if not (storage.exists(argument) or pathlib.Path(argument).is_symlink()):
    matches = sorted(glob.glob(argument, recursive=True))
    if not matches:
      problem = 'matches nothing' if glob.has_magic(argument) else 'does not exist'
      raise UserError(f"'{argument}' {problem}: give image files, folders, globs in quotes, or a list {LIST_SUFFIX}")
    return matches
  file = pathlib.Path(argument)
  if argument.lower().endswith(LIST_SUFFIX) and file.is_file() and not images.is_image(file):
    return _lines(argument)
  if video.is_video(argument):
    video.check_installed(argument)
  return [argument]


def _check_local(path: str) -> None:
  if storage.is_remote(path):
    raise UserError(f'{path} is an address, and images are read from a disk: download it first, and give the files')


def _inside(path: str, passed_over: collections.Counter[str]) -> list[str]:
  """The path itself, or all images and videos under it."""
  _check_local(path)
  if archives.is_archive(path):
    listing = archives.list_archive(path)
    passed_over.update(listing.passed_over)
    return [f'{path}/{name}' for name in listing.places] + ([path] if listing.problem else [])
  if not pathlib.Path(path).is_dir():
    return [path]
  files = raw_files.list_files(
      pathlib.Path(path), lambda kind: passed_over.update([kind]),
      lambda file: video.is_video(file) or images.is_image(file))
  return [os.fspath(file) for file in files]


def _lines(path: str) -> list[str]:
  """Lines that are not empty, as the names that the files have; bytes that are not UTF-8 are kept."""
  text = read_text(path, 'give a readable list, one path a line', errors='surrogateescape')
  names_in = functools.cache(lambda folder: FileNames(path.name for path in pathlib.Path(folder).iterdir()))
  return [_stored_name(line, names_in) for line in text.split('\n') if line.strip()]


def _stored_name(name: str, names_in: Callable[[str], FileNames]) -> str:
  """The path as the disk has it, folder by folder; the same path where there is none in any form of it."""
  if not name or pathlib.Path(name).exists() or pathlib.Path(name).is_symlink():
    return name
  folder, last = os.path.split(tidy_name(name))
  folder = _stored_name(folder, names_in)
  found = names_in(folder).find(last) if pathlib.Path(folder).is_dir() else None
  return os.path.join(folder, found) if found else name
