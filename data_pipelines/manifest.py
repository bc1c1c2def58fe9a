"""What a build found, read, rejected and stored: `manifest.json` and `rejects.csv`, beside the shards."""

import collections
from collections.abc import Mapping
import csv
import hashlib
import io
import json

from etils import epath

MANIFEST = 'manifest.json'
REJECTS = 'rejects.csv'


class SplitTally:
  """Counts the records of one split as they are stored."""

  def __init__(self, labels: tuple[str, ...]):
    self._labels = labels
    self._ids: list[str] = []
    self._per_class: collections.Counter[str] = collections.Counter()
    self._with_person = 0

  @property
  def examples(self) -> int:
    """Records counted so far."""
    return len(self._ids)

  def add(self, record: Mapping) -> None:
    """Counts one record of `schema.record_features`."""
    self._ids.append(record['id'])
    self._per_class.update(record['labels'] or [record['label']])
    self._with_person += bool(record['persons'])

  def summary(self) -> dict:
    """examples, per_class (every label, 0 included), with_person, with_person_share, ids_sha256.

    The hash is SHA-256 over the sorted ids, UTF-8, joined by newlines: two builds with the same hash have the same
    pictures in this split.
    """
    return {
      'examples': self.examples,
      'per_class': {label: self._per_class[label] for label in self._labels},
      'with_person': self._with_person,
      'with_person_share': round(self._with_person / max(self.examples, 1), 4),
      'ids_sha256': hashlib.sha256('\n'.join(sorted(self._ids)).encode()).hexdigest(),
    }


def write_manifest(folder: epath.Path, manifest: Mapping) -> None:
  """Writes `manifest.json`; the folder is renamed to its final name later, as a whole."""
  (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + '\n')


def read_manifest(folder: epath.Path) -> dict:
  """The manifest of a finished build."""
  return json.loads((folder / MANIFEST).read_text())


def write_rejects(path: epath.Path, rejects: Mapping[str, str]) -> None:
  """Writes path,reason rows sorted by path; bytes of a file name that are not UTF-8 are written as backslash codes."""
  buffer = io.StringIO(newline='')
  writer = csv.writer(buffer)
  writer.writerow(['path', 'reason'])
  writer.writerows(sorted(rejects.items()))
  path.write_bytes(buffer.getvalue().encode(errors='backslashreplace'))
