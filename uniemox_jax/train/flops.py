"""FLOPs and memory traffic of one example by formula: what the method needs, however the program computes it.

A product of (m, k) and (k, n) counts 2 m k n FLOPs; norms, activations and softmax are left out. Training counts the
student's forward pass three times (forward, gradients of inputs, gradients of weights) and the frozen teacher's once.
Recomputation is not counted (PaLM, Chowdhery et al. 2022, appendix B), so utilisation is that of the model.
"""

from collections.abc import Sequence
from typing import NamedTuple

from flax import nnx, traverse_util

from uniemox_jax.models.classifier import Classifier
from uniemox_jax.models.clip import ImageTower
from uniemox_jax.models.layers import Blocks
from uniemox_jax.models.siglip import SiglipImageTower
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.models.vit import ViT


class Work(NamedTuple):
  """The work of a forward pass: FLOPs, and how many values its matrix products read and write besides their weights."""

  flops: int = 0
  values: int = 0

  def __add__(self, other: 'Work') -> 'Work':  # type: ignore[override]  # a sum, not a longer tuple
    return Work(self.flops + other.flops, self.values + other.values)

  def times(self, count: int) -> 'Work':
    """The work done `count` times over."""
    return Work(count * self.flops, count * self.values)


class ExampleWork(NamedTuple):
  """The work of one example: the forward passes of the student and of the teacher, apart."""

  student: Work
  teacher: Work = Work()

  @property
  def training(self) -> Work:
    """The work of one example in training: the student three times, the teacher once."""
    return self.student.times(3) + self.teacher


def _dense(module: nnx.Module, tokens: int = 1) -> Work:
  """The work of every kernel (..., in, out) of the module, applied once to each of `tokens`."""
  total = Work()
  for path, leaf in traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(module, nnx.Param))).items():
    if path[-1] == 'kernel':
      *stacked, inputs, outputs = leaf.shape
      layers = stacked[0] if stacked else 1
      total += Work(2 * layers * inputs * outputs, layers * (inputs + outputs)).times(tokens)
  return total


def _blocks(blocks: Blocks, tokens: int) -> Work:
  """Dense layers, and each layer's two products of attention: L x L scores a head, made once and read once."""
  attention = blocks.layers.attention
  width = attention.out.out_features
  products = Work(4 * tokens**2 * width, 4 * tokens * width + 2 * attention.heads * tokens**2)
  return _dense(blocks, tokens) + products.times(blocks.depth)


def _encoder(encoder: ViT | ImageTower, patches: int) -> Work:
  """The class token goes through the blocks, too."""
  return _dense(encoder.patch_embed, patches) + _blocks(encoder.blocks, 1 + patches)


def _image_tower(tower: ImageTower | SiglipImageTower) -> Work:
  tokens = tower.positions.shape[0]
  if isinstance(tower, ImageTower):
    return _encoder(tower, tokens - 1) + _dense(tower.project)
  # The probe alone has a query, and the patches alone keys and values.
  pool, width = tower.pool, tower.pool.out.out_features
  key_value = Work(4 * width**2, 3 * width).times(tokens)
  attended = Work(4 * tokens * width, 2 * (tokens + 1) * width + 2 * pool.heads * tokens)
  pooled = Work(2 * width**2, 2 * width) + key_value + attended + _dense(pool.out) + _dense(pool.mlp)
  return _dense(tower.patch_embed, tokens) + _blocks(tower.blocks, tokens) + pooled


def pretrain_work(
    student: UniEmoX, towers: Sequence[ImageTower | SiglipImageTower], texts: int, embedded: int = 1) -> ExampleWork:
  """The work of one pretraining example (docs/method.md, One pretraining step).

  Args:
    student: the module; shapes in place of parameters will do.
    towers: the teachers' image towers, likewise; none where no loss needs them, or where their embeddings are read.
    texts: the number of texts that each example is compared with in L1; 0 without L1.
    embedded: the number of an example's views that each teacher embeds.
  """
  tokens, patches = 1 + student.visible, student.encoder.patches
  work = (_encoder(student.encoder, student.visible) + _dense(student.project, tokens)).times(student.view_count)
  if student.fusion is not None:
    work += _dense(student.fusion)
  if student.adapter is not None:
    work += _dense(student.adapter)
  if student.decoder is not None:
    decoder = student.decoder
    decoded = _blocks(decoder.blocks, 1 + patches)
    if decoder.predict is not None:
      decoded += _dense(decoder.predict, patches)
    work += decoded.times(student.decoded_streams)
    if decoder.predict_tokens is not None:
      work += _dense(decoder.predict_tokens, patches)
  compared = Work(2 * texts * (student.adapter or student.project).out_features, texts)
  return ExampleWork(work + compared, sum((_image_tower(tower).times(embedded) for tower in towers), compared))


def finetune_work(classifier: Classifier) -> ExampleWork:
  """The work of one example of fine-tuning (docs/method.md, Recipes)."""
  encoder = classifier.encoder
  return ExampleWork(_encoder(encoder, encoder.patches).times(classifier.view_count) + _dense(classifier.head))
