"""Which file a row means by the name of its image, and what images are called that lie in a table itself."""

import collections
from collections.abc import Sequence
import dataclasses
import pathlib
import re
from urllib.parse import unquote

from data_pipelines.source_files.file_names import FileNames, tidy_name
from data_pipelines.table.rows import Rating


class ImagePaths:
  """The images of a folder, by the names that tables have for them.

  A name is a path from the table's folder or from that of the images. It may lack the ending, and the folders too if
  one image alone has such a name.

  Attributes:
    unused: paths of the files that no row has meant so far.
  """

  def __init__(self, root: pathlib.Path, files: Sequence[pathlib.Path]):
    self._root = root
    paths = [file.relative_to(root).as_posix() for file in files]
    self._whole = FileNames(paths, root)
    self._short: list[tuple[FileNames, dict[str, str]]] = []
    for shorten in (_without_ending, _last, lambda path: pathlib.PurePosixPath(path).stem):
      long_of = collections.defaultdict(list)
      for path in paths:
        long_of[shorten(path)].append(path)
      single = {short: found[0] for short, found in long_of.items() if len(found) == 1}
      self._short.append((FileNames(single), single))
    self.unused = set(paths)

  def resolve(self, rating: Rating, folder: pathlib.Path) -> Rating:
    """The rating with the path of its image, from the images' folder; or with a problem, if it means no image.

    Args:
      rating: as it was read.
      folder: of its table.
    """
    name = rating.image
    if rating.problem:
      return rating
    if not name:
      return dataclasses.replace(rating, problem='it names no image')
    if re.match(r'[a-zA-Z][a-zA-Z0-9+.-]+://', name):
      return dataclasses.replace(rating, problem=f'{name} is a URL: download the images, and name the files')
    found = self._whole.find(tidy_name(f'{folder}/{name}')) or self._find(name) or self._find(unquote(name))
    if found is None:
      outside = name.startswith('/') or tidy_name(name).startswith('..')
      where = f'lies outside of {self._root}: give its folder with --images' if outside else f'is not in {self._root}'
      return dataclasses.replace(rating, problem=f'{name} {where}')
    self.unused.discard(found)
    return dataclasses.replace(rating, image=found)

  def _find(self, name: str) -> str | None:
    if (found := self._whole.find(name)) is not None or name.startswith('/'):
      return found
    for names, long_of in self._short:
      if (found := names.find(name)) is not None:
        return long_of[found]
    return None


def paths_inside(ratings: Sequence[Rating], files: Sequence[str]) -> list[Rating]:
  """The ratings of images that lie in tables, each with a name of its own as `image`.

  It is the path that stands beside the bytes, if all rows have one and no two the same; else the table's and the row.

  Args:
    ratings: of every row.
    files: of the tables, by their paths.
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
