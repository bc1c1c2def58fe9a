import importlib
from pathlib import Path
import re

import pytest
from tensorflow_datasets.core import dataset_metadata

from data_pipelines.build import DATASETS, OWN

DOCS = Path(__file__).parents[3] / 'docs' / 'datasets.md'


def _builder(dataset: str) -> type:
  return importlib.import_module(f'data_pipelines.{dataset}.{dataset}_dataset_builder').Builder


@pytest.mark.parametrize('dataset', DATASETS)
def test_every_dataset_has_a_card_that_tfds_reads(dataset):
  card = _builder(dataset).get_metadata()
  for part in ('\n| size |', '\n| labels |', '\n| terms |', '\n## Layout\n', '\n## What the build stores\n'):
    assert part in card.description
  assert card.citation
  assert card.tags and set(card.tags) <= set(dataset_metadata.valid_tags())


@pytest.mark.parametrize('dataset', [dataset for dataset in DATASETS if dataset not in OWN])
def test_the_card_names_the_labels_in_their_order_and_whom_to_ask(dataset):
  card = _builder(dataset).get_metadata().description
  labels = re.search(r'^\| labels \|(?: 26, alphabetical:)? ([^(|]+)', card, re.MULTILINE)[1]
  assert tuple(labels.strip().split(', ')) == _builder(dataset).LABELS
  assert '\n| ask |' in card


def test_the_overview_leads_to_every_card():
  links = re.findall(r'^\| \[(\w+)\]\(\.\./data_pipelines/(\w+)/README\.md\)', DOCS.read_text(), re.MULTILINE)
  assert links == [(dataset, dataset) for dataset in DATASETS]
