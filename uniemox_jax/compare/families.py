"""Variants of a protocol that are read together: over fractions of the labels, domains, changes, groups or datasets."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from uniemox_jax.compare.comparison_results import Column, Comparison, ProtocolVariant, Scores
from uniemox_jax.compare.resampling import RunScore
from uniemox_jax.compare.summary_statistics import Repeat


class Family(NamedTuple):
  """Some variants that differ in one thing.

  name: the name of what they share, such as 'finetune'.
  members: the name of each variant, and what it differs in, in order: '5 %', or a domain.
  summaries: by name, the weights of the members in a weighted sum, such as their mean.
  ranked: what a member is called, such as a domain, if the worst is to be named; else ''.
  title: what the heading of its table says after the name.
  dataset: the only dataset that it is of; '' for all.
  asked: whether its sums are questions, see `ProtocolVariant.asked`.
  """

  name: str
  members: Mapping[str, str]
  summaries: Mapping[str, Sequence[float]]
  ranked: str = ''
  title: str = ''
  dataset: str = ''
  asked: bool = True

  def question(self, summary: str) -> str:
    """The name of a weighted sum beside those of protocols."""
    return f'{self.name}, {summary}'


UNCHANGED = 'unchanged'
"""The name of the test images as they are, among changed ones."""

ITSELF = 'itself'
"""The name of a run's own dataset, among others."""


def families_of(variants: Mapping[str, ProtocolVariant], datasets: Sequence[str]) -> list[Family]:
  """All families of these variants, for runs of these datasets."""
  return [
      *curves(variants), *left_out(variants), *changed(variants), *by_group(variants), *transferred(variants, datasets)]


def curves(variants: Mapping[str, ProtocolVariant]) -> list[Family]:
  """The families of two or more fractions. Their mean is the area under the curve over the logarithm of the fraction.
  """
  found = []
  for key, members in _grouped(variants, lambda variant: variant._replace(fraction=None)).items():
    fractions = {name: variant.fraction for name, variant in members.items() if variant.fraction is not None}
    if len(fractions) > 1:
      names = sorted(fractions, key=fractions.__getitem__)
      weights = _trapezoid(np.log([fractions[name] for name in names]))
      found.append(
          Family(
              _name(key), {name: f'{100 * fractions[name]:g} %' for name in names}, {'area under the curve': weights}))
  return found


def left_out(variants: Mapping[str, ProtocolVariant]) -> list[Family]:
  """The families of two or more domains, which all count alike in the mean."""
  found = []
  for key, members in _grouped(variants, lambda variant: variant._replace(domain='')).items():
    domains = {name: variant.domain for name, variant in members.items() if variant.domain}
    if len(domains) > 1:
      found.append(Family(_name(key), domains, {'mean over domains': _alike(len(domains))}, 'domain'))
  return found


def changed(variants: Mapping[str, ProtocolVariant]) -> list[Family]:
  """The families of all test images, unchanged and changed, with how far the changed ones are from unchanged."""
  found = []
  for key, members in _grouped(variants, lambda variant: variant._replace(test_change='')).items():
    changes = {name: variant.test_change or UNCHANGED for name, variant in members.items()}
    count = len(changes) - 1
    if count and not key.group:  # `by_group` has those of each change.
      mean = {'mean over changes': [0.0, *_alike(count)]} if count > 1 else {}
      apart = {'changed minus unchanged': [-1.0, *_alike(count)]}
      found.append(Family(_name(key), changes, mean | apart, 'change', ' on changed images'))
  return found


def by_group(variants: Mapping[str, ProtocolVariant]) -> list[Family]:
  """The families of two or more groups of the test images, which all count alike in the mean."""
  found = []
  for key, members in _grouped(variants, lambda variant: variant._replace(group='')).items():
    groups = {name: variant.group for name, variant in members.items() if variant.group}
    if len(groups) > 1:
      summaries = {'mean over groups': _alike(len(groups))}
      found.append(Family(_name(key), groups, summaries, 'group', ' by group', asked=not key.test_change))
  return found


def transferred(variants: Mapping[str, ProtocolVariant], datasets: Sequence[str]) -> list[Family]:
  """The families of a run's own test images and those of other datasets, which count alike in their mean."""
  found = []
  for key, members in _grouped(variants, lambda variant: variant._replace(transfer=None)).items():
    for dataset in datasets:
      tests = {name: str(of.transfer or ITSELF) for name, of in members.items() if of.is_for(dataset)}
      count = len(tests) - 1
      if count:
        mean = {'mean over other datasets': [0.0, *_alike(count)]} if count > 1 else {}
        found.append(Family(_name(key), tests, mean, title=' on other datasets', dataset=dataset))
  return found


def _alike(count: int) -> list[float]:
  return [1 / count] * count


def _grouped(variants: Mapping[str, ProtocolVariant],
             shared: Callable[[ProtocolVariant], ProtocolVariant]) -> dict[ProtocolVariant, dict[str, ProtocolVariant]]:
  groups: dict[ProtocolVariant, dict[str, ProtocolVariant]] = {}
  for name, variant in variants.items():
    groups.setdefault(shared(variant), {})[name] = variant
  return groups


def _name(variant: ProtocolVariant) -> str:
  without = f' without {variant.domain}' if variant.domain else ''
  of_labels = '' if variant.fraction is None else f' at {100 * variant.fraction:g} %'
  return ', '.join(filter(None, (variant.protocol + without + of_labels, variant.measured)))


def _trapezoid(x_K: np.ndarray) -> list[float]:
  """How much each place counts in the mean height of a curve through them."""
  width_K = np.diff(x_K)
  return ((np.append(width_K, 0) + np.append(0, width_K)) / 2 / width_K.sum()).tolist()


def columns_of(family: Family, comparison: Comparison) -> dict[Column, dict[str, Scores]]:
  """The scores of each member by its name, for every column that some member has."""
  by_member: dict[str, dict[tuple[str, str], Scores]] = {}
  found: dict[tuple[str, str], Column] = {}  # Another dataset's heading may lack what the run's own says.
  for name in family.members:
    columns = {column[:2]: (column, scores) for column, scores in comparison.columns(name).items()}
    by_member[name] = {key: scores for key, (_, scores) in columns.items()}
    found = {key: column for key, (column, _) in columns.items() if column.task} | found
  nothing: Scores = {name: {} for name in comparison.initialisations}
  return {
      column: {name: members.get(key, nothing) for name, members in by_member.items()}
      for key, column in found.items()
      if family.dataset in ('', column.dataset)}


def weighted_sum(weights: Sequence[float], members: Mapping[str, Scores]) -> Scores:
  """The weighted sum of a column's members, for each repeat that all of them have."""
  first = next(iter(members.values()))
  return {name: _weighted([scores[name] for scores in members.values()], weights) for name in first}


def _weighted(members: Sequence[Mapping[Repeat, RunScore]], weights: Sequence[float]) -> dict[Repeat, RunScore]:
  found = {}
  for repeat in [repeat for repeat in members[0] if all(repeat in member for member in members)]:
    runs = [member[repeat] for member in members]
    resampled = [weight * run.resampled_R for run, weight in zip(runs, weights) if run.resampled_R is not None]
    found[repeat] = RunScore(
        sum(weight * run.value for run, weight in zip(runs, weights)),
        np.sum(resampled, axis=0) if len(resampled) == len(runs) else None)
  return found
