"""Pretrains UniEmoX: python -m uniemox_jax.pretrain --config=configs/... --workdir=DIR. Run again, it resumes."""

from collections.abc import Callable, Iterator
import functools
import io
import os
from typing import Any

from absl import flags
from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from data_pipelines import pipeline, records
from data_pipelines.errors import UserError
from uniemox_jax import cli, loop, optim, sharding
from uniemox_jax.captions import embedded_captions
from uniemox_jax.config import PRETRAIN_KEYS, check_keys, check_positive, compute_dtype
from uniemox_jax.distributed import is_primary
from uniemox_jax.files import write_bytes
from uniemox_jax.flops import ExampleWork, pretrain_work
from uniemox_jax.logging import Profile
from uniemox_jax.models.clip import ImageTower
from uniemox_jax.models.layers import unit
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.reconstruct import reconstruction_triplets
from uniemox_jax.teacher import Clip, clip_normalise, load_clip
from uniemox_jax.train_state import TrainState, abstract_model, abstract_params, builder
from uniemox_jax.train_step import PretrainOptions, Teacher, make_pretrain_step
from uniemox_jax.transfer import initial_weights

SHOWN_EXAMPLES = 8


def model_arguments(config: ConfigDict) -> dict[str, Any]:
  """The arguments of `UniEmoX` but for dtype and random streams, as checkpoints describe the model."""
  weights = config.loss
  return config.model.to_dict() | {
      'semantic': bool(weights.contrastive or weights.similarity), 'reconstruct': bool(weights.reconstruction)}


def step_options(config: ConfigDict) -> PretrainOptions:
  """The step's options.

  Raises:
    UserError: an unknown form or kind of negatives, or groups that do not divide the batch.
  """
  loss = config.loss
  for key, choices in (('form', ('cosine', 'kl')), ('negatives', ('global', 'local'))):
    if loss[key] not in choices:
      raise UserError(f"config key 'loss.{key}' is '{loss[key]}': choose {' or '.join(choices)}")
  if loss.negatives == 'local' and config.batch_size % loss.local_batch:
    raise UserError(f'batch_size {config.batch_size} is not divisible by loss.local_batch {loss.local_batch}')
  weights = {name: float(loss[name]) for name in ('contrastive', 'similarity', 'reconstruction')}
  return PretrainOptions(weights, loss.form, loss.negatives, loss.local_batch, loss.norm_pix, config.accum_steps,
                         config.max_gradient_norm)


def make_teacher(clip: Clip, decoder_width: int, dtype: Any) -> tuple[Teacher, dict[str, Any]]:
  """CLIP's image tower as the step wants it, and its frozen parameters; the text tower stays out of the step.

  Raises:
    UserError: CLIP's projection is not as wide as the decoder.
  """
  width, size = clip.config.projection_dim, clip.config.image_size
  if width != decoder_width:
    raise UserError(f'CLIP teacher projects to {width}, the decoder is {decoder_width} wide: set '
                    f'--config.model.decoder_width={width} or choose another teacher')
  tower = abstract_model(lambda rngs: ImageTower(clip.config, remat='none', scan=False, dtype=dtype, rngs=rngs))
  graphdef = nnx.graphdef(tower)

  def embed_image(frozen: dict[str, Any], scene_BxHxWx3: jax.Array) -> jax.Array:
    view_BxSxSx3 = clip_normalise(scene_BxHxWx3, size, clip.view.mean, clip.view.std)
    return unit(nnx.merge(graphdef, frozen['vision'])(view_BxSxSx3))

  frozen = {'vision': jax.tree_util.tree_map_with_path(functools.partial(_as_computed, dtype), clip.params['vision']),
            'logit_scale': clip.params['logit_scale']}
  return Teacher(embed_image, lambda frozen: jnp.exp(frozen['logit_scale']), tower), frozen


def _as_computed(dtype: Any, path: tuple[Any, ...], leaf: Any) -> Any:
  """A kernel in the dtype that the computation casts it to anyway: the same numbers, half the memory in bfloat16."""
  if path[-1].key != 'kernel':
    return leaf
  return jax.ShapeDtypeStruct(leaf.shape, dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf.astype(dtype)


def place_teacher(config: ConfigDict, frozen: Any, mesh: Mesh) -> Any:
  """Shardings of the frozen parameters: split over `fsdp` as the student's are (`teacher_sharded`), or replicated."""
  if config.teacher_sharded:
    return sharding.tree_shardings(frozen, mesh)
  return jax.tree.map(lambda leaf: NamedSharding(mesh, P()), frozen)


def example_work(config: ConfigDict, student: UniEmoX, teacher: Teacher | None) -> ExampleWork:
  """The work of one example by formula; the student may hold shapes in place of parameters."""
  texts = config.loss.local_batch if config.loss.negatives == 'local' else config.batch_size
  return pretrain_work(student, teacher and teacher.tower, texts if config.loss.contrastive else 0)


def _with_texts(batches: Iterator[dict[str, np.ndarray]], text_NxE: np.ndarray | None
                ) -> Iterator[dict[str, np.ndarray]]:
  """What the device needs of each batch, each example's caption embedding with it."""
  for batch in batches:
    kept = {name: batch[name] for name in ('scene', 'person', 'example_id') if name in batch}
    yield kept if text_NxE is None else kept | {'text': text_NxE[batch['position']]}


def _reconstruction_viewer(config: ConfigDict, student: nnx.GraphDef, split: Any, workdir: str, run: loop.Run
                           ) -> Callable[[int, TrainState], None] | None:
  """Draws triplets of the split's first pictures while training; None where nothing is reconstructed."""
  if not config.loss.reconstruction:
    return None
  first = next(iter(pipeline.eval_batches(split, batch_size=SHOWN_EXAMPLES, image_size=config.model.image_size)))
  folder = os.path.join(workdir, 'reconstructions')

  def show(step: int, state: TrainState) -> None:
    params = sharding.replicate(state.params, run.mesh)
    sheet = reconstruction_triplets(student, params, first['image'], config.loss.norm_pix)
    run.log.image(step, 'reconstruction', sheet)
    if is_primary():
      png = io.BytesIO()
      Image.fromarray(sheet).save(png, 'PNG')
      write_bytes(os.path.join(folder, f'step_{step:07d}.png'), png.getvalue())

  return show


def _teach(config: ConfigDict, split: Any, dtype: Any) -> tuple[Teacher | None, Any, np.ndarray | None]:
  """The teacher, its frozen parameters and the caption embeddings, as far as the loss weights need them."""
  if not (config.loss.contrastive or config.loss.similarity):
    return None, (), None
  clip = load_clip(config.teacher)
  teacher, frozen = make_teacher(clip, config.model.decoder_width, dtype)
  if not config.loss.contrastive:
    return teacher, frozen, None
  return teacher, frozen, embedded_captions(clip, split, config.emotion_in_caption, config.data_dir)


def pretrain(config: ConfigDict, workdir: str, profile: Profile | None = None) -> None:
  """Pretrains, or resumes, the run in `workdir` (design, "Commands").

  Leaves checkpoints/, metrics.jsonl, tensorboard/, reconstructions/ and config.json.

  Raises:
    UserError: a mistake in the config, the data, the teacher or the checkpoint to start from.
  """
  check_keys(config, PRETRAIN_KEYS)
  check_positive(config, 'accum_steps', 'save_every')
  mesh = sharding.make_mesh(**config.mesh)
  sharding.check_batch(config.batch_size, mesh, config.accum_steps)
  options, dtype, arguments = step_options(config), compute_dtype(config), model_arguments(config)
  build = builder(UniEmoX, dtype=dtype, **arguments)
  split = records.open_split(config.data_dir, config.dataset, config.split)
  steps_per_epoch = pipeline.steps_per_epoch(split, config.batch_size)
  total_steps = config.epochs * steps_per_epoch
  teacher, frozen, text_NxE = _teach(config, split, dtype)
  loaded = initial_weights(config.init, abstract_params(build), arguments, classifier=False)

  schedule, tx = optim.from_config(config, total_steps, steps_per_epoch)
  student = abstract_model(build)
  run = loop.open_run(config, workdir, name='pretrain', build=build, tx=tx, mesh=mesh, total_steps=total_steps,
                      description={'kind': 'uniemox', 'model': arguments, 'dataset': config.dataset}, loaded=loaded,
                      flops_per_example=example_work(config, student, teacher).training.flops, profile=profile)
  batches = pipeline.train_batches(
      split, batch_size=config.batch_size, seed=config.seed, image_size=config.model.image_size, start_step=run.start,
      mode='pretrain', person=student.streams == 2, crop_area=(config.min_crop_area, 1.0),
      person_jitter=config.person_jitter, process_index=jax.process_index(), process_count=jax.process_count())
  graphdef = nnx.graphdef(student)
  loop.train(run, make_pretrain_step(graphdef, teacher, tx, schedule, options), _with_texts(batches, text_NxE),
             key=jax.random.key(config.seed), frozen=jax.device_put(frozen, place_teacher(config, frozen, mesh)),
             every=loop.Every(config.log_every, config.save_every, config.images_every),
             evaluate=_reconstruction_viewer(config, graphdef, split, workdir, run))
  run.close()


def main() -> None:
  """Entry point after flags are parsed."""
  pretrain(flags.FLAGS.config, flags.FLAGS.workdir, cli.profile_steps())


if __name__ == '__main__':
  cli.define_training()
  cli.run(main)
