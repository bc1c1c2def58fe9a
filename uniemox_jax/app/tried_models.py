"""The models that the page asks, trained ones and CLIPs in words, in one form: from an image to what is shown."""

from collections.abc import Mapping, Sequence
import functools
import itertools
from typing import Any, NamedTuple, Protocol

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from data_pipelines.errors import UserError
from data_pipelines.person_boxes.person_finder import PersonFinder
from data_pipelines.plain_text import single_line
from data_pipelines.records.label_sets import NAMED_LABELS
from uniemox_jax.convert.formats.onnx_files import find_onnx
from uniemox_jax.convert.import_students import student_of_clip
from uniemox_jax.look import attention_maps
from uniemox_jax.models.preprocess import normalise
from uniemox_jax.models.registry import abstract_student
from uniemox_jax.models.view import View
from uniemox_jax.models.zero_shot_classifier import zero_shot_outputs
from uniemox_jax.objectives.tasks import Task, width
from uniemox_jax.predict.prediction import BOX, table_columns
from uniemox_jax.recognition.columns import Columns, prediction_columns
from uniemox_jax.recognition.predictor import Predictor
from uniemox_jax.recognition.recogniser import FlaxModel, Recogniser, of_checkpoint, open_recogniser, tasks_of_words
from uniemox_jax.recognition.words import Words, class_embeddings, read_labels
from uniemox_jax.runtime.integrity import check_finite
from uniemox_jax.teacher.frozen_clip import Clip
from uniemox_jax.train.open_model import open_model

CLOSEST = 5
"""How many words are named as the closest."""
MAX_WORDS, MAX_LETTERS = 30, 80
"""How many words a visitor may ask for, and how long one may be."""
_TOGETHER = 8
"""Words are embedded in multiples of this, so that few shapes are ever compiled, whatever visitors type."""
VOCABULARY = tuple(dict.fromkeys(name.lower() for names in NAMED_LABELS.values() for name in names))
"""The words for emotions among which a CLIP finds the closest."""


class Said(NamedTuple):
  """What a model says of an image.

  columns: those of the table of `predict`, without path and error, a value each. outputs_1xW, tasks: where they come
  from. closest: words and their cosines with the image, the closest first. person: the box used, without its margin, as
  fractions of the image. seen: the box that the model's view shows. person_view: uint8 (S, S, 3). maps: by method, one
  of the scene and then one of the person, float32 (R, C) each.
  """

  columns: dict[str, Any]
  outputs_1xW: np.ndarray
  tasks: tuple[Task, ...]
  closest: list[tuple[str, float]]
  seen: tuple[float, ...]
  maps: Mapping[str, Sequence[np.ndarray]]
  person: tuple[float, ...] | None = None
  person_view: np.ndarray | None = None


class TriedModel(Protocol):
  """A model as the page asks it.

  sees_person: whether it looks at a person, too. words: the words that are asked unless a visitor types others; None
  for a model with classes of its own. maps_note: what its maps are, or why there are none. spread: how many standard
  deviations of valence and arousal the plane shows.
  """

  sees_person: bool
  words: str | None
  maps_note: str
  spread: float

  def columns(self, typed: str) -> list[str]:
    """The columns of its table. Raises UserError if the words cannot be asked."""
    ...

  def ask(self, image: Image.Image, typed: str) -> Said:
    """Answers about an RGB image. `typed` are a visitor's words, empty for none. Raises UserError as `columns`."""
    ...


class TrainedModel:
  """A model with classes of its own, as a `TriedModel`."""

  words: str | None = None
  spread = 3.0

  def __init__(self, recogniser: Recogniser, detector: str | None):
    self._predictor, self._recogniser = Predictor(recogniser), recogniser
    self.sees_person = recogniser.sees_person
    self._finder = PersonFinder(None, detector) if self.sees_person else None
    model = recogniser.model
    self._open = (model.graphdef, jax.device_put(model.params)) if isinstance(model, FlaxModel) else None
    self.maps_note = (
        'Attention (rollout), and relevance to the class it names.'
        if self._open else 'An ONNX file does not show where it looks.')

  def columns(self, typed: str) -> list[str]:
    """As `TriedModel` has it."""
    del typed
    return table_columns(self._predictor)

  def ask(self, image: Image.Image, typed: str) -> Said:
    """As `TriedModel` has it."""
    del typed
    view, tasks = self._recogniser.view, self._recogniser.tasks
    scene, person = view.pixels(image), None
    views = [scene]
    if self._finder:
      # It looks for boxes under the name of a file, and is given none of a visitor's.
      person = self._finder('image', image, view.size)
      views.append(person.pixels if person else scene)
    views_1xVxSxSx3 = np.stack(views)[None]
    batch = np.repeat(views_1xVxSxSx3.reshape(1, *self._predictor.view_shape), self._predictor.devices, axis=0)
    outputs_1xW = np.asarray(self._predictor(batch))[:1]
    check_finite(outputs_1xW, 'this image')
    columns = _row_of(self._predictor.columns(outputs_1xW))
    if self.sees_person:
      columns |= dict(zip(BOX, person.box if person else (None,) * len(BOX), strict=True))
    return Said(
        columns, outputs_1xW, tasks, [], seen_box(view, image.size), self._maps(views_1xVxSxSx3, outputs_1xW),
        person.box if person else None, person.pixels if person else None)

  def _maps(self, views_1xVxSxSx3: np.ndarray, outputs_1xW: np.ndarray) -> dict[str, list[np.ndarray]]:
    if not self._open:
      return {}
    tasks, view = self._recogniser.tasks, self._recogniser.view
    starts = itertools.accumulate((len(task.outputs) for task in tasks), initial=0)
    task, start = next(((task, start) for task, start in zip(tasks, starts) if task.name != 'vad'), (None, 0))
    best = 0 if task is None else int(outputs_1xW[0, start:start + len(task.outputs)].argmax())
    views = normalise(jnp.asarray(views_1xVxSxSx3), view.mean, view.std)
    maps = attention_maps.classifier_maps(*self._open, views, jnp.array([start + best]))
    found = {'rollout': maps.rollout} | ({} if task is None else {'relevance': maps.relevance})
    return {name: list(np.asarray(values[0])) for name, values in found.items()}


class WordModel:
  """A CLIP that is asked in words, as a `TriedModel`. Its image tower runs once per image, whatever the words."""

  sees_person = False
  spread = 1.0

  def __init__(self, source: str, clip: Clip, words: Words, shown: str):
    """`words` are asked unless a visitor types others; `shown` is what the page calls them."""
    self._clip, self._words = clip, words
    self.words: str | None = shown
    self._embed = functools.lru_cache(maxsize=16)(self._embed_words)
    self._tower: tuple[nnx.GraphDef, dict[str, Any]] | None = None
    self._vocabulary_VxE = class_embeddings(clip, VOCABULARY, words.templates)
    try:
      tower = student_of_clip(clip.clip_config, clip.params, clip.view.statistics, source)
      self._tower = nnx.graphdef(abstract_student(tower.kind, tower.model)), jax.device_put(tower.params)
      self.maps_note = 'Attention (rollout) of the class token.'
    except UserError:
      self.maps_note = 'This model does not show where it looks.'

  def columns(self, typed: str) -> list[str]:
    """As `TriedModel` has it."""
    words = self._asked(typed)
    tasks = tasks_of_words(words)
    return ['path', *prediction_columns(np.zeros((1, width(tasks))), tasks, None, ()), 'error']

  def ask(self, image: Image.Image, typed: str) -> Said:
    """As `TriedModel` has it."""
    words = self._asked(typed)
    tasks = tasks_of_words(words)
    image_1xE = self._clip.encode_image([image])
    texts_WxE = self._embed(words)
    outputs_1xW = np.asarray(
        zero_shot_outputs(
            jnp.asarray(image_1xE @ texts_WxE.T), len(words.classes), len(words.dimensions), self._clip.scale))
    check_finite(outputs_1xW, 'this image')
    own = len(words.classes)
    cosines = dict(zip(VOCABULARY, (self._vocabulary_VxE @ image_1xE[0]).tolist()))
    cosines |= dict(zip(words.classes, (texts_WxE[:own] @ image_1xE[0]).tolist()))
    closest = sorted(cosines.items(), key=lambda word: -word[1])[:CLOSEST]
    return Said(
        _row_of(prediction_columns(outputs_1xW, tasks, None, ())), outputs_1xW, tasks, closest,
        seen_box(self._clip.view, image.size), self._maps(image))

  def _asked(self, typed: str) -> Words:
    if not typed.strip():
      return self._words
    classes, dimensions = typed_words(typed)
    return self._words._replace(classes=classes, dimensions=dimensions or self._words.dimensions)

  def _embed_words(self, words: Words) -> np.ndarray:
    classes = len(words.classes)
    filled = words._replace(classes=words.classes + words.classes[-1:] * (-classes % _TOGETHER))
    return np.delete(filled.embed(self._clip), slice(classes, len(filled.classes)), axis=0)

  def _maps(self, image: Image.Image) -> dict[str, list[np.ndarray]]:
    if self._tower is None:
      return {}
    views_1x1xSxSx3 = self._clip.view([image])[None]
    maps = attention_maps.encoder_maps(*self._tower, views_1x1xSxSx3, 'cls')
    return {'rollout': list(np.asarray(maps[0]))}


def _row_of(columns: Columns) -> dict[str, Any]:
  return {name: values[0] for name, values in columns.items()}


def typed_words(typed: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Reads what a visitor asks for, (classes, dimensions), as --labels of `predict` does, but never from a file.

  Raises:
    UserError: as `read_labels`; or there are too many words, or one is too long.
  """
  classes, dimensions = read_labels(typed, f"'{single_line(typed[:MAX_LETTERS])}'", files=False)
  own = [word for word in classes if word.lower() not in VOCABULARY]
  if len(own) > MAX_WORDS:
    raise UserError(f'these are {len(own)} words of your own: give at most {MAX_WORDS}')
  if long := [word for word in own if len(word) > MAX_LETTERS]:
    raise UserError(f"'{long[0][:MAX_LETTERS]}…' is too long: a word may have {MAX_LETTERS} letters")
  return classes, dimensions


def seen_box(view: View, size: tuple[int, int]) -> tuple[float, ...]:
  """The box that a view shows of an image of this width and height: ymin, xmin, ymax, xmax, as fractions of it.

  It is what `images.centre_view` cuts out, except for the half pixel that is rounded there.
  """
  sides_2 = np.array(size[::-1])
  resized_2 = np.full(2, view.short_side) if view.squash else view.short_side * sides_2 // sides_2.min()
  first_2 = (resized_2 - view.size) / 2 / resized_2
  return (*first_2.tolist(), *(first_2 + view.size / resized_2).tolist())


def open_tried(source: str, detector: str | None, words: Words, shown: str) -> TriedModel:
  """Opens any model that names emotions.

  Args:
    source: what `open_recogniser` takes.
    detector: the detector of persons, for a model that sees them.
    words, shown: see `WordModel`.

  Raises:
    UserError: there is no such model, it names no emotions, or the detector does not load.
  """
  if find_onnx(source):
    return TrainedModel(open_recogniser(source), detector)
  model = open_model(source)
  if isinstance(model, Clip):
    return WordModel(source, model, words, shown)
  return TrainedModel(of_checkpoint(model), detector)
