"""Pretrains UniEmoX: python -m uniemox_jax.pretrain --config=configs/... --workdir=DIR. The same command resumes."""

from collections.abc import Iterator
import dataclasses
import io
import os
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from data_pipelines.batches import pipeline
from data_pipelines.errors import UserError
from data_pipelines.records import reader
from data_pipelines.storage import write_bytes
from uniemox_jax.look.reconstructions import reconstruction_triplets
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.runtime import cli, sharding
from uniemox_jax.runtime.clock import Profile
from uniemox_jax.runtime.distributed import is_primary
from uniemox_jax.teacher.caption_embeddings import MOSTLY_EQUAL, KeptCaptions, embedded_captions
from uniemox_jax.teacher.load_teachers import JoinedCaptions, load_teachers
from uniemox_jax.teacher.step_teacher import Teacher, teacher_shardings, without_tower
from uniemox_jax.teacher.view_embeddings import ViewEmbeddings
from uniemox_jax.train import loop
from uniemox_jax.train.config import PretrainConfig
from uniemox_jax.train.initial_weights import initial_weights, open_source
from uniemox_jax.train.run_folder import settle_dtype
from uniemox_jax.train.schema import parse
from uniemox_jax.train.setup import example_work, model_arguments, step_graph
from uniemox_jax.train.state import TrainState, abstract_model, abstract_params, builder
from uniemox_jax.train.steps import make_pretrain_step
from uniemox_jax.train.teacher_views import recurring_crops, view_embeddings

SHOWN_EXAMPLES = 8
Captions = KeptCaptions | JoinedCaptions


def _load_teacher(config: PretrainConfig, split: reader.Split,
                  dtype: Any) -> tuple[PretrainConfig, Teacher | None, Any, Captions | None, dict[str, str | None]]:
  """What the losses need of the teacher; each part is empty where the weights of its losses are 0.

  Returns:
    The config, without L1 where the captions cannot teach it; the teacher, its frozen parameters, the caption
    embeddings of all records, and the digest of its files by config key.
  """
  if not config.loss.semantic:
    return config, None, (), None, {}
  loaded = load_teachers(config.teacher, dtype, config.teacher_statistics, config.attention)
  digests: dict[str, str | None] = {'teacher': loaded.digest}
  text = None
  if config.loss.contrastive:
    captions = [
        embedded_captions(clip, split, config.emotion_in_caption, config.caption_style, config.data_dir)
        for clip in loaded.clips]
    # A run from before texts were cleaned resumes only where that changes none of its captions.
    digests['teacher (tokenizer)'] = '+'.join(
        clip.tokenizer_digest + (' with cleaning' if embedded.cleaned else '')
        for clip, embedded in zip(loaded.clips, captions))
    text = captions[0] if len(captions) == 1 else JoinedCaptions(captions)
    if (share := text.largest_share()) > MOSTLY_EQUAL:
      config, text = _without_contrastive(config, share), None
      if not config.loss.semantic:
        return config, None, (), None, digests
  return config, loaded.teacher, loaded.frozen, text, digests


def _without_contrastive(config: PretrainConfig, share: float) -> PretrainConfig:
  """The config with L1 left out, which is said. Raises UserError if no loss is left."""
  reason = f'{share:.1%} of the images have the same caption, so L1, which compares captions, has nothing to learn from'
  if not (config.loss.similarity or config.loss.reconstruction):
    raise UserError(f'{reason}, and no other loss has a weight: set --config.loss.similarity=1, or build labels')
  if is_primary():
    print(f'{reason}: it is left out', flush=True)
  loss = dataclasses.replace(config.loss, contrastive=0.0)
  return dataclasses.replace(config, loss=loss)


def _step_batches(
    batches: Iterator[dict[str, np.ndarray]], text: Captions | None, scene_twice: bool,
    images: ViewEmbeddings | None = None) -> Iterator[dict[str, np.ndarray]]:
  """What the step takes of each batch: its views, with the scene as person view if asked, and embeddings of captions
  and scenes."""
  for batch in batches:
    kept = {name: rows for name, rows in batch.items() if name not in ('position', 'label', 'crop')}
    if scene_twice:
      kept |= {name.replace('scene', 'person'): rows for name, rows in kept.items() if name.startswith('scene')}
    if text is not None:
      kept['text'] = text.at(batch['position'])
    if images is not None:  # all rows are of one epoch
      kept['image'] = images.at(int(batch['crop'][0]), batch['position'])
    yield kept


def _reconstruction_viewer(
    student: nnx.GraphDef, scene_BxHxWx3: np.ndarray, norm_pix: bool, folder: str, run: loop.Run) -> loop.Evaluate:
  """(step, state) -> None: draws triplets of these images into the folder and into TensorBoard."""

  def draw(step: int, state: TrainState) -> None:
    sheet = reconstruction_triplets(student, sharding.replicate(state.evaluated, run.mesh), scene_BxHxWx3, norm_pix)
    run.log.image(step, 'reconstruction', sheet)
    if is_primary():
      png = io.BytesIO()
      Image.fromarray(sheet).save(png, 'PNG')
      write_bytes(os.path.join(folder, f'step_{step:07d}.png'), png.getvalue())

  return draw


def pretrain(given: ConfigDict, workdir: str, profile: Profile | None = None) -> None:
  """Pretrains, or resumes, the run in `workdir`, on a disk or in a bucket; traces the steps of `profile`.

  The config's keys stand in docs/config.md. It leaves checkpoints/, metrics.jsonl, tensorboard/, reconstructions/,
  config.json and inputs.json.

  Raises:
    UserError: the config, the data, the teacher or the checkpoint to start from has a mistake.
  """
  config = settle_dtype(parse(PretrainConfig, given), workdir)
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  sharding.check_batch(config.batch_size, mesh, config.accum_steps)
  dtype = jnp.dtype(config.dtype)
  split = reader.open_split(config.data_dir, config.dataset, config.split)
  source, asked = open_source(config, workdir)
  steps_per_epoch = pipeline.steps_per_epoch(split, config.batch_size)
  config, teacher, frozen, text, digests = _load_teacher(asked, split, dtype)
  arguments = model_arguments(config.model, config.loss, teacher)
  if teacher and 'teacher_width' in arguments and is_primary():
    said = 'the teacher is' if len(teacher.widths) == 1 else 'the teachers are'
    widths = ' and '.join(map(str, teacher.widths))
    print(f'{said} {widths} wide, the decoder {config.model.decoder_width}: a linear adapter is learned')
  build = builder(UniEmoX, dtype=dtype, **arguments)
  student = abstract_model(build)
  graphdef, computed = nnx.graphdef(student), step_graph(student, config.attention, mesh.devices.flat[0])
  loaded = initial_weights(source, abstract_params(build), classifier=False) if source else None

  description = {'kind': 'uniemox', 'model': arguments, 'dataset': config.dataset}
  run = loop.open_run(
      asked, workdir, name='pretrain', build=build, mesh=mesh, steps_per_epoch=steps_per_epoch, description=description,
      inputs={'data_dir': split.contents} | digests, loaded=loaded,
      flops_per_example=example_work(config, student, teacher).training.flops, profile=profile)
  images = None
  if config.teacher_views and teacher is not None and run.start < run.log.total_steps:
    assert digests['teacher']  # as it has a teacher
    with run.log.clock.apart('embed'):
      images, _ = view_embeddings(config, split, digests['teacher'], teacher, frozen, mesh)
    frozen = without_tower(frozen)
  image_size, two_views = config.model.image_size, student.view_count == 2
  batches = pipeline.train_batches(
      split, batch_size=config.batch_size, seed=config.seed, image_size=image_size, start_step=run.start,
      mode='pretrain', person=two_views and config.person_view == 'crop', crop_area=(config.min_crop_area, 1.0),
      person_jitter=config.person_jitter, recurring=recurring_crops(config), canvas=config.crop_canvas,
      process_index=jax.process_index(), process_count=jax.process_count())
  draw = None
  if config.loss.reconstruction:
    first = next(iter(pipeline.eval_batches(split, batch_size=SHOWN_EXAMPLES, image_size=image_size)))
    folder = os.path.join(workdir, 'reconstructions')
    draw = _reconstruction_viewer(graphdef, first['image'], config.loss.norm_pix, folder, run)
  loop.train(
      run, make_pretrain_step(computed, teacher, run.optimizer, config.loss),
      _step_batches(batches, text, scene_twice=two_views and config.person_view == 'scene', images=images),
      frozen=jax.device_put(frozen, teacher_shardings(frozen, mesh, config.teacher_sharded)),
      every=loop.Every(config.log_every, config.save_every, config.images_every), evaluate=draw)


if __name__ == '__main__':
  cli.run(cli.define_training(pretrain))
