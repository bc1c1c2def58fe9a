"""Runs the whole method at a small size: python -m uniemox_jax.demo --workdir=runs/demo, which `make demo` runs.

It draws two datasets in the real layouts, builds records, trains a tiny CLIP as teacher, and pretrains UniEmoX and, for
comparison, its masked image modelling alone. Then it fine-tunes three initialisations by one recipe, looks at UniEmoX's
models, and writes report.html. Every stage is a verb that a pod runs too. A finished stage is not run again.
"""

from collections.abc import Callable
import os
import time
from typing import Any

from absl import flags
from etils import epath
from ml_collections import ConfigDict

from data_pipelines import build
from data_pipelines.errors import UserError
from data_pipelines.records import manifest
from data_pipelines.storage import exists, parsing, read_json_object, write_sealed
from data_pipelines.synthetic import datasets
from uniemox_jax.finetune import finetune
from uniemox_jax.look.inspection import look
from uniemox_jax.pretrain import pretrain
from uniemox_jax.report import demo_page
from uniemox_jax.runtime import cli
from uniemox_jax.runtime.run_log import METRICS_FILE, read_metrics
from uniemox_jax.train_clip import TEACHER_FOLDER, train_clip

DATASETS = ('emoset', 'emo8')
INITIALISATIONS = ('uniemox', 'mae_only', 'scratch')
LOOKED_AT = ('uniemox', 'finetune_uniemox')
LABELS_SEEN = {
    'uniemox':
        'pretraining: the emotion word in the captions of the EmoSet-like images, also through the teacher; '
        'fine-tuning: Emo8-like train labels', 'mae_only': 'pretraining: none; fine-tuning: Emo8-like train labels',
    'scratch': 'Emo8-like train labels only'}


def check_sections(config: ConfigDict) -> None:
  """Raises UserError unless the config has all of the demo's sections."""
  if set(config.keys()) != {'clip', 'pretrain', 'finetune', 'emoset_examples'}:
    raise UserError('this needs clip, pretrain and finetune at once: give --config=configs/demo.py without a section')


class Stages:
  """Runs each stage once; how long it took is kept in the workdir, so a killed demo resumes there."""

  def __init__(self, workdir: str):
    self._path = os.path.join(workdir, 'stages.json')
    self.seconds: dict[str, float] = read_json_object(self._path) if exists(self._path) else {}

  def run(self, name: str, stage: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Calls `stage` unless it has finished before."""
    if name in self.seconds:
      print(f'== {name}: done before', flush=True)
      return
    print(f'== {name}', flush=True)
    start = time.perf_counter()
    stage(*arguments, **options)
    self.seconds[name] = round(time.perf_counter() - start, 1)
    write_sealed(self._path, self.seconds)
    print(f'== {name}: {self.seconds[name]:.0f} s', flush=True)


def prepare(config: ConfigDict, workdir: str, stages: Stages) -> None:
  """Draws the datasets, builds their records and trains the teacher."""
  raw, data_dir = os.path.join(workdir, 'raw'), os.path.join(workdir, 'data')
  stages.run('draw', datasets.draw, raw, config.emoset_examples, config.pretrain.seed)
  for dataset in DATASETS:
    stages.run(f'build {dataset}', build.build, dataset, os.path.join(raw, dataset), data_dir, overwrite=True)
  stages.run('train_clip', train_clip, config.clip, os.path.join(workdir, 'clip'))


def place(config: ConfigDict, workdir: str) -> ConfigDict:
  """Puts data and teacher of the demo's sections inside `workdir`."""
  config = config.copy_and_resolve_references()
  for section in ('clip', 'pretrain', 'finetune'):
    config[section].data_dir = os.path.join(workdir, 'data')
  config.pretrain.teacher = os.path.join(workdir, 'clip', TEACHER_FOLDER)
  return config


def demo(config: ConfigDict, workdir: str) -> dict[str, Any]:
  """Runs all stages and writes report.json, whose content it returns, and report.html."""
  stages = Stages(workdir)
  config = place(config, workdir)
  prepare(config, workdir, stages)
  # Masked image modelling alone needs no teacher, no texts and no person view.
  mae_only = config.pretrain.copy_and_resolve_references()
  mae_only.loss.contrastive = mae_only.loss.similarity = 0.0
  pretraining = {'uniemox': config.pretrain, 'mae_only': mae_only}
  for name, section in pretraining.items():
    stages.run(f'pretrain {name}', pretrain, section, os.path.join(workdir, name))
  for name in INITIALISATIONS:
    section = config.finetune.copy_and_resolve_references()
    section.init = os.path.join(workdir, name) if name in pretraining else 'none'
    stages.run(f'finetune {name}', finetune, section, os.path.join(workdir, f'finetune_{name}'))
  look_at_models(config, workdir, stages)
  content = _report(config, workdir, stages.seconds)
  demo_page.write_report(content, workdir)
  return content


def look_at_models(config: ConfigDict, workdir: str, stages: Stages) -> None:
  """Draws what UniEmoX's two runs see in the fine-tuning set's test images, for the report."""
  for name in LOOKED_AT:
    stages.run(
        f'look {name}', look, os.path.join(workdir, name), config.finetune.data_dir, config.finetune.dataset,
        os.path.join(workdir, f'look_{name}'), examples=6)


def _report(config: ConfigDict, workdir: str, seconds: dict[str, float]) -> dict[str, Any]:
  results = {
      name: read_json_object(os.path.join(workdir, f'finetune_{name}', 'result.json')) for name in INITIALISATIONS}
  lines = read_metrics(os.path.join(workdir, 'uniemox'))
  folders = {name: next(epath.Path(workdir, 'data', name).glob('*/manifest.json')).parent for name in DATASETS}
  manifests = {name: manifest.read_manifest(folder) for name, folder in folders.items()}
  runs = [
      'clip', 'uniemox', 'mae_only', *(f'finetune_{name}' for name in INITIALISATIONS),
      *(f'look_{name}' for name in LOOKED_AT)]
  with parsing(os.path.join(workdir, 'uniemox', METRICS_FILE)):
    losses = demo_page.summarise_losses(lines, lines[-1]['step'])
  return {
      'accuracy': {name: result['top1'] for name, result in results.items()
                  }, 'test_examples': results['uniemox']['examples'], 'losses': losses, 'seconds': seconds,
      'results': results, 'labels_seen': LABELS_SEEN,
      'oracle': {name: manifest['provenance']['oracle'] for name, manifest in manifests.items()}, 'datasets': manifests,
      'versions': demo_page.package_versions(), 'commands': [f'python -m uniemox_jax.demo --workdir={workdir}'],
      'config': config.to_dict(), 'runs': {name: name for name in runs}}


def main() -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  check_sections(values.config)
  content = demo(values.config, values.workdir)
  print(
      'top-1 on the Emo8-like test split: ' +
      ', '.join(f'{name} {accuracy:.4f}' for name, accuracy in content['accuracy'].items()))
  print(f"report: {os.path.join(values.workdir, 'report.html')}")


if __name__ == '__main__':
  cli.define_config(default='configs/demo.py')
  cli.define_workdir(remote=False)
  cli.run(main)
