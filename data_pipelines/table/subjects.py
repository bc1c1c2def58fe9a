"""Finds whether the subject that a text names is a person."""

import re

_WORDS = """
man men woman women boy boys girl girls person persons people human humans child children kid kids baby babies toddler
toddlers infant infants lady ladies gentleman gentlemen guy guys couple couples family families friend friends crowd
crowds bride groom mother father mom dad parent parents sister brother grandmother grandfather teenager teenagers
adult adults youth athlete athletes player players dancer dancers singer singers musician musicians actor actors
actress soldier soldiers worker workers student students teacher performer performers rider riders runner runners
climber climbers skier skiers surfer surfers swimmer swimmers hiker hikers cyclist cyclists skateboarder skateboarders
protester protesters audience spectators pedestrian pedestrians individual individuals figure figures face faces
portrait
"""
_PERSONS = frozenset(_WORDS.split())


def is_person(subject: str) -> bool:
  """Whether one of the words means a person, such as in 'a young woman with a dog'."""
  return not _PERSONS.isdisjoint(re.findall('[a-z]+', subject.casefold()))
