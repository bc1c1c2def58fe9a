"""Captions that are all the same teach L1 nothing: pretraining says so, leaves it out, and resumes."""

import json

import numpy as np
from PIL import Image
import pytest

from configs import demo
from data_pipelines import build
from data_pipelines.errors import UserError
from tests.support import small_runs
from uniemox_jax.pretrain import pretrain
from uniemox_jax.teacher.caption_embeddings import embed_captions
from uniemox_jax.teacher.frozen_clip import load_clip
from uniemox_jax.train_clip import train_clip

pytestmark = pytest.mark.usefixtures('one_device')


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  folder = tmp_path_factory.mktemp('unlabelled')
  (folder / 'raw').mkdir()
  pixels = np.random.default_rng(0).integers(0, 256, (16, 40, 40, 3), np.uint8)
  for number, image in enumerate(pixels):
    Image.fromarray(image).save(folder / 'raw' / f'{number}.png')
  build.build('folder', folder / 'raw', folder / 'data')
  config = small_runs.pretrain_config(str(folder / 'data'), small_runs.write_teacher(folder / 'clip'), epochs=1)
  config.dataset, config.split, config.images_every = 'folder', 'train', 0
  return config


def test_images_without_labels_train_without_l1_and_say_so(config, tmp_path, capsys):
  pretrain(config, str(tmp_path / 'run'))
  assert '100.0% of the images have the same caption, so L1' in capsys.readouterr().out
  lines = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
  assert 'similarity' in lines[-1] and not any('contrastive' in line for line in lines)
  assert json.loads((tmp_path / 'run' / 'config.json').read_text())['loss']['contrastive'] == 1.0
  pretrain(config, str(tmp_path / 'run'))  # resumes at its end: L1 is left out again


def test_no_loss_left_is_one_line(config, tmp_path):
  alone = config.copy_and_resolve_references()
  alone.loss.update(similarity=0.0, reconstruction=0.0)
  with pytest.raises(UserError, match='no other loss has a weight'):
    pretrain(alone, str(tmp_path / 'run'))


def test_a_clip_is_not_trained_on_them(config, tmp_path):
  section = demo.get_config('clip')
  section.update(data_dir=config.data_dir, dataset='folder', split='train', batch_size=8, init=config.teacher)
  section.model.update(image_size=32, patch_size=8, projection=12)
  section.model.vision.update(width=16, depth=2, heads=2)
  section.model.text.update(width=16, depth=3, heads=4)
  with pytest.raises(UserError, match='100.0% of the images have the same caption, from which a CLIP cannot learn'):
    train_clip(section, str(tmp_path / 'run'))


def test_the_most_frequent_caption_is_counted_beyond_one_chunk(tmp_path, monkeypatch):
  monkeypatch.setattr('uniemox_jax.teacher.caption_embeddings._TOGETHER', 4)
  clip = load_clip(str(small_runs.write_teacher(tmp_path / 'clip')))
  captions = ['a picture'] * 9 + ['another'] + ['a picture'] * 2
  embedded = embed_captions(clip, captions, tmp_path, 'test', len(captions))
  assert embedded.largest_share() == pytest.approx(11 / 12)
  assert len(embedded.values_MxW) == 2
