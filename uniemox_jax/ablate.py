"""Measures what each part of the method adds: python -m uniemox_jax.ablate --config=configs/demo.py --workdir=DIR

Every row of the table is one way to pretrain, or none, repeated over seeds. All are fine-tuned by one recipe and
compared on the Emo8-like test split. Records and teacher come from the demo's folder and are made there if missing.
A row and a seed are a job of their own (`compare.subprocess_runs`): a finished one is never run again, an interrupted
one resumes. ablation.md and ablation.json are rewritten after each.
"""

from collections.abc import Collection, Mapping, Sequence
import os
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from data_pipelines.errors import UserError
from data_pipelines.storage import exists, parsing, write_json, write_text
from uniemox_jax.compare import subprocess_runs, table_text
from uniemox_jax.compare.ablation_rows import OWN_TEACHER, ROWS
from uniemox_jax.compare.resampling import RunScore, resampled_scores
from uniemox_jax.compare.summary_statistics import holm, over_seeds, shared_repeats
from uniemox_jax.compare.tables import difference_of, limits_text, values_of
from uniemox_jax.demo import Stages, check_sections, place, prepare
from uniemox_jax.eval.result_file import read_result, result_path
from uniemox_jax.finetune import finetune
from uniemox_jax.pretrain import pretrain
from uniemox_jax.runtime import cli
from uniemox_jax.train_clip import TEACHER_FOLDER, train_clip

_COLUMNS = {
    'row': ('pretraining', ''), 'labels_in_pretraining': ('labels in pretraining', ''), 'mean': ('top-1, mean', '.4f'),
    'spread': ('spread', '.4f'), 'over_scratch': ('over scratch', '+.4f'), 'interval_scratch': ('95 % interval', ''),
    'p_holm_scratch': ("p, Holm's", '.3g'), 'over_full': ('over full', '+.4f'), 'interval_full': ('95 % interval', ''),
    'p_holm_full': ("p, Holm's", '.3g'), 'runs': ('runs', '')}
"""The columns of ablation.md: heading and format by the key in ablation.json."""

PREPARATION = 'prepare'
"""The first job, which makes records and teachers."""


class AblationJob(NamedTuple):
  """A row of the table with one seed. Its runs lie in `pretrain` and `finetune` of its folder."""

  row: str
  seed: int

  @property
  def name(self) -> str:
    """A name that no other job has."""
    return f'{self.row}:{self.seed}'

  def folder(self, workdir: str) -> str:
    """The folder of its runs and their log.txt."""
    return os.path.join(workdir, self.row, f'seed{self.seed}')


def pretrain_config(row: str, config: ConfigDict, teachers: Mapping[str, str]) -> ConfigDict:
  """Makes the pretraining config of a row: the demo's, with one thing changed.

  Args:
    row: a key of `ROWS` except supervised and scratch.
    config: the demo's sections.
    teachers: the folders of the teachers by row, for the rows with their own.
  """
  section = config.pretrain.copy_and_resolve_references()
  section.teacher = teachers.get(row, section.teacher)
  section.update(ROWS[row].change)
  return section


def supervised_config(config: ConfigDict) -> ConfigDict:
  """Makes the config that classifies the EmoSet-like labels in place of pretraining, with its epochs, batch and rate.
  """
  section = config.finetune.copy_and_resolve_references()
  for key in ('dataset', 'batch_size', 'epochs', 'warmup_epochs'):
    section[key] = config.pretrain[key]
  section.optimizer.base_lr = config.pretrain.optimizer.base_lr
  section.optimizer.layer_decay = 1.0
  section.eval_every_epochs = config.pretrain.epochs
  return section


def sections_of(job: AblationJob, config: ConfigDict, teachers: Mapping[str, str],
                workdir: str) -> dict[str, ConfigDict]:
  """Makes the configs of a job's runs, in their order, by the name of their folders: 'pretrain' or none, 'finetune'."""
  sections = {}
  if job.row == 'supervised':
    sections['pretrain'] = supervised_config(config)
  elif job.row != 'scratch':
    sections['pretrain'] = pretrain_config(job.row, config, teachers)
  sections['finetune'] = config.finetune.copy_and_resolve_references()
  sections['finetune'].init = os.path.join(job.folder(workdir), 'pretrain') if 'pretrain' in sections else 'none'
  for section in sections.values():
    section.seed = job.seed
  return sections


def pretrain_and_finetune(sections: dict[str, ConfigDict], folder: str) -> None:
  """Does the runs of one job, each from where an earlier try stopped."""
  for name, section in sections.items():
    verb = pretrain if 'loss' in section else finetune
    verb(section, os.path.join(folder, name))


def read_scores(workdir: str, jobs: Mapping[AblationJob, dict[str, ConfigDict]]) -> dict[AblationJob, RunScore]:
  """Reads top-1 on test of every finished job, also on resamples of the test images.

  Args:
    workdir: the ablation's workdir.
    jobs: the configs of the jobs, see `sections_of`.

  Raises:
    UserError: a job was run, or begun, with other values than its config has now.
  """
  scores = {}
  for job, sections in jobs.items():
    folder = job.folder(workdir)
    for name, section in sections.items():
      subprocess_runs.check_same_config(os.path.join(folder, name), section)
    run = os.path.join(folder, 'finetune')
    if (result := read_result(run)) is not None:
      with parsing(result_path(run, 'test')):
        resampled_R = resampled_scores(run, result.get('config_hash', ''), 'label', 'top1')
        scores[job] = RunScore(result['top1'], resampled_R)
  return scores


def write_table(scores: Mapping[AblationJob, RunScore], jobs: Collection[AblationJob], workdir: str) -> None:
  """Writes ablation.json, and ablation.md.

  Both have mean, spread, and differences from scratch and from the full method by seed, with 95 % intervals for other
  seeds and other test images. The page also names which of `jobs` have no score.
  """
  by_row = {row: {job.seed: score for job, score in scores.items() if job.row == row} for row in ROWS}
  rows: list[dict[str, Any]] = []
  for row, by_seed in by_row.items():
    if by_seed:
      top1_by_seed = values_of(by_seed)
      rows.append({
          'row': row, 'labels_in_pretraining': ROWS[row].labels, 'top1_by_seed': top1_by_seed,
          **over_seeds(top1_by_seed)._asdict()})
      for other in ('scratch', 'full'):
        known = row != other and shared_repeats(by_seed, by_row[other])
        found = difference_of(by_seed, by_row[other]) if known else {}
        for name, key in (('over', 'difference'), ('interval', 'interval'), ('p', 'p')):
          rows[-1][f'{name}_{other}'] = found.get(key)
  for other in ('scratch', 'full'):
    for line, p in zip(rows, holm([line[f'p_{other}'] for line in rows])):
      line[f'p_holm_{other}'] = p
  write_json(os.path.join(workdir, 'ablation.json'), {'rows': rows})
  intervals = ('interval_scratch', 'interval_full')
  shown = [row | {key: row[key] and limits_text(row[key], '+') for key in intervals} for row in rows]
  missing = [job for job in jobs if job not in scores]
  errors = {job.name: error for job in missing if (error := subprocess_runs.last_error(job.folder(workdir)))}
  text = table_text.missing_runs(len(missing), errors)
  write_text(
      os.path.join(workdir, 'ablation.md'),
      table_text.markdown(table_text.rows_of(shown, _COLUMNS)) + (text and f'\n{text}'))


def ablate(workdir: str, jobs: Mapping[AblationJob, dict[str, ConfigDict]]) -> None:
  """Runs all jobs that are not finished, in their order, and keeps the table up to date.

  Raises:
    UserError: see `read_scores`; or some jobs failed: they are named, all others are finished.
    Preempted: SIGTERM came, and all jobs have saved.
  """

  def tabulate() -> dict[str, str]:
    scores = read_scores(workdir, jobs)
    write_table(scores, jobs, workdir)
    return {job.name: f'top-1 {score.value:.4f}' for job, score in scores.items()}

  folders = {job.name: job.folder(workdir) for job in jobs}
  with subprocess_runs.printed_at_the_end(os.path.join(workdir, 'ablation.md')):
    subprocess_runs.run_unfinished('uniemox_jax.ablate', folders, tabulate)


def check_rows(rows: Sequence[str]) -> None:
  """Raises UserError if there is no such row, or a row is asked for twice."""
  for row in rows:
    if row not in ROWS:
      raise UserError(f"--rows: there is no row '{row}': choose from {', '.join(ROWS)}")
    if rows.count(row) > 1:
      raise UserError(f"--rows: '{row}' stands there twice: give it once")


def prepare_all(config: ConfigDict, demo_workdir: str, rows: Sequence[str], teachers: Mapping[str, str]) -> None:
  """Makes records and teachers. A teacher of its own lets the row without the emotion word see no label at all."""
  prepare(config, demo_workdir, Stages(demo_workdir))
  for row, teacher in teachers.items():
    if row in rows and not exists(teacher):
      section = config.clip.copy_and_resolve_references()
      section.update(ROWS[row].change)
      train_clip(section, os.path.dirname(teacher))


def main() -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  check_sections(values.config)
  check_rows(values.rows)
  config = place(values.config, values.demo_workdir)
  teachers = {row: os.path.join(values.workdir, f'clip_{row}', TEACHER_FOLDER) for row in OWN_TEACHER}
  jobs = {
      job: sections_of(job, config, teachers, values.workdir)
      for job in (AblationJob(row, seed) for seed in range(values.seeds) for row in values.rows)}
  if values.cell == PREPARATION:
    # Its lock guards the demo's folder, which several ablations may share.
    subprocess_runs.run_here(
        values.demo_workdir, lambda: prepare_all(config, values.demo_workdir, values.rows, teachers))
  elif values.cell:
    job = {job.name: job for job in jobs}.get(values.cell)
    if job is None:
      raise UserError(f"--cell='{values.cell}' is no job: give ROW:SEED with one of --rows and less than --seeds")
    folder = job.folder(values.workdir)
    subprocess_runs.run_here(folder, lambda: pretrain_and_finetune(jobs[job], folder))
  else:
    folder = os.path.join(values.workdir, PREPARATION)
    print(f'records and teachers, unless they are there: see {folder}/log.txt', flush=True)
    subprocess_runs.run_jobs('uniemox_jax.ablate', {PREPARATION: folder}, lambda name: 'done')
    ablate(values.workdir, jobs)


if __name__ == '__main__':
  cli.define_config()
  cli.define_workdir(default='runs/ablation', remote=False)
  cli.define_path('demo_workdir', 'runs/demo', "The demo's folder, whose records and teacher are used.", remote=False)
  flags.DEFINE_integer('seeds', 3, 'Repetitions of every row.', lower_bound=1)
  flags.DEFINE_list('rows', list(ROWS), 'Rows to run; of the others nothing is shown.')
  subprocess_runs.define_flags(jobs=2)
  cli.run(main)
