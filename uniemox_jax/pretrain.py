"""Pretrains UniEmoX: python -m uniemox_jax.pretrain --config=configs/... --workdir=DIR. Run again, it resumes."""

from collections.abc import Callable, Iterator
import io
import os
from typing import Any

from absl import flags
from flax import nnx
import jax
from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from data_pipelines.batches import pipeline
from data_pipelines.records import reader
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.runtime import cli, sharding
from uniemox_jax.runtime.clock import Profile
from uniemox_jax.runtime.distributed import is_primary
from uniemox_jax.runtime.files import write_bytes
from uniemox_jax.teacher.frozen_clip import load_clip
from uniemox_jax.teacher.split_captions import embedded_captions
from uniemox_jax.train import loop, optimizer, setup
from uniemox_jax.train.config import PRETRAIN_KEYS, check_keys, check_positive, compute_dtype
from uniemox_jax.train.initial_weights import initial_weights
from uniemox_jax.train.reconstructions import reconstruction_triplets
from uniemox_jax.train.setup import example_work, make_teacher, model_arguments, place_teacher, step_options
from uniemox_jax.train.state import TrainState, abstract_model, abstract_params, builder
from uniemox_jax.train.steps import Teacher, make_pretrain_step

SHOWN_EXAMPLES = 8


def _with_texts(batches: Iterator[dict[str, np.ndarray]], text_NxE: np.ndarray | None,
                scene_twice: bool) -> Iterator[dict[str, np.ndarray]]:
  """What the device needs of each batch: each example's caption embedding, and the scene as person view if asked."""
  for batch in batches:
    kept = {name: batch[name] for name in ('scene', 'person', 'example_id') if name in batch}
    if scene_twice:
      kept['person'] = kept['scene']
    yield kept if text_NxE is None else kept | {'text': text_NxE[batch['position']]}


def _reconstruction_viewer(config: ConfigDict, student: nnx.GraphDef, split: Any, workdir: str,
                           run: loop.Run) -> Callable[[int, TrainState], None] | None:
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


def _teach(config: ConfigDict, split: Any, dtype: Any) -> tuple[Teacher | None, Any, np.ndarray | None, dict[str, str]]:
  """The teacher, its frozen parameters and the caption embeddings, as far as the loss weights need them; and the
  digest of its files, by config key."""
  if not (config.loss.contrastive or config.loss.similarity):
    return None, (), None, {}
  clip = load_clip(config.teacher)
  teacher, frozen = make_teacher(
      clip, config.model.decoder_width, dtype, setup.choose(config, 'teacher_statistics', setup.TEACHER_STATISTICS))
  digest = {'teacher': clip.digest}
  if not config.loss.contrastive:
    return teacher, frozen, None, digest
  return teacher, frozen, embedded_captions(clip, split, config.emotion_in_caption, config.data_dir), digest


def pretrain(config: ConfigDict, workdir: str, profile: Profile | None = None) -> None:
  """Pretrains, or resumes, the run in `workdir` (docs/commands.md, Training).

  Leaves checkpoints/, metrics.jsonl, tensorboard/, reconstructions/, config.json and inputs.json.

  Raises:
    UserError: a mistake in the config, the data, the teacher or the checkpoint to start from.
  """
  check_keys(config, PRETRAIN_KEYS)
  check_positive(config, 'accum_steps', 'save_every')
  mesh = sharding.make_mesh(**config.mesh)
  sharding.check_batch(config.batch_size, mesh, config.accum_steps)
  options, dtype, arguments = step_options(config), compute_dtype(config), model_arguments(config)
  build = builder(UniEmoX, dtype=dtype, **arguments)
  split = reader.open_split(config.data_dir, config.dataset, config.split)
  steps_per_epoch = pipeline.steps_per_epoch(split, config.batch_size)
  total_steps = config.epochs * steps_per_epoch
  teacher, frozen, text_NxE, digest = _teach(config, split, dtype)
  loaded = initial_weights(config.init, abstract_params(build), arguments, classifier=False)

  schedule, tx = optimizer.from_config(config, total_steps, steps_per_epoch)
  student = abstract_model(build)
  run = loop.open_run(
      config, workdir, name='pretrain', build=build, tx=tx, mesh=mesh, total_steps=total_steps,
      description={'kind': 'uniemox', 'model': arguments,
                   'dataset': config.dataset}, inputs={'data_dir': split.contents} | digest, loaded=loaded,
      flops_per_example=example_work(config, student, teacher).training.flops, profile=profile)
  crops = setup.choose(config, 'person_view', setup.PERSON_VIEWS) == 'crop'
  batches = pipeline.train_batches(
      split, batch_size=config.batch_size, seed=config.seed, image_size=config.model.image_size, start_step=run.start,
      mode='pretrain', person=crops and student.streams == 2, crop_area=(config.min_crop_area, 1.0),
      person_jitter=config.person_jitter, process_index=jax.process_index(), process_count=jax.process_count())
  batches = _with_texts(batches, text_NxE, scene_twice=not crops and student.streams == 2)
  graphdef = nnx.graphdef(student)
  loop.train(
      run, make_pretrain_step(graphdef, teacher, tx, schedule, options), batches, seed=config.seed,
      frozen=jax.device_put(frozen, place_teacher(config, frozen, mesh)),
      every=loop.Every(config.log_every, config.save_every,
                       config.images_every), evaluate=_reconstruction_viewer(config, graphdef, split, workdir, run))
  run.close()


def main() -> None:
  """Entry point after flags are parsed."""
  pretrain(flags.FLAGS.config, flags.FLAGS.workdir, cli.profile_steps())


if __name__ == '__main__':
  cli.define_training()
  cli.run(main)
