"""A damaged file, of any kind that a verb reads, is named or does no harm: never a traceback, never another result."""

from pathlib import Path

import pytest

from tests.corruption.campaign import FAULTS, campaign
from tests.corruption.subjects import KINDS

SLOW = (
    'records of emotion6', 'raw emos', 'raw emo8', 'table of build: parquet of', 'table of build: arrow of', 'detector',
    'video', 'the hub', 'another', 'teacher: ', 'weights: ', 'export to ', 'checkpoint of ', 'a run', 'run of',
    'config.json and result', 'caption cache', 'token ids', 'view embeddings', 'features cache', 'compiled programs')
QUICK = tuple(kind for kind in KINDS if not kind.startswith(SLOW))
"""Kinds whose files are made and read in no time, without torch."""


def faults(folder: Path, count: int, kinds: tuple[str, ...]) -> list[str]:
  trials = list(campaign(folder, count, 0, kinds))
  assert len(trials) == count and {trial.outcome for trial in trials} >= {'named', 'harmless'}
  return [' '.join(trial) for trial in trials if trial.outcome in FAULTS]


def test_each_of_150_damages_is_named_or_harmless(tmp_path):
  assert not faults(tmp_path, 150, QUICK)


@pytest.mark.slow
def test_each_of_1000_damages_of_every_kind_of_file_is_named_or_harmless(tmp_path):
  assert not faults(tmp_path, 1000, tuple(KINDS))
