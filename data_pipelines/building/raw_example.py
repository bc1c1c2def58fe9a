"""What a raw folder says about one example, before anything of the picture is read."""

import dataclasses
import json
import math

NO_LABEL = -1


@dataclasses.dataclass(frozen=True)
class Listed:
  """One example of the raw folder, as its lists, folders and annotations name it.

  Attributes:
    path: of the picture, inside the folder.
    label: class name, or -1 for none.
    person: which of the picture's annotated persons the example is about, if it is about one.
    annotation: path of its annotation file, inside the folder.
    labels: class names of a multi-label dataset.
    distribution: shares of votes over the builder's DISTRIBUTION.
    vad: valence, arousal, dominance on the dataset's own scale; NaN where not annotated.
    boxes: annotated persons as (xmin, ymin, xmax, ymax) in pixels of the picture as displayed, the subject first.
  """

  path: str
  label: str | int = NO_LABEL
  person: int | None = None
  annotation: str = ''
  labels: tuple[str, ...] = ()
  distribution: tuple[float, ...] = ()
  vad: tuple[float, float, float] = (math.nan, math.nan, math.nan)
  boxes: tuple[tuple[float, float, float, float], ...] = ()

  @property
  def id(self) -> str:
    """The record's id: the path, and the person where the picture has several examples."""
    return self.path if self.person is None else f'{self.path}#{self.person}'


@dataclasses.dataclass(frozen=True)
class Task:
  """What one record is made from: besides the raw folder, all that a worker on another machine needs to be told.

  Attributes:
    listed: the example.
    example_id: its rank among all.
    boxes: rows of person_boxes.csv for its picture: xmin, ymin, xmax, ymax, score.
  """

  listed: Listed
  example_id: int
  boxes: list[list[float]]

  def to_json(self) -> str:
    """One line; file names that are not UTF-8 and NaN included."""
    return json.dumps(dataclasses.asdict(self))

  @classmethod
  def from_json(cls, line: str) -> 'Task':
    """What `to_json` was called on, with lists for tuples."""
    fields = json.loads(line)
    return cls(Listed(**fields.pop('listed')), **fields)
