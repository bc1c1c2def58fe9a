"""A damaged file, of any kind that a verb reads, is named or does no harm: never a traceback, never another result."""

from pathlib import Path

import pytest

from tests.corruption.campaign import FAULTS, campaign
from tests.corruption.subjects import CHEAP, TRAINED

QUICK = (
    'records of emo8', 'records of an earlier version', 'raw emotic', 'raw emotion6', 'person_boxes.csv',
    'progress of person_boxes', 'list of images', 'images of predict', 'table of predict, csv',
    'table of predict, jsonl', 'label map', 'prompts', 'config file', 'config.json, inputs.json', 'metrics.jsonl',
    'stages.json', 'look.json, figures', 'results of compare', 'teacher folder')
"""Kinds whose files are made and read in no time."""


def faults(folder: Path, count: int, kinds: tuple[str, ...]) -> list[str]:
  trials = list(campaign(folder, count, 0, kinds))
  assert len(trials) == count and {trial.outcome for trial in trials} >= {'named', 'harmless'}
  return [' '.join(trial) for trial in trials if trial.outcome in FAULTS]


def test_each_of_100_damages_is_named_or_harmless(tmp_path):
  assert not faults(tmp_path, 100, QUICK)


@pytest.mark.slow
def test_each_of_1000_damages_of_every_kind_of_file_is_named_or_harmless(tmp_path):
  assert not faults(tmp_path, 1000, (*CHEAP, *TRAINED))
