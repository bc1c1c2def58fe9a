"""Damages files of every kind, one at a time, and reads them: python -m tests.corruption.campaign --count=1000

A damage is *named* where the reader ends in one line about the file, or says one; *harmless* where it gives the same,
bit by bit; *other content* where a file without a checksum of this package, a user's own or another library's, holds
something else that is valid. It is a fault where it ends in a traceback, in an error that does not name the file, or is
*silent*: another result of a file that this package wrote. Exit code 1 after a fault.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
import hashlib
import logging as std_logging
from pathlib import Path
import random
import re
import shutil
import signal
import sys
import tempfile
import traceback
from typing import Any, NamedTuple

from absl import app, flags, logging
import numpy as np

from data_pipelines.errors import UserError
from tests.corruption.damage import damage
from tests.corruption.subject import Subject
from tests.corruption.subjects import GROUPS, KINDS
from tests.corruption.world import World, quiet

OUTCOMES = ('named', 'harmless', 'other content', 'traceback', 'not named', 'silent')
FAULTS = OUTCOMES[3:]
LIMIT = 60
"""Seconds that one reading may take."""


class Trial(NamedTuple):
  """kind, file, way: what was damaged, and how. outcome: one of `OUTCOMES`. said: the reader's own words."""

  kind: str
  file: str
  way: str
  outcome: str
  said: str


def fingerprint(value: Any) -> str:
  """The same for the same result, bit by bit."""
  digest = hashlib.sha256()

  def add(part: Any) -> None:
    if isinstance(part, dict):
      digest.update(b'{')
      for key in sorted(part, key=repr):
        digest.update(repr(key).encode())
        add(part[key])
    elif isinstance(part, list | tuple):
      digest.update(b'[')
      for item in part:
        add(item)
    elif isinstance(part, np.ndarray):
      digest.update(f'{part.dtype} {part.shape}'.encode() + np.ascontiguousarray(part).tobytes())
    else:
      digest.update(f'{type(part).__name__} {part!r}'.encode())
    digest.update(b';')

  add(value)
  return digest.hexdigest()


def _names(said: str, path: Path, folder: Path) -> bool:
  places = [parent for parent in path.parents if parent == folder or folder in parent.parents]
  return path.name in said or any(str(place) in said for place in places)


def _read(subject: Subject) -> tuple[str, str]:
  """What it gives, as a fingerprint, and what it says meanwhile."""
  signal.alarm(LIMIT)
  try:
    with quiet() as said:
      found = fingerprint(subject.read())
    return found, said.getvalue()
  finally:
    signal.alarm(0)


def _without_numbers(said: str) -> list[str]:
  return [re.sub(r'\d+', '#', line) for line in said.splitlines()]


def _outcome(subject: Subject, path: Path, whole: str, usual: str) -> tuple[str, str]:
  """The outcome, and what was said; `whole` and `usual` are those of the undamaged files."""
  try:
    found, said = _read(subject)
  except UserError as error:
    return ('named' if _names(str(error), path, subject.folder) else 'not named'), str(error)
  except (Exception, SystemExit):
    return 'traceback', traceback.format_exc(limit=-4)
  if found == whole:
    return 'harmless', said
  # A line that is always there, perhaps with other counts, says nothing about damage.
  new = zip(said.splitlines(), _without_numbers(said))
  if any(_names(line, path, subject.folder) for line, text in new if text not in _without_numbers(usual)):
    return 'named', said
  return ('other content' if subject.owned else 'silent'), said


def run(kind: str, subject: Subject, count: int, seed: int, spare: Path) -> Iterator[Trial]:
  """Damages one of the subject's files after the other, `count` times; each is whole again afterwards."""
  shutil.copytree(subject.folder, spare)
  whole, usual = _read(subject)
  if _read(subject)[0] != whole:
    raise AssertionError(f'{kind}: two readings of undamaged files differ')
  for number in range(count):
    draws = random.Random(f'{seed} {kind} {number}')
    path = draws.choice(subject.files)
    shutil.rmtree(subject.folder)
    shutil.copytree(spare, subject.folder)
    way = damage(path, subject.other(path), path.name not in subject.optional, draws)
    yield Trial(kind, str(path.relative_to(subject.folder)), way, *_outcome(subject, path, whole, usual))
  shutil.rmtree(subject.folder)
  spare.rename(subject.folder)


def campaign(folder: Path, count: int, seed: int, kinds: Sequence[str]) -> Iterator[Trial]:
  """`count` damages in all, spread over the kinds."""
  before = signal.signal(signal.SIGALRM, _too_long)
  world, twin = World(folder / 'world'), World(folder / 'twin', seed=1)
  try:
    for number, kind in enumerate(kinds):
      with quiet():
        subject = KINDS[kind](world, twin)
      yield from run(kind, subject, (count + number) // len(kinds), seed, folder / 'spare')
  finally:
    signal.signal(signal.SIGALRM, before)


def _too_long(*_: Any) -> None:
  raise TimeoutError(f'reading took more than {LIMIT} s')


def as_table(trials: Sequence[Trial], rows: Mapping[str, Collection[str]]) -> str:
  """Markdown: a row for the kinds of files of each name."""
  lines = ['| files | ' + ' | '.join(OUTCOMES) + ' |', '|---|' + '---:|' * len(OUTCOMES)]
  for name, kinds in [*rows.items(), ('all', KINDS)]:
    counts = Counter(trial.outcome for trial in trials if trial.kind in kinds)
    if counts:
      lines.append(f'| {name} | ' + ' | '.join(str(counts[outcome]) for outcome in OUTCOMES) + ' |')
  return '\n'.join(lines)


def main(argv: list[str]) -> None:
  """Entry point after flags are parsed."""
  del argv
  logging.set_verbosity(logging.ERROR)
  std_logging.getLogger('asyncio').setLevel(std_logging.CRITICAL)  # which reports damage a second time
  values = flags.FLAGS
  trials = []
  with tempfile.TemporaryDirectory(dir=values.workdir) as folder:
    for trial in campaign(Path(folder), values.count, values.seed, values.kinds):
      trials.append(trial)
      if trial.outcome in FAULTS or values.verbose:
        print(f'{trial.outcome}: {trial.kind}, {trial.file}, {trial.way}\n{trial.said}', flush=True)
  print(as_table(trials, {kind: [kind] for kind in KINDS}), as_table(trials, GROUPS), sep='\n\n')
  sys.exit(any(trial.outcome in FAULTS for trial in trials))


if __name__ == '__main__':
  flags.DEFINE_integer('count', 1000, 'How many damages in all.', lower_bound=1)
  flags.DEFINE_integer('seed', 0, 'Of the damages.')
  flags.DEFINE_list('kinds', [*KINDS], 'Kinds of files.')
  flags.DEFINE_string('workdir', None, 'Where a temporary folder is made.')
  flags.DEFINE_bool('verbose', False, 'Print every damage, not only the faults.')
  app.run(main)
