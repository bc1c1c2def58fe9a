"""Joins classes that differ only in case or spaces, since people write a class in several ways in one table."""

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses

from data_pipelines.errors import join_names
from data_pipelines.plain_text import visible
from data_pipelines.table.cells import class_key
from data_pipelines.table.rows import Rating


def spellings(ratings: Iterable[Rating], headings: Iterable[str]) -> dict[str, str]:
  """Finds for each other spelling the one in which its class is written most often, or first.

  Args:
    ratings: the ratings of all rows.
    headings: the headings of columns that each stand for a class.
  """
  times = collections.Counter(name for rating in ratings for name in rating.classes())
  of_class: dict[str, list[str]] = {}
  for name in dict.fromkeys([*times, *headings]):
    of_class.setdefault(class_key(name), []).append(name)
  return {
      name: best for names in of_class.values()
      if len(names) > 1 for best in [max(names, key=times.__getitem__)] for name in names if name != best}


def lines(found: Mapping[str, str]) -> Iterator[str]:
  """Says in lines for people what `spellings` found."""
  for best in dict.fromkeys(found.values()):
    names = [name for name in found if found[name] == best]
    yield visible(f'  one class: {join_names([best, *names])} -> {best}, as it is written most often')


def respelled(ratings: Sequence[Rating], found: Mapping[str, str]) -> list[Rating]:
  """Gives the ratings one spelling of each class."""
  return [
      dataclasses.replace(
          rating, label=found.get(rating.label, rating.label), labels=tuple(
              dict.fromkeys(found.get(name, name)
                            for name in rating.labels)), votes=_added(rating.votes, found)) if any(
                                name in found
                                for name in rating.classes()) else rating
      for rating in ratings]


def _added(votes: Mapping[str, float], found: Mapping[str, str]) -> dict[str, float]:
  sums: dict[str, float] = {}
  for name, count in votes.items():
    sums[found.get(name, name)] = sums.get(found.get(name, name), 0) + count
  return sums
