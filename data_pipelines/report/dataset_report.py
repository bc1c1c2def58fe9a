"""Does the verb's work: reads every record once, and writes the page and the facts that it shows."""

from collections.abc import Callable, Mapping, Sequence, Set
import os
from typing import Any

import tqdm

from data_pipelines import storage
from data_pipelines.building.splits import usual_order
from data_pipelines.drawing.page_rendering import render_template
from data_pipelines.duplicates.duplicate_tables import pairs_of_splits, read_copies
from data_pipelines.duplicates.near_duplicates import Copy
from data_pipelines.errors import UserError
from data_pipelines.plain_text import visible
from data_pipelines.records import manifest, reader
from data_pipelines.records.label_sets import VAD
from data_pipelines.report import charts, faults, rater_agreement, record_topics, target_topics
from data_pipelines.report.class_sheet import ClassSheet

_PAGE = os.path.join(os.path.dirname(__file__), 'dataset_page.html.j2')
_KEPT = ('version', 'source', 'found', 'read', 'rejected', 'ignored', 'split_seed')
"""The keys of the manifest that the report keeps."""


class DatasetTopics:
  """All that is kept of the records while they are read."""

  def __init__(
      self, splits: list[str], labels: tuple[str, ...], shares: list[str], tokenizer: str | os.PathLike | None):
    self.counts = record_topics.Counts(splits, labels)
    self.sizes = record_topics.Sizes()
    self.equal = record_topics.EqualImages()
    self.captions = target_topics.Captions(tokenizer)
    self.shares = target_topics.Shares(shares)
    self.ratings = target_topics.Ratings()
    self.sheet = ClassSheet(len(labels))
    self.ids: list[str] = []

  def add(self, record: record_topics.StoredRecord) -> None:
    """Takes a record."""
    for topic in (self.counts, self.sizes, self.equal, self.captions, self.shares, self.ratings, self.sheet):
      topic.add(record)
    self.ids.append(record.id)


def write_dataset_report(
    data_dir: str | os.PathLike, dataset: str, out: str | os.PathLike, duplicates: str | os.PathLike | None = None,
    votes: str | os.PathLike | None = None, tokenizer: str | os.PathLike | None = None) -> list[str]:
  """Writes the page, which needs no network, and beside it the same facts as JSON.

  Args:
    data_dir, dataset: as for `reader.open_split`.
    out: the page, NAME.html; the facts are in NAME.json.
    duplicates: the table that the verb `duplicates` wrote.
    votes: a table of who said what, see `rater_agreement.read_votes`.
    tokenizer: the folder of a CLIP, whose tokens are counted.

  Returns:
    What was written, and the faults of the data set, in lines for the user.

  Raises:
    UserError: there are no such records or tables, or `out` is no page in a folder that exists.
  """
  place = storage.absolute(out)
  if place.suffix.lower() != '.html' or not storage.is_remote(out) and not place.parent.is_dir():
    raise UserError(f'--out={out} is not an HTML file in a folder that exists: name one, such as report.html')
  names = usual_order(reader.split_names(data_dir, dataset))
  opened = {name: reader.open_split(data_dir, dataset, name) for name in names}
  first = opened[names[0]]
  stored = manifest.read_manifest(first.folder)
  topics = DatasetTopics(names, first.labels, stored['distribution'], tokenizer)
  copies = list(read_copies(duplicates)) if duplicates else None
  cast = rater_agreement.read_votes(votes) if votes else None
  for name, split in opened.items():
    for example in tqdm.tqdm(split.examples(), f'{dataset} {name}', split.num_examples, unit=' records'):
      topics.add(record_topics.stored_record(example, name, first.labels))
  facts = _facts(dataset, first.labels, stored, topics)
  if copies is not None:
    facts['duplicates']['near'] = _near(copies, dataset, duplicates, set(topics.ids))
  if cast is not None:
    facts['agreement'] = rater_agreement.measure_agreement(cast, topics.ids, first.labels)
  facts['warnings'] = [fault._asdict() for fault in faults.find_faults(facts)]
  page = render_template(
      _PAGE, {'facts': facts, 'charts': _charts(facts, topics), 'sheet': topics.sheet.images}, _FILTERS)
  json_path = os.path.splitext(out)[0] + '.json'
  storage.write_json(json_path, facts)
  storage.write_text(out, page)
  lines = [f'{out} and {json_path}: {len(topics.ids)} records of {dataset}, {len(facts["warnings"])} warnings']
  return [visible(line) for line in (*lines, *(f'  warning: {fault["text"]}' for fault in facts['warnings']))]


def _facts(dataset: str, labels: tuple[str, ...], stored: Mapping[str, Any], topics: DatasetTopics) -> dict[str, Any]:
  scales = stored.get('vad_scale') or {}
  if not isinstance(scales, dict):  # Earlier builds found one scale for all.
    scales = dict.fromkeys(VAD, scales)
  return {
      'dataset': dataset, 'labels': list(labels), 'manifest': {name: stored.get(name) for name in _KEPT},
      **topics.counts.summary(), 'sizes': topics.sizes.summary(),
      'duplicates': {'equal': topics.equal.summary(), 'near': None}, 'captions': topics.captions.summary(),
      'votes': topics.shares.summary(), 'agreement': None, 'ratings': topics.ratings.summary(scales)}


def _near(copies: Sequence[Copy], dataset: str, table: object, ids: Set[str]) -> list[dict[str, Any]]:
  """How many images of a split have a near-duplicate in each. Raises UserError if they are of other records."""
  if strange := [copy.image for copy in copies if copy.image not in ids]:
    raise UserError(f"{table} is about other records: {dataset} has no '{strange[0]}'; find its duplicates again")
  return [{'split': split, 'its_dataset': other or dataset, 'its_split': its_split, 'images': count}
          for (split, other, its_split), count in pairs_of_splits(copies, dataset).items()]  # fmt: skip


def _charts(facts: Mapping[str, Any], topics: DatasetTopics) -> dict[str, str]:
  found = {
      'lengths': charts.length_chart(topics.captions.lengths),
      'sizes': charts.size_chart(topics.sizes.width_N, topics.sizes.height_N)}
  if facts['ratings'] and {'valence', 'arousal'} <= facts['ratings'].keys():
    scales = [facts['ratings'][name]['scale'] for name in ('valence', 'arousal')]
    found['ratings'] = charts.rating_chart(topics.ratings.values()[:, :2], scales)
  return found


def _percent(share: float | None) -> str:
  return '-' if share is None else f'{share:.1%}'


_FILTERS: dict[str,
               Callable[...,
                        str]] = {'percent': _percent, 'number': lambda value: '-' if value is None else f'{value:g}'}
