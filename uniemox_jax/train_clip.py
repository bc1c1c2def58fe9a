"""Trains or adapts a CLIP on a split's captions, contrastively, and saves it in Hugging Face form.

python -m uniemox_jax.train_clip --config=configs/demo.py:clip --workdir=DIR leaves DIR/teacher, a folder that
`load_clip` and transformers' `CLIPModel` read.
"""

import dataclasses
import functools
import os

from flax import traverse_util
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from data_pipelines.batches import pipeline
from data_pipelines.errors import UserError
from data_pipelines.records import reader
from uniemox_jax.models.clip import CLIP, CLIPConfig, Tower
from uniemox_jax.models.preprocess import resize_and_normalise
from uniemox_jax.models.view import FILTERS
from uniemox_jax.runtime import cli, sharding
from uniemox_jax.runtime.clock import Profile
from uniemox_jax.runtime.distributed import is_primary, wait_for_all
from uniemox_jax.teacher.caption_embeddings import MOSTLY_EQUAL, tokenized_captions
from uniemox_jax.teacher.frozen_clip import Clip, load_clip, save_clip
from uniemox_jax.train import loop
from uniemox_jax.train.config import TrainClipConfig
from uniemox_jax.train.initial_weights import given_flags
from uniemox_jax.train.run_folder import TEACHER_FOLDER, settle_dtype
from uniemox_jax.train.schema import parse
from uniemox_jax.train.settings import ClipSettings, TowerSettings
from uniemox_jax.train.setup import step_graph
from uniemox_jax.train.state import abstract_model, builder, initial_params
from uniemox_jax.train.steps import make_clip_step


def _starting_clip(config: TrainClipConfig, workdir: str) -> tuple[Clip, TrainClipConfig]:
  """The CLIP to adapt, or a new one, written and read in the form that every teacher has; and the config of its shape.

  A new one has OpenAI's vocabulary, activation and end-of-text rule.

  Raises:
    UserError: the CLIP to adapt has another shape than keys of `config.model` that were given.
  """
  model = config.model
  vision, text = (Tower(tower.width, tower.depth, tower.heads, 4 * tower.width) for tower in (model.vision, model.text))
  wanted = CLIPConfig(
      vision, text, image_size=model.image_size, patch_size=model.patch_size, projection_dim=model.projection,
      context_length=model.context)
  if config.init == 'none':
    folder = os.path.join(workdir, 'initial')
    if is_primary():
      create = jax.jit(lambda: initial_params(builder(CLIP, config=wanted), config.seed))
      save_clip(folder, wanted, jax.device_get(create()))
    wait_for_all('initial CLIP written')
    return load_clip(folder), config
  clip = load_clip(config.init)
  towers = (clip.clip_config.vision, clip.clip_config.text)
  seen, read = (TowerSettings(width=tower.width, depth=tower.depth, heads=tower.heads) for tower in towers)
  have = ClipSettings(
      image_size=clip.config.image_size, patch_size=clip.config.patch_size, projection=clip.config.projection_dim,
      context=clip.config.context_length, vision=seen, text=read)
  shape, given, default = (
      traverse_util.flatten_dict(dataclasses.asdict(settings), sep='.') for settings in (have, model, ClipSettings()))
  if differ := {key: value
                for key, value in shape.items()
                if given[key] not in (value, default[key]) or given[key] != value and f'model.{key}' in given_flags()}:
    raise UserError(
        f'{config.init} has another shape: set ' +
        ' '.join(f'--config.model.{key}={value}' for key, value in differ.items()) + ', or leave these out')
  return clip, dataclasses.replace(config, model=have)


def train_clip(given: ConfigDict, workdir: str, profile: Profile | None = None) -> str:
  """Trains, or resumes, the run in `workdir` as `pretrain` does, and returns the teacher's folder.

  The config's `init` is 'none' or a CLIP to adapt.

  Raises:
    UserError: the config, the data or the CLIP to start from has a mistake.
  """
  config = settle_dtype(parse(TrainClipConfig, given), workdir)
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  sharding.check_batch(config.batch_size, mesh)
  split = reader.open_split(config.data_dir, config.dataset, config.split)
  steps_per_epoch = pipeline.steps_per_epoch(split, config.batch_size)
  clip, config = _starting_clip(config, workdir)
  captions = tokenized_captions(clip, split, config.emotion_in_caption, config.caption_style, config.data_dir)
  if (share := captions.largest_share()) > MOSTLY_EQUAL:
    raise UserError(
        f'{share:.1%} of the images have the same caption, from which a CLIP cannot learn: give records with labels or '
        'attributes')
  build = builder(CLIP, config=clip.config, dtype=jnp.dtype(config.dtype))
  graphdef = step_graph(abstract_model(build), config.attention, mesh.devices.flat[0])

  # A resumed run still takes tokenizer and preparation from where it began.
  inputs = {'data_dir': split.contents
           } | ({} if config.init == 'none' else {'init': clip.digest, 'init (tokenizer)': clip.tokenizer_digest})
  if captions.cleaned:  # an earlier version trained with other tokens
    inputs['dataset (captions)'] = 'with cleaning'
  run = loop.open_run(
      config, workdir, name='train_clip', build=build, mesh=mesh, steps_per_epoch=steps_per_epoch,
      description={'kind': 'clip',
                   'model': clip.clip_config.to_dict()}, inputs=inputs, loaded=clip.params, profile=profile)
  batches = pipeline.train_batches(
      split, batch_size=config.batch_size, seed=config.seed, image_size=clip.config.image_size, start_step=run.start,
      mode='pretrain', person=False, crop_area=(config.min_crop_area, 1.0), process_index=jax.process_index(),
      process_count=jax.process_count())
  view = functools.partial(
      resize_and_normalise, size=clip.config.image_size, mean=clip.view.mean, std=clip.view.std,
      method=FILTERS[clip.view.resample])
  state = loop.train(
      run, make_clip_step(graphdef, run.optimizer, view, config.equal_texts),
      ({'scene': batch['scene'], 'ids': captions.at(batch['position']), 'example_id': batch['example_id']}
       for batch in batches), every=loop.Every(config.log_every, config.save_every))
  folder = os.path.join(workdir, TEACHER_FOLDER)
  params = jax.device_get(sharding.replicate(state.params, mesh))
  if is_primary():
    save_clip(folder, clip.clip_config, params, vocabulary_source=clip.folder, view=clip.view)
  print(f'teacher saved: {folder}', flush=True)
  return folder


if __name__ == '__main__':
  cli.run(cli.define_training(train_clip))
