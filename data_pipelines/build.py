"""Builds checked TFRecord shards from the raw folder of a dataset.

python -m data_pipelines.build --dataset=emoset --source=DIR --data_dir=DIR
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import importlib
import os
import pathlib
import re
from typing import Any

from absl import flags, logging
from etils import epath
import tensorflow_datasets as tfds

from data_pipelines import command, images, storage
from data_pipelines.building.base_builder import BaseBuilder
from data_pipelines.building.beam_options import read_beam_options
from data_pipelines.building.raw_source import RawSource, folder_source, table_source
from data_pipelines.checksums import sha256_of
from data_pipelines.errors import UserError, join_names
from data_pipelines.ownership import disown, owned
from data_pipelines.person_boxes import box_file, detection
from data_pipelines.records import manifest
from data_pipelines.source_files import hub_data
from data_pipelines.table.options import TableOptions, read_scale

DATASETS = ('emoset', 'emo8', 'fi', 'emotion6', 'unbiasedemo', 'caers', 'heco', 'emotic', 'emoverse', 'folder', 'table')
TABLES = ('emoverse', 'table')
"""The datasets that are read from the files of a table."""
OWN = ('folder', 'table')
"""The datasets of anyone's own, which may have a name, and groups."""


def build(
    dataset: str, source: str | os.PathLike, data_dir: str | os.PathLike, max_rejects: float = 0.01,
    short_side: int = 256, overwrite: bool = False, *, max_megapixels: float = images.MAX_MEGAPIXELS,
    max_persons: int = 1, boxes_file: str | os.PathLike | None = None, detector: str | None = None,
    beam_runner: str | None = None, beam_options: Sequence[str] = (), name: str | None = None,
    groups_file: str | os.PathLike | None = None, exclude_file: str | os.PathLike | None = None,
    images_dir: str | os.PathLike | None = None, table: TableOptions | None = None) -> dict:
  """Builds `data_dir/DATASET/VERSION/`: shards, manifest.json, rejects.csv, duplicates.csv, TFDS's files.

  The folder appears whole or not at all. A finished build is kept unless `overwrite`, and comes back if that fails.

  Args:
    dataset: one of `DATASETS`.
    source: the raw folder, as its authors lay it out; for `table`, its files, see `raw_source.table_source`.
    data_dir: a local folder or a bucket.
    max_rejects: the largest fraction of the examples found that may be rejected.
    short_side: images are shrunk to this short side, pixels; 0 keeps the original size.
    overwrite: whether to replace a finished build.
    max_megapixels: larger images are rejected undecoded; up to 178, Pillow's own limit.
    max_persons: the most person crops per image.
    boxes_file: CSV of person boxes; by default person_boxes.csv in the raw folder, if it exists.
    detector: as for `detectors.load_detector`; what it finds is kept in `data_dir/dataset/person_boxes.csv`.
    beam_runner: the name of an Apache Beam runner, such as 'DirectRunner', whose workers read the images.
    beam_options: Beam pipeline options, such as 'project=my-project'.
    name: a name for a dataset of one's own (`OWN`) in place of DATASET, so that several live side by side.
    groups_file: for a dataset of one's own, CSV with the columns image and group; no group falls into two splits.
    exclude_file: CSV with the column image; these images are left out, and counted.
    images_dir: for `TABLES`, the folder of the images, by default that of the table.
    table: for `TABLES`, what the columns mean, and more.

  Returns:
    The content of manifest.json.

  Raises:
    UserError: the source is not laid out as the dataset is, too many images are rejected, options contradict each
      other, or the finished build is of another source.
  """
  asked = _asked(table, groups=_path(groups_file), exclude=_path(exclude_file))
  _check_options(short_side, dataset, name, asked, images_dir)
  chosen = builder_class(dataset)
  final = epath.Path(data_dir) / (name or dataset) / str(chosen.VERSION)
  found = dataclasses.replace(_find_source(chosen, dataset, source, images_dir, _outputs(final)), asked=asked)
  options: Any = {'short_side': short_side, 'max_megapixels': float(max_megapixels), 'max_persons': max_persons}
  if final.exists() and not overwrite:
    return _finished(final, found, options, 'is already built')
  with owned(final.parent):
    _clean_up(final)
    if final.exists() and not overwrite:
      return _finished(final, found, options, 'is restored from a build that did not end')
    tfds.disable_progress_bar()  # TFDS does not know the total; the builder's own bar does.
    config = tfds.download.DownloadConfig(manual_dir=found.root, **_beam(beam_runner, beam_options))
    found_boxes = _boxes_file(found.root, final.parent, boxes_file, detector)
    of_table: dict[str, Any] = {'options': table} if dataset in TABLES else {}
    with _set_aside(final), storage.temporary_folder() as downloads:  # TFDS asks for it; nothing is downloaded.
      builder = chosen(
          data_dir=os.fspath(data_dir), max_rejects=max_rejects, boxes_file=found_boxes, name=name, source=found,
          groups_file=_path(groups_file), exclude_file=_path(exclude_file), **options, **of_table)
      builder.download_and_prepare(download_dir=downloads, download_config=config)
    return manifest.read_manifest(final)


def _find_source(
    chosen: type[BaseBuilder], dataset: str, source: str | os.PathLike, images_dir: str | os.PathLike | None,
    outputs: Sequence[str]) -> RawSource:
  """What is built. Raises UserError if it is not there."""
  folder, hub = pathlib.Path(source), None
  if os.fspath(source).startswith(hub_data.HUB):
    hub = hub_data.download(os.fspath(source))
    folder = hub.folder
  if dataset in TABLES:
    found = table_source(folder, images_dir, outputs)
  elif not folder.is_dir() or not any(folder.iterdir()):
    raise UserError(f'source folder {source} is missing or empty. {chosen.MANUAL_DOWNLOAD_INSTRUCTIONS}')
  else:
    found = folder_source(folder, outputs)
  if hub:
    found = dataclasses.replace(found, given=hub.address, hub={'hub': hub.name, 'revision': hub.revision})
  return found


def _outputs(final: epath.Path) -> list[str]:
  """Folders of records where these will lie, which are no part of a source that holds them: theirs, and others."""
  if storage.is_remote(final):
    return []
  own = final.parent
  others = [folder for path in own.parent.glob('*/*/features.json') for folder in path.parents[:2]]
  return [os.fspath(path) for path in (own, final, _aside(final), *own.glob('incomplete.*'), *others)]


def _asked(table: TableOptions | None, **files: pathlib.Path | None) -> dict[str, str]:
  """See `RawSource.asked`. Raises UserError if a file is not there."""
  for name, path in files.items():
    if path and not path.is_file():
      raise UserError(f'{path} is not there: give a CSV file of {name}')
  said = table._asdict() if table else {}
  changed = {name: str(value) for name, value in said.items() if value != TableOptions._field_defaults[name]}
  return changed | {name: sha256_of(path) for name, path in files.items() if path}


def _check_options(
    short_side: int, dataset: str, name: str | None, asked: Mapping[str, str],
    images_dir: str | os.PathLike | None) -> None:
  """Raises UserError unless the records may be called so, and the options go with the dataset."""
  if 0 < short_side < 16:
    raise UserError(f'short side {short_side} is too small: 16 pixels or more, or 0, which keeps the original size')
  if 'groups' in asked and dataset not in OWN:
    raise UserError(f'--groups_file goes with --dataset={" or ".join(OWN)}, not with {dataset}: leave it out')
  of_table = sorted(asked.keys() - {'groups', 'exclude'}) + (['images'] if images_dir else [])
  if of_table and dataset not in TABLES:
    raise UserError(
        f'{join_names(of_table)} go with a table, --dataset={" or ".join(TABLES)}, not with {dataset}: leave them out')
  if name is None or name == dataset:
    return
  if dataset not in OWN or name in DATASETS:
    raise UserError(
        f'--name={name} is for a dataset of your own: add --dataset=folder or --dataset=table, and choose another name '
        'than those of the published ones')
  if not re.fullmatch('[A-Za-z][A-Za-z0-9_]{0,63}', name):
    raise UserError(f'--name={name} cannot be used: choose letters, digits and _, and begin with a letter')


def _finished(final: epath.Path, source: RawSource, options: Mapping[str, float], why: str) -> dict:
  """The manifest of a finished build. Prints where its source has changed since, or its options were others.

  Raises:
    UserError: it was built from another source: another folder, with other files.
  """
  result = manifest.read_manifest(final)
  built_from = result.get('source')
  if built_from:  # An earlier version of this package did not keep it.
    now, asked = source.fingerprint(), built_from.setdefault('asked', {})
    kinds = ['a table' if 'tables_sha256' in one else 'a folder' for one in (built_from, now)]
    if kinds[0] != kinds[1]:
      raise UserError(f'{final} was built from {kinds[0]}, not from {kinds[1]}: choose another --name or --data_dir')
    same_files = now.items() <= built_from.items()
    if not same_files and built_from.get('path') != source.given:
      named = ', or a --name' if result['dataset'] in OWN or result['dataset'] not in DATASETS else ''
      raise UserError(
          f"{final} was built from {built_from.get('path')}, not from {source.given}: choose another "
          f'--data_dir{named}, or replace it with --overwrite')
    if others := sorted({name for name, _ in now['asked'].items() ^ asked.items()}):
      why += f", with other options ({join_names(others)})"
    elif not same_files:
      why += f", and {source.given} has changed since ({built_from.get('files')} files then, {now['files']} now)"
  if others := [f'{name}={result[name]:g}' for name, value in options.items() if result.get(name, value) != value]:
    why += f", with {' and '.join(others)}"
  print(f'{final} {why}: left as it is (--overwrite builds it again)')
  return result


def builder_class(dataset: str) -> type[BaseBuilder]:
  """Finds the class that builds a dataset. Raises UserError if the name is not one of `DATASETS`."""
  if dataset not in DATASETS:
    raise UserError(f"unknown dataset '{dataset}': one of {', '.join(DATASETS)}")
  return importlib.import_module(f'data_pipelines.{dataset}.{dataset}_dataset_builder').Builder


def _path(given: str | os.PathLike | None) -> pathlib.Path | None:
  return pathlib.Path(given) if given else None


def _boxes_file(
    source: pathlib.Path, folder: epath.Path, boxes_file: str | os.PathLike | None,
    detector: str | None) -> pathlib.Path | None:
  """The file of person boxes, made by the detector if there is none yet; None: the raw folder's own."""
  if not detector:
    return _path(boxes_file)
  if boxes_file:
    raise UserError('--person_boxes and --detector exclude each other: give one of them')
  if '://' in os.fspath(folder):
    raise UserError('--detector writes to a local --data_dir only: run data_pipelines.person_boxes first')
  path = pathlib.Path(folder, box_file.FILE_NAME)
  if path.exists():
    print(f'{path} is there already: its boxes are used (remove it to detect again)')
  else:
    print(detection.detect_folder(source, detector, path))
  return path


def _beam(runner: str | None, options: Sequence[str]) -> dict:
  """TFDS's arguments for Apache Beam; none if neither is given."""
  if not runner and not options:
    return {}
  return {'beam_runner': runner, 'beam_options': read_beam_options(runner, options)}


def main() -> None:
  """Runs the command."""
  logging.set_verbosity(logging.WARNING)
  values = flags.FLAGS
  if not values.name:
    command.require_flags('dataset')
  command.require_flags('source', 'data_dir')
  dataset = values.dataset or 'folder'
  if values.steal:
    disown(os.path.join(values.data_dir, values.name or dataset))
  result = build(
      dataset, values.source, values.data_dir, values.max_rejects, values.short_side, values.overwrite,
      max_megapixels=values.max_megapixels, max_persons=values.max_persons, boxes_file=values.person_boxes,
      detector=values.detector, beam_runner=values.beam_runner, beam_options=values.beam_options, name=values.name,
      groups_file=values.groups_file, exclude_file=values.exclude, images_dir=values.images,
      table=_table_options(values))
  print_summary(result)


def _table_options(values: Any) -> TableOptions | None:
  """What the flags say about a table; None if they say nothing."""
  columns = {}
  for text in values.column:
    role, equals, names = text.partition('=')
    if not equals or role in columns:
      raise UserError(f'--column={text} cannot be read: write --column=MEANING=NAME, once for each meaning')
    columns[role] = names
  labels = tuple(label.strip() for label in values.labels)
  sides = {None: None, 'corners': False, 'sides': True}[values.box_format]
  found = TableOptions(
      columns, labels, read_scale(values.vad_scale), values.caption or '', sides, values.min_confidence,
      values.subject or '')
  return None if found == TableOptions() else found


def print_summary(result: dict) -> None:
  """Prints the counts of a manifest: images read and rejected, records with a person, duplicates across splits."""
  print(f'{result["dataset"]}: {result["read"]} of {result["found"]} images read, {result["rejected"]} rejected')
  for name, split in result['splits'].items():
    print(f'  {name}: {split["examples"]} records, {split["with_person_share"]:.1%} with a person')
  remedy = 'check that they are pixels of the image as it is displayed, x before y'
  for kind, what in ((manifest.OUTSIDE, 'lie outside of their image, and are left out'),
                     (manifest.BEYOND, 'reach far beyond their image, and are cut at its edge')):
    if count := result['ignored'].get(kind):
      print(f'  {count} person boxes {what}: {remedy}')
  if result['duplicates_across_splits']:
    print(
        f'  {result["duplicates_across_splits"]} images are in an earlier split too, byte for byte: '
        f'{manifest.DUPLICATES} names them')


def _aside(final: epath.Path) -> epath.Path:
  return final.parent / f'{final.name}.old'


def _clean_up(final: epath.Path) -> None:
  """Removes the remains of a stopped build, and the build that it had set aside; without a new one, that comes back."""
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
  """Moves a finished build away while it is replaced; it comes back if that fails."""
  if final.exists():
    final.rename(_aside(final))
  try:
    yield
  finally:
    _clean_up(final)


if __name__ == '__main__':
  flags.DEFINE_enum('dataset', None, DATASETS, 'Which dataset the raw folder holds.')
  command.define_path(
      'source', None, 'The raw folder, as its authors lay it out; the files of a table; hf://datasets/OWNER/NAME.',
      remote=False, also=hub_data.HUB)
  command.define_path('data_dir', None, 'Where DATASET/VERSION/ is written.')
  flags.DEFINE_string('name', None, "Of your own dataset, such as oasis; else it is folder.")
  flags.DEFINE_float('max_rejects', 0.01, 'Largest fraction of images that may be rejected.', 0, 1)
  flags.DEFINE_integer('short_side', 256, 'Images are shrunk to this short side, pixels; 0 keeps their size.', 0)
  flags.DEFINE_float('max_megapixels', images.MAX_MEGAPIXELS, 'Larger images are rejected.', 0, 178)
  command.define_path(
      'person_boxes', None, 'CSV of person boxes; by default person_boxes.csv in --source.', remote=False)
  command.define_path(
      'detector', None, 'Finds persons first: hog, FILE.onnx (YOLOX), or a transformers model.', remote=False)
  command.define_path('images', None, "Of a table: the folder of its images; by default the table's.", remote=False)
  flags.DEFINE_multi_string('column', [], 'Of a table: MEANING=NAME, such as label=Emotion; see docs/tables.md.')
  flags.DEFINE_list('labels', [], 'Of a table: the names of the classes, in order.')
  flags.DEFINE_list('vad_scale', [], 'Of a table: lowest and highest valence, arousal and dominance, such as 1,9.')
  flags.DEFINE_string('caption', None, "Of a table: text of images that have none, such as 'a photo of {label}'.")
  flags.DEFINE_float('min_confidence', None, 'Of a table: rows of less are left out.')
  flags.DEFINE_enum('subject', None, ('person', 'any'), 'Of emoverse: whose boxes become person crops; else person.')
  flags.DEFINE_enum('box_format', None, ('corners', 'sides'), 'Of a table: x1,y1,x2,y2, or x,y,width,height.')
  command.define_path('groups_file', None, 'CSV of image,group: images of one group stay in one split.', remote=False)
  command.define_path('exclude', None, 'CSV with a column image: these images are left out.', remote=False)
  flags.DEFINE_integer('max_persons', 1, 'Most person crops per image.', 0)
  flags.DEFINE_string('beam_runner', None, 'Apache Beam runner whose workers read the images, such as DirectRunner.')
  flags.DEFINE_list('beam_options', [], 'Beam pipeline options, such as project=NAME,region=NAME.')
  flags.DEFINE_bool('overwrite', False, 'Replace a finished build.')
  flags.DEFINE_bool('steal', False, 'Take the folder from its owner: only after that process has died.')
  command.run(main)
