"""Sorts the rows of a finished table by a column, and draws a sheet of the images that rank highest."""

from collections.abc import Iterable, Iterator, Sequence
import csv
import heapq
import io
import json
import os
from pathlib import Path
import re
import sys
from typing import Any, NamedTuple

from PIL import Image

from data_pipelines import images, storage
from data_pipelines.errors import UserError, join_names
from data_pipelines.media.read_media import printable, read_media
from data_pipelines.plain_text import csv_text, single_line
from data_pipelines.source_files.file_names import real_place
from uniemox_jax.predict.shards import FileShard

SHEETS = ('.jpg', '.jpeg', '.png', '.html')
SIDE, PER_ROW = 160, 8
"""The side of a thumbnail in pixels, and how many stand side by side."""
_TEXTS = ('path', 'label', 'labels', 'error')
_MOST_PIXELS = 65_500
"""The most pixels of a JPEG's side."""


class Ranking(NamedTuple):
  """What is made of a table at its end.

  sort: a class or column by which the rows are sorted, highest first, or None. sheet: the file of the contact sheet, or
  None. top: how many images of each class are on it.
  """

  sort: str | None = None
  sheet: str | None = None
  top: int = 8


NO_RANKING = Ranking()


class _Ranked(NamedTuple):
  """An image of the sheet."""

  value: float
  path: str


def check_ranking(
    ranking: Ranking, out: str | None, columns: Sequence[str], shard: FileShard | None, paths: Sequence[str]) -> None:
  """Raises UserError unless a table of these columns can be ranked so, and the files can be written.

  Args:
    ranking, columns: what is asked for, and the table's columns.
    out: the table; None for standard output.
    shard: the part of the files that it is about; None for all.
    paths: the paths of the images, over which nothing is written.
  """
  asked = [f'--{name}' for name, value in (('sort', ranking.sort), ('contact_sheet', ranking.sheet)) if value]
  if asked and out is None:
    raise UserError(f'{asked[0]} is made from a finished table, not from standard output: add --out=FILE')
  if asked and shard:
    raise UserError(f'{asked[0]} is made from the table of all files: leave it out of a --shard')
  if ranking.sort:
    _column(ranking.sort, columns)
  if ranking.sheet:
    if not ranking.sheet.lower().endswith(SHEETS):
      raise UserError(f'--contact_sheet={ranking.sheet}: name a file that ends in {", ".join(SHEETS)}')
    rows = -(-min(ranking.top, len(paths)) // PER_ROW) * len(_shown(columns))
    if rows * SIDE > _MOST_PIXELS and ranking.sheet.lower().endswith(SHEETS[:2]):
      raise UserError(f'--contact_sheet={ranking.sheet} would be too high for a JPEG: give less --top, or a .html')
    if not Path(ranking.sheet).parent.is_dir():
      raise UserError(f'--contact_sheet={ranking.sheet}: its folder is not there: make it, or choose another')
    if real_place(ranking.sheet) in {real_place(path) for path in (out or '', *paths)}:
      raise UserError(f'--contact_sheet={ranking.sheet} is the table or one of the images: choose another file')


def write_ranking(
    ranking: Ranking, out: str | None, file_format: str, columns: Sequence[str], paths: Sequence[str],
    per_second: float, max_megapixels: float) -> None:
  """Writes what is asked for, from all rows of the table, each file whole or not at all; says so on standard error.

  Args:
    ranking, columns, paths: as `check_ranking` took them.
    out, file_format: the table.
    per_second, max_megapixels: the values with which its rows were made.
  """
  if out and ranking.sort:
    target, rows = _write_sorted(out, file_format, _column(ranking.sort, columns), ranking.sort)
    print(single_line(f'{target}: {rows} rows, highest {ranking.sort} first'), file=sys.stderr)
  if out and ranking.sheet:
    best = _highest(out, file_format, _shown(columns), ranking.top)
    names = {ranked.path for some in best.values() for ranked in some}
    thumbnails = _thumbnails(names, paths, per_second, max_megapixels)
    _write_sheet(ranking.sheet, best, thumbnails)
    gone = len(names) - len(thumbnails)
    drawn_grey = f', {gone} more are not there any more, and drawn grey' if gone else ''
    print(single_line(f'{ranking.sheet}: {len(thumbnails)} images{drawn_grey}'), file=sys.stderr)


def _shown(columns: Sequence[str]) -> list[str]:
  """The columns whose highest are on the sheet."""
  return [name for name in columns if name not in (*_TEXTS, 'probability')]


def _column(asked: str, columns: Sequence[str]) -> str:
  """The column of numbers that has this name, or is of a class of this name. Raises UserError without one such."""
  numbers = [name for name in columns if name not in _TEXTS]
  if asked in numbers:
    return asked
  found = [name for name in numbers if name in (f'p_{asked}', f'similarity_{asked}')] or [
      name for name in numbers if name.endswith(f'_p_{asked}')]
  if len(found) > 1:
    raise UserError(f'--sort={asked} could be any of {join_names(found)}: give one of these')
  if not found:
    raise UserError(f'--sort={asked} is no class and no column of numbers: one of {join_names(numbers)}')
  return found[0]


def table_rows(table: str, file_format: str) -> Iterator[tuple[bytes, dict[str, Any]]]:
  """Yields the line of each row, and its cells by column; every row of a table is one line."""
  with storage.open_local(table) as file:
    names = next(csv.reader([file.readline().decode()])) if file_format == 'csv' else []
    for line in file:
      if file_format == 'csv':
        yield line, dict(zip(names, map(csv_text, next(csv.reader([line.decode()])))))
      else:
        yield line, json.loads(line)


def _value(cell: Any) -> float | None:
  return None if cell in ('', None) else float(cell)


def _write_sorted(out: str, file_format: str, column: str, asked: str) -> tuple[str, int]:
  """The file, and how many rows it has."""
  ranked = []
  for line, cells in table_rows(out, file_format):
    value = _value(cells[column])
    ranked.append((value is None, -(value or 0.0), line))
  ranked.sort(key=lambda row: row[:2])  # Stable: rows of one value keep their order.
  stem, ending = os.path.splitext(out)
  name = re.sub(r'[^\w-]', '_', asked)
  target = f'{stem}.sorted_by_{name}{ending}'
  with storage.open_local(out) as table, storage.new_file(target) as file:
    if file_format == 'csv':
      file.write(table.readline())
    file.writelines(line for *_, line in ranked)
  return target, len(ranked)


def _highest(out: str, file_format: str, columns: Sequence[str], top: int) -> dict[str, list[_Ranked]]:
  """The rows of the highest values of each column, highest first; of equal values, the first rows."""
  heaps: dict[str, list[tuple[float, int, str]]] = {column: [] for column in columns}
  for number, (_, cells) in enumerate(table_rows(out, file_format)):
    for column, heap in heaps.items():
      if (value := _value(cells.get(column))) is not None:
        heapq.heappush(heap, (value, -number, cells['path']))
        if len(heap) > top:
          heapq.heappop(heap)
  return {
      column: [_Ranked(value, path)
               for value, _, path in sorted(heap, reverse=True)] for column, heap in heaps.items() if heap}


def _thumbnails(names: Iterable[str], paths: Sequence[str], per_second: float,
                max_megapixels: float) -> dict[str, Image.Image]:
  """What the model sees of the images and frames that these rows are about, small; without those that are gone."""
  wanted = set(names)
  path_of = {printable(path): path for path in paths}  # A row has the name as it can be printed.
  whole = (name if name in path_of else re.sub(r'#t=[\d.]+$', '', name) for name in sorted(wanted))
  files = dict.fromkeys(path_of.get(name, name) for name in whole)
  found = read_media(list(files), SIDE, ahead=2 * PER_ROW, per_second=per_second, max_megapixels=max_megapixels)
  return {view.name: Image.fromarray(view.pixels) for view in found if view.name in wanted and view.pixels is not None}


def _write_sheet(path: str, best: dict[str, list[_Ranked]], thumbnails: dict[str, Image.Image]) -> None:
  grey = Image.new('RGB', (SIDE, SIDE), 'grey')
  shown = {
      single_line(column.removeprefix('p_')): [(thumbnails.get(ranked.path, grey), ranked) for ranked in some]
      for column, some in best.items()}
  if path.lower().endswith('.html'):
    storage.write_text(path, _page(shown))
    return
  sheet = _drawn(shown)
  file = io.BytesIO()
  if path.lower().endswith('.png'):
    sheet.save(file, 'PNG')
  elif max(sheet.size) > _MOST_PIXELS:
    raise UserError(f'{path} would be {sheet.height} pixels high, over the {_MOST_PIXELS} of a JPEG: give less --top')
  else:
    sheet.save(file, 'JPEG', quality=images.JPEG_QUALITY)
  storage.write_bytes(path, file.getvalue())


def _drawn(shown: dict[str, list[tuple[Image.Image, _Ranked]]]) -> Image.Image:
  """One sheet below the other."""
  from data_pipelines.drawing.sheet_text import absent_letters, contact_sheet  # It loads matplotlib, for its font.

  texts = ''.join(
      title + ''.join(ranked.path.rpartition('/')[2] for _, ranked in some) for title, some in shown.items())
  if absent := absent_letters(texts):
    print(f'the font of drawn sheets lacks {join_names(absent)}: a .html shows them', file=sys.stderr)
  parts = [
      contact_sheet([([image], f'{ranked.value:.3f}\n{ranked.path.rpartition("/")[2]}')
                     for image, ranked in some], title, PER_ROW)
      for title, some in shown.items()]
  sheet = Image.new('RGB', (max(part.width for part in parts), sum(part.height for part in parts)), 'white')
  top = 0
  for part in parts:
    sheet.paste(part, (0, top))
    top += part.height
  return sheet


def _page(shown: dict[str, list[tuple[Image.Image, _Ranked]]]) -> str:
  from data_pipelines.drawing.page_rendering import data_uri, render_template

  classes = {
      title: [{'image': data_uri(images.encode_jpeg(image), 'image/jpeg'), 'path': ranked.path, 'value': ranked.value}
              for image, ranked in some] for title, some in shown.items()}
  return render_template(Path(__file__).with_name('contact_sheet.html.j2'), {'classes': classes, 'side': SIDE})
