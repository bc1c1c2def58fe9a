"""Animated images in `predict`: rows like those of a video, at the frames' own times. A still image stays one row."""

from pathlib import Path

import numpy as np
from PIL import Image
import pytest

from data_pipelines import images
from data_pipelines.media.read_media import read_media
from tests.support.predictions import animate, draw, rows_of, save_random
from uniemox_jax.predict.prediction import predict_images


def shown(path: Path, per_second: float) -> list[tuple[str, int]]:
  """(seconds or '' of a still image, level) of each view."""
  return [(view.name.removeprefix(str(path)).removeprefix('#t='), round(float(view.pixels.mean()) / 40))
          for view in read_media([str(path)], 32, ahead=4, per_second=per_second)]


@pytest.mark.parametrize('name', ['a.gif', 'a.webp', 'a.png', 'a.avif', 'GIF called.jpg'])
def test_frames_are_sampled_at_their_own_times(tmp_path, name):
  options = {'format': 'GIF'} if name.endswith('.jpg') else {}
  path = animate(tmp_path / name, [500, 250, 250, 2000, 100], **options)
  assert shown(path, 1) == [('0.0', 0), ('1.0', 3), ('3.0', 4)]
  assert shown(path, 4) == [('0.0', 0), ('0.5', 1), ('0.75', 2), ('1.0', 3), ('3.0', 4)]


@pytest.mark.parametrize('name', ['a.gif', 'a.webp', 'a.png', 'a.avif'])
def test_still_image_is_one_row(tmp_path, name):
  Image.fromarray(np.full((48, 64, 3), 80, np.uint8)).save(tmp_path / name)
  assert shown(tmp_path / name, 10) == [('', 2)]


def test_pages_are_no_frames(tmp_path):
  pages = [Image.fromarray(np.full((48, 64, 3), level, np.uint8)) for level in (40, 80)]
  pages[0].save(tmp_path / 'a.tif', save_all=True, append_images=pages[1:])
  assert shown(tmp_path / 'a.tif', 10) == [('', 1)]


def test_frames_without_a_duration_last_a_tenth_of_a_second(tmp_path):
  assert [seconds for seconds, _ in shown(animate(tmp_path / 'a.gif', [0] * 5), 1000)
         ] == ['0.0', '0.1', '0.2', '0.3', '0.4']


def test_image_for_programs_without_animations_is_no_frame(tmp_path):
  path = animate(tmp_path / 'a.png', [1000, 1000, 1000], default_image=True)
  assert shown(path, 1) == [('0.0', 1), ('1.0', 2)]


def test_transparent_frames_are_laid_on_white(tmp_path):
  frames = [Image.new('RGBA', (64, 48), (0, 0, 0, alpha)) for alpha in (255, 0)]
  frames[0].save(tmp_path / 'a.webp', save_all=True, append_images=frames[1:], duration=1000, lossless=True)
  assert [view.pixels.mean() for view in read_media([str(tmp_path / 'a.webp')], 32, ahead=4)] == [0, 255]


def test_animation_that_breaks_off_keeps_its_frames_and_has_a_row_with_the_reason(tmp_path):
  noise = [Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 64), np.uint8)) for seed in range(4)]
  noise[0].save(tmp_path / 'a.gif', save_all=True, append_images=noise[1:], duration=1000)
  data = (tmp_path / 'a.gif').read_bytes()
  (tmp_path / 'a.gif').write_bytes(data[:len(data) * 5 // 8])
  found = list(read_media([str(tmp_path / 'a.gif')], 32, ahead=4))
  assert [view.name.partition('#')[2] for view in found] == ['t=0.0', 't=1.0', '']
  assert 'truncated' in found[-1].error


def test_large_animation_is_not_decoded(tmp_path):
  with pytest.raises(images.RejectedError, match='64 x 48 pixels: over 0.001 megapixels .*--max_megapixels'):
    next(images.animation_frames(animate(tmp_path / 'a.gif', [100, 100]), 0.001))


def test_cut_table_goes_on_within_an_animation(tmp_path):
  checkpoint, out = save_random(tmp_path / 'run'), tmp_path / 'out.csv'
  folder = tmp_path / 'all'
  draw(folder, 5)
  animate(folder / '0002a.gif', [1000] * 6)
  predict_images(checkpoint, [str(folder)], str(out), batch_size=8)
  whole = out.read_bytes()
  assert [Path(row['path']).name for row in rows_of(out)][3:9] == [f'0002a.gif#t={second}.0' for second in range(6)]
  for share in (3, 5, 7):
    out.write_bytes(whole[:len(whole) * share // 8])
    predict_images(checkpoint, [str(folder)], str(out), append=True)
    assert out.read_bytes() == whole
