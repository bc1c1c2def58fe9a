"""One small data set as a table in every form that people have: text, JSON, Parquet and Arrow, with files or bytes."""

from collections.abc import Callable
import csv
import io
import json
import pathlib
from typing import Any

from PIL import Image as PillowImage
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

CLASSES = ('awe', 'fear', 'joy')
COUNT = 30


def image_bytes(number: int) -> bytes:
  """A JPEG of 24 x 20 pixels, other for each number."""
  file = io.BytesIO()
  PillowImage.new('RGB', (24, 20), (8 * number % 256, 90, 40 + number % 200)).save(file, 'JPEG', quality=95)
  return file.getvalue()


def rows(count: int = COUNT) -> list[dict[str, Any]]:
  """What is known of each image: its name, class, classes, votes, split, valence from 1 to 7, a style and a caption."""
  return [{
      'file_name': f'photos/{number:03d} ä.jpg', 'emotion': CLASSES[number % 3],
      'split': 'test' if number % 5 == 4 else 'validation' if number % 5 == 3 else 'train',
      'labels': '|'.join(CLASSES[number % 3:]), 'votes': json.dumps({CLASSES[number % 3]: 2, 'joy': 1}),
      'style': ('cartoon', 'natural')
               [number % 2], 'valence': 1 + number % 13 / 2, 'description': f'a "view", number {number},\nof something'}
          for number in range(count)]  # fmt: skip


def draw_images(folder: pathlib.Path, count: int = COUNT) -> None:
  """The images of `rows`."""
  (folder / 'photos').mkdir(parents=True)
  for number, row in enumerate(rows(count)):
    (folder / row['file_name']).write_bytes(image_bytes(number))


def write_text(path: pathlib.Path, found: list[dict[str, Any]], delimiter: str = ',', encoding: str = 'utf-8') -> None:
  """A table of text, with CRLF; with a decimal comma where cells are separated by something else."""
  with path.open('w', newline='', encoding=encoding) as file:
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(found[0])
    for row in found:
      cells = [
          str(cell).replace('.', ',') if isinstance(cell, float) and delimiter != ',' else cell
          for cell in row.values()]  # fmt: skip
      writer.writerow(cells)


def _csv(folder: pathlib.Path) -> pathlib.Path:
  draw_images(folder)
  write_text(folder / 'table.csv', rows())
  return folder / 'table.csv'


def _semicolons_utf16(folder: pathlib.Path) -> pathlib.Path:
  draw_images(folder)
  write_text(folder / 'table.csv', rows(), ';', 'utf-16')
  return folder / 'table.csv'


def _tsv(folder: pathlib.Path) -> pathlib.Path:
  draw_images(folder)
  write_text(folder / 'table.tsv', rows(), '\t', 'utf-8-sig')
  return folder / 'table.tsv'


def _json_lines(folder: pathlib.Path) -> pathlib.Path:
  draw_images(folder)
  (folder / 'table.jsonl').write_text('\n'.join(map(json.dumps, rows())))
  return folder / 'table.jsonl'


def _json_list(folder: pathlib.Path) -> pathlib.Path:
  draw_images(folder)
  (folder / 'table.json').write_text(json.dumps(rows(), indent=1))
  return folder / 'table.json'


def _parquet_paths(folder: pathlib.Path) -> pathlib.Path:
  draw_images(folder)
  pa.parquet.write_table(pa.Table.from_pylist(rows()), folder / 'table.parquet')
  return folder / 'table.parquet'


def _with_bytes() -> pa.Table:
  found = [{'picture': image_bytes(number), **row} for number, row in enumerate(rows())]
  for row in found:
    del row['file_name']
  return pa.Table.from_pylist(found)


def _parquet_bytes(folder: pathlib.Path) -> pathlib.Path:
  folder.mkdir()
  pa.parquet.write_table(_with_bytes(), folder / 'table.parquet', row_group_size=7)
  return folder / 'table.parquet'


def _arrow_file(folder: pathlib.Path) -> pathlib.Path:
  folder.mkdir()
  table = _with_bytes()
  with pa.ipc.new_file(str(folder / 'table.arrow'), table.schema) as writer:
    writer.write_table(table, max_chunksize=11)
  return folder / 'table.arrow'


def as_datasets() -> Any:
  """The rows as the `datasets` library holds them, a part a split: an Image, a ClassLabel."""
  from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

  classes, text = ClassLabel(names=list(CLASSES)), Value('string')
  features = Features({
      'image': Image(), 'label': classes, 'labels': List(classes), 'votes': text, 'style': text,
      'valence': Value('float32'), 'caption': text})
  parts: dict[str, list[dict[str, Any]]] = {'train': [], 'validation': [], 'test': []}
  for number, row in enumerate(rows()):
    parts[row['split']].append({
        'image': {'bytes': image_bytes(number), 'path': row['file_name']}, 'label': CLASSES.index(row['emotion']),
        'labels': list(map(CLASSES.index, row['labels'].split('|'))), 'caption': row['description'],
        **{name: row[name] for name in ('votes', 'style', 'valence')}})  # fmt: skip
  return DatasetDict({split: Dataset.from_list(found, features) for split, found in parts.items()})


def _hub_parquet(folder: pathlib.Path) -> pathlib.Path:
  (folder / 'data').mkdir(parents=True)
  for split, part in as_datasets().items():
    half = (len(part) + 1) // 2
    for piece, of_piece in enumerate((range(half), range(half, len(part)))):
      part.select(of_piece).to_parquet(folder / 'data' / f'{split}-{piece:05d}-of-00002.parquet')
  (folder / 'README.md').write_text('# a dataset card')
  return folder


def _save_to_disk(folder: pathlib.Path) -> pathlib.Path:
  as_datasets().save_to_disk(folder)
  return folder


FORMS: dict[str, Callable[[pathlib.Path], pathlib.Path]] = {
    'CSV': _csv, 'CSV with semicolons and decimal commas, UTF-16': _semicolons_utf16, 'TSV with a mark': _tsv,
    'JSON lines': _json_lines, 'JSON list': _json_list, 'Parquet of paths': _parquet_paths,
    'Parquet of bytes': _parquet_bytes, 'Arrow of bytes': _arrow_file, 'Parquet of datasets': _hub_parquet,
    'save_to_disk': _save_to_disk}
"""Each writes the table and its images into a new folder, and returns what `--source` names."""
