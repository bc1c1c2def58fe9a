"""Lists the images that are labelled: found as every verb finds them, each opened once before anyone is asked."""

from collections import Counter
from collections.abc import Collection, Mapping
from concurrent import futures
import hashlib
import os
import pathlib
from typing import NamedTuple

from PIL import Image
import tqdm

from data_pipelines import images
from data_pipelines.errors import UserError
from data_pipelines.plain_text import csv_text, visible
from data_pipelines.read_ahead import THREADS, read_ahead
from data_pipelines.source_files import raw_files
from data_pipelines.source_files.file_names import FileNames
from data_pipelines.source_files.text_files import read_table

MAX_SIDE = 1024
"""The most pixels of the longer side of an image as it is shown; larger images are shrunk."""


class CheckedFile(NamedTuple):
  """What is known of an image file: its bytes and time of change when it was opened, and why it cannot be read."""

  size: int
  changed_ns: int
  problem: str


class FoundImages(NamedTuple):
  """The images found. root: a folder. names: their sorted paths from there. passed_over: kind -> number of other files.
  """

  root: pathlib.Path
  names: list[str]
  passed_over: dict[str, int]


def list_images(source: str | os.PathLike) -> FoundImages:
  """Lists the images below a folder, or those that the column `image` of a table names.

  Paths in a table are relative to its folder, see `FileNames`; they mean no file elsewhere. It says on standard error
  which names mean no image.

  Raises:
    UserError: there is no image, or the table has no such column.
  """
  source = pathlib.Path(source)
  passed_over: Counter[str] = Counter()
  root = source if source.is_dir() else source.parent
  files = raw_files.list_files(root, lambda kind: passed_over.update([kind]), images.is_image)
  names = [file.relative_to(root).as_posix() for file in files]
  if source.is_file():
    passed_over.clear()
    given = dict.fromkeys(csv_text(row.cells['image']) for row in read_table(source, ['image']))
    names = sorted(set(FileNames(names, root).find_all(given, source).values()))
  if not names:
    raise UserError(
        f'{source} is missing or has no images: give a folder of images, or a table with a column image, as --source')
  return FoundImages(root, names, dict(sorted(passed_over.items())))


def check_images(found: FoundImages, known: Mapping[str, CheckedFile]) -> dict[str, CheckedFile]:
  """Opens every image, except those that are known and unchanged; returns what is known by `listed_name`."""
  checked: dict[str, CheckedFile] = {}
  pool = futures.ThreadPoolExecutor(THREADS)
  try:
    waiting = (pool.submit(_check, found.root / name, known.get(listed_name(name))) for name in found.names)
    reading = read_ahead(waiting, 2 * THREADS)
    bar = tqdm.tqdm(reading, total=len(found.names), desc='checking', unit=' images')
    for name, future in zip(found.names, bar):
      checked[listed_name(name)] = future.result()
  finally:
    pool.shutdown(cancel_futures=True)
  return checked


def _check(path: pathlib.Path, known: CheckedFile | None) -> CheckedFile:
  try:
    stat = path.stat()
    os.fspath(path).encode()
    if known and known[:2] == (stat.st_size, stat.st_mtime_ns):
      return known
    with images.open_image(path):
      return CheckedFile(stat.st_size, stat.st_mtime_ns, '')
  except UnicodeEncodeError:
    return CheckedFile(0, 0, 'the file name is not UTF-8')
  except OSError as error:
    return CheckedFile(0, 0, f'cannot be read: {error.strerror}')
  except images.RejectedError as error:
    return CheckedFile(stat.st_size, stat.st_mtime_ns, ' '.join(str(error).split()))


def listed_name(name: str) -> str:
  """Makes a name that any file can hold: bytes that are not UTF-8 become backslash codes."""
  return os.fsencode(name).decode(errors='backslashreplace')


def image_key(name: str) -> str:
  """The key by which the page names an image: file names often say the emotion, and a key leads to no other file."""
  return hashlib.sha256(name.encode()).hexdigest()[:24]


def order_for(annotator: str, names: Collection[str]) -> list[str]:
  """The order of images for an annotator, by a hash of both names: always the same, and a new image moves no other."""
  return sorted(names, key=lambda name: hashlib.sha256(f'{annotator}\n{name}'.encode()).digest())


def shown_jpeg(path: pathlib.Path) -> bytes:
  """Makes the image for the page: upright, at most MAX_SIDE pixels a side, without metadata.

  Raises:
    images.RejectedError: the image cannot be read.
  """
  with images.open_image(path) as image:
    scale = min(1.0, MAX_SIDE / max(image.original.size))
    width, height = (max(1, round(side * scale)) for side in image.original.size)
    shown = image.original if scale == 1 else image.original.resize((width, height), Image.Resampling.LANCZOS)
    return images.encode_jpeg(shown)


def problem_lines(checked: Mapping[str, CheckedFile]) -> list[str]:
  """Writes a line for each image that cannot be read."""
  return [visible(f'{name}: {file.problem}') for name, file in checked.items() if file.problem]
