"""What the Python API takes for images, and what it says while it loads."""

from pathlib import Path
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.predictions import person_view, student_view
from uniemox_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalise
from uniemox_jax.models.registry import abstract_student
from uniemox_jax.train.checkpoint import save_weights
from uniemox_jax.train.state import builder, initial_params

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (2, 32, 32, 3)).astype(np.float32)
PHOTOGRAPHS = {
    'normalised by ImageNet': np.asarray(normalise(PIXELS)),
    "normalised by CLIP's": np.asarray(normalise(PIXELS, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))),
    'in -1..1': PIXELS / 127.5 - 1, 'noise': RNG.standard_normal((2, 32, 32, 3)).astype(np.float32),
    'hazy': np.asarray(normalise(PIXELS / 16 + 135)), 'grey': np.zeros(
        (1, 32, 32, 3), np.float32), 'white': np.ones((1, 32, 32, 3),
                                                      np.float32), 'none at all': np.zeros((0, 32, 32, 3), np.float32)}


@pytest.mark.parametrize('kind', PHOTOGRAPHS)
def test_normalised_images_are_taken_as_they_are(kind: str) -> None:
  images = PHOTOGRAPHS[kind]
  for given in (images, jnp.asarray(images)):
    np.testing.assert_array_equal(student_view(given, 32), images)


@pytest.mark.parametrize(('images', 'found'), [(PIXELS, 'from 0 to 255'), (PIXELS / 255, 'from 0 to 1'),
                                               (PIXELS.clip(90, 120) / 255, r'from 0\.3\d+ to 0\.4'),
                                               (-PIXELS, 'from -255'), (PIXELS * np.float32(np.nan), 'from nan'),
                                               (np.full((1, 32, 32, 3), np.inf, np.float32), 'from inf')])
@pytest.mark.parametrize(('view', 'name'), [(student_view, 'images'), (person_view, 'persons')])
def test_floats_that_no_normalised_pixels_are_end_in_an_error(images, found, view, name) -> None:  # type: ignore
  with pytest.raises(ValueError, match=rf'{name} are float32 {found}.*\(x / 255 - mean\) / std') as error:
    view(images, 32)
  assert str(IMAGENET_MEAN) in str(error.value) and str(IMAGENET_STD) in str(error.value)


def test_a_model_without_normalisation_takes_pixels_in_0_to_1() -> None:
  images = PIXELS / 255
  np.testing.assert_array_equal(student_view(images, 32, (0.0,) * 3, (1.0,) * 3), images)


def test_loading_says_nothing(tmp_path: Path, clip_folder: Path) -> None:
  model = {'image_size': 32, 'patch_size': 8, 'width': 16, 'depth': 1, 'heads': 2}
  for kind, more in (('encoder', {}), ('classifier', {'classes': 3})):
    build = builder(type(abstract_student(kind, model | more)), **model, **more)
    save_weights(
        str(tmp_path / kind), initial_params(build, 0), {'kind': kind, 'model': model | more, 'labels': list('abc')})
  program = textwrap.dedent(
      """
      import sys
      import numpy as np
      import uniemox_jax
      images = np.zeros((1, 40, 50, 3), np.uint8)
      uniemox_jax.load_encoder(sys.argv[1]).features(images)
      uniemox_jax.load_classifier(sys.argv[2]).predict_proba(images)
      clip = uniemox_jax.load_clip(sys.argv[3])
      clip.encode_image(images)
      clip.encode_text(['a photo of a cat'])
  """)
  done = subprocess.run([sys.executable, '-c', program, tmp_path / 'encoder', tmp_path / 'classifier', clip_folder],
                        capture_output=True, text=True, check=True)
  assert (done.stdout, done.stderr) == ('', '')
