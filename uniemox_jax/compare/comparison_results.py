"""What a comparison asked for and what is finished of it: a score for every initialisation, protocol, seed and fold."""

from collections.abc import Mapping, Sequence
import os
import re
from typing import Any, NamedTuple

from uniemox_jax.compare.resampling import RunScore
from uniemox_jax.compare.summary_statistics import Repeat
from uniemox_jax.eval.transfer import Transfer
from uniemox_jax.objectives.tasks import KINDS


class ComparisonJob(NamedTuple):
  """One run of a comparison. fold: the fold that is tested; None if the dataset's own splits are taken."""

  initialisation: str
  dataset: str
  protocol: str
  seed: int
  fold: int | None = None

  @property
  def name(self) -> str:
    """A name that no other job has."""
    of_fold = '' if self.fold is None else f'_fold{self.fold}'
    return f'{self.initialisation}/{self.dataset}/{self.protocol}/seed{self.seed}{of_fold}'

  @property
  def repeat(self) -> Repeat:
    """The seed, and the fold if there is one, by which it is paired with the jobs of other initialisations."""
    return self.seed if self.fold is None else (self.seed, self.fold)

  def folder(self, workdir: str) -> str:
    """The folder in which its run lies."""
    return os.path.join(workdir, self.name)


class ProtocolVariant(NamedTuple):
  """How a protocol of the config is run, and what of it is measured.

  protocol: its name in the config. domain: the domain that training leaves out, '' for none. fraction: the share of
  each class that is trained on, None for the protocol's own. test_change: the change of the test images, '' for none.
  transfer: the other dataset that is measured on, None for the run's own. group: the group of test images that is
  measured, '' for all images.
  """

  protocol: str
  domain: str = ''
  fraction: float | None = None
  test_change: str = ''
  transfer: Transfer | None = None
  group: str = ''

  @property
  def trained(self) -> str:
    """The name of what is run, as jobs have it. One run is measured in several ways."""
    without = '_without_' + re.sub(r'\W+', '_', self.domain) if self.domain else ''
    return self.protocol + without + ('' if self.fraction is None else f'_{100 * self.fraction:g}_percent')

  @property
  def name(self) -> str:
    """A name that no other variant has: what is run, and in which way it is measured."""
    return ', '.join(filter(None, (self.trained, self.measured)))

  @property
  def measured(self) -> str:
    """In which way a run is measured, in words; '' for all of its own test images as they are."""
    return ', '.join(filter(None, (self.test_change, self.transfer and f'on {self.transfer}', self.group)))

  @property
  def tested_on(self) -> str:
    """What names of files in the run's folder call the images, see `kept_outputs.keep_outputs`."""
    return self.transfer.file_part if self.transfer else self.test_change

  def is_for(self, dataset: str) -> bool:
    """Whether runs of a dataset are measured so; a transfer from a dataset to itself would be their own test."""
    return self.transfer != Transfer(dataset)

  @property
  def asked(self) -> bool:
    """Whether a difference from the reference is asked for. Groups of changed images are only shown: with so many
    questions, Holm's correction would leave none significant."""
    return not (self.test_change and self.group)


class Column(NamedTuple):
  """A column of a protocol's table: a dataset and one of its tasks, '' until a run has finished.

  measured: its heading, 'emo8, top1', or 'emo8 val, top1' if val took the place of test; just 'emo8' until a run has
  finished.
  """

  dataset: str
  task: str
  measured: str


class Score(NamedTuple):
  """A score that results are compared by. name: the metric. metric: the same with the task before it, as headings have
  it. value: the number, None if the test split leaves it undefined."""

  task: str
  name: str
  metric: str
  value: float | None


def scores_of(result: dict[str, Any], vad_score: str = KINDS['vad'].score) -> list[Score]:
  """The score of every task of a run, the one that chose its epoch first. `tasks.KINDS` has the metrics, `vad_score` is
  that of vad."""
  if 'tasks' not in result:
    name = KINDS['label'].score
    return [Score('label', name, name, result[name])]
  names = {task: vad_score if task == 'vad' else KINDS[task].score for task in result['tasks']}
  return [Score(task, name, f'{task} {name}', result['tasks'][task][name]) for task, name in names.items()]


Scores = Mapping[str, Mapping[Repeat, RunScore]]
"""The scores of finished runs, by initialisation and repeat."""


class Comparison(NamedTuple):
  """What a comparison asked for, and what is finished of it.

  initialisations, datasets: in the order of rows and columns.
  variants: the protocols in the order of their tables, by name.
  reference: the initialisation that all others are compared with.
  jobs: all that were asked for, except those of groups; each variant has one, whose protocol is the variant's name.
  results: the content of each job's result file; for a group its score.
  errors: the last line of each run that failed.
  resampled: the resampled scores by job and task, see `resampling.resampled_scores`; None or absent if none were kept.
  folds: the number of parts that the images were dealt to, 0 for the datasets' own splits.
  detect: the difference that enough seeds are to find.
  vad_score: the metric that results of valence, arousal and dominance are compared by.
  """

  initialisations: Sequence[str]
  datasets: Sequence[str]
  variants: Mapping[str, ProtocolVariant]
  reference: str
  jobs: Sequence[ComparisonJob]
  results: Mapping[ComparisonJob, dict[str, Any]]
  errors: Mapping[ComparisonJob, str]
  resampled: Mapping[ComparisonJob, Mapping[str, Any]] = {}
  folds: int = 0
  detect: float = 0.02
  vad_score: str = KINDS['vad'].score

  def columns(self, protocol: str) -> dict[Column, Scores]:
    """The scores of a protocol's table, by column."""
    columns = []
    for dataset in self.datasets:
      result = next((result for job, result in self.results.items() if job[1:3] == (dataset, protocol)), None)
      if result is None:
        columns.append(Column(dataset, '', dataset))
      else:
        split = result.get('split', 'test')
        of_folds = f' ({self.folds} folds)' if self.folds else ''
        measured_on = f'{dataset}{of_folds}' if split == 'test' else f'{dataset} {split}'
        columns += [Column(dataset, score.task, f'{measured_on}, {score.metric}') for score in self.scores(result)]
    return {column: {name: self._scores(name, column, protocol) for name in self.initialisations} for column in columns}

  def _scores(self, initialisation: str, column: Column, protocol: str) -> dict[Repeat, RunScore]:
    jobs = [job for job in self.results if job[:3] == (initialisation, column.dataset, protocol)]
    return {
        job.repeat: RunScore(score.value,
                             self.resampled.get(job, {}).get(score.task)) for job in jobs
        for score in self.scores(self.results[job])
        if score.task == column.task and score.value is not None}

  def scores(self, result: dict[str, Any]) -> list[Score]:
    """`scores_of`, by this comparison's metrics."""
    return scores_of(result, self.vad_score)

  @property
  def seeds(self) -> int:
    """The number of seeds that were asked for."""
    return len({job.seed for job in self.jobs})

  @property
  def unfinished(self) -> set[ComparisonJob]:
    """The runs that lack a result: of their own test images, of changed ones, or of another dataset."""
    return {job._replace(protocol=self.variants[job.protocol].trained) for job in self.jobs if job not in self.results}
