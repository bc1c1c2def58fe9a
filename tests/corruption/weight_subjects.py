"""Weights: teachers, checkpoints, exports, and files of other libraries."""

from pathlib import Path
import shutil
from typing import Any

from safetensors.numpy import load_file, save_file

from tests.corruption.subject import Subject, list_files
from tests.corruption.world import World
from uniemox_jax.convert.formats.weight_files import read_weights
from uniemox_jax.teacher.frozen_clip import load_clip
from uniemox_jax.train.checkpoint import load_checkpoint
from uniemox_jax.train.initial_weights import read_source


def teacher(world: World, twin: World) -> Subject:
  folder = world.teacher

  def read() -> Any:
    clip = load_clip(folder)
    return clip.digest, clip.tokenize(['a picture of a forest, evoking awe', 'É, ok 12!'])

  return Subject('teacher folder', folder, list_files(folder, '*'), read)


def foreign_teacher(world: World, twin: World) -> Subject:
  """The same without what only this package writes."""

  folder = world.folder / 'foreign_teacher'
  shutil.copytree(world.teacher, folder)
  save_file(load_file(folder / 'model.safetensors'), folder / 'model.safetensors')
  (folder / 'checksums.sha256').unlink(missing_ok=True)

  def read() -> Any:
    clip = load_clip(folder)
    return clip.digest, clip.tokenize(['a picture of a forest, evoking awe', 'É, ok 12!'])

  return Subject("another library's teacher", folder, list_files(folder, '*'), read, owned=True)


def weights(world: World, twin: World, form: str) -> Subject:
  path = world.foreign[form]
  folder = path if path.is_dir() else path.parent
  files = list_files(path, '*') if path.is_dir() else [path]
  return Subject(f'weights: {form}', folder, files, lambda: read_weights(path)[:1] + read_weights(path)[2:], owned=True)


def export(world: World, twin: World, target: str) -> Subject:
  folder = world.exports[target]
  files = [path for path in list_files(folder, '*') if path.name != 'README.md']

  def read() -> Any:
    if target == 'clip':
      return load_clip(folder).digest
    path = folder / 'checkpoint.pth' if target == 'mae' else folder
    source = read_source(str(path), {'heads': 4, 'decoder_heads': 2}, decoder=True)
    return source.kind, source.model, source.params, source.statistics

  return Subject(f'export to {target}', folder, files, read)


def checkpoint(world: World, twin: World, name: str) -> Subject:
  folder = getattr(world, name)

  def read() -> Any:
    loaded = load_checkpoint(str(folder))
    return loaded.step, loaded.params, loaded.description

  loaded_step = Path(load_checkpoint(str(folder)).path)
  return Subject(f'checkpoint: {name}', folder, list_files(loaded_step, '**/*'), read)
