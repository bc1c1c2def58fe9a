"""Builds checked TFRecord shards from the raw folder of a dataset.

python -m data_pipelines.build --dataset=emoset --source=DIR --data_dir=DIR
"""

from collections.abc import Iterator
import contextlib
import importlib
import os
import pathlib
import tempfile

from absl import flags, logging
from etils import epath
import tensorflow_datasets as tfds

from data_pipelines import command, manifest
from data_pipelines.errors import UserError

DATASETS = ('emoset', 'emo8')


def build(
  dataset: str,
  source: str | os.PathLike,
  data_dir: str | os.PathLike,
  max_rejects: float = 0.01,
  short_side: int = 256,
  overwrite: bool = False,
) -> dict:
  """Builds `data_dir/dataset/VERSION/`: shards, dataset_info.json, features.json, manifest.json, rejects.csv.

  The folder appears whole or not at all. A finished build is left as it is unless `overwrite`, and then comes back
  if the new one fails.

  Args:
    dataset: one of `DATASETS`.
    source: the raw folder, as its authors lay it out.
    data_dir: a local folder or a bucket.
    max_rejects: largest fraction of the pictures found that may be rejected.
    short_side: pictures are shrunk to this short side, pixels.
    overwrite: build again where a finished build lies.

  Returns:
    The content of manifest.json.

  Raises:
    UserError: the source is not laid out as the dataset is, or too many pictures are rejected.
  """
  source = pathlib.Path(source)
  if dataset not in DATASETS:
    raise UserError(f"unknown dataset '{dataset}': one of {', '.join(DATASETS)}")
  builder_class = importlib.import_module(f'data_pipelines.{dataset}.{dataset}_dataset_builder').Builder
  if not source.is_dir() or not any(source.iterdir()):
    layout = builder_class.MANUAL_DOWNLOAD_INSTRUCTIONS
    raise UserError(f'source folder {source} is missing or empty. {layout}')
  final = epath.Path(data_dir) / dataset / str(builder_class.VERSION)
  _clean_up(final)
  if final.exists() and not overwrite:
    print(f'{final} is already built: left as it is (--overwrite builds it again)')
    return manifest.read_manifest(final)
  tfds.disable_progress_bar()  # TFDS does not know the total; the builder's own bar does.
  with _set_aside(final):
    builder = builder_class(data_dir=os.fspath(data_dir), max_rejects=max_rejects, short_side=short_side)
    with tempfile.TemporaryDirectory() as downloads:  # TFDS insists on a folder for what it never downloads here.
      config = tfds.download.DownloadConfig(manual_dir=source)
      builder.download_and_prepare(download_dir=downloads, download_config=config)
  return manifest.read_manifest(final)


def define_flags() -> None:
  """Declares the command's flags; not on import, where they could clash with those of a caller of `build`."""
  flags.DEFINE_enum('dataset', None, DATASETS, 'Which dataset the raw folder holds.')
  flags.DEFINE_string('source', None, 'The raw folder, as its authors lay it out.')
  flags.DEFINE_string('data_dir', None, 'Where DATASET/VERSION/ is written.')
  flags.DEFINE_float('max_rejects', 0.01, 'Largest fraction of pictures that may be rejected.', 0, 1)
  flags.DEFINE_integer('short_side', 256, 'Pictures are shrunk to this short side, pixels.', 16)
  flags.DEFINE_bool('overwrite', False, 'Build again where a finished build lies.')


def main(argv: list[str]) -> None:
  """The command."""
  del argv
  logging.set_verbosity(logging.WARNING)
  values = flags.FLAGS
  for name in ('dataset', 'source', 'data_dir'):
    if not values[name].value:
      raise UserError(f'--{name} is missing (--help lists the options)')
  result = build(
    values.dataset, values.source, values.data_dir, values.max_rejects, values.short_side, values.overwrite
  )
  splits = ', '.join(f'{name} {split["examples"]}' for name, split in result['splits'].items())
  counts = f'{result["read"]} of {result["found"]} pictures read, {result["rejected"]} rejected'
  print(f'{result["dataset"]}: {counts}; {splits}')


def _aside(final: epath.Path) -> epath.Path:
  return final.parent / f'{final.name}.old'


def _clean_up(final: epath.Path) -> None:
  """Removes what a killed build left; a finished build that it had set aside comes back."""
  for unfinished in final.parent.glob(f'incomplete.*_{final.name}'):
    print(f'removing {unfinished}, left by a build that was stopped')
    unfinished.rmtree()
  if _aside(final).exists():
    if final.exists():
      _aside(final).rmtree()
    else:
      _aside(final).rename(final)


@contextlib.contextmanager
def _set_aside(final: epath.Path) -> Iterator[None]:
  """Moves a finished build away while it is redone; it comes back when that fails."""
  if not final.exists():
    yield
    return
  final.rename(_aside(final))
  try:
    yield
  except BaseException:
    _aside(final).rename(final)
    raise
  _aside(final).rmtree()


if __name__ == '__main__':
  define_flags()
  command.run(main)
