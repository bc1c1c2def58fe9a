"""Weights: teachers, checkpoints, exports, and files of other libraries."""

import json
from pathlib import Path
import shutil
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

from data_pipelines.person_boxes.detectors import load_detector
from tests.corruption.subject import Subject, list_files
from tests.corruption.world import World
from tests.support import siglip_folders, torch_reference
from uniemox_jax.convert.formats import onnx_files
from uniemox_jax.convert.formats.weight_files import read_weights
from uniemox_jax.export_torch import OnnxOptions, export_torch
from uniemox_jax.recognition.recogniser import open_recogniser
from uniemox_jax.teacher.frozen_clip import load_clip
from uniemox_jax.train.checkpoint import load_checkpoint
from uniemox_jax.train.initial_weights import read_source
from uniemox_jax.train.open_model import open_model


def teacher(world: World, twin: World) -> Subject:
  folder = world.teacher

  def read() -> Any:
    clip = load_clip(folder)
    return clip.digest, clip.tokenize(['a picture of a forest, evoking awe', 'É, ok 12!'])

  return Subject(folder, list_files(folder, '*'), read)


def foreign_teacher(world: World, twin: World) -> Subject:
  """The same without what only this package writes."""

  folder = world.folder / 'foreign_teacher'
  shutil.copytree(world.teacher, folder)
  save_file(load_file(folder / 'model.safetensors'), folder / 'model.safetensors')
  (folder / 'checksums.sha256').unlink(missing_ok=True)

  def read() -> Any:
    clip = load_clip(folder)
    return clip.digest, clip.tokenize(['a picture of a forest, evoking awe', 'É, ok 12!'])

  return Subject(folder, list_files(folder, '*'), read, owned=True)


def weights(world: World, twin: World, form: str) -> Subject:
  path = world.foreign[form]
  folder = path if path.is_dir() else path.parent
  files = list_files(path, '*') if path.is_dir() else [path]
  return Subject(folder, files, lambda: read_weights(path)[:1] + read_weights(path)[2:], owned=True)


def export(world: World, twin: World, target: str) -> Subject:
  folder = world.exports[target]
  files = [path for path in list_files(folder, '*') if path.name != 'README.md']

  def read() -> Any:
    if target == 'clip':
      return load_clip(folder).digest
    if target == 'uniemox':
      return open_model(str(folder))[1:]
    path = folder / 'checkpoint.pth' if target == 'mae' else folder
    source = read_source(str(path), {'heads': 4, 'decoder_heads': 2}, decoder=True)
    return source.kind, source.model, source.params, source.statistics

  return Subject(folder, files, read)


def checkpoint(world: World, twin: World, name: str) -> Subject:
  folder = getattr(world, name)

  def read() -> Any:
    loaded = load_checkpoint(str(folder))
    return loaded.step, loaded.params, loaded.description

  loaded_step = Path(load_checkpoint(str(folder)).path)
  return Subject(folder, list_files(loaded_step, '**/*'), read)


def _random_torch(model_class: type, *arguments: Any, **options: Any) -> Any:
  """A model of PyTorch with random parameters."""
  import torch
  torch.manual_seed(0)
  model = model_class(*arguments, **options).eval()
  for parameter in model.parameters():
    parameter.data += 0.1 * torch.randn_like(parameter)
  return model


def _foreign_clip(folder: Path, path: Path) -> Subject:

  def read() -> Any:
    clip = load_clip(path)
    return clip.digest, clip.tokenize(['a photo of a cat', 'É, ok 12!'])

  return Subject(folder, list_files(folder, '*'), read, owned=True)


def siglip(world: World, twin: World, kind: str) -> Subject:
  """A folder of transformers, with a tokenizer in its library's form."""
  folder = world.new_folder(kind)
  siglip_folders.write_siglip(folder, _random_torch, kind)
  return _foreign_clip(folder, folder)


def openai(world: World, twin: World, form: str) -> Subject:
  """A CLIP as OpenAI's archive, or in a folder of open_clip."""
  import torch
  folder = world.new_folder(form)
  shape = {
      'image_size': 32, 'patch': 16, 'vision': (64, 1, 1, 256), 'text': (64, 1, 1, 256), 'projection': 8, 'context': 12,
      'vocabulary': 49408}
  model = _random_torch(torch_reference.OpenAiClip, **shape, archive=form == 'OpenAI')
  if form == 'OpenAI':
    example = torch.zeros(2, 3, 32, 32), torch.zeros(2, 12).long()
    torch.jit.save(torch.jit.trace(model, example, check_trace=False), folder / 'ViT-B-16.pt')
    return _foreign_clip(folder, folder / 'ViT-B-16.pt')
  save_file({name: tensor.numpy() for name, tensor in model.state_dict().items()},
            folder / 'open_clip_model.safetensors')
  tower = {'layers': 1, 'width': 64, 'mlp_ratio': 4.0}
  (folder / 'open_clip_config.json').write_text(json.dumps({
      'model_cfg': {
          'embed_dim': 8, 'quick_gelu': True, 'vision_cfg': tower | {
              'image_size': 32, 'head_width': 64, 'patch_size': 16},
          'text_cfg': tower | {'context_length': 12, 'vocab_size': 49408, 'heads': 1}},
      'preprocess_cfg': {'mean': [0.5, 0.4, 0.3], 'std': [0.2, 0.3, 0.4], 'interpolation': 'bicubic',
                         'resize_mode': 'squash'}}))  # yapf: disable
  return _foreign_clip(folder, folder)


def onnx(world: World, twin: World, form: str) -> Subject:
  """An ONNX file that names emotions: with its weights in it, with weights beside it, or in 8 bits."""
  folder, options = world.folder / 'onnx' / form, OnnxOptions()
  if form == 'int8':
    options = OnnxOptions(calibration=str(world.raw('emo8') / 'train'))
  with mock.patch.object(onnx_files, 'MAX_INLINE', 1000 if form == 'large' else onnx_files.MAX_INLINE):
    export_torch(str(world.classifier), 'onnx', str(folder), options)
  path = folder / ('model_int8.onnx' if form == 'int8' else 'model.onnx')
  views = np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32)

  def read() -> Any:
    found = open_recogniser(str(path))
    return found.tasks, found.thresholds, found.view, found.model.session.run(None, {'images': views})

  return Subject(folder, list_files(folder, f'{path.name}*'), read)


def hub_copy(world: World, twin: World) -> Subject:
  """The Hugging Face hub's copy of a CLIP on this disk, without a network."""
  from huggingface_hub import constants
  commit, repository = 'ab' * 20, world.new_folder('hub') / 'models--someone--clip'
  copy = repository / 'snapshots' / commit
  shutil.copytree(world.teacher, copy)
  save_file(load_file(copy / 'model.safetensors'), copy / 'model.safetensors')
  (copy / 'checksums.sha256').unlink()
  (repository / 'refs').mkdir()
  (repository / 'refs' / 'main').write_text(commit)

  def read() -> Any:
    with mock.patch.multiple(constants, HF_HUB_CACHE=str(repository.parent), HF_HUB_OFFLINE=True):
      clip = load_clip('someone/clip')
      return clip.digest, clip.tokenize(['a photo of a cat', 'É, ok 12!'])

  return Subject(repository.parent, list_files(repository, '**/*'), read, owned=True)


def detector_folder(world: World, twin: World) -> Subject:
  """A detector of transformers."""
  import transformers
  folder = world.new_folder('detr')
  config = transformers.YolosConfig(
      hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=[32, 32],
      patch_size=16, num_detection_tokens=5, id2label={0: 'bicycle', 1: 'person'})  # yapf: disable
  model = _random_torch(transformers.YolosForObjectDetection, config)
  model.class_labels_classifier.layers[-1].bias.data[1] = 3.0  # It finds persons.
  model.save_pretrained(folder)
  transformers.YolosImageProcessorPil(size={'height': 32, 'width': 32}).save_pretrained(folder)
  image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))
  return Subject(folder, list_files(folder, '*'), lambda: load_detector(str(folder))([image]), owned=True)
