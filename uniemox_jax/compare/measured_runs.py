"""Measures one run on its test images, on the same ones changed, on groups of both, and on other datasets.

Nothing is trained for it.
"""

from collections.abc import Iterable, Mapping
import math
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.storage import parsing
from uniemox_jax.compare.comparison_results import ComparisonJob, ProtocolVariant, scores_of
from uniemox_jax.compare.image_groups import Groups
from uniemox_jax.compare.resampling import resampled_scores, score_of_group
from uniemox_jax.eval.result_file import read_result, result_path
from uniemox_jax.eval.transfer import Transfer


class MeasuredRun(NamedTuple):
  """A measured run. result: the content of its result file, for a group its score. resampled: the scores by task, see
  `resampled_scores`."""

  result: dict[str, Any]
  resampled: Mapping[str, np.ndarray | None]


def measured_variants(
    trained: Iterable[ProtocolVariant], changes: Iterable[str], groups: Iterable[str],
    transfers: Iterable[Transfer] = ()) -> dict[str, ProtocolVariant]:
  """The ways in which a run is measured, by name: first on all images, and first on them as they are."""
  changes, groups, transfers = ('', *changes), ('', *groups), tuple(transfers)
  found = []
  for variant in trained:
    found += [variant._replace(test_change=change, group=group) for change in changes for group in groups]
    found += [variant._replace(transfer=transfer) for transfer in transfers]
  return {variant.name: variant for variant in found}


def measured_runs(
    job: ComparisonJob, folder: str, variants: Mapping[str, ProtocolVariant], groups: Groups,
    vad_score: str) -> dict[ComparisonJob, MeasuredRun]:
  """Reads all that is known of a job's run in `folder`. The keys are the job with each variant's name as protocol."""
  found = {}
  for name, variant in variants.items():
    tested_on = variant.tested_on
    if variant.trained != job.protocol or not variant.is_for(job.dataset):
      continue
    if (result := read_result(folder, tested_on)) is None:
      continue
    with parsing(result_path(folder, 'test', change=tested_on)):
      scores = {score.task: score.name for score in scores_of(result, vad_score)}
    config_hash = result.get('config_hash', '')
    if variant.group:
      measured = _of_group(folder, result, scores, tested_on, groups.get(variant.group, frozenset()))
    else:
      drawn = {task: resampled_scores(folder, config_hash, task, metric, tested_on) for task, metric in scores.items()}
      measured = MeasuredRun(result, drawn)
    if measured:
      found[job._replace(protocol=name)] = measured
  return found


def _of_group(
    folder: str, result: dict[str, Any], scores: Mapping[str, str], tested_on: str,
    group: frozenset[int]) -> MeasuredRun | None:
  """Computes the scores; None if outputs were not kept, or none of these images was tested."""
  config_hash = result.get('config_hash', '')
  found = {task: score_of_group(folder, config_hash, task, metric, tested_on, group) for task, metric in scores.items()}
  known = {task: measured for task, measured in found.items() if measured is not None}
  if not known:
    return None
  values = {task: {scores[task]: None if math.isnan(run.value) else run.value} for task, (run, _) in known.items()}
  same = {key: result[key] for key in ('dataset', 'split', 'checkpoint_step', 'config_hash') if key in result}
  examples = {'examples': next(count for _, count in known.values())}
  metrics = {'tasks': values} if 'tasks' in result else values['label']
  return MeasuredRun(same | examples | metrics, {task: run.resampled_R for task, (run, _) in known.items()})
