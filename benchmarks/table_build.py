"""How fast tables are built, and in how much memory, beside a folder: python -m benchmarks.table_build [--rows=2000].

--small --rows=100000 --turns=1 shows that memory does not grow with the images.

The same drawn photographs are a folder of classes, a CSV that names them, and Parquet files that hold them: in row
groups of 100, as `datasets` writes them, and in one. Each build has a process of its own, and they take turns.
"""

from collections.abc import Iterator
import os
from pathlib import Path
import re
import statistics
import subprocess
import sys
import tempfile
import time

from absl import flags
from PIL import Image
import pyarrow as pa
import pyarrow.parquet

from benchmarks import photographs
from data_pipelines import build, command, storage

DISTINCT = 200
"""Photographs that are drawn; further rows repeat them under other names."""
CLASSES = ('awe', 'fear', 'joy', 'sadness')
SCHEMA = pa.schema([('image', pa.binary()), ('label', pa.string()), ('split', pa.string())])


def write_sources(folder: Path, rows: int, small: bool) -> dict[str, tuple[str, Path]]:
  """The sources, by name: dataset and `--source`."""
  photographs.draw_photographs(folder / 'drawn', min(rows, DISTINCT))
  drawn = sorted((folder / 'drawn').rglob('*.jpg'))
  for path in drawn if small else []:
    image = Image.open(path).resize((48, 36))
    image.save(path, 'JPEG')
  lines = ['image,label,split']
  for row in range(rows):
    label = CLASSES[row % len(CLASSES)]
    path = folder / 'folder' / 'train' / label / f'{row:07d}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    os.link(drawn[row % len(drawn)], path)
    lines.append(f'train/{label}/{path.name},{label},train')
  storage.write_text(folder / 'folder' / 'table.csv', '\n'.join(lines))
  for name, together in (('groups', 100), ('one_group', rows)):
    _write_parquet(folder / f'{name}.parquet', drawn, rows, together)
  return {
      'folder': ('folder', folder / 'folder'), 'CSV': ('table', folder / 'folder' / 'table.csv'), 'Parquet':
          ('table', folder / 'groups.parquet'), 'Parquet, one row group': ('table', folder / 'one_group.parquet')}


def _write_parquet(path: Path, drawn: list[Path], rows: int, together: int) -> None:
  """Rows of bytes, a hundred in memory at a time but for the group that pyarrow collects."""

  def parts() -> Iterator[pa.RecordBatch]:
    for start in range(0, rows, 100):
      numbers = range(start, min(start + 100, rows))
      contents = [drawn[row % len(drawn)].read_bytes() for row in numbers]
      labels = [CLASSES[row % len(CLASSES)] for row in numbers]
      yield pa.RecordBatch.from_arrays(
          [pa.array(contents, pa.binary()),
           pa.array(labels), pa.array(['train'] * len(numbers))], schema=SCHEMA)  # fmt: skip

  with pa.parquet.ParquetWriter(path, SCHEMA) as writer:
    if together >= rows:
      writer.write_table(pa.Table.from_batches(parts()), row_group_size=together)
    else:
      for part in parts():
        writer.write_batch(part, row_group_size=together)


def run_build(dataset: str, source: str, data_dir: str) -> None:
  """Builds, and prints its seconds and the most memory, MiB."""
  started = time.monotonic()
  build.build(dataset, source, data_dir, overwrite=True)
  seconds = time.monotonic() - started
  most = int(
      re.search(r'VmHWM:\s+(\d+)',
                Path('/proc/self/status').read_text(encoding='ascii'))[1])  # type: ignore[index]
  print(f'measured {seconds:.1f} {most / 1024:.0f}', flush=True)


def main() -> None:
  """Prints a row for each source: images a second, their ratio to the folder's in the same turn, and memory."""
  rows, turns = flags.FLAGS.rows, flags.FLAGS.turns
  with tempfile.TemporaryDirectory() as scratch:
    sources = write_sources(Path(scratch) / 'sources', rows, flags.FLAGS.small)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sources}
    for _ in range(turns):
      for name, (dataset, source) in sources.items():
        code = (
            f'from benchmarks.table_build import run_build; '
            f'run_build({dataset!r}, {str(source)!r}, {f"{scratch}/records"!r})')  # fmt: skip
        done = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True)
        seconds, most = map(float, re.search(r'measured (\S+) (\S+)', done.stdout).groups())  # type: ignore[union-attr]
        found[name].append((rows / seconds, most))
    print(f'| source, {rows:,} rows | images a second | to the folder | most memory |\n|---|---|---|---|')
    for name, measured in found.items():
      ratio = statistics.median(rate / folder for (rate, _), (folder, _) in zip(measured, found['folder']))
      rate, most = (statistics.median(values) for values in zip(*measured))
      print(f'| {name} | {rate:.0f} | {ratio:.2f} | {most:.0f} MiB |', flush=True)


if __name__ == '__main__':
  flags.DEFINE_integer('rows', 2000, 'Images.', 100)
  flags.DEFINE_bool('small', False, 'Images of 48 x 36 pixels, to measure memory at many rows.')
  flags.DEFINE_integer('turns', 3, 'Builds of each source.', 1)
  command.run(main)
