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
    path: the image's path inside the folder.
    label: the class name, or -1 for none.
    person: the index among the image's annotated persons, if the example is about one of them.
    annotation: the path of its annotation file inside the folder.
    labels: the class names of a multi-label dataset.
    distribution: the shares of votes over the builder's DISTRIBUTION.
    vad: valence, arousal, dominance on the dataset's own scale; NaN if not annotated.
    boxes: annotated persons as (xmin, ymin, xmax, ymax) in pixels of the image as displayed; `person` comes first.
    size: the (width, height) to which `boxes` refer, if the image was resized since; else ().
    name: the record's id if it is not the path.
    attributes: what else is said about the image, as `schema.record_features` stores it.
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
    boxes: the rows of person_boxes.csv for its image: xmin, ymin, xmax, ymax, score.
  """

  example: RawExample
  example_id: int
  boxes: list[list[float]]

  def to_json(self) -> str:
    """Writes the item as one line, which can hold NaN and file names that are not UTF-8."""
    return json.dumps(dataclasses.asdict(self))

  @classmethod
  def from_json(cls, line: str) -> 'WorkItem':
    """The inverse of `to_json`, with lists for tuples."""
    fields = json.loads(line)
    return cls(RawExample(**fields.pop('example')), **fields)
