"""Writes any model as `model.onnx`, and compares it with our own outputs at once (docs/weights.md, ONNX)."""

from collections.abc import Sequence
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx
import jax
import numpy as np

from data_pipelines.synthetic import datasets, drawing
from uniemox_jax import __version__
from uniemox_jax.convert import onnx_graph
from uniemox_jax.convert.formats import onnx_files
from uniemox_jax.convert.onnx_graph import IMAGES
from uniemox_jax.models.preprocess import normalise
from uniemox_jax.models.registry import abstract_student
from uniemox_jax.models.view import View
from uniemox_jax.recognition.recogniser import (
    FlaxModel,
    Recogniser,
    describe_recogniser,
    of_checkpoint,
    of_clip,
    view_of,
)
from uniemox_jax.recognition.words import read_words
from uniemox_jax.teacher.frozen_clip import Clip
from uniemox_jax.train.checkpoint import Checkpoint

MODEL = 'model.onnx'
TOLERANCE = 1e-5
"""The largest difference from our own outputs that is accepted, as a share of the largest output."""
RANDOM, DRAWN = 3, 4
"""How many images of each kind both are compared on."""


class OnnxExport(NamedTuple):
  """The model that is exported.

  graph: its graph. views, outputs: the shapes of both without the batch. model: the same model in our own form. view:
  how it wants its images. recogniser: it too, if it names emotions. description: what the file says of itself.
  """

  graph: onnx_graph.Graph
  views: tuple[int, ...]
  outputs: tuple[int, ...]
  model: FlaxModel
  view: View
  recogniser: Recogniser | None
  description: dict[str, Any]


def of_student(loaded: Checkpoint) -> OnnxExport:
  """Prepares a checkpoint: a classifier gives its logits, any other student the tokens of its encoder."""
  kind, model = loaded.description['kind'], loaded.description['model']
  if kind == 'classifier':
    recogniser = of_checkpoint(loaded)
    return _of_recogniser(recogniser, onnx_graph.classifier_graph(model, loaded.params), model['classes'])
  view, size = view_of(loaded.description), model['image_size']
  module: Any = abstract_student(kind, model)
  tokens = (size // model['patch_size'])**2 + 1, model['width']
  description = {'version': __version__, 'kind': 'encoder', 'view': dataclasses.asdict(view)}
  return OnnxExport(
      onnx_graph.encoder_graph(model, loaded.params), (size, size, 3), tokens,
      FlaxModel(nnx.graphdef(module.encoder), loaded.params['encoder']), view, None, description)


def of_words(source: str, clip: Clip, labels: str | None, prompts: str | None, texts: Sequence[str]) -> OnnxExport:
  """Prepares a CLIP or SigLIP that is asked in words, see `words.read_words`.

  Raises:
    UserError: there are no words, or they cannot be read.
  """
  words = read_words(labels, prompts, texts)
  recogniser = of_clip(source, clip, words)
  assert isinstance(recogniser.model, FlaxModel)
  counts = {'classes': len(words.classes), 'dimensions': len(words.dimensions)}
  graph = onnx_graph.zero_shot_graph(clip.config, recogniser.model.params, **counts, scale=clip.scale)
  return _of_recogniser(recogniser, graph, sum(counts.values()) + len(words.texts))


def _of_recogniser(recogniser: Recogniser, graph: onnx_graph.Graph, outputs: int) -> OnnxExport:
  view = recogniser.view
  views = *((2,) if recogniser.sees_person else ()), view.size, view.size, 3
  description = {'version': __version__, 'kind': 'recogniser', **describe_recogniser(recogniser)}
  assert isinstance(recogniser.model, FlaxModel)
  return OnnxExport(graph, views, (outputs,), recogniser.model, view, recogniser, description)


def write_model(folder: Path, export: OnnxExport) -> str:
  """Writes `model.onnx`, runs it, and returns a line that says how far its outputs are from ours.

  Raises:
    UserError: a package is missing.
    RuntimeError: the outputs differ by more than `TOLERANCE`, which nobody has seen yet.
  """
  onnx_files.check_onnx_installed('--to=onnx')
  model = onnx_graph.to_model(export.graph, export.views, export.outputs)
  onnx_files.write_onnx(folder / MODEL, model, export.description)
  session = onnx_files.open_session(folder / MODEL)
  views = _sample_views(export)
  ours = _outputs(export.model, views)
  # A batch of one, and one of the others: the graph has no batch of its own.
  theirs = np.concatenate([session.run(None, {IMAGES: part})[0] for part in (views[:1], views[1:])])
  difference = float(np.abs(ours - theirs).max() / np.abs(ours).max())
  if not difference < TOLERANCE:
    raise RuntimeError(f'{MODEL} computes something else than the model: they differ by {difference:.1e}')
  return (
      f'{MODEL}, opset {onnx_graph.OPSET}: in onnxruntime its outputs differ from ours by at most {difference:.1e} of '
      f'the largest, on {RANDOM} random and {DRAWN} drawn images')


def _outputs(model: FlaxModel, views: np.ndarray) -> np.ndarray:
  """Our own outputs, in full float32."""

  @jax.jit
  def run(params: dict[str, Any], views: jax.Array) -> jax.Array:
    return nnx.merge(model.graphdef, params)(views)

  with jax.default_matmul_precision('highest'):
    return np.asarray(run(model.params, views))


def _sample_views(export: OnnxExport) -> np.ndarray:
  """Normalised views, float32 (RANDOM + DRAWN, *export.views); a person is the scene before."""
  size = export.view.size
  noise = np.random.default_rng(0).integers(0, 256, (RANDOM, size, size, 3), np.uint8)
  planned = datasets.plan_images('emo8', {'test': DRAWN}, seed=0)
  drawn = [export.view.pixels(drawing.draw_image(item.content, item.rng).image) for item in planned]
  scenes = np.asarray(normalise(np.concatenate([noise, drawn]), export.view.mean, export.view.std))
  return np.stack([scenes, np.roll(scenes, 1, axis=0)], axis=1) if len(export.views) == 4 else scenes
