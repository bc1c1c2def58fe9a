"""What measurements leave, and the pages and tables that are made of it."""

import contextlib
import json
from pathlib import Path
import shutil
from typing import Any
from unittest import mock

from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from configs import demo
from data_pipelines.checksums import sha256_of
from data_pipelines.storage import write_sealed
from tests.corruption.subject import Subject, list_files
from tests.corruption.world import World
from uniemox_jax import ablate
from uniemox_jax.compare import comparison as compare
from uniemox_jax.compare import resampling, tables
from uniemox_jax.eval.kept_outputs import keep_outputs
from uniemox_jax.eval.result_file import result_path, write_result
from uniemox_jax.eval.run_evaluation import _FinetunedRun
from uniemox_jax.objectives.tasks import measure, single_label_task
from uniemox_jax.plan import planning
from uniemox_jax.predict import table_writer
from uniemox_jax.recognition.recogniser import of_checkpoint
from uniemox_jax.report import demo_page
from uniemox_jax.report.look_page import SUMMARY, read_look
from uniemox_jax.report.model_card import training_record
from uniemox_jax.train.checkpoint import load_checkpoint
from uniemox_jax.train.config import FinetuneConfig, PretrainConfig
from uniemox_jax.train.run_folder import config_hash, keep_config, read_kept_config, read_run_result, run_folder
from uniemox_jax.train.schema import parse


def table(world: World, twin: World, form: str) -> Subject:
  folder = world.new_folder(f'table_{form}')
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
  return Subject(folder, list_files(folder, '*'), read)


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

  return Subject(folders[0], list_files(folders[0], '*'), read, twin=folders[1])


def look(world: World, twin: World) -> Subject:
  """look.json, and a figure beside it."""
  folders = [world.new_folder('look'), world.new_folder('look_twin')]
  for seed, folder in enumerate(folders):
    path = folder / 'attention.png'
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), np.uint8)).save(path)
    figure = {'file': path.name, 'note': 'a note', 'sha256': sha256_of(path)}
    write_sealed(str(folder / SUMMARY), {
        'checkpoint': 'x', 'step': 3 + seed, 'kind': 'classifier', 'dataset': 'emo8', 'split': 'test', 'examples': 4,
        'pictures': {'attention': figure}, 'skipped': {}})  # yapf: disable

  def read() -> Any:
    found = read_look(str(folders[0]))
    if found is None:
      print(f'the report says that {SUMMARY} is absent')
    elif 'attention' not in found['images']:
      print('the report says that attention.png is absent')
    return found

  return Subject(folders[0], list_files(folders[0], '*'), read, twin=folders[1])


def reconstructions(world: World, twin: World) -> Subject:
  """A sheet of reconstructions, in the demo's report."""
  folder = world.new_folder('drawn_run')
  path = folder / 'reconstructions' / 'step_0000010.png'
  path.parent.mkdir()
  Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)).save(path)
  return Subject(folder, [path], lambda: demo_page._sheets(str(folder)), optional=(path.name,))


def run_config(world: World, twin: World) -> Subject:
  """config.json and result.json beside a checkpoint, as evaluate and predict read them."""
  folder = world.finetuned
  loaded = load_checkpoint(str(folder))

  def read() -> Any:
    return read_kept_config(str(folder), loaded.description), read_run_result(run_folder(loaded.path), loaded.step)

  return Subject(
      folder, [folder / 'config.json', folder / 'result.json'], read, twin=twin.finetuned, optional=('result.json',))


def outputs(world: World, twin: World) -> Subject:
  """outputs.npz, from which intervals are computed."""
  folders = [world.new_folder('outputs'), world.new_folder('outputs_twin')]
  task = single_label_task(['a', 'b', 'c', 'd'])
  for seed, folder in enumerate(folders):
    draws = np.random.default_rng(seed)
    keep_outputs(
        str(folder), f'hash{seed}',
        draws.integers(0, 2**60, 40).astype(np.uint64), [task],
        {'outputs': draws.standard_normal((40, 4)).astype(np.float32), 'label': draws.integers(0, 4, 40)})

  def read() -> Any:
    return resampling.resampled_scores.__wrapped__(str(folders[0]), 'hash0', 'label', 'top1')

  return Subject(folders[0], list_files(folders[0], '*'), read, twin=folders[1], optional=('outputs.npz',))


def ablation(world: World, twin: World) -> Subject:
  """A finished job of `ablate`: its pretraining and its fine-tuning."""
  config, job = demo.get_config(), ablate.AblationJob('full', 0)
  sections = ablate.sections_of(job, config, {}, str(world.folder / 'ablation'))
  folder = Path(job.folder(str(world.folder / 'ablation')))

  def run() -> None:
    keep_config(parse(PretrainConfig, sections['pretrain']), str(folder / 'pretrain'))
    kept = keep_config(parse(FinetuneConfig, sections['finetune']), str(folder / 'finetune'))
    write_result(
        result_path(str(folder / 'finetune'), 'test'), dataset='emo8', split='test', init='none', checkpoint_step=7,
        config_hash=config_hash(kept), top1=0.5)

  def read() -> Any:
    jobs = {job: sections}
    scores = ablate.read_scores(str(world.folder / 'ablation'), jobs)
    if not scores:  # What is not finished is run again.
      run()
      scores = ablate.read_scores(str(world.folder / 'ablation'), jobs)
    ablate.write_table(scores, jobs, str(world.folder / 'ablation'))
    return (world.folder / 'ablation' / 'ablation.json').read_bytes()

  run()
  return Subject(folder, list_files(folder, '*/*'), read)


def plan(world: World, twin: World) -> Subject:
  """The plan that `plan --all` keeps."""
  folder, config, versions = world.new_folder('plan'), demo.get_config('finetune'), {'jax': '1', 'libtpu': '2'}
  whole = {
      'config': config.to_dict(), 'topology': 'v5e:2x4', 'versions': versions, 'fits': True,
      'hbm_bytes_per_device': 2**30, 'compiler_clock': None}
  write_sealed(str(folder / 'plan.json'), whole)

  def read() -> Any:
    with mock.patch.object(planning, '_versions', lambda: versions):
      return planning._read_plan(str(folder / 'plan.json'), config) or whole  # What is not kept is planned again.

  return Subject(folder, [folder / 'plan.json'], read)


def old_run(world: World, twin: World) -> Subject:
  """A run of an earlier version, whose files have no checksums: as evaluate, predict and export_torch read it."""
  folder = world.folder / 'old_run'
  shutil.copytree(world.finetuned, folder)
  for path in list_files(folder, '*.json'):
    content = json.loads(path.read_text())
    content.pop('seal', None)
    path.write_text(json.dumps(content, indent=2))
  loaded = load_checkpoint(str(folder))

  def read() -> Any:
    run = _FinetunedRun(str(folder))
    recogniser = of_checkpoint(loaded)
    return (
        run.config, run.final_split, run.tasks, recogniser.tasks, recogniser.thresholds, recogniser.view,
        training_record(run_folder(loaded.path), loaded.step))

  return Subject(folder, [folder / 'config.json', folder / 'result.json'], read, owned=True, optional=('result.json',))
