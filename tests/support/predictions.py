"""What the tests of `predict` share: a tiny classifier, images, and the table read back."""

from collections.abc import Callable, Mapping, Sequence
import csv
import io
from pathlib import Path
import tarfile
from typing import Any
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from data_pipelines import images as image_files
from data_pipelines.errors import UserError
from uniemox_jax.models.classifier import Classifier
from uniemox_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalise
from uniemox_jax.models.view import View
from uniemox_jax.train.checkpoint import save_weights
from uniemox_jax.train.state import builder, initial_params

LABELS = ['amusement', 'awe', 'sadness']
SMALL = {'image_size': 32, 'patch_size': 8, 'width': 16, 'depth': 2, 'heads': 2}


def save_random(folder: Path, seed: int = 0) -> str:
  """A tiny classifier whose classes depend on the image."""
  model = SMALL | {'classes': len(LABELS)}
  params = jax.device_get(initial_params(builder(Classifier, **model), seed))
  params['head']['kernel'] = np.random.default_rng(seed).normal(size=(16, 3)).astype(np.float32)
  save_weights(str(folder), params, {'kind': 'classifier', 'model': model, 'labels': LABELS})
  return str(folder)


def draw(folder: Path, count: int, seed: int = 0) -> list[str]:
  """Noisy PNGs, all different."""
  rng = np.random.default_rng(seed)
  folder.mkdir(parents=True, exist_ok=True)
  paths = [folder / f'{index:04d}.png' for index in range(count)]
  for path in paths:
    Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((48, 40)).save(path)
  return [str(path) for path in paths]


def animate(path: Path, durations: Sequence[int], **options: Any) -> Path:
  """Grey frames, frame k of level 40 k, for so many milliseconds each."""
  frames = [Image.fromarray(np.full((48, 64, 3), 40 * level, np.uint8)) for level in range(len(durations))]
  options = {'duration': list(durations), 'loop': 0} | ({'quality': 95} if path.suffix == '.avif' else {}) | options
  frames[0].save(path, save_all=True, append_images=frames[1:], **options)
  return path


def pack(path: Path, members: Mapping[str, bytes]) -> Path:
  """A zip or tar, by its ending."""
  if path.suffix == '.zip':
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
      for name, content in members.items():
        archive.writestr(name, content)
    return path
  with tarfile.open(path, 'w:' if path.suffix == '.tar' else 'w:gz') as archive:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return path


def rows_of(path: Path) -> list[dict[str, str]]:
  with path.open(newline='', encoding='utf-8') as file:
    return list(csv.DictReader(file))


def assert_refused(call: Callable[[], Any], match: str) -> None:
  with pytest.raises(UserError, match=match):
    call()


def torchvision_view(image: Image.Image, size: int, short_side: int) -> np.ndarray:
  """torchvision's `CenterCrop(size)(Resize(short_side, InterpolationMode.BICUBIC)(image))`, uint8 (size, size, 3).

  In Pillow calls, since torchvision itself is not installed here. Source: torchvision 0.29, `transforms/functional.py`.
  """
  short, long = sorted(image.size)
  new_long = int(short_side * long / short)
  width, height = (short_side, new_long) if image.width <= image.height else (new_long, short_side)
  resized = image.resize((width, height), Image.Resampling.BICUBIC)
  top, left = int(round((height - size) / 2.0)), int(round((width - size) / 2.0))
  return np.asarray(resized.crop((left, top, left + size, top + size)))


def student_view(images: Any, size: int, mean: Any = IMAGENET_MEAN, std: Any = IMAGENET_STD) -> jax.Array:
  """Images as the student's evaluation sees them, normalised."""
  return View(size, image_files.short_side_of(size), mean=mean, std=std, floor=False)(images)


def person_view(persons: Any, size: int, mean: Any = IMAGENET_MEAN, std: Any = IMAGENET_STD) -> jax.Array:
  """Images of persons, squashed to the square as person crops are."""
  views = View(size, size, squash=True, mean=mean, std=std).views(persons, 'persons')
  return normalise(jnp.asarray(views), mean, std) if views.dtype == np.uint8 else jnp.asarray(views)
