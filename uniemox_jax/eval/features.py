"""A frozen encoder's features of every record: computed once, on all devices, and cached on disk."""

import functools
from typing import Any, NamedTuple

from etils import epath
from flax import nnx
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
import numpy as np

from data_pipelines.batches import augment
from data_pipelines.errors import UserError
from data_pipelines.records.reader import Split
from uniemox_jax.eval.split_outputs import Fields, split_outputs
from uniemox_jax.models.classifier import stack_views
from uniemox_jax.models.preprocess import normalise
from uniemox_jax.models.registry import MODULES
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.models.view import View
from uniemox_jax.runtime import sharding
from uniemox_jax.runtime.array_cache import read_arrays, write_arrays
from uniemox_jax.runtime.distributed import is_primary, wait_for_all
from uniemox_jax.runtime.integrity import describe_leaves
from uniemox_jax.teacher.frozen_clip import load_clip
from uniemox_jax.train.initial_weights import OFF, Source, transfer
from uniemox_jax.train.run_folder import config_hash
from uniemox_jax.train.state import abstract_model, abstract_params, builder, graphdef_of, initial_params

Statistics = tuple[tuple[str, tuple[float, ...]], ...]
"""The mean and std of an encoder's pixels, as hashable arguments of `normalise`; () is ImageNet's."""
UNUSED_PARAMS = ('project', 'fusion', 'adapter', 'decoder', 'encoder/norm', 'fc_norm', 'head')
"""Parameters of a checkpoint that features do not need. A fine-tuned model has `fc_norm` in place of the encoder's
norm."""


class FrozenEncoder(NamedTuple):
  """A frozen encoder. graphdef, params: a module, and numpy arrays. statistics: those of its pixels. step: that of its
  checkpoint, or None. digest: the digest of all of it. person: whether it takes the person view too. method: what of
  the module makes features from normalised images. view: the model's own; None for the evaluation view."""

  graphdef: nnx.GraphDef
  params: dict[str, Any]
  statistics: Statistics
  step: int | None
  digest: str
  person: bool = False
  method: str = 'features'
  view: View | None = None


class Features(NamedTuple):
  """The features of N records. features_NxD: float32. label_N: int32, -1 for no label."""

  features_NxD: np.ndarray
  label_N: np.ndarray


def load_frozen(source: Source | None, model: dict[str, Any], *, dtype: DTypeLike, seed: int) -> FrozenEncoder:
  """Loads the encoder of `--config.init`, as `load_encoder(...).features` uses it, and prints what was loaded.

  Args:
    source: what `--config.init` names, see `initial_weights.open_source`; None draws it from `seed`.
    model: the config's `model`: the encoder's shape. Position embeddings of another image size are resized.
    dtype: the dtype of the computation.
    seed: the seed that is used if `source` is None.

  Raises:
    UserError: the source is another model.
  """
  if source is None:
    build = builder(MODULES['encoder'], dtype=dtype, **model)
    params = jax.device_get(jax.jit(lambda: initial_params(build, seed))())
  else:
    # A fine-tuned model applies its norm after pooling, every other model before.
    kind, head = 'encoder', {}
    if source.kind == 'classifier':
      kind, head = 'classifier', {name: source.model[name] for name in ('classes', 'streams') if name in source.model}
    build = builder(MODULES[kind], dtype=dtype, **model, **head)
    params, message = transfer(source.params, abstract_params(build), new=(), left=UNUSED_PARAMS, origin=source.init)
    print(message, flush=True)
  return _frozen(graphdef_of(build), params, source, {'model': model}, dtype)


def load_fused(source: Source | None, model: dict[str, Any], *, dtype: DTypeLike) -> FrozenEncoder:
  """Loads a frozen model whose features are gamma: what pretraining fuses of scene and person, here of whole views.

  Raises:
    UserError: as for `load_frozen`; or there is no gamma.
  """
  if source is None or source.kind != 'uniemox' or not source.model.get('semantic', True):
    raise UserError(
        f"{source.init if source else '--config.init=none'} has no fused embedding, which `pretrain` learns with a "
        'teacher: choose such a run, or --config.features=patches')
  arguments = source.model | model | {'reconstruct': False, 'teacher_token_width': 0}  # without a decoder
  build = builder(UniEmoX, **{**arguments, 'dtype': dtype})
  params, message = transfer(source.params, abstract_params(build), new=(), left=('decoder',), origin=source.init)
  print(message, flush=True)
  person = abstract_model(build).view_count == 2
  return _frozen(graphdef_of(build), params, source, {'fused': arguments}, dtype)._replace(person=person)


def load_embedding(init: str, *, dtype: DTypeLike) -> FrozenEncoder:
  """Loads a CLIP or SigLIP whose features are its own embeddings of images, in its own view.

  Raises:
    UserError: there is no such model.
  """
  if init == OFF:
    raise UserError('--config.init=none has no embedding of its own: give a CLIP, or --config.features=patches')
  clip = load_clip(init, dtype=dtype)
  statistics = tuple((name, tuple(values)) for name, values in clip.view.statistics.items())
  return FrozenEncoder(clip.graphdef, clip.params, statistics, None, clip.digest, method='image', view=clip.view)


def _frozen(
    graphdef: nnx.GraphDef, params: dict[str, Any], source: Source | None, arguments: dict[str, Any],
    dtype: DTypeLike) -> FrozenEncoder:
  statistics = source.statistics if source else {}
  digest = config_hash({
      'leaves': describe_leaves(params), **arguments, 'statistics': statistics, 'dtype': jnp.dtype(dtype).name})
  hashable = tuple((name, tuple(values)) for name, values in statistics.items())
  return FrozenEncoder(graphdef, params, hashable, source.step if source else None, digest)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _features(
    graphdef: nnx.GraphDef, method: str, statistics: Statistics, params: dict[str, Any], views: Fields,
    fields: Fields) -> Fields:
  images = normalise(stack_views(views), **dict(statistics))
  features_BxD = getattr(nnx.merge(graphdef, params), method)(images).astype(jnp.float32)
  return jax.lax.with_sharding_constraint({'outputs': features_BxD, **fields}, P())


def split_features(
    frozen: FrozenEncoder, split: Split, cache_dir: str, *, image_size: int, batch_size: int, mesh: Mesh,
    change: str = '') -> Features:
  """Computes the features of every record's view, or reads them from `cache_dir` if they are cached.

  `image_size` is that of the evaluation view; a model with a view of its own takes that. A cached file is for one
  encoder, choice of records, image size, change of the images (see `pipeline.eval_batches`) and compute dtype. Several
  hosts share it.

  Raises:
    UserError: a shard or a cached file is damaged.
    Preempted: SIGTERM came.
  """
  changed, own = {'change': change} if change else {}, frozen.view
  image_size = own.size if own else image_size
  key = config_hash({'encoder': frozen.digest, 'records': split.fingerprint, 'image_size': image_size} | changed)
  path = epath.Path(cache_dir) / f'features-{key}.npz'
  # Extraction is collective: if one host lacks the file, all compute.
  if np.all(multihost_utils.process_allgather(np.array(path.is_file()))):
    print(f'features of {split.name}: cached in {path}', flush=True)
    return Features(*read_arrays(path, key, features=(split.num_examples, None), label=(split.num_examples,)))
  apply = functools.partial(
      _features, frozen.graphdef, frozen.method, frozen.statistics, sharding.replicate(frozen.params, mesh))
  found = split_outputs(
      apply, split, ['label'], image_size=image_size, batch_size=batch_size, mesh=mesh, person=frozen.person,
      change=change, view=functools.partial(augment.centre_view, **own.centre) if own else None,
      progress=f'features of {split.name}{change and ", "}{change}')
  if is_primary():
    write_arrays(path, key, features=found['outputs'], label=found['label'])  # Runs side by side may share the folder.
  wait_for_all('features cached')
  return Features(found['outputs'], found['label'])
