"""Finds the file that a row means by the name of its image, and names images that lie in a table itself."""

import collections
from collections.abc import Sequence
import dataclasses
import os
import pathlib
import re
from urllib.parse import unquote

from data_pipelines.errors import join_names
from data_pipelines.source_files.file_names import FileNames, tidy_name
from data_pipelines.table.rows import Rating


class ImagePaths:
  """The images of a folder, by the names that tables have for them.

  A name is a path from the table's folder or from that of the images. It may lack the ending, and the folders too if
  one image alone has such a name.

  Attributes:
    unused: the paths of the files that no row has meant so far.
  """

  def __init__(self, root: pathlib.Path, files: Sequence[pathlib.Path]):
    self._root = root
    self._places = (os.path.abspath(root), os.path.realpath(root))
    self._starts: dict[pathlib.Path, list[str]] = {}
    paths = [file.relative_to(root).as_posix() for file in files]
    self._whole = FileNames(paths, root)
    self._short: list[tuple[FileNames, dict[str, list[str]]]] = []
    for shorten in (_without_ending, _last, lambda path: pathlib.PurePosixPath(path).stem):
      long_of = collections.defaultdict(list)
      for path in paths:
        long_of[shorten(path)].append(path)
      self._short.append((FileNames(long_of), long_of))
    self.unused = set(paths)

  def resolve(self, rating: Rating, folder: pathlib.Path) -> Rating:
    """Gives a rating the path of its image from the images' folder; or a problem, if it means no image.

    A rating that has a problem keeps it.

    Args:
      rating: the rating as it was read.
      folder: the folder of its table.
    """
    name = rating.image
    if not name:
      return dataclasses.replace(rating, problem=rating.problem or 'it names no image')
    if matched := re.fullmatch(r'file://(?:localhost)?(/.*)', name):
      name = unquote(matched[1])
    if re.match(r'[a-zA-Z][a-zA-Z0-9+.-]+://', name):
      return dataclasses.replace(
          rating, problem=rating.problem or f'{name} is a URL: download the images, and name the files')
    places = self._absolute(name, folder)
    found = self._candidates(name, places) or self._candidates(unquote(name), self._absolute(unquote(name), folder))
    if len(found) == 1:
      self.unused.discard(found[0])
      return dataclasses.replace(rating, image=found[0])
    if found:
      self.unused -= set(found)  # Some row does mean one of them.
      problem = f'{name} is ambiguous: it may be {join_names(sorted(found))}; name it in full'
    elif any(self._is_inside(place) for place in places):
      problem = f'{name} is not in {self._root}'
    else:
      problem = f'{name} lies outside of {self._root}: give its folder with --images'
    return dataclasses.replace(rating, problem=rating.problem or problem)

  def _absolute(self, name: str, folder: pathlib.Path) -> list[str]:
    """Where the name leads from the table's folder, and from that of the images."""
    if re.match(r'[a-zA-Z]:[\\/]', name):  # Of Windows.
      return [name]
    if name.startswith('/'):
      return [tidy_name(name)]
    if folder not in self._starts:
      self._starts[folder] = list(dict.fromkeys([os.path.abspath(folder), os.path.realpath(folder), *self._places]))
    return [tidy_name(f'{start}/{name}') for start in self._starts[folder]]

  def _is_inside(self, place: str) -> bool:
    return any(tidy_name(place).startswith(f'{tidy_name(root)}/') for root in self._places)

  def _candidates(self, name: str, places: Sequence[str]) -> Sequence[str]:
    """The files that a name may mean: those of the first way to read it that has any."""
    for place in (*places, name):
      if found := self._whole.candidates(place):
        return found
    for names, long_of in self._short if not name.startswith('/') else ():
      if found := names.candidates(name):
        return [path for short in found for path in long_of[short]]
    return ()


def paths_inside(ratings: Sequence[Rating], files: Sequence[str]) -> list[Rating]:
  """Gives each rating of an image that lies in a table a name of its own as `image`.

  It is the path beside the bytes, if all rows have one and no two the same; else the table's path and the row.

  Args:
    ratings: the ratings of all rows.
    files: the files of the tables, by their paths.
  """
  given = {rating.image for rating in ratings}
  usable = len(given) == len(ratings) and not any(
      not name or name.startswith('/') or tidy_name(name) != name or name.startswith('..') for name in given)
  return [
      rating if usable else dataclasses.replace(rating, image=f'{files[rating.table]}#{rating.number}')
      for rating in ratings]


def _without_ending(path: str) -> str:
  return pathlib.PurePosixPath(path).with_suffix('').as_posix()


def _last(path: str) -> str:
  return pathlib.PurePosixPath(path).name
