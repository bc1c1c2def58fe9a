"""What a raw folder's lists and annotations say about one example, before its image is read."""

from collections.abc import Mapping
import dataclasses
import json
import math
from typing import Any

NO_LABEL = -1


@dataclasses.dataclass(frozen=True, slots=True)
class RawExample:
  """One example of the raw folder.

  Attributes:
    path: of the image, inside the folder.
    label: class name, or -1 for none.
    person: index among the image's annotated persons, if the example is about one of them.
    annotation: path of its annotation file, inside the folder.
    labels: class names of a multi-label dataset.
    distribution: shares of votes over the builder's DISTRIBUTION.
    vad: valence, arousal, dominance on the dataset's own scale; NaN where not annotated.
    boxes: annotated persons as (xmin, ymin, xmax, ymax) in pixels of the image as displayed; `person` comes first.
    size: (width, height) that `boxes` are in, where the image was resized since; else ().
    name: the record's id where it is not the path.
    attributes: what is said about the image besides, as `schema.record_features` stores it.
    group: examples of one group never fall into two splits; '' for none.
  """

  path: str
  label: str | int = NO_LABEL
  person: int | None = None
  annotation: str = ''
  labels: tuple[str, ...] = ()
  distribution: tuple[float, ...] = ()
  vad: tuple[float, ...] = (math.nan, math.nan, math.nan)
  boxes: tuple[tuple[float, ...], ...] = ()
  size: tuple[int, ...] = ()
  name: str = ''
  attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  group: str = ''

  @property
  def id(self) -> str:
    """The record's id: the path, and the person's index if the image has an example per person; or its own name."""
    if self.name:
      return self.name
    return self.path if self.person is None else f'{self.path}#{self.person}'


@dataclasses.dataclass(frozen=True, slots=True)
class WorkItem:
  """The input of one record: besides the raw folder, all that a worker on another machine needs.

  Attributes:
    example: what the raw folder says about it.
    example_id: its rank among all ids, sorted.
    boxes: rows of person_boxes.csv for its image: xmin, ymin, xmax, ymax, score.
  """

  example: RawExample
  example_id: int
  boxes: list[list[float]]

  def to_json(self) -> str:
    """One line, which also holds NaN and file names that are not UTF-8."""
    return json.dumps(dataclasses.asdict(self))

  @classmethod
  def from_json(cls, line: str) -> 'WorkItem':
    """The inverse of `to_json`, with lists for tuples."""
    fields = json.loads(line)
    return cls(RawExample(**fields.pop('example')), **fields)
