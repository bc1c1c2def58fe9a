"""The CLIP teacher as users and the training loop meet it: a Hugging Face folder in, unit-norm embeddings out."""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path
import re
import shutil
import sys
import tempfile
import time
from typing import Any

from flax import nnx, traverse_util
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from data_pipelines.errors import UserError
from uniemox_jax.convert import files, vocabulary
from uniemox_jax.convert.clip import export_clip, import_clip
from uniemox_jax.models.clip import CLIP, CLIPConfig
from uniemox_jax.preprocess import as_model_input, normalise, resize

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3
"""PIL's number for the filter, as preprocessor_config.json gives it."""
CONFIG_FILES = ('config.json', 'preprocessor_config.json', 'processor_config.json')
TOKENIZER_FILES = ('vocab.json', 'merges.txt', 'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json')
PROGRESS_SECONDS = 5.0
LENGTH_STEP = 8
"""Token ids are padded to a multiple of this, so that few lengths are ever compiled."""


@dataclasses.dataclass(frozen=True)
class View:
  """How a CLIP wants its pictures: resized (the short side, or `squash` both), centre-cropped, normalised.

  size: the model's input. short_side: before the crop. mean, std: of pixels in 0..1.
  """

  size: int
  short_side: int
  squash: bool = False
  mean: tuple[float, ...] = CLIP_MEAN
  std: tuple[float, ...] = CLIP_STD

  @classmethod
  def from_dict(cls, hub: dict[str, Any], image_size: int) -> 'View':
    """From the contents of a `preprocessor_config.json`; {} gives OpenAI's settings.

    Raises:
      UserError: it does not lead to the model's `image_size`, or not by bicubic resizing.
    """
    size = hub.get('size', image_size)
    size = size if isinstance(size, dict) else {'shortest_edge': size}
    squash = 'shortest_edge' not in size
    short_side = size.get('height') if squash else size['shortest_edge']
    crop = hub.get('crop_size', image_size) if hub.get('do_center_crop', True) else short_side
    crop = crop['height'] if isinstance(crop, dict) else crop
    if crop != image_size or short_side < crop or hub.get('resample', BICUBIC) != BICUBIC:
      raise UserError(f'preprocessor_config.json: size {size}, crop {crop}, resample {hub.get("resample", BICUBIC)} do '
                      f'not give {image_size} pixels by bicubic resizing (resample 3): mend the file or remove it')
    return cls(image_size, short_side, squash, tuple(hub.get('image_mean', CLIP_MEAN)),
               tuple(hub.get('image_std', CLIP_STD)))

  @functools.partial(jax.jit, static_argnums=0)
  def __call__(self, images_BxHxWx3: jax.Array) -> jax.Array:
    """uint8 pixels of any size to normalised float32 (B, size, size, 3)."""
    height, width = images_BxHxWx3.shape[1:3]
    # Integer division as in transformers: rounding would shift some pictures by half a pixel.
    short = min(height, width)
    shape = (self.short_side * height // short, self.short_side * width // short)
    if self.squash:
      shape = (self.short_side, self.short_side)
    # Columns, then rows, each rounded and clipped: as PIL does, whose pictures CLIP was trained on.
    resized = resize(resize(images_BxHxWx3, height, shape[1]), *shape)
    top, left = (shape[0] - self.size) // 2, (shape[1] - self.size) // 2
    return normalise(resized[:, top:top + self.size, left:left + self.size], self.mean, self.std)


def clip_normalise(images_BxHxWx3: jax.Array, size: int, mean: tuple[float, ...] = CLIP_MEAN,
                   std: tuple[float, ...] = CLIP_STD) -> jax.Array:
  """The scene view as the teacher sees it inside a train step (method section 2, step 6).

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
  preprocessing. folder: where tokenizer files may lie. dtype: of the computation.
  """

  config: CLIPConfig
  params: dict[str, Any]
  view: View
  folder: Path
  dtype: Any = jnp.float32

  @functools.cached_property
  def graphdef(self) -> nnx.GraphDef:
    """`nnx.merge(clip.graphdef, params)` is the module, with `.image` and `.text`."""
    return abstract_clip(self.config, self.dtype)[0]

  @functools.cached_property
  def tokenizer(self) -> Any:
    """transformers' CLIPTokenizer.

    Raises:
      UserError: the folder has no tokenizer files.
    """
    has = {name for name in TOKENIZER_FILES if (self.folder / name).is_file()}
    if not ({'vocab.json', 'merges.txt'} <= has or 'tokenizer.json' in has):
      raise UserError(f'{self.folder} has no tokenizer: put its vocab.json and merges.txt there, or give int32 ids')
    from transformers import CLIPTokenizer  # imports torch where that is installed, which takes seconds
    return CLIPTokenizer.from_pretrained(self.folder)

  @functools.cached_property
  def digest(self) -> str:
    """SHA-256 of configuration, weights and compute dtype."""
    digest = hashlib.sha256(f'{self.config} {jnp.dtype(self.dtype).name}'.encode())
    for path, leaf in sorted(traverse_util.flatten_dict(self.params, sep='/').items()):
      digest.update(f'{path} {leaf.dtype} {leaf.shape}'.encode())
      digest.update(np.ravel(leaf))
    return digest.hexdigest()

  @functools.cached_property
  def _placed(self) -> dict[str, Any]:
    return jax.device_put(self.params)

  def tokenize(self, texts: Sequence[str]) -> np.ndarray:
    """int32 ids (B, T): cut at the context length, padded after the end of text to a common multiple of 8."""
    rows = self.tokenizer(list(texts), truncation=True, max_length=self.config.context_length)['input_ids']
    longest = max((len(row) for row in rows), default=1)
    length = min(-(-longest // LENGTH_STEP) * LENGTH_STEP, self.config.context_length)
    ids_BxT = np.full((len(rows), length), self.tokenizer.eos_token_id, np.int32)
    for row, ids in zip(ids_BxT, rows):
      row[:len(ids)] = ids
    return ids_BxT

  def encode_image(self, images: Any) -> np.ndarray:
    """Unit-norm float32 (B, E).

    Args:
      images: uint8 (B, H, W, 3), which is resized, cropped and normalised; or float32 (B, size, size, 3), taken as
        already normalised.

    Raises:
      ValueError: anything else.
    """
    images_BxHxWx3 = as_model_input(images, self.config.image_size, self.view)
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
      raise ValueError(f'texts are {ids.dtype} {ids.shape}; wanted a list of str, or int32 token ids (B, T) with T at '
                       f'most {self.config.context_length}')
    if ids.size and not 0 <= ids.min() <= ids.max() < self.config.vocab_size:
      raise ValueError(f'token ids reach from {ids.min()} to {ids.max()}; wanted 0 to {self.config.vocab_size - 1}')
    return np.asarray(_embed(self.graphdef, 'text', self._placed, ids.astype(np.int32)))


def embed_captions(clip: Clip, captions: Sequence[str], cache_dir: str | os.PathLike, batch_size: int = 1024
                   ) -> np.ndarray:
  """Every caption's embedding, computed once over all devices and kept on disk (method section 4).

  Several hosts call this together, with the same captions.

  Args:
    clip: the teacher.
    captions: N texts; equal ones are embedded once.
    cache_dir: holds one .npy per teacher and set of captions.
    batch_size: captions a call, over all devices.

  Returns:
    float32 (N, E) of unit norm.

  Raises:
    UserError: the teacher has no tokenizer, or the cached file is damaged.
  """
  distinct = sorted(set(captions))
  ids_NxT = clip.tokenize(distinct)
  # The ids, not the strings: another tokenizer in the teacher's folder must not find the old embeddings.
  key = hashlib.sha256(f'{clip.digest} {ids_NxT.shape} '.encode() + ids_NxT.tobytes()).hexdigest()
  path = Path(cache_dir) / f'captions-{key}.npy'
  # Embedding is collective: if one host lacks the file, all compute.
  if np.all(multihost_utils.process_allgather(np.array(path.is_file()))):
    embedded_NxE = _read_npy(path, (len(distinct), clip.config.projection_dim))
  else:
    embedded_NxE = _embed_ids(clip, ids_NxT, batch_size)
    _write_npy(path, embedded_NxE)
  row_of = {caption: row for row, caption in enumerate(distinct)}
  return embedded_NxE[np.array([row_of[caption] for caption in captions], np.int64)]


def _embed_ids(clip: Clip, ids_NxT: np.ndarray, batch_size: int) -> np.ndarray:
  """Batches of ids through the text tower, split over all devices; the same result on every host."""
  mesh = Mesh(np.asarray(jax.devices()), ('data',))
  split, whole = NamedSharding(mesh, P('data')), NamedSharding(mesh, P())
  total = len(ids_NxT)
  batch = -(-min(batch_size, max(total, 1)) // mesh.size) * mesh.size
  params = jax.device_put(clip.params, whole)
  embed = jax.jit(lambda params, ids: nnx.merge(clip.graphdef, params).text(ids), out_shardings=whole)
  rows, started, spoke = [], time.monotonic(), time.monotonic()
  for first in range(0, total, batch):
    part = ids_NxT[first:first + batch]
    padded = np.concatenate([part, np.zeros((batch - len(part), part.shape[1]), np.int32)])
    ids = jax.make_array_from_callback(padded.shape, split, padded.__getitem__)
    rows.append(np.asarray(embed(params, ids))[:len(part)])
    now, done = time.monotonic(), first + len(part)
    if jax.process_index() == 0 and now - spoke > PROGRESS_SECONDS:
      spoke = now
      print(f'captions {done:,}/{total:,}  {(now - started) / done * (total - done):.0f}s left', file=sys.stderr,
            flush=True)
  return np.concatenate(rows) if rows else np.zeros((0, clip.config.projection_dim), np.float32)


def _write_npy(path: Path, array: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  # Hosts may share the folder: each writes its own temporary file.
  with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f'.{path.name}.', delete=False) as file:
    np.save(file, array)
  os.replace(file.name, path)


def _read_npy(path: Path, shape: tuple[int, int]) -> np.ndarray:
  try:
    array = np.load(path, allow_pickle=False)
  except (ValueError, OSError, EOFError) as error:
    raise UserError(f'cached caption embeddings {path} are damaged ({error}): delete the file') from error
  if array.shape != shape or array.dtype != np.float32:
    raise UserError(f'cached caption embeddings {path} are {array.dtype} {array.shape} instead of float32 {shape}: '
                    'delete the file')
  return array


def abstract_clip(config: CLIPConfig, dtype: Any = jnp.float32) -> tuple[nnx.GraphDef, dict[str, Any]]:
  """The module without parameters, and their shapes as a plain nested dict."""
  graphdef, state = nnx.split(nnx.eval_shape(lambda: CLIP(config, dtype=dtype, rngs=nnx.Rngs(0))))
  return graphdef, nnx.to_pure_dict(state)


def load_clip(folder_or_hub_id: str | os.PathLike, *, dtype: Any = jnp.float32) -> Clip:
  """A CLIP from a folder in Hugging Face's form, or from its hub.

  Args:
    folder_or_hub_id: holds config.json and model.safetensors (or shards, or flax_model.msgpack).
    dtype: of the computation; parameters stay float32.

  Raises:
    UserError: not found, not a CLIP, damaged, or tensors that do not fit the configuration.
  """
  folder = _folder(folder_or_hub_id)
  if not (folder / 'config.json').is_file():
    raise UserError(f'{folder} has no config.json: give the folder of a CLIP in Hugging Face form')
  config = CLIPConfig.from_dict(_read_json(folder / 'config.json'))
  settings = next((_read_json(folder / name) for name in CONFIG_FILES[1:] if (folder / name).is_file()), {})
  view = View.from_dict(settings.get('image_processor', settings), config.image_size)
  flat, source = files.read_folder(folder)
  params = import_clip(flat, abstract_clip(config)[1], source=str(source))
  return Clip(config, params, view, folder, dtype)


def _folder(folder_or_hub_id: str | os.PathLike) -> Path:
  """The folder itself, or the hub's files in the local cache, downloaded where they are not there yet."""
  folder = Path(folder_or_hub_id).expanduser()
  if folder.is_dir():
    return folder
  name = str(folder_or_hub_id)
  if folder.exists() or not re.fullmatch(r'[\w-][\w.-]*(/[\w-][\w.-]*)?', name):
    raise UserError(f"'{name}' is not a folder: give the folder of a CLIP, or a hub id such as "
                    'openai/clip-vit-base-patch16')
  import huggingface_hub
  wanted = [*CONFIG_FILES, *TOKENIZER_FILES, files.SAFETENSORS, files.SHARDED, 'model-*.safetensors']
  try:
    folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
    if not (folder / files.SAFETENSORS).is_file() and not (folder / files.SHARDED).is_file():
      folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=[*wanted, files.MSGPACK]))
  except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
    raise UserError(f"'{name}' is neither a folder here nor a model that could be fetched from the Hugging Face hub "
                    f'({type(error).__name__}): check the name and the connection, or give a folder') from error
  return folder


def _read_json(path: Path) -> dict[str, Any]:
  try:
    contents = json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise UserError(f'{path} is not JSON ({error}): fetch it again') from error
  if not isinstance(contents, dict):
    raise UserError(f'{path} holds no JSON object: fetch it again')
  return contents


def save_clip(folder: str | os.PathLike, config: CLIPConfig, params: dict[str, Any],
              vocabulary_source: str | os.PathLike | None = None) -> None:
  """Writes a CLIP that transformers (`CLIPModel`, `CLIPTokenizer`, `CLIPImageProcessor`) and `load_clip` read.

  The folder appears whole or not at all, and replaces an earlier one that holds nothing but such files.

  Args:
    folder: the destination.
    config, params: as in `Clip`.
    vocabulary_source: a folder whose tokenizer files are copied; None writes OpenAI's vocabulary.

  Raises:
    UserError: the destination holds other files, or the vocabulary is larger than the model's.
  """
  folder = Path(folder).expanduser().absolute()
  ours = {files.SAFETENSORS, *CONFIG_FILES, *TOKENIZER_FILES}
  if folder.exists() and (not folder.is_dir() or {entry.name for entry in folder.iterdir()} - ours):
    raise UserError(f'{folder} exists and holds other things than a CLIP: choose another folder')
  if vocabulary_source is None and config.vocab_size < vocabulary.SIZE:
    raise UserError(f"the model has {config.vocab_size} tokens, OpenAI's vocabulary {vocabulary.SIZE}: name a folder "
                    'with a smaller one')
  folder.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f'.{folder.name}.') as scratch:
    partial = Path(scratch) / 'new'
    partial.mkdir()
    _write_clip(partial, config, params, vocabulary_source)
    if folder.exists():
      folder.rename(Path(scratch) / 'old')
    partial.rename(folder)


def _write_clip(folder: Path, config: CLIPConfig, params: dict[str, Any],
                vocabulary_source: str | os.PathLike | None) -> None:
  size = config.image_size
  preprocessor = {'image_processor_type': 'CLIPImageProcessor', 'size': {'shortest_edge': size},
                  'crop_size': {'height': size, 'width': size}, 'resample': BICUBIC, 'do_resize': True,
                  'do_center_crop': True, 'do_rescale': True, 'do_normalize': True, 'do_convert_rgb': True,
                  'image_mean': list(CLIP_MEAN), 'image_std': list(CLIP_STD)}
  (folder / 'config.json').write_text(json.dumps(config.to_dict(), indent=2))
  (folder / 'preprocessor_config.json').write_text(json.dumps(preprocessor, indent=2))
  files.write_safetensors(folder / files.SAFETENSORS, export_clip(jax.device_get(params)))
  if vocabulary_source is None:
    vocabulary.write_openai_vocabulary(folder)
    return
  for name in TOKENIZER_FILES:
    if (Path(vocabulary_source) / name).is_file():
      shutil.copyfile(Path(vocabulary_source) / name, folder / name)
