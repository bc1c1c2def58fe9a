"""Reads and writes the files beside a build's shards: `manifest.json`, `rejects.csv` and `duplicates.csv`."""

from collections.abc import Iterable, Mapping, Sequence
import csv
import io

from etils import epath

from data_pipelines import storage
from data_pipelines.plain_text import csv_cell

MANIFEST = 'manifest.json'
REJECTS = 'rejects.csv'
DUPLICATES = 'duplicates.csv'
OUTSIDE, BEYOND = 'person boxes outside the image', 'person boxes that reach far beyond the image'
"""Two kinds of what is ignored: boxes that are left out as a whole, and boxes that are cut at the image's edge."""


def write_manifest(folder: epath.Path, manifest: Mapping) -> None:
  """Writes `manifest.json`; the folder is renamed to its final name later, as a whole."""
  storage.write_sealed(folder / MANIFEST, dict(manifest))


def read_manifest(folder: epath.Path) -> dict:
  """Reads the manifest of a finished build. Raises UserError if it is missing or damaged."""
  return storage.read_json_object(folder / MANIFEST)


def write_rejects(path: epath.Path, rejects: Mapping[str, str]) -> None:
  """Writes path,reason rows sorted by path."""
  _write_table(path, ('path', 'reason'), sorted(rejects.items()))


def write_duplicates(path: epath.Path, duplicates: Sequence[tuple[str, str, str, str]]) -> None:
  """Writes the rows of `stored_splits.duplicates`."""
  _write_table(path, ('path', 'split', 'same_as', 'its_split'), duplicates)


def _write_table(path: epath.Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
  """CSV for people, see `csv_cell`; bytes of a file name that are not UTF-8 are written as backslash codes."""
  buffer = io.StringIO(newline='')
  writer = csv.writer(buffer)
  writer.writerow(columns)
  writer.writerows(map(csv_cell, row) for row in rows)
  path.write_bytes(buffer.getvalue().encode(errors='backslashreplace'))
