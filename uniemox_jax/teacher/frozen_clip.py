"""The CLIP teacher as users and the training loop meet it: published weights in, unit-norm embeddings out."""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path
import re
import reprlib
from typing import Any

from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from data_pipelines import checksums, storage
from data_pipelines import images as image_files
from data_pipelines.errors import UserError, join_names
from data_pipelines.plain_text import single_line
from uniemox_jax.convert import clip_weights, name_table, weight_families
from uniemox_jax.convert.formats import hub, vocabulary, weight_files
from uniemox_jax.models.clip import CLIP, CLIPConfig
from uniemox_jax.models.image_arguments import image_views
from uniemox_jax.models.preprocess import Statistics, check_statistics, normalise, resize
from uniemox_jax.teacher.tokenizer import TOKENIZER_FILES, Tokenizer, has_tokenizer

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3
"""PIL's number for the filter, as preprocessor_config.json gives it."""
CONFIG_FILES = ('config.json', 'preprocessor_config.json', 'processor_config.json')
OPEN_CLIP_CONFIG = 'open_clip_config.json'
MAX_RESIZED = 16
"""Times the model's input that an image may be resized to before its centre is cut out."""
LENGTH_STEP = 8
"""Token ids are padded to a multiple of this, so that few lengths are ever compiled."""


@dataclasses.dataclass(frozen=True)
class View:
  """How a model expects its images: resized (the short side, or `squash` both), centre-cropped, normalised.

  size: the model's input. short_side: before the crop. mean, std: of pixels in 0..1. floor, resample: see
  `images.centre_view`.
  """

  size: int
  short_side: int
  squash: bool = False
  mean: tuple[float, ...] = CLIP_MEAN
  std: tuple[float, ...] = CLIP_STD
  floor: bool = True
  resample: int = BICUBIC

  @classmethod
  def from_dict(cls, settings: dict[str, Any], image_size: int) -> 'View':
    """From the contents of a `preprocessor_config.json`; {} gives OpenAI's settings.

    Raises:
      UserError: it does not lead to the model's `image_size`, or not by bicubic resizing.
      ValueError, TypeError, LookupError: a value of another type.
    """
    made_for = settings.get('image_processor_type', settings.get('feature_extractor_type', 'CLIP'))
    if 'CLIP' not in str(made_for):
      raise UserError(f"it is of a {made_for}, whose defaults are others than CLIP's: give CLIP's own, or remove it")
    short_side, squash = hub.side(settings.get('size', image_size), 'size')
    crop = short_side
    if hub.switch(settings, 'do_center_crop'):
      crop, _ = hub.side(settings.get('crop_size', image_size), 'crop_size')
    resample = settings.get('resample', BICUBIC)
    resized = hub.switch(settings, 'do_resize') and resample in (BICUBIC, 'bicubic') and not settings.get('do_pad')
    if not resized or crop != image_size or not crop <= short_side <= MAX_RESIZED * crop:
      raise UserError(
          f'do_resize {settings.get("do_resize", True)}, size {short_side}, crop {crop}, resample {resample!r} do not '
          f'give {image_size} pixels by bicubic resizing (resample 3): correct the file or remove it')
    mean, std = map(tuple, hub.pixel_statistics(settings, CLIP_MEAN, CLIP_STD).values())
    return cls(image_size, short_side, squash, mean, std)

  @classmethod
  def from_open_clip(cls, settings: dict[str, Any], image_size: int) -> 'View':
    """From `preprocess_cfg` of an `open_clip_config.json`; {} gives OpenAI's settings.

    Raises:
      UserError: it resizes in a way that is not here.
    """
    mode, filter_name = settings.get('resize_mode', 'shortest'), settings.get('interpolation', 'bicubic')
    if mode not in ('shortest', 'squash') or filter_name != 'bicubic':
      raise UserError(
          f'preprocess_cfg resizes by {mode}, {filter_name}: only bicubic, shortest or '
          'squash, is supported')
    size = settings.get('size', image_size)
    if size != image_size and size != [image_size] * 2:
      raise UserError(f'preprocess_cfg makes images of {reprlib.repr(size)} pixels, the model reads {image_size}')
    mean, std = map(tuple, check_statistics(settings.get('mean', CLIP_MEAN), settings.get('std', CLIP_STD)).values())
    return cls(image_size, image_size, mode == 'squash', mean, std)

  @property
  def statistics(self) -> dict[str, list[float]]:
    """'mean' and 'std', as a checkpoint's description holds them."""
    return {'mean': list(self.mean), 'std': list(self.std)}

  def to_dict(self) -> dict[str, Any]:
    """The contents of a `preprocessor_config.json` that `from_dict` and transformers read."""
    side = {'height': self.short_side, 'width': self.short_side} if self.squash else {'shortest_edge': self.short_side}
    return {
        'image_processor_type': 'CLIPImageProcessor', 'size': side,
        'crop_size': {'height': self.size, 'width': self.size}, 'resample': self.resample, 'do_resize': True,
        'do_center_crop': True, 'do_rescale': True, 'do_normalize': True, 'do_convert_rgb': True,
        'image_mean': list(self.mean), 'image_std': list(self.std)}

  def __call__(self, images: Any) -> jax.Array:
    """Images, see `image_arguments`, as normalised float32 (B, size, size, 3)."""
    views = self.views(images)
    return normalise(jnp.asarray(views), self.mean, self.std) if views.dtype == np.uint8 else jnp.asarray(views)

  def views(self, images: Any, name: str = 'images') -> np.ndarray:
    """The same before they are normalised, uint8 (B, size, size, 3), unless they are already; see `image_views`."""
    return image_views(images, self.size, self.pixels, self.mean, self.std, name)

  def pixels(self, image: Image.Image) -> np.ndarray:
    """The view of one RGB image before it is normalised, uint8 (size, size, 3)."""
    return image_files.centre_view(image, self.size, self.short_side, self.squash, self.floor, self.resample)


def clip_normalise(
    images_BxHxWx3: jax.Array, size: int, mean: Statistics = CLIP_MEAN, std: Statistics = CLIP_STD) -> jax.Array:
  """The scene view as the teacher sees it inside a train step (docs/method.md, One pretraining step).

  Args:
    images_BxHxWx3: square pixels 0..255, uint8 or float; resized (bicubic, antialiased) where they differ from `size`.
    size: CLIP's input size.
    mean, std: CLIP's own statistics, never ImageNet's.

  Returns:
    float32 (B, size, size, 3).
  """
  if images_BxHxWx3.shape[1:3] != (size, size):
    images_BxHxWx3 = resize(images_BxHxWx3, size, size)
  return normalise(images_BxHxWx3, mean, std)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _embed(graphdef: nnx.GraphDef, modality: str, params: dict[str, Any], inputs: jax.Array) -> jax.Array:
  return getattr(nnx.merge(graphdef, params), modality)(inputs)


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
  """A loaded CLIP.

  config: its shape. params: float32 numpy arrays, the plain nested dict of `models.clip.CLIP`. view: evaluation
  preprocessing. folder: where tokenizer files may lie; None is OpenAI's vocabulary. dtype: of the computation.
  """

  config: CLIPConfig
  params: dict[str, Any]
  view: View
  folder: Path | None
  dtype: Any = jnp.float32

  @functools.cached_property
  def graphdef(self) -> nnx.GraphDef:
    """`nnx.merge(clip.graphdef, params)` is the module, with `.image` and `.text`."""
    return abstract_clip(self.config, self.dtype)[0]

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """Of the files in `folder`.

    Raises:
      UserError: the folder has no tokenizer files.
    """
    return Tokenizer(self.folder)

  @functools.cached_property
  def digest(self) -> str:
    """SHA-256 of configuration, how images are prepared, weights and compute dtype."""
    digest = hashlib.sha256(f'{self.config} {self.view} {jnp.dtype(self.dtype).name}'.encode())
    for path, leaf in sorted(traverse_util.flatten_dict(self.params, sep='/').items()):
      digest.update(f'{path} {leaf.dtype} {leaf.shape}'.encode())
      digest.update(np.ravel(leaf).data)
    return digest.hexdigest()

  @functools.cached_property
  def tokenizer_digest(self) -> str:
    """SHA-256 of the tokenizer's files, which `digest` does not cover."""
    digest = hashlib.sha256()
    for path in (self.folder / name for name in TOKENIZER_FILES if self.folder):
      if path.is_file():
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()

  @functools.cached_property
  def _placed(self) -> dict[str, Any]:
    return jax.device_put(self.params)

  def tokenize(self, texts: Sequence[str]) -> np.ndarray:
    """int32 ids (B, T): cut at the context length, padded after the end of text to a common multiple of 8."""
    context, end = self.config.context_length, self.tokenizer.end
    rows = [ids if len(ids) <= context else [*ids[:context - 1], end] for ids in map(self.tokenizer.encode, texts)]
    largest = max(map(max, filter(None, rows)), default=0)
    if largest >= self.config.vocab_size:
      raise UserError(
          f'the tokenizer in {self.folder} gives the id {largest}, the model knows {self.config.vocab_size} tokens: '
          'fetch both again')
    longest = max((len(row) for row in rows), default=1)
    length = min(-(-longest // LENGTH_STEP) * LENGTH_STEP, context)
    ids_BxT = np.full((len(rows), length), end, np.int32)
    for row, ids in zip(ids_BxT, rows):
      row[:len(ids)] = ids
    return ids_BxT

  def encode_image(self, images: Any) -> np.ndarray:
    """Unit-norm float32 (B, E).

    Args:
      images: see `image_arguments`.

    Raises:
      ValueError: anything else.
    """
    images_BxHxWx3 = self.view(images)
    return np.asarray(_embed(self.graphdef, 'image', self._placed, images_BxHxWx3))

  def encode_text(self, texts: Sequence[str] | np.ndarray) -> np.ndarray:
    """Unit-norm float32 (B, E).

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


def abstract_clip(config: CLIPConfig, dtype: Any = jnp.float32) -> tuple[nnx.GraphDef, dict[str, Any]]:
  """The module without parameters, and their shapes as a plain nested dict."""
  graphdef, state = nnx.split(nnx.eval_shape(lambda: CLIP(config, dtype=dtype, rngs=nnx.Rngs(0))))
  return graphdef, nnx.to_pure_dict(state)


def load_clip(folder_or_hub_id: str | os.PathLike, *, dtype: Any = jnp.float32, activation: str | None = None) -> Clip:
  """A CLIP from a file, a folder, or the Hugging Face hub.

  Args:
    folder_or_hub_id: a folder in transformers' form (config.json and weights), a folder or file of open_clip, one of
      OpenAI's .pt files, or a hub id.
    dtype: of the computation; parameters stay float32.
    activation: 'gelu' or 'quick_gelu', for weights in OpenAI's form that do not say it.

  Raises:
    UserError: not found, not a CLIP, damaged, tensors that do not fit the configuration, or an unknown activation.
  """
  path = hub.locate(folder_or_hub_id, [*CONFIG_FILES, OPEN_CLIP_CONFIG, *TOKENIZER_FILES])
  return read_clip(weight_files.read_weights(path), path, dtype=dtype, activation=activation)


def read_clip(
    weights: weight_files.Weights, source: Path, *, dtype: Any = jnp.float32, activation: str | None = None) -> Clip:
  """The CLIP in `weights`, which came from `source` and are emptied; see `load_clip`."""
  name, folder = str(weights.path), hub.config_folder(source, weights.path)
  family = weight_families.recognise(weights)
  if family == weight_families.CLIP:
    if folder is None or not (folder / CONFIG_FILES[0]).is_file():
      raise UserError(f'{name} has no config.json beside it: give the folder of a CLIP in Hugging Face form')
    rules = clip_weights.RULES
    settings = hub.read_config(folder, CONFIG_FILES[0])
    with storage.parsing(folder / CONFIG_FILES[0], 'correct it, or fetch it again'):
      config = CLIPConfig.from_dict(settings)
    file = next(filter(functools.partial(hub.read_config, folder), CONFIG_FILES[1:]), CONFIG_FILES[1])
    settings = hub.read_config(folder, file)
    with storage.parsing(folder / file, 'correct it, or fetch it again'):
      view = View.from_dict(settings.get('image_processor', settings), config.image_size)
  elif family == weight_families.OPENAI_CLIP:
    rules, settings = clip_weights.OPENAI_RULES, hub.read_config(folder, OPEN_CLIP_CONFIG)
    with storage.parsing(folder / OPEN_CLIP_CONFIG if folder and settings else weights.path,
                         'correct it, or fetch it again'):
      if settings:
        config = clip_weights.open_clip_config(settings)
      else:
        shapes = {key: array.shape for key, array in weights.flat.items()}
        config = clip_weights.openai_config(shapes, source=name, activation=activation)
      view = View.from_open_clip(settings.get('preprocess_cfg') or {}, config.image_size)
  else:
    raise UserError(f'{name} holds {weight_families.TITLES[family]}, not a CLIP: it can be a student (--config.init=)')
  if activation not in (None, config.text.activation):
    raise UserError(f'{name} was trained with {config.text.activation}, not {activation}: leave activation out')
  template = abstract_clip(config)[1]
  notes = weights.notes
  if left := sorted(key for key in weights.flat if re.fullmatch(clip_weights.LEFT, key)):
    notes = [*notes, f'left behind: {join_names(left)}']
  params = name_table.import_params(rules, weights.flat, template, source=name, ignored=clip_weights.IGNORED)
  tokenizer_folder: Path | None = folder or weights.path.parent
  if config.vocab_size == vocabulary.SIZE and (folder is None or not has_tokenizer(folder)):
    tokenizer_folder = None
    if family == weight_families.CLIP:  # the other family's files never have one
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
    (partial / 'preprocessor_config.json').write_text(json.dumps(view.to_dict(), indent=2))
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
