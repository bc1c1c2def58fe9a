"""What runs keep and read again, and the small files that a user gives them."""

from collections.abc import Callable
import contextlib
import json
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from configs import demo
from data_pipelines.batches.pipeline import RecurringCrops
from data_pipelines.records.reader import Split, open_split
from data_pipelines.storage import write_sealed
from tests.corruption.subject import Subject, list_files
from tests.corruption.world import World
from uniemox_jax.compare import comparison as compare
from uniemox_jax.compare import tables
from uniemox_jax.demo import Stages
from uniemox_jax.eval import label_maps
from uniemox_jax.eval.features import load_frozen, split_features
from uniemox_jax.eval.result_file import result_path, write_result
from uniemox_jax.models.classifier import Classifier
from uniemox_jax.objectives.tasks import measure, single_label_task
from uniemox_jax.predict import table_writer
from uniemox_jax.report.look_page import SUMMARY, read_look
from uniemox_jax.runtime.cli import load_config
from uniemox_jax.runtime.run_log import RunLog, read_metrics
from uniemox_jax.runtime.sharding import make_mesh
from uniemox_jax.teacher.caption_embeddings import embed_captions, tokenized_captions
from uniemox_jax.teacher.prompts import fill, read_templates
from uniemox_jax.teacher.step_teacher import make_teacher
from uniemox_jax.teacher.view_embeddings import Scenes, ViewEmbeddings, embed_views
from uniemox_jax.train.checkpoint import Checkpoints, load_checkpoint
from uniemox_jax.train.config import FinetuneConfig
from uniemox_jax.train.optimizer import make_optimizer
from uniemox_jax.train.run_folder import config_hash, keep_config, read_kept_config, read_run_result, run_folder
from uniemox_jax.train.schema import parse
from uniemox_jax.train.state import builder, state_template


def kept_config(world: World, twin: World) -> Subject:
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

  return Subject('config.json, inputs.json', folder, list_files(folder, '*'), read, twin=world.folder / 'kept_twin')


def stages(world: World, twin: World) -> Subject:
  folder = world.folder / 'stages'
  folder.mkdir(parents=True)
  with_stages = Stages(str(folder))
  for name in ('draw', 'build emoset', 'train_clip'):
    with_stages.run(name, lambda: None)
  whole = dict(with_stages.seconds)

  def read() -> Any:
    again = Stages(str(folder))
    found = dict(again.seconds)
    for name in whole:  # What is not known to be done is done again.
      again.run(name, lambda: None)
    return [(name, found.get(name, whole.get(name))) for name in again.seconds]

  return Subject('stages.json', folder, list_files(folder, '*'), read)


def table(world: World, twin: World, form: str) -> Subject:
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
  return Subject(f'table of predict, {form}', folder, list_files(folder, '*'), read)


def look(world: World, twin: World) -> Subject:
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


def config_file(world: World, twin: World) -> Subject:
  folder = world.folder / 'config_file'
  folder.mkdir(parents=True)
  path = folder / 'mine.py'
  path.write_text('from ml_collections import ConfigDict\n\n\ndef get_config():\n  return ConfigDict({"seed": 3})\n')
  return Subject('config file', folder, [path], lambda: load_config(str(path)).to_dict(), owned=True)


def _run_with_result(world: World, name: str) -> Path:
  """A fine-tuning folder of a comparison, without training."""
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
  names = [f'compare/scratch/emo8/finetune/seed{seed}' for seed in range(2)]
  folders = [_run_with_result(world, name) for name in names]
  sections = {}
  for seed in range(2):
    section = demo.get_config('finetune')
    section.seed = seed
    sections[tables.ComparisonJob('scratch', 'emo8', 'finetune', seed)] = section
  config = ConfigDict({
      'initialisation': {'scratch': {'init': 'none', 'change': {}}}, 'initialisations': ('scratch',),
      'datasets': ('emo8',), 'protocols': ('finetune',), 'seeds': 2, 'reference': 'scratch'})

  def read() -> Any:
    found = compare.read_comparison(config, sections, str(world.folder / 'compare'))
    for job in sections.keys() - found.results.keys():  # What is not finished is run again.
      _run_with_result(world, f'compare/{job.name}')
    found = compare.read_comparison(config, sections, str(world.folder / 'compare'))
    tables.write(found, str(world.folder / 'compare_out'))
    return [path.read_bytes() for path in list_files(world.folder / 'compare_out', '*.json', '*.csv', '*.md')]

  return Subject('results of compare', folders[0], list_files(folders[0], '*'), read, twin=folders[1])


def metrics(world: World, twin: World) -> Subject:
  """metrics.jsonl as a resumed run takes it up."""
  import jax.numpy as jnp

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


def resumed(world: World, twin: World) -> Subject:
  """What a resumed run takes up: its newest state, config.json, inputs.json and metrics.jsonl."""

  folder = world.finetuned
  config, kept = parse(FinetuneConfig, world.finetune_config), json.loads((folder / 'inputs.json').read_text())
  newest = max(int(path.name) for path in (folder / 'checkpoints').iterdir() if path.name.isdigit())
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

  files = [*list_files(folder / 'checkpoints' / str(newest), '**/*'), *list_files(folder, '*.json*')]
  return Subject(
      'a run, resumed', folder, [path for path in files if not path.name.startswith('result')], read,
      twin=twin.finetuned)


def run_config(world: World, twin: World) -> Subject:
  """config.json and result.json beside a checkpoint, as evaluate and predict read them."""
  folder = world.finetuned
  loaded = load_checkpoint(str(folder))

  def read() -> Any:
    return read_kept_config(str(folder), loaded.description), read_run_result(run_folder(loaded.path), loaded.step)

  return Subject(
      'config.json, result.json of a run', folder, [folder / 'config.json', folder / 'result.json'], read,
      twin=twin.finetuned, optional=('result.json',))


def label_map(world: World, twin: World) -> Subject:
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
  folder = world.folder / 'prompts'
  folder.mkdir(parents=True)
  path = folder / 'prompts.txt'
  path.write_text('a photo of {}.\nthe mood is {}.\n\nan image about {}\n')
  return Subject(
      'prompts', folder, [path], lambda: [fill(template, ['joy', 'awe']) for template in read_templates(str(path))],
      owned=True)


def _cache(kind: str, folder: Path, read: Callable[[], Any], read_another: Callable[[], Any]) -> Subject:
  """The files that a reader makes in a folder if they are not there; the twins are those of another reader."""
  read_another()
  others = list_files(folder, '**/*')
  read()
  files = [path for path in list_files(folder, '**/*') if path not in others]
  twins = folder.with_name(f'{folder.name}_twin')
  for path, another in zip(files, others, strict=True):
    twin = twins / path.relative_to(folder)
    twin.parent.mkdir(parents=True, exist_ok=True)
    twin.write_bytes(another.read_bytes())
  return Subject(kind, folder, files, read, twin=twins)


def _splits(world: World) -> list[Split]:
  return [open_split(world.records('emo8').parents[1], 'emo8', name) for name in ('val', 'test')]


def captions(world: World, twin: World) -> Subject:
  folder = world.folder / 'caption_cache'
  texts = [f'a picture of a {word}' for word in ('tree', 'house', 'face', 'street')]

  def embed(*captions: str) -> Any:
    return embed_captions(world.clip, captions, folder, '', len(captions)).at(np.arange(len(captions)))

  return _cache('caption cache', folder, lambda: embed(*texts), lambda: embed('another', *texts))


def token_ids(world: World, twin: World) -> Subject:
  folder = world.folder / 'token_ids'
  val, test = _splits(world)

  def read(split: Split) -> Any:
    return tokenized_captions(world.clip, split, True, 'natural', str(folder)).at(np.arange(split.num_examples))

  return _cache('token ids', folder, lambda: read(val), lambda: read(test))


def views(world: World, twin: World) -> Subject:
  folder = world.folder / 'view_cache'
  teacher, frozen = make_teacher(world.clip, 'float32')
  val, test = _splits(world)

  def read(split: Split) -> Any:
    scenes = Scenes(split, RecurringCrops(2, seed=0), 32, (0.4, 1.0))
    kept = ViewEmbeddings(str(folder), scenes, 'teacher', teacher.width, 'float32')
    embed_views(kept, scenes, teacher, frozen, mesh=make_mesh(), batch_size=8, sharded=False)
    return [kept.at(view, np.arange(split.num_examples)) for view in range(2)]

  return _cache('view embeddings', folder, lambda: read(val), lambda: read(test))


def features(world: World, twin: World) -> Subject:
  folder = world.folder / 'features'
  model = {'image_size': 32, 'patch_size': 8, 'width': 16, 'depth': 1, 'heads': 2}
  frozen = load_frozen(None, model, dtype='float32', seed=0)
  val, test = _splits(world)

  def read(split: Split) -> Any:
    return split_features(frozen, split, str(folder), image_size=32, batch_size=8, mesh=make_mesh())

  return _cache('features cache', folder, lambda: read(val), lambda: read(test))
