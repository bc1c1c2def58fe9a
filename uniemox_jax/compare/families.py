"""Variants of a protocol that are read together: over fractions of the labels, domains, changes or groups of images."""

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
  asked: whether its sums are questions, see `ProtocolVariant.asked`.
  """

  name: str
  members: Mapping[str, str]
  summaries: Mapping[str, Sequence[float]]
  ranked: str = ''
  asked: bool = True

  def question(self, summary: str) -> str:
    """The name of a weighted sum beside those of protocols."""
    return f'{self.name}, {summary}'


UNCHANGED = 'unchanged'
"""The name of the test images as they are, among changed ones."""


def families_of(variants: Mapping[str, ProtocolVariant]) -> list[Family]:
  """All families of these variants."""
  return [*curves(variants), *left_out(variants), *changed(variants), *by_group(variants)]


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
      found.append(Family(_name(key), changes, mean | apart, 'change'))
  return found


def by_group(variants: Mapping[str, ProtocolVariant]) -> list[Family]:
  """The families of two or more groups of the test images, which all count alike in the mean."""
  found = []
  for key, members in _grouped(variants, lambda variant: variant._replace(group='')).items():
    groups = {name: variant.group for name, variant in members.items() if variant.group}
    if len(groups) > 1:
      summaries = {'mean over groups': _alike(len(groups))}
      found.append(Family(_name(key), groups, summaries, 'group', asked=not key.test_change))
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
  return ', '.join(filter(None, (variant.protocol + without + of_labels, variant.test_change, variant.group)))


def _trapezoid(x_K: np.ndarray) -> list[float]:
  """How much each place counts in the mean height of a curve through them."""
  width_K = np.diff(x_K)
  return ((np.append(width_K, 0) + np.append(0, width_K)) / 2 / width_K.sum()).tolist()


def columns_of(family: Family, comparison: Comparison) -> dict[Column, dict[str, Scores]]:
  """The scores of each member by its name, for every column that some member has."""
  by_member = {name: comparison.columns(name) for name in family.members}
  found = dict.fromkeys(column for columns in by_member.values() for column in columns if column.task)
  nothing: Scores = {name: {} for name in comparison.initialisations}
  return {column: {name: columns.get(column, nothing) for name, columns in by_member.items()} for column in found}


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
