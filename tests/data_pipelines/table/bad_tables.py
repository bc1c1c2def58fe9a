"""Tables with one fault each, by cause: what a build says of them, as a mistake or as the reason of a rejected row."""

from collections.abc import Callable
import json
import pathlib
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet

from tests.support import tables

ROWS = 20


class Bad(NamedTuple):
  """make: writes the table into a folder with images, and returns it; says: what the message or the reason holds;
  rejected: how many rows are rejected, 0 where the whole table is refused; options: of the build."""

  make: Callable[[pathlib.Path], pathlib.Path]
  says: str
  rejected: int = 0
  options: dict[str, Any] = {}


def good_rows() -> list[dict[str, Any]]:
  return tables.rows(ROWS)


def _csv(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[pathlib.Path], pathlib.Path]:
  """A table of text after `change`, which gets the rows and may return others."""

  def make(folder: pathlib.Path) -> pathlib.Path:
    rows = good_rows()
    tables.write_text(folder / 'table.csv', change(rows) or rows)
    return folder / 'table.csv'

  return make


def _set(column: str, value: Any, row: int = 0) -> Callable[[pathlib.Path], pathlib.Path]:
  """The good table with another cell; the column is added where there is none."""

  def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    blank = {column: ''} if column not in rows[0] else {}
    rows = [{**one, **blank} for one in rows]
    rows[row][column] = value
    return rows

  return _csv(change)


def _with(**columns: Callable[[int], Any]) -> Callable[[pathlib.Path], pathlib.Path]:
  """The good table with further columns, as functions of the row."""

  def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, **{name: make(number) for name, make in columns.items()}} for number, row in enumerate(rows)]

  return _csv(change)


def _without(*names: str) -> Callable[[pathlib.Path], pathlib.Path]:
  return _csv(lambda rows: [{name: cell for name, cell in row.items() if name not in names} for row in rows])


def _bytes(name: str, content: bytes) -> Callable[[pathlib.Path], pathlib.Path]:

  def make(folder: pathlib.Path) -> pathlib.Path:
    (folder / name).write_bytes(content)
    return folder / name

  return make


def _truncated_parquet(folder: pathlib.Path) -> pathlib.Path:
  pa.parquet.write_table(pa.Table.from_pylist(good_rows()), folder / 'table.parquet')
  content = (folder / 'table.parquet').read_bytes()
  (folder / 'table.parquet').write_bytes(content[:len(content) // 2])
  return folder / 'table.parquet'


def _damaged_page(folder: pathlib.Path) -> pathlib.Path:
  pa.parquet.write_table(pa.Table.from_pylist(good_rows()), folder / 'table.parquet', compression='zstd')
  content = bytearray((folder / 'table.parquet').read_bytes())
  content[60:160] = bytes(100)
  (folder / 'table.parquet').write_bytes(content)
  return folder / 'table.parquet'


def _truncated_arrow(folder: pathlib.Path) -> pathlib.Path:
  table = pa.Table.from_pylist(good_rows())
  with pa.ipc.new_stream(str(folder / 'table.arrow'), table.schema) as writer:
    writer.write_table(table, max_chunksize=5)
  content = (folder / 'table.arrow').read_bytes()
  (folder / 'table.arrow').write_bytes(content[:len(content) * 2 // 3])
  return folder / 'table.arrow'


def _two_files(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[pathlib.Path], pathlib.Path]:

  def make(folder: pathlib.Path) -> pathlib.Path:
    rows = good_rows()
    (folder / 'parts').mkdir()
    for part, of_part in (('a', rows[:10]), ('b', list(map(change, rows[10:])))):
      pa.parquet.write_table(pa.Table.from_pylist(of_part), folder / 'parts' / f'{part}.parquet')
    return folder / 'parts' / '*.parquet'

  return make


def _half_named(folder: pathlib.Path) -> pathlib.Path:
  (folder / 'parts').mkdir()
  rows = [{name: cell for name, cell in row.items() if name != 'split'} for row in good_rows()]
  for number, name in enumerate(('train', 'test', 'more')):
    tables.write_text(folder / 'parts' / f'{name}.csv', rows[6 * number:6 * number + 6])
  return folder / 'parts'


def _columns(**columns: str) -> dict[str, Any]:
  from data_pipelines.table.table_dataset_builder import TableOptions
  return {'table': TableOptions(columns)}


def _options(**options: Any) -> dict[str, Any]:
  from data_pipelines.table.table_dataset_builder import TableOptions
  return {'table': TableOptions(**options)}


_LINES = [json.dumps(row) for row in good_rows()]

BAD = {
    'no column of images': Bad(_without('file_name'), "no column of images that is known by its name"),
    'a column that is not there': Bad(_csv(lambda rows: None), "has no column 'Mood'", 0, _columns(label='Mood')),
    'a meaning that is none': Bad(_csv(lambda rows: None), '--column=mood=', 0, _columns(mood='emotion')),
    'two columns of one name': Bad(_bytes('t.csv', b'image,label,label\na,b,c\n'), "two columns 'label'"),
    'an empty file': Bad(_bytes('t.csv', b''), 't.csv is empty'),
    'headings alone': Bad(_bytes('t.csv', b'image,label\n'), 'has no rows'),
    'a file that is no table': Bad(_bytes('t.xlsx', b'PK\3\4'), 'save it as CSV'),
    'bytes that are no text': Bad(_bytes('t.csv', b'image,label\n\xff\xfe\xfa,\x80\n'), 't.csv is not in UTF-8'),
    'a quote that does not end': Bad(_bytes('t.csv', b'image,label\n"a.jpg,joy\nb.jpg,joy\n'), 'correct its quotes'),
    'no such file': Bad(lambda folder: folder / 'nowhere.csv', 'nowhere.csv is not there'),
    'a folder without tables': Bad(lambda folder: folder / 'photos', 'holds no table'),
    'JSON lines cut short': Bad(_bytes('t.jsonl', '\n'.join(_LINES)[:-9].encode()), f'record {ROWS} is not JSON'),
    'a JSON list without its end': Bad(_bytes('t.json', b'[' + ','.join(_LINES).encode()), 'is not JSON'),
    'JSON that is no object': Bad(_bytes('t.jsonl', b'["a.jpg", "joy"]'), 'is no object like'),
    'Parquet cut short': Bad(_truncated_parquet, 'table.parquet is damaged'),
    'a damaged page of Parquet': Bad(_damaged_page, 'table.parquet is damaged'),
    'Arrow cut short': Bad(_truncated_arrow, 'table.arrow is damaged'),
    'a column less in one file':
        Bad(
            _two_files(lambda row: {name: cell for name, cell in row.items() if name != 'emotion'}),
            'other columns than'),
    'another type in one file':
        Bad(_two_files(lambda row: {**row, 'valence': str(row['valence'])}), "valence is 'valence' string"),
    'a file that names no split beside two that do': Bad(_half_named, 'whose name says no split'),
    'a group in two splits': Bad(_with(group=lambda row: f'g{row // 4}'), "group 'g0' is in train and in"),
    'a label with a line end': Bad(_set('emotion', 'joy\nand awe'), 'has the label'),
    'an image that is not there': Bad(_set('file_name', 'photos/none.jpg'), 'photos/none.jpg is not in', 1),
    'a row without an image': Bad(_set('file_name', ''), 'names no image', 1),
    'a path outside the folder': Bad(_set('file_name', '../../secret.jpg'), 'lies outside of', 1),
    'an absolute path outside the folder': Bad(_set('file_name', '/etc/passwd'), 'lies outside of', 1),
    'a URL': Bad(_set('file_name', 'https://example.org/a.jpg'), 'is a URL: download', 1),
    'a row with a cell more':
        Bad(
            _bytes(
                't.csv', b'file_name,emotion,split\n' + b''.join(
                    f'photos/{row:03d} \u00e4.jpg,{"joy, awe" if row == 2 else "joy"},train\n'.encode()
                    for row in range(ROWS))), '4 cells under 3 headings', 1),
    'two rows that disagree': Bad(_set('file_name', 'photos/001 ä.jpg'), 'says other things of it', 1),
    'one id for two images': Bad(_with(id=lambda row: max(row, 1)), 'its id is also that of', 1),
    'a class named twice':
        Bad(
            _csv(lambda rows: None), "the class 'joy' is named twice", 0,
            _options(labels=('joy', 'fear', 'joy', 'awe'))),
    'a class outside the list':
        Bad(_set('emotion', 'envy'), "class 'envy' is none of the 3", 1, _options(labels=('awe', 'fear', 'joy'))),
    'a number past the classes':
        Bad(_set('emotion', 7), 'class 7 is none of the 3', 1, _options(labels=('awe', 'fear', 'joy'))),
    'a text in a number': Bad(_set('valence', 'high'), "'high' is no number", 1),
    'an infinite number': Bad(_set('valence', 'inf'), 'is not finite', 1),
    'valence outside its scale': Bad(_set('valence', 9), 'outside the scale 1 to 7', 1, _options(scale=(1, 7))),
    'votes that sum to 0':
        Bad(
            _with(joy=lambda row: min(row, 3), awe=lambda row: 0), 'votes sum to 0', 1,
            _columns(votes='joy,awe', label='')),
    'fewer than no votes':
        Bad(
            _with(joy=lambda row: row - 1, awe=lambda row: 2), 'fewer than 0 votes', 1,
            _columns(votes='joy,awe', label='')),
    'votes of which one is a text':
        Bad(
            _with(joy=lambda row: 'many' if row == 0 else 3, awe=lambda row: 2), "'many' is no number", 1,
            _columns(votes='joy,awe', label='')),
    'a flag that is neither 0 nor 1':
        Bad(
            _with(sad=lambda row: 2 - min(row, 2), glad=lambda row: 1), "'2' is neither 0 nor 1", 1,
            _columns(labels='sad,glad', label='')),
    'an inverted box': Bad(_with(box=lambda row: '[20, 2, 3, 18]' if row == 0 else '[2, 2, 9, 18]'), 'inverted', 1),
    'a box of three numbers': Bad(_with(box=lambda row: '1 2 3' if row == 0 else '1 2 3 4'), 'not of four', 1),
    'a split that is none': Bad(_set('split', 'holdout'), "split 'holdout' is none of", 1),}  # fmt: skip
