"""The teacher, a CLIP or SigLIP, as users and the training loop meet it: weights in, unit-norm embeddings out."""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path
import re
from typing import Any

from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import checksums, storage
from data_pipelines.errors import UserError, join_names
from data_pipelines.plain_text import single_line
from uniemox_jax.convert import clip_weights, name_table
from uniemox_jax.convert.formats import hub, vocabulary, weight_files
from uniemox_jax.convert.published_views import processor_of_view
from uniemox_jax.models.clip import CLIP, CLIPConfig
from uniemox_jax.models.siglip import SigLIP, SiglipConfig
from uniemox_jax.models.view import BICUBIC, View
from uniemox_jax.teacher.siglip_tokenizer import PIECES, SiglipTokenizer
from uniemox_jax.teacher.tokenizer import TOKENIZER_FILES, Tokenizer, has_tokenizer
from uniemox_jax.teacher.weight_folder import CONFIG_FILES, OPEN_CLIP_CONFIG, describe


@functools.partial(jax.jit, static_argnums=(0, 1))
def _embed(graphdef: nnx.GraphDef, modality: str, params: dict[str, Any], inputs: jax.Array) -> jax.Array:
  return getattr(nnx.merge(graphdef, params), modality)(inputs)


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
  """A loaded CLIP or SigLIP.

  config: its shape. params: float32 numpy arrays, the plain nested dict of `model_of(config)`. view: evaluation
  preprocessing. folder: where tokenizer files may lie; None is OpenAI's vocabulary. dtype: of the computation.
  """

  config: CLIPConfig | SiglipConfig
  params: dict[str, Any]
  view: View
  folder: Path | None
  dtype: Any = jnp.float32

  @functools.cached_property
  def graphdef(self) -> nnx.GraphDef:
    """`nnx.merge(clip.graphdef, params)` is the module, with `.image` and `.text`."""
    return abstract_clip(self.config, self.dtype)[0]

  @functools.cached_property
  def tokenizer(self) -> Tokenizer | SiglipTokenizer:
    """The tokenizer that the files in `folder` describe.

    Raises:
      UserError: the folder has no tokenizer files.
    """
    if isinstance(self.config, SiglipConfig) and self.folder:
      return SiglipTokenizer(self.folder)
    return Tokenizer(self.folder)

  @property
  def clip_config(self) -> CLIPConfig:
    """The configuration, for code that needs a CLIP and cannot take a SigLIP.

    Raises:
      UserError: it is a SigLIP.
    """
    if isinstance(self.config, SiglipConfig):
      raise UserError(
          f'{self.folder} holds a SigLIP, which can be a teacher, or be asked in words (--labels= of predict, app and '
          'look), and no student: give a CLIP')
    return self.config

  @property
  def scale(self) -> float:
    """The factor that turns cosines into logits. A SigLIP's bias is equal for all classes and changes no softmax."""
    return float(np.exp(self.params['logit_scale']))

  @functools.cached_property
  def digest(self) -> str:
    """The SHA-256 of the configuration, the preparation of images, the weights and the compute dtype."""
    resample = '' if self.view.resample == BICUBIC else f' resample {self.view.resample}'
    digest = hashlib.sha256(f'{self.config} {self.view} {jnp.dtype(self.dtype).name}{resample}'.encode())
    for path, leaf in sorted(traverse_util.flatten_dict(self.params, sep='/').items()):
      digest.update(f'{path} {leaf.dtype} {leaf.shape}'.encode())
      digest.update(np.ravel(leaf).data)
    return digest.hexdigest()

  @functools.cached_property
  def tokenizer_digest(self) -> str:
    """The SHA-256 of the tokenizer's files, which `digest` does not cover."""
    digest = hashlib.sha256()
    for path in (self.folder / name for name in (*TOKENIZER_FILES, PIECES) if self.folder):
      if path.is_file():
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()

  @functools.cached_property
  def _placed(self) -> dict[str, Any]:
    return jax.device_put(self.params)

  def tokenize(self, texts: Sequence[str]) -> np.ndarray:
    """Token ids, int32 (B, T), cut at the context length.

    A CLIP's ids are padded to a multiple of 8, a SigLIP's to the whole context length.
    """
    ids_BxT = self.tokenizer.encode_batch(texts, self.config.context_length)
    largest = int(ids_BxT.max(initial=0))
    if largest >= self.config.vocab_size:
      raise UserError(
          f'the tokenizer in {self.folder} gives the id {largest}, the model knows {self.config.vocab_size} tokens: '
          'fetch both again')
    return ids_BxT.astype(np.int32)

  def encode_image(self, images: Any) -> np.ndarray:
    """The images' embeddings, unit-norm float32 (B, E).

    Args:
      images: see `image_arguments`.

    Raises:
      ValueError: anything else.
    """
    images_BxHxWx3 = self.view(images)
    return np.asarray(_embed(self.graphdef, 'image', self._placed, images_BxHxWx3))

  def encode_text(self, texts: Sequence[str] | np.ndarray) -> np.ndarray:
    """The texts' embeddings, unit-norm float32 (B, E).

    Args:
      texts: a list of str, cut at the context length; or int32 token ids (B, T), T at most the context length.

    Raises:
      ValueError: anything else, or ids outside the vocabulary.
      UserError: strings, and the folder has no tokenizer.
    """
    if isinstance(texts, (list, tuple)) and all(isinstance(text, str) for text in texts):
      texts = self.tokenize(texts)
    ids = np.asarray(texts)
    if ids.ndim != 2 or ids.dtype.kind not in 'iu' or not 0 < ids.shape[1] <= self.config.context_length:
      raise ValueError(
          f'texts are {ids.dtype} {ids.shape}; wanted a list of str, or int32 token ids (B, T) with T at '
          f'most {self.config.context_length}')
    if ids.size and not 0 <= ids.min() <= ids.max() < self.config.vocab_size:
      raise ValueError(f'token ids reach from {ids.min()} to {ids.max()}; wanted 0 to {self.config.vocab_size - 1}')
    return np.asarray(_embed(self.graphdef, 'text', self._placed, ids.astype(np.int32)))


def model_of(config: CLIPConfig | SiglipConfig, **options: Any) -> CLIP | SigLIP:
  """The module of this shape; options as in `CLIP` and `SigLIP`."""
  if isinstance(config, SiglipConfig):
    return SigLIP(config, **options)
  return CLIP(config, **options)


def abstract_clip(config: CLIPConfig | SiglipConfig, dtype: Any = jnp.float32) -> tuple[nnx.GraphDef, dict[str, Any]]:
  """The module without parameters, and their shapes as a plain nested dict."""
  graphdef, state = nnx.split(nnx.eval_shape(lambda: model_of(config, dtype=dtype, rngs=nnx.Rngs(0))))
  return graphdef, nnx.to_pure_dict(state)


def load_clip(folder_or_hub_id: str | os.PathLike, *, dtype: Any = jnp.float32, activation: str | None = None) -> Clip:
  """A CLIP or SigLIP from a file, a folder, or the Hugging Face hub.

  Args:
    folder_or_hub_id: a folder in transformers' form (config.json and weights) of a CLIP, a SigLIP or a SigLIP 2 of
      fixed size; a folder or file of open_clip with a CLIP; one of OpenAI's .pt files; or a hub id.
    dtype: of the computation; parameters stay float32.
    activation: 'gelu' or 'quick_gelu', for weights in OpenAI's form that do not say it.

  Raises:
    UserError: not found, neither a CLIP nor a SigLIP of fixed size, damaged, tensors that do not fit the
      configuration, or an unknown activation.
  """
  path = hub.locate(folder_or_hub_id, [*CONFIG_FILES, OPEN_CLIP_CONFIG, *TOKENIZER_FILES, PIECES])
  return read_clip(weight_files.read_weights(path), path, dtype=dtype, activation=activation)


def read_clip(
    weights: weight_files.Weights, source: Path, *, dtype: Any = jnp.float32, activation: str | None = None) -> Clip:
  """Makes the CLIP or SigLIP of `weights`, which came from `source` and are emptied; see `load_clip`."""
  name, folder = str(weights.path), hub.config_folder(source, weights.path)
  config, view, rules, ignored, left_names = describe(weights, folder, activation)
  template = abstract_clip(config)[1]
  notes = weights.notes
  if left := sorted(key for key in weights.flat if re.fullmatch(left_names, key)):
    notes = [*notes, f'left behind: {join_names(left)}']
  params = name_table.import_params(rules, weights.flat, template, source=name, ignored=ignored)
  tokenizer_folder: Path | None = folder or weights.path.parent
  openais = isinstance(config, CLIPConfig) and config.vocab_size == vocabulary.SIZE
  if openais and (folder is None or not has_tokenizer(folder)):
    tokenizer_folder = None
    if rules is clip_weights.RULES:  # OpenAI's files never have one
      notes = [
          *notes, f"{folder} has no tokenizer files: texts are read with OpenAI's vocabulary, which has as many tokens"]
  if notes:
    print('\n'.join(map(single_line, notes)), flush=True)
  return Clip(config, params, view, tokenizer_folder, dtype)


def save_clip(
    folder: str | os.PathLike, config: CLIPConfig, params: dict[str, Any],
    vocabulary_source: str | os.PathLike | None = None, view: View | None = None) -> None:
  """Writes a CLIP that transformers (`CLIPModel`, `CLIPTokenizer`, `CLIPImageProcessor`) and `load_clip` read.

  The folder appears whole or not at all, and replaces an earlier one that holds nothing but such files.

  Args:
    folder: the destination.
    config, params: as in `Clip`.
    vocabulary_source: a folder whose tokenizer files are copied; None writes OpenAI's vocabulary.
    view: evaluation preprocessing; None is OpenAI's.

  Raises:
    UserError: the destination holds other files, or the vocabulary is larger than the model's.
  """
  target = storage.absolute(folder)
  ours = {weight_files.SAFETENSORS, *CONFIG_FILES, *TOKENIZER_FILES, checksums.FOLDER}
  if target.exists() and (not target.is_dir() or {entry.name for entry in target.iterdir()} - ours):
    raise UserError(f'{folder} exists and holds other things than a CLIP: choose another folder')
  if vocabulary_source is None and config.vocab_size < vocabulary.SIZE:
    raise UserError(
        f"the model has {config.vocab_size} tokens, OpenAI's vocabulary {vocabulary.SIZE}: name a folder "
        'with a smaller one')
  view = view or View(config.image_size, config.image_size)
  flat = name_table.export_params(clip_weights.RULES, jax.device_get(params))
  with storage.whole_folder(target) as partial:
    (partial / 'config.json').write_text(json.dumps(config.to_dict(), indent=2))
    (partial / 'preprocessor_config.json').write_text(json.dumps(processor_of_view(view), indent=2))
    weight_files.write_safetensors(partial / weight_files.SAFETENSORS, flat)
    if vocabulary_source is None:
      vocabulary.write_openai_vocabulary(partial)
    else:
      for file in (Path(vocabulary_source) / name for name in TOKENIZER_FILES):
        if file.is_file():
          (partial / file.name).write_bytes(file.read_bytes())
    checksums.write_checksums(partial / checksums.FOLDER, sorted(partial.iterdir()))
    if target.exists() and not storage.is_remote(target):
      target.rename(partial.parent / 'old')
