"""Tiny random models to try, and images."""

import dataclasses
import io

import jax
import numpy as np
from PIL import Image
import pytest

from tests.support.predictions import LABELS, SMALL, save_random
from uniemox_jax.models.classifier import Classifier
from uniemox_jax.models.registry import Encoder
from uniemox_jax.objectives.tasks import Task, single_label_task
from uniemox_jax.train.checkpoint import save_weights
from uniemox_jax.train.state import builder, initial_params


@pytest.fixture(scope='session')
def checkpoint(built_once):
  """A classifier of the scene alone."""
  return str(built_once('tried', lambda folder: save_random(folder)))


@pytest.fixture(scope='session')
def person_checkpoint(built_once):
  """A classifier of scene and person, with valence and arousal."""

  def make(folder):
    tasks = single_label_task(LABELS), Task('vad', ('valence', 'arousal'), 'l2', mean=(5., 4.), std=(1., 2.))
    model = SMALL | {'classes': 5, 'streams': 'scene+person'}
    params = jax.device_get(initial_params(builder(Classifier, **model), 0))
    params['head']['kernel'] = np.random.default_rng(0).normal(size=(32, 5)).astype(np.float32)
    written = [dataclasses.asdict(task) for task in tasks]
    save_weights(str(folder), params, {'kind': 'classifier', 'model': model, 'labels': LABELS, 'tasks': written})

  return str(built_once('tried_person', make))


@pytest.fixture(scope='session')
def encoder(built_once):
  """A model that names no emotions."""

  def make(folder):
    params = jax.device_get(initial_params(builder(Encoder, **SMALL), 0))
    save_weights(str(folder), params, {'kind': 'encoder', 'model': SMALL})

  return str(built_once('tried_encoder', make))


@pytest.fixture(scope='session')
def photo():
  """Makes the bytes of a smooth image, another for each seed, and black for None."""

  def make(seed=0, size=(90, 60), form='PNG'):
    pixels = np.random.default_rng(seed).integers(0, 256 if seed is not None else 1, (4, 6, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(buffer, form)
    return buffer.getvalue()

  return make
