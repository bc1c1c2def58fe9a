"""Reads tables of any usual form a row at a time: text, JSON, and the `datasets` library's Parquet and Arrow files.

A row is a line of a text table, or an object of JSON. Files of pyarrow may hold the images themselves, so rows are read
without them, and their bytes in a second pass, a few at a time.
"""

import codecs
from collections.abc import Iterator, Sequence
import itertools
import json
import os
import pathlib
import re
from typing import Any, NamedTuple, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from data_pipelines import images, storage
from data_pipelines.errors import UserError, join_names
from data_pipelines.plain_text import first_double
from data_pipelines.source_files.text_files import TableRow, open_text_table, plain

TEXT, JSON, PARQUET, ARROW = ('.csv', '.tsv', '.txt'), ('.json', '.jsonl', '.ndjson'), ('.parquet',
                                                                                        '.pq'), ('.arrow', '.feather')
SUFFIXES = (*TEXT, *JSON, *PARQUET, *ARROW)
_SAVE_AS = {
    '.xlsx': 'save it as CSV', '.xls': 'save it as CSV', '.ods': 'save it as CSV', '.gz': 'decompress it',
    '.zip': 'unpack it', '.zst': 'decompress it', '.bz2': 'decompress it', '.xz': 'decompress it'}
_ROWS, _IMAGES = 4096, 16
"""Rows that are read at once, without images and with them."""
_BETWEEN = {False: re.compile(r'[ \t\r\n]*'), True: re.compile(r'[ \t\r\n,]*')}
"""The separators of values of JSON: between objects, and in a list."""
_DECODER = json.JSONDecoder()
_SEEN, _CHUNK = 1000, 2**20
"""Records of JSON whose keys are taken for the columns; characters read at once."""


class TableColumn(NamedTuple):
  """A column of a table.

  Attributes:
    name: its heading.
    form: 'bytes', 'image' (the hub's struct of bytes and path), or 'cells' for anything else.
    type_name: what the file says of its type; '' for text and JSON.
    class_names: the names of the hub's ClassLabel, also in lists; () for none.
    is_image: whether the file itself says that this is an image.
  """

  name: str
  form: str = 'cells'
  type_name: str = ''
  class_names: tuple[str, ...] = ()
  is_image: bool = False


class Table(Protocol):
  """An open table. Reading raises UserError, which names the file, if it is damaged."""

  path: str
  columns: tuple[TableColumn, ...]

  def rows(self, names: Sequence[str]) -> Iterator[TableRow]:
    """Yields every row with the cells of these columns; for an image None, or the path beside the bytes."""


@runtime_checkable
class TableOfImages(Table, Protocol):
  """An open table that may hold the bytes of images."""

  def contents(self, name: str, wanted: Sequence[int]) -> Iterator[tuple[int, bytes | None]]:
    """Yields number, from 0, and image bytes of the wanted rows, ascending; None if the cell has no bytes."""


def open_table(path: str | os.PathLike, expected: Sequence[str] = ()) -> Table:
  """Opens a table by the ending of its name.

  Args:
    path: a local file.
    expected: the usual headings, by which the delimiter of a table of text is found.

  Raises:
    UserError: the form is unknown, or the file is damaged, or has no columns or two of one name.
  """
  suffix = pathlib.Path(path).suffix.lower()
  with storage.parsing(path, 'fetch or save it again'):
    table: Table
    if suffix in TEXT:
      table = _Text(os.fspath(path), expected)
    elif suffix in JSON:
      table = _Json(os.fspath(path))
    elif suffix in PARQUET:
      table = _Parquet(os.fspath(path))
    elif suffix in ARROW:
      table = _Arrow(os.fspath(path))
    else:
      raise UserError(
          f'{path} is no table in a known form ({", ".join(SUFFIXES)}): {_SAVE_AS.get(suffix, "save it as CSV")}')
    names = [column.name for column in table.columns]
    if not any(names):
      raise UserError(f'{path} is empty: it must hold a row of headings and a row for each image')
    if suffix in TEXT and any(pathlib.PurePath(name).suffix.lower() in images.SUFFIXES for name in names):
      raise UserError(
          f'{path} begins with a row and not with headings: add a line of headings before it, such as image,label')
    if (double := first_double(filter(None, names))) is not None:
      raise UserError(f"{path} has two columns '{double}': rename one")
  return table


class _Text:
  """A table of text."""

  def __init__(self, path: str, expected: Sequence[str]):
    self.path = path
    self._table = open_text_table(path, set(map(plain, expected)))
    self.columns = tuple(TableColumn(name) for name in self._table.headings if name)

  def rows(self, names: Sequence[str]) -> Iterator[TableRow]:
    del names
    for number, row in enumerate(self._table.rows(), 1):
      yield row._replace(place=f'{self.path} row {number} ({row.place.removeprefix(self.path).strip()})')


class _Json:
  """JSON lines, or one list of objects."""

  def __init__(self, path: str):
    self.path = path
    records = [record for _, record in itertools.islice(self._records(), _SEEN)]
    if len(records) == 1 and records[0] and all(isinstance(cell, (dict, list)) for cell in records[0].values()):
      raise UserError(
          f'{path} is one object of whole columns or lists ({join_names(list(records[0]))}): write a list of objects, '
          "one a row, as to_json(..., orient='records') of pandas does")
    self.columns = tuple(map(TableColumn, dict.fromkeys(itertools.chain(*records))))

  def rows(self, names: Sequence[str]) -> Iterator[TableRow]:
    for number, record in self._records():
      yield TableRow(f'{self.path} row {number}', {name: record.get(name) for name in names})

  def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects and their numbers, from 1, with no more than one chunk and one object in memory."""
    for number, value in _json_values(self.path):
      if not isinstance(value, dict):
        raise UserError(
            f'{self.path} record {number} is no object like {{"image": "a.jpg", "label": "joy"}}: correct it')
      yield number, value


class _Parquet:
  """A Parquet file. Row groups may be huge, so a column is read in pieces of them."""

  def __init__(self, path: str):
    self.path = path
    # With a buffer, a column is read page by page; else a row group of it at once.
    self._file = pa.parquet.ParquetFile(path, buffer_size=2**20)
    self.columns = _columns(self._file.schema_arrow)

  def rows(self, names: Sequence[str]) -> Iterator[TableRow]:
    forms = {column.name: column.form for column in self.columns}
    paths = {f'{name}.path': name for name in names if forms[name] == 'image'}
    plain_names = [name for name in names if forms[name] == 'cells']
    number = 0
    with storage.parsing(self.path, 'fetch it again'):
      if not paths and not plain_names:
        yield from (
            TableRow(f'{self.path} row {row}', dict.fromkeys(names))
            for row in range(1, self._file.metadata.num_rows + 1))
        return
      for batch in self._file.iter_batches(_ROWS, columns=[*plain_names, *paths]):
        for cells in batch.to_pylist():
          number += 1
          values = {name: cells.get(name) for name in names}
          yield TableRow(
              f'{self.path} row {number}',
              {name: value['path'] if forms[name] == 'image' and value else value for name, value in values.items()})

  def contents(self, name: str, wanted: Sequence[int]) -> Iterator[tuple[int, bytes | None]]:
    start, pending = 0, list(reversed(wanted))
    with storage.parsing(self.path, 'fetch it again'):
      for group in range(self._file.num_row_groups):
        end = start + self._file.metadata.row_group(group).num_rows
        if pending and pending[-1] < end:
          batches = self._file.iter_batches(_IMAGES, row_groups=[group], columns=[name])
          yield from _image_bytes(batches, name, start, end, pending)
        start = end


class _Arrow:
  """An Arrow file, as a stream or with a footer. It is mapped into memory, so what is not read takes none."""

  def __init__(self, path: str):
    self.path = path
    self.columns = _columns(self._open().schema)

  def _open(self) -> Any:
    try:
      return pa.ipc.open_stream(pa.memory_map(self.path))
    except pa.ArrowInvalid:
      return pa.ipc.open_file(pa.memory_map(self.path))

  def _batches(self) -> Iterator[pa.RecordBatch]:
    reader = self._open()
    is_file = isinstance(reader, pa.ipc.RecordBatchFileReader)
    for batch in map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader:
      batch.validate(full=True)  # Texts that end before they begin would abort the process.
      yield batch

  def rows(self, names: Sequence[str]) -> Iterator[TableRow]:
    forms = {column.name: column.form for column in self.columns}
    number = 0
    with storage.parsing(self.path, 'fetch it again'):
      for batch in self._batches():
        for start in range(0, batch.num_rows, _ROWS):
          part = batch.slice(start, _ROWS)
          cells = {name: _cells(part.column(name), forms[name]) for name in names}
          for row in range(part.num_rows):
            number += 1
            yield TableRow(f'{self.path} row {number}', {name: cells[name][row] for name in names})

  def contents(self, name: str, wanted: Sequence[int]) -> Iterator[tuple[int, bytes | None]]:
    start, pending = 0, list(reversed(wanted))
    with storage.parsing(self.path, 'fetch it again'):
      for batch in self._batches():
        end = start + batch.num_rows
        pieces = (batch.slice(first, _IMAGES) for first in range(0, batch.num_rows, _IMAGES))
        yield from _image_bytes(pieces, name, start, end, pending)
        start = end


def _cells(values: pa.Array, form: str) -> list[Any]:
  if form == 'bytes':
    return [None] * len(values)
  return (values.field('path') if form == 'image' else values).to_pylist()


def _image_bytes(batches: Iterator[pa.RecordBatch], name: str, start: int, end: int,
                 pending: list[int]) -> Iterator[tuple[int, bytes | None]]:
  """Takes the rows before `end` from the end of `pending`; the batches begin at row `start`."""
  for batch in batches:
    if not pending or pending[-1] >= end:
      return
    values = batch.column(name)
    if pa.types.is_struct(values.type):
      values = values.field('bytes')
    while pending and pending[-1] < start + len(values):
      number = pending.pop()
      yield number, values[number - start].as_py()
    start += len(values)


def _columns(schema: pa.Schema) -> tuple[TableColumn, ...]:
  """The columns, with what the `datasets` library says about them in the file's metadata."""
  metadata = json.loads((schema.metadata or {}).get(b'huggingface', b'{}'))
  features = metadata.get('info', {}).get('features', {}) if isinstance(metadata, dict) else {}
  return tuple(_column(field, features.get(field.name)) for field in schema)


def _column(field: pa.Field, feature: Any) -> TableColumn:
  kind, form = field.type, 'cells'
  if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
    form = 'bytes'
  elif pa.types.is_struct(kind) and {kind.field(part).name for part in range(kind.num_fields)} == {'bytes', 'path'}:
    form = 'image'
  inner = feature
  while isinstance(inner, list) and inner or isinstance(inner, dict) and 'feature' in inner:
    inner = inner[0] if isinstance(inner, list) else inner['feature']
  names = inner.get('names') if isinstance(inner, dict) and inner.get('_type') == 'ClassLabel' else None
  is_image = isinstance(feature, dict) and feature.get('_type') == 'Image'
  return TableColumn(field.name, form, str(kind), tuple(names or ()), is_image)


def _json_values(path: str) -> Iterator[tuple[int, Any]]:
  """The values of a file, numbered from 1, that holds one after the other, or in one list."""
  with storage.open_local(path, 'rb') as start:
    wide = start.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
  with storage.open_local(path, 'r', encoding='utf-16' if wide else 'utf-8-sig') as file:
    text, at, number, in_list, ended = '', 0, 0, False, False
    while True:
      at = _BETWEEN[in_list].match(text, at).end()  # type: ignore[union-attr]
      if not number and not in_list and text[at:at + 1] == '[':
        in_list, at = True, at + 1
        continue
      if in_list and text[at:at + 1] == ']':
        return
      try:
        value, end = _DECODER.raw_decode(text, at)
        complete = ended or end < len(text)  # Else a number may go on.
      except json.JSONDecodeError as error:
        if ended and (at < len(text) or in_list):
          raise UserError(
              f'{path} record {number + 1} is not JSON: {error.msg}: correct it, or fetch it again') from error
        if ended:
          return
        complete = False
      if complete:
        number, at = number + 1, end
        yield number, value
      else:
        more = file.read(max(_CHUNK, len(text) - at))
        text, at, ended = text[at:] + more, 0, not more
