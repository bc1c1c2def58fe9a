"""Kinds of files: where they lie, and the function by which a verb reads them."""

from collections.abc import Callable, Iterator
import dataclasses
import json
from pathlib import Path
import re
import types
from typing import Any

import numpy as np

from tests.corruption.world import World


@dataclasses.dataclass(frozen=True)
class Subject:
  """A kind of file.

  kind: its name. folder: restored after each damage. files: those that are damaged. read: gives what a verb would use.
  owned: whether the files are the user's own, or another library's, with no checksum of this package. twin: a folder
  with other files of the same kinds.
  """

  kind: str
  folder: Path
  files: list[Path]
  read: Callable[[], Any]
  owned: bool = False
  twin: Path | None = None

  def other(self, path: Path) -> Path | None:
    """Another file of the kind of `path`."""
    twin = self.twin and self.twin / path.relative_to(self.folder)
    if twin and twin.is_file():
      return twin
    same = [file for file in self.files if file != path and file.suffix == path.suffix and file.is_file()]
    return same[0] if same else None


def _files(folder: Path, *patterns: str) -> list[Path]:
  found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
  return sorted(found)


def records(world: World, twin: World, dataset: str) -> Subject:
  return dataclasses.replace(
      _records_in(world.records(dataset), dataset, f'records of {dataset}'), twin=twin.records(dataset))


def _records_in(folder: Path, dataset: str, kind: str) -> Subject:
  from data_pipelines.records import manifest, targets
  from data_pipelines.records.reader import open_split

  def read() -> Any:
    split = open_split(folder.parents[1], dataset, 'train')
    return (
        split.labels, split.contents, split.label_array(), split.read_many(range(split.num_examples)),
        list(split.annotations()), targets.read(split), manifest.read_manifest(split.folder)['splits']['train'])

  skipped = {'rejects.csv', 'duplicates.csv'}
  files = [path for path in _files(folder, '*') if path.name not in skipped]
  return Subject(kind, folder, [path for path in files if not re.search('-(val|test)', path.name)], read)


def raw(world: World, twin: World, dataset: str, *patterns: str) -> Subject:
  from data_pipelines.build import builder_class
  source = world.raw(dataset)

  def read() -> Any:
    builder = builder_class(dataset)(data_dir=str(world.folder / 'none'), max_rejects=0.0)
    builder.data_path.parent.mkdir(parents=True, exist_ok=True)
    builder._beam, builder._limit = False, None
    generators = builder._split_generators(types.SimpleNamespace(manual_dir=source))
    found = {split: list(examples) for split, examples in generators.items()}
    if builder._rejects:
      print('rejected:', builder._rejects)
    ignored = builder.take_ignored()
    print('ignored:', ignored)
    return found, ignored, builder._provenance

  return Subject(f'raw {dataset}', source, _files(source, *patterns), read, owned=True, twin=twin.raw(dataset))


def emotic_mat(world: World, twin: World) -> Subject:
  import scipy.io

  from data_pipelines.emotic import annotations
  path = world.folder / 'mat' / 'Annotations.mat'
  path.parent.mkdir(parents=True)
  person = {
      'body_bbox': [1, 2, 30, 40], 'annotations_categories': {'categories': ['Peace']},
      'annotations_continuous': {'valence': 5, 'arousal': 4, 'dominance': 3}}
  image = {'filename': 'a.jpg', 'folder': 'f', 'person': person}
  scipy.io.savemat(path, {split: [image, image] for split in ('train', 'val', 'test')})
  return Subject('EMOTIC .mat', path.parent, [path], lambda: annotations.read_mat(path), owned=True)


def boxes(world: World, twin: World) -> Subject:
  from data_pipelines.person_boxes import box_file
  folder = world.folder / 'boxes'
  folder.mkdir(parents=True)
  path = folder / box_file.FILE_NAME
  draws = np.random.default_rng(world.seed)
  box_file.write_boxes(path, ((f'a/{n}.jpg', *draws.uniform(0, 200, 4).round(2), 0.9) for n in range(20)))
  return Subject('person_boxes.csv', folder, _files(folder, '*'), lambda: box_file.read_boxes(path))


def progress(world: World, twin: World) -> Subject:
  from data_pipelines.progress_file import ProgressFile
  folder = world.folder / 'progress'
  folder.mkdir(parents=True)
  path = folder / '.person_boxes.csv.unfinished'
  items = [{'image': f'{n}.jpg', 'boxes': [[n, 2.5, 30.0, 40.0, 0.5]], 'dropped': 0} for n in range(12)]
  file = ProgressFile(path, 'boxes of hog')
  file.add(items)
  file.close()

  def read() -> Any:
    again = ProgressFile(path, 'boxes of hog')
    try:
      done = {item['image']: item['boxes'] for item in again.items}
    finally:
      again.close()
    return {item['image']: done.get(item['image'], item['boxes']) for item in items}

  return Subject('progress of person_boxes', folder, [path], read)


def captions(world: World, twin: World) -> Subject:
  from uniemox_jax.teacher.caption_embeddings import embed_captions
  folder = world.folder / 'caption_cache'
  texts = [f'a picture of a {word}' for word in ('tree', 'house', 'face', 'street')]
  embed_captions(world.clip, ['another', *texts], folder)
  others = _files(folder, '*')
  embed_captions(world.clip, texts, folder)
  files = [path for path in _files(folder, '*') if path not in others]
  twins = world.folder / 'caption_cache_twin'
  twins.mkdir(parents=True)
  (twins / files[0].name).write_bytes(others[0].read_bytes())
  return Subject('caption cache', folder, files, lambda: embed_captions(world.clip, texts, folder), twin=twins)


def features(world: World, twin: World) -> Subject:
  from data_pipelines.records.reader import open_split
  from uniemox_jax.eval.features import load_frozen, split_features
  from uniemox_jax.runtime.sharding import make_mesh
  folder = world.folder / 'features'
  model = {'image_size': 32, 'patch_size': 8, 'width': 16, 'depth': 1, 'heads': 2}
  frozen = load_frozen('none', model, dtype='float32', seed=0)
  splits = {name: open_split(world.records('emo8').parents[1], 'emo8', name) for name in ('val', 'test')}

  def read(split: str = 'val') -> Any:
    return split_features(frozen, splits[split], str(folder), image_size=32, batch_size=8, mesh=make_mesh())

  read('test')
  others = _files(folder, '*')
  read()
  files = [path for path in _files(folder, '*') if path not in others]
  twins = world.folder / 'features_twin'
  twins.mkdir(parents=True)
  (twins / files[0].name).write_bytes(others[0].read_bytes())
  return Subject('features cache', folder, files, read, twin=twins)


def teacher(world: World, twin: World) -> Subject:
  from uniemox_jax.teacher.frozen_clip import load_clip
  folder = world.teacher

  def read() -> Any:
    clip = load_clip(folder)
    return clip.digest, clip.tokenize(['a picture of a forest, evoking awe', 'É, ok 12!'])

  return Subject('teacher folder', folder, _files(folder, '*'), read)


def foreign_teacher(world: World, twin: World) -> Subject:
  """The same without what only this package writes."""
  import shutil

  from safetensors.numpy import load_file, save_file

  from uniemox_jax.teacher.frozen_clip import load_clip
  folder = world.folder / 'foreign_teacher'
  shutil.copytree(world.teacher, folder)
  save_file(load_file(folder / 'model.safetensors'), folder / 'model.safetensors')
  (folder / 'checksums.sha256').unlink(missing_ok=True)

  def read() -> Any:
    clip = load_clip(folder)
    return clip.digest, clip.tokenize(['a picture of a forest, evoking awe', 'É, ok 12!'])

  return Subject("another library's teacher", folder, _files(folder, '*'), read, owned=True)


def weights(world: World, twin: World, form: str) -> Subject:
  from uniemox_jax.convert.formats.weight_files import read_weights
  path = world.foreign[form]
  folder = path if path.is_dir() else path.parent
  files = _files(path, '*') if path.is_dir() else [path]
  return Subject(f'weights: {form}', folder, files, lambda: read_weights(path)[:1] + read_weights(path)[2:], owned=True)


def export(world: World, twin: World, target: str) -> Subject:
  from uniemox_jax.train.initial_weights import read_source
  from uniemox_jax.teacher.frozen_clip import load_clip
  folder = world.exports[target]
  files = [path for path in _files(folder, '*') if path.name != 'README.md']

  def read() -> Any:
    if target == 'clip':
      return load_clip(folder).digest
    path = folder / 'checkpoint.pth' if target == 'mae' else folder
    source = read_source(str(path), {'heads': 4, 'decoder_heads': 2}, decoder=True)
    return source.kind, source.model, source.params, source.statistics

  return Subject(f'export to {target}', folder, files, read)


def checkpoint(world: World, twin: World, name: str) -> Subject:
  from uniemox_jax.train.checkpoint import load_checkpoint
  folder = getattr(world, name)

  def read() -> Any:
    loaded = load_checkpoint(str(folder))
    return loaded.step, loaded.params, loaded.description

  loaded_step = Path(load_checkpoint(str(folder)).path)
  return Subject(f'checkpoint: {name}', folder, _files(loaded_step, '**/*'), read)


def resumed(world: World, twin: World) -> Subject:
  """What a resumed run takes up: its newest state, config.json, inputs.json and metrics.jsonl."""
  import jax

  from uniemox_jax.models.classifier import Classifier
  from uniemox_jax.runtime.run_log import RunLog, read_metrics
  from uniemox_jax.runtime.sharding import make_mesh
  from uniemox_jax.train.checkpoint import Checkpoints, load_checkpoint
  from uniemox_jax.train.config import FinetuneConfig
  from uniemox_jax.train.kept_config import keep_config
  from uniemox_jax.train.optimizer import make_optimizer
  from uniemox_jax.train.schema import parse
  from uniemox_jax.train.state import builder, state_template
  folder = world.finetuned
  config, kept = parse(FinetuneConfig, world.finetune_config), json.loads((folder / 'inputs.json').read_text())
  newest = max((int(path.name) for path in (folder / 'checkpoints').iterdir() if path.name.isdigit()))
  description = load_checkpoint(str(folder)).description
  build = builder(Classifier, dtype='float32', **description['model'])
  template = state_template(build, make_optimizer(config, 5).tx, make_mesh(), averaged=False)
  inputs = {name: digest for name, digest in kept.items() if name != 'seal'}

  def read() -> Any:
    keep_config(config, str(folder), inputs)
    checkpoints = Checkpoints(str(folder), {}, '')
    try:
      restored = checkpoints.restore_latest(template)
    finally:
      checkpoints.close()
    assert restored is not None
    log = RunLog(
        str(folder), name='x', total_steps=10, batch_size=8, start_step=int(restored.state.step), seal=restored.log)
    log.close()
    return jax.tree.leaves(jax.device_get(restored.state)), read_metrics(str(folder)), log.skipped_in_row

  files = [*_files(folder / 'checkpoints' / str(newest), '**/*'), *_files(folder, '*.json*')]
  return Subject(
      'a run, resumed', folder, [path for path in files if not path.name.startswith('result')], read,
      twin=twin.finetuned)


def run_config(world: World, twin: World) -> Subject:
  """config.json and result.json beside a checkpoint, as evaluate and predict read them."""
  from uniemox_jax.train.checkpoint import load_checkpoint
  from uniemox_jax.train.kept_config import read_config
  from uniemox_jax.train.run_folder import read_run_result, run_folder
  folder = world.finetuned
  loaded = load_checkpoint(str(folder))

  def read() -> Any:
    return read_config(str(folder), loaded.description), read_run_result(run_folder(loaded.path), loaded.step)

  return Subject(
      'config.json, result.json of a run', folder, [folder / 'config.json', folder / 'result.json'], read,
      twin=twin.finetuned)


def old_records(world: World, twin: World) -> Subject:
  """Records of an earlier version, in whose manifest.json there are no checksums."""
  import shutil
  folder = world.folder / 'old' / 'emo8' / '1.0.0'
  shutil.copytree(world.records('emo8'), folder)
  stored = json.loads((folder / 'manifest.json').read_text())
  stored.pop('seal', None)
  for split in stored['splits'].values():
    split.pop('index_crc32c', None)
  (folder / 'manifest.json').write_text(json.dumps(stored, indent=2))
  return dataclasses.replace(_records_in(folder, 'emo8', 'records of an earlier version'), owned=True)


def label_map(world: World, twin: World) -> Subject:
  from uniemox_jax.eval import label_maps
  folder = world.folder / 'maps'
  folder.mkdir(parents=True)
  path = folder / 'mine.json'
  path.write_text(json.dumps({
      'source': {'joy': 'good', 'awe': 'good', 'fear': 'bad', 'odd': None}, 'target': {'happy': 'good', 'sad': 'bad'},
      'why': {'odd': 'no such class'}}, indent=2))  # yapf: disable

  def read() -> Any:
    return label_maps.resolve(label_maps.load_label_map(str(path)), ['joy', 'awe', 'fear', 'odd'], ['happy', 'sad'])

  return Subject('label map', folder, [path], read, owned=True)


def prompts(world: World, twin: World) -> Subject:
  from uniemox_jax.teacher.prompts import fill, read_templates
  folder = world.folder / 'prompts'
  folder.mkdir(parents=True)
  path = folder / 'prompts.txt'
  path.write_text('a photo of {}.\nthe mood is {}.\n\nan image about {}\n')
  return Subject(
      'prompts', folder, [path], lambda: [fill(template, ['joy', 'awe']) for template in read_templates(str(path))],
      owned=True)


def kept_config(world: World, twin: World) -> Subject:
  from configs import demo
  from uniemox_jax.train.config import FinetuneConfig
  from uniemox_jax.train.kept_config import keep_config
  from uniemox_jax.train.schema import parse
  folder = world.folder / 'kept'
  configs = {}
  for name, seed in (('kept', 0), ('kept_twin', 1)):
    given = demo.get_config('finetune')
    given.seed = seed
    configs[name] = parse(FinetuneConfig, given)
    (world.folder / name / 'checkpoints' / '7').mkdir(parents=True)
    keep_config(configs[name], str(world.folder / name), {'data_dir': f'digest {seed}', 'init': None})

  def read() -> Any:
    return keep_config(configs['kept'], str(folder), {'data_dir': 'digest 0', 'init': None})

  return Subject('config.json, inputs.json', folder, _files(folder, '*'), read, twin=world.folder / 'kept_twin')


def stages(world: World, twin: World) -> Subject:
  from uniemox_jax.demo import Stages
  folder = world.folder / 'stages'
  folder.mkdir(parents=True)
  with_stages = Stages(str(folder))
  for name in ('draw', 'build emoset', 'train_clip'):
    with_stages.run(name, lambda: None)
  return Subject('stages.json', folder, _files(folder, '*'), lambda: Stages(str(folder)).seconds)


def table(world: World, twin: World, form: str) -> Subject:
  import contextlib

  from uniemox_jax.predict import table_writer
  folder = world.folder / f'table_{form}'
  folder.mkdir(parents=True)
  path, columns = str(folder / f'table.{form}'), ['path', 'label', 'probability', 'error']
  made_by = {'weights_sha256': 'ab' * 32, 'columns': columns, 'format': form, 'fps': 1.0}
  rows = {f'{n}.jpg': ['awe', 1 / (n + 1), None] for n in range(12)}

  def read() -> Any:
    table_writer.check_append(path, made_by, append=True)
    with contextlib.closing(table_writer.PredictionTable(path, form, columns, made_by | {'batch_size': 4})) as written:
      left = [name for name in rows if name not in written.names]
      written.write({'path': left, **{
          column: [rows[name][place] for name in left] for place, column in enumerate(columns[1:])}})  # yapf: disable
    return Path(path).read_bytes()

  read()
  return Subject(f'table of predict, {form}', folder, _files(folder, '*'), read)


def look(world: World, twin: World) -> Subject:
  from PIL import Image

  from data_pipelines.storage import write_sealed
  from uniemox_jax.report.look_page import SUMMARY, read_look
  folder = world.folder / 'look'
  folder.mkdir(parents=True)
  Image.new('RGB', (20, 20), (1, 2, 3)).save(folder / 'attention.png')
  write_sealed(str(folder / SUMMARY), {
      'checkpoint': 'x', 'step': 3, 'kind': 'classifier', 'dataset': 'emo8', 'split': 'test', 'examples': 4,
      'pictures': {'attention': {'file': 'attention.png', 'note': 'a note'}}, 'skipped': {}})  # yapf: disable

  def read() -> Any:
    found = read_look(str(folder))
    if found is None:
      print(f'the report says that {SUMMARY} is absent')
    return found

  return Subject('look.json', folder, [folder / SUMMARY], read)


def paths_list(world: World, twin: World) -> Subject:
  from data_pipelines.user_files import find_images
  folder = world.folder / 'list'
  folder.mkdir(parents=True)
  path = folder / 'images.txt'
  path.write_text('\n'.join(f'/photos/{n}.jpg' for n in range(5)) + '\n')
  return Subject('list of images', folder, [path], lambda: find_images.find([str(path)]), owned=True)


def config_file(world: World, twin: World) -> Subject:
  from uniemox_jax.runtime.cli import load_config
  folder = world.folder / 'config_file'
  folder.mkdir(parents=True)
  path = folder / 'mine.py'
  path.write_text('from ml_collections import ConfigDict\n\n\ndef get_config():\n  return ConfigDict({"seed": 3})\n')
  return Subject('config file', folder, [path], lambda: load_config(str(path)).to_dict(), owned=True)


def _run_with_result(world: World, name: str) -> Path:
  """A fine-tuning folder of a comparison, without training."""
  from configs import demo
  from uniemox_jax.eval.result_file import result_path, write_result
  from uniemox_jax.objectives.tasks import measure, single_label_task
  from uniemox_jax.train.config import FinetuneConfig
  from uniemox_jax.train.kept_config import config_hash, keep_config
  from uniemox_jax.train.schema import parse
  folder = world.folder / name
  given = demo.get_config('finetune')
  given.seed = int(name[-1])
  kept = keep_config(parse(FinetuneConfig, given), str(folder))
  draws = np.random.default_rng(given.seed)
  measured = measure(
      single_label_task(['a', 'b', 'c', 'd']),
      draws.standard_normal((40, 4)).astype(np.float32), draws.integers(0, 4, 40))
  write_result(
      result_path(str(folder), 'test'), dataset='emo8', split='test', init='none', checkpoint_step=7,
      config_hash=config_hash(kept), **measured)
  return folder


def comparison(world: World, twin: World) -> Subject:
  from configs import demo
  from uniemox_jax.compare import comparison as compare
  from uniemox_jax.compare import tables
  names = [f'compare/scratch/emo8/finetune/seed{seed}' for seed in range(2)]
  folders = [_run_with_result(world, name) for name in names]
  sections = {}
  for seed in range(2):
    section = demo.get_config('finetune')
    section.seed = seed
    sections[tables.ComparisonJob('scratch', 'emo8', 'finetune', seed)] = section
  config = types.SimpleNamespace(
      initialisations=('scratch',), datasets=('emo8',), protocols=('finetune',), seeds=2, reference='scratch')

  def read() -> Any:
    found = compare.read_comparison(config, sections, str(world.folder / 'compare'))
    tables.write(found, str(world.folder / 'compare_out'))
    return [path.read_bytes() for path in _files(world.folder / 'compare_out', '*.json', '*.csv', '*.md')]

  return Subject('results of compare', folders[0], _files(folders[0], '*'), read, twin=folders[1])


def metrics(world: World, twin: World) -> Subject:
  """metrics.jsonl as a resumed run takes it up."""
  import jax.numpy as jnp

  from uniemox_jax.runtime.run_log import RunLog, read_metrics
  folders, seals = [world.folder / 'log', world.folder / 'log_twin'], []
  for number, folder in enumerate(folders):
    log = RunLog(str(folder), name='finetune', total_steps=20, batch_size=8, start_step=0)
    for step in range(1, 16):
      values = {'loss': jnp.float32(1 / step + number), 'lr': jnp.float32(0.1), 'skipped': jnp.bool_(False)}
      log.add(step, values, np.arange(8))
      if step % 3 == 0:
        log.flush(3, 'none')
    log.close()
    seals.append(log.seal)

  def read() -> Any:
    log = RunLog(str(folders[0]), name='finetune', total_steps=20, batch_size=8, start_step=15, seal=seals[0])
    log.close()
    return read_metrics(str(folders[0])), log.skipped_in_row

  return Subject('metrics.jsonl', folders[0], [folders[0] / 'metrics.jsonl'], read, twin=folders[1])


CHEAP: dict[str, Callable[[World, World], Subject]] = {
    'records of emo8': lambda world, twin: records(world, twin, 'emo8'),
    'records of emotion6': lambda world, twin: records(world, twin, 'emotion6'),
    'records of an earlier version': old_records,
    'raw emoset': lambda world, twin: raw(world, twin, 'emoset', '*.json', 'annotation/*/*.json', 'person_boxes.csv'),
    'raw emotic': lambda world, twin: raw(world, twin, 'emotic', '*.csv', 'provenance.json'),
    'raw emotion6': lambda world, twin: raw(world, twin, 'emotion6', 'ground_truth.txt'),
    'raw emo8': lambda world, twin: raw(world, twin, 'emo8', 'train/*/*.jpg', 'person_boxes.csv'),
    'EMOTIC .mat': emotic_mat, 'person_boxes.csv': boxes, 'progress of person_boxes': progress, 'label map': label_map,
    'prompts': prompts, 'config.json, inputs.json': kept_config, 'metrics.jsonl': metrics, 'stages.json': stages,
    'table of predict, csv': lambda world, twin: table(world, twin, 'csv'),
    'table of predict, jsonl': lambda world, twin: table(world, twin, 'jsonl'), 'look.json': look,
    'list of images': paths_list, 'config file': config_file, 'results of compare': comparison,
    'teacher folder': teacher, "another library's teacher": foreign_teacher,
    **{f'weights: {form}': (lambda world, twin, form=form: weights(world, twin, form))
       for form in ('w.safetensors', 'w.pth', 'old.pth', 'w.msgpack', 'sharded')},
    **{f'export to {target}': (lambda world, twin, target=target: export(world, twin, target))
       for target in ('timm', 'mae', 'vit-mae', 'clip')},
    'checkpoint: classifier': lambda world, twin: checkpoint(world, twin, 'classifier'),
    'checkpoint: imported': lambda world, twin: checkpoint(world, twin, 'imported')}  # yapf: disable
"""By kind, what is made without training."""
TRAINED: dict[str, Callable[[World, World], Subject]] = {
    'caption cache': captions, 'features cache': features,
    'checkpoint: pretrained': lambda world, twin: checkpoint(world, twin, 'pretrained'),
    'checkpoint: finetuned': lambda world, twin: checkpoint(world, twin, 'finetuned'), 'a run, resumed': resumed,
    'config.json, result.json of a run': run_config}  # yapf: disable


def all_subjects() -> Iterator[str]:
  yield from (*CHEAP, *TRAINED)
