"""JSON from a hub: every form of a setting is followed, or refused in one line that names its file."""

import json
from pathlib import Path
import shutil
from typing import Any

import pytest

from data_pipelines.errors import UserError
from uniemox_jax.convert.published_views import view_of_processor
from uniemox_jax.models.preprocess import CLIP_MEAN, CLIP_STD
from uniemox_jax.models.view import BILINEAR, View
from uniemox_jax.teacher.frozen_clip import load_clip

SUPPORTED: dict[str, tuple[dict[str, Any], View]] = {
    'nothing said': ({}, View(32, 32)), 'a number': ({'size': 32, 'crop_size': 32}, View(32, 32)),
    'a larger size': ({'size': 36}, View(32, 36)), 'short side':
        ({'size': {'shortest_edge': 40}, 'crop_size': {'height': 32, 'width': 32}}, View(32, 40)), 'both sides':
            ({'size': {'height': 32, 'width': 32}, 'do_center_crop': False}, View(32, 32, True)), 'with empty keys':
                ({'size': {'height': None, 'width': None, 'shortest_edge': 34, 'longest_edge': None}}, View(32, 34)),
    'crop by its short side': ({'crop_size': {'shortest_edge': 32}}, View(32, 32)), 'no crop':
        ({'size': 32, 'do_center_crop': False, 'crop_size': 99}, View(32, 32)), 'bicubic by name':
            ({'resample': 'bicubic'}, View(32, 32)), 'bilinear': ({'resample': 2}, View(32, 32, resample=BILINEAR)),
    'the older name of its class': ({'feature_extractor_type': 'CLIPFeatureExtractor'}, View(32, 32)), 'a quick class':
        ({'image_processor_type': 'CLIPImageProcessorFast'}, View(32, 32)), 'one mean for all channels':
            ({'image_mean': 0.5, 'image_std': 0.25}, View(32, 32, mean=(0.5,) * 3, std=(0.25,) * 3)), 'not normalised':
                ({'do_normalize': False, 'image_mean': None}, View(32, 32, mean=(0.0,) * 3, std=(1.0,) * 3)),
    'scaled by 1/255': ({'rescale_factor': 0.00392156862745098, 'do_rescale': True}, View(32, 32)), 'no mean':
        ({'image_std': list(CLIP_STD)}, View(32, 32, mean=CLIP_MEAN))}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    'long side': ({'size': {'longest_edge': 32}}, 'only a number, shortest_edge, or height and width'),
    'short and long side': ({'size': {'shortest_edge': 32, 'longest_edge': 64}}, 'only a number'), 'largest sides':
        ({'size': {'max_height': 32,
                   'max_width': 32}}, 'only a number'), 'oblong': ({'size': {'height': 32,
                                                                             'width': 48}}, 'of one size'),
    'height alone': ({'size': {'height': 32}}, 'only a'), 'no keys': ({'size': {}}, 'only a number'),
    'list': ({'size': [32, 32]}, 'not an integer'), 'null': ({'size': None}, 'only a number'), 'text':
        ({'size': '32'}, 'not an integer'), 'float': ({'size': 32.0}, 'not an integer'), 'true':
            ({'size': True}, 'not an integer'), 'negative': ({'size': -1}, 'not an integer from 1'), 'zero':
                ({'size': {'shortest_edge': 0}}, 'not an integer from 1'), 'nested':
                    ({'size': {'shortest_edge': {'shortest_edge': 32}}}, 'not an integer'), 'smaller than the crop':
                        ({'size': 16}, 'do not give 32 pixels'), 'another crop': ({'crop_size': 48}, 'do not give 32'),
    'oblong crop': ({'crop_size': {'height': 32, 'width': 30}}, 'crop_size is'), 'crop is text':
        ({'crop_size': 'x'}, 'crop_size'), 'crop by its long side':
            ({'crop_size': {'longest_edge': 32}}, 'crop_size is'), 'not resized':
                ({'do_resize': False}, 'do_resize False'), 'no resizing, no crop':
                    ({'do_resize': False, 'do_center_crop': False}, 'do_resize False'), 'a switch is text':
                        ({'do_resize': 'false'}, "do_resize is 'false', not true or false"), 'a switch is null':
                            ({'do_center_crop': None}, 'do_center_crop is None'), 'a switch is a number':
                                ({'do_normalize': 1}, 'do_normalize is 1'), 'nearest': ({'resample': 0}, 'resample 0'),
    'resampled by text': ({'resample': 'lanczos'}, "resample 'lanczos'"), 'resampled by a list':
        ({'resample': [3]}, 'resample'), 'padded': ({'do_pad': True}, 'do not give 32'), 'not scaled':
            ({'do_rescale': False}, 'do not scale pixels to 0..1'), 'scaled to -1..1':
                ({'rescale_factor': 1 / 127.5}, 'do not scale'), 'scaled by text':
                    ({'rescale_factor': '1/255'}, 'do not scale'), 'four channels':
                        ({'image_mean': [0.5] * 4}, 'not three numbers'), 'mean is text':
                            ({'image_mean': 'a'}, 'not three numbers'), 'mean of pixels to 255':
                                ({'image_mean': [124.0] * 3}, 'from -10 to 10'), 'deviation is null':
                                    ({'image_std': None}, 'not three numbers'), 'deviation of zero':
                                        ({'image_std': 0}, 'not three numbers'), 'mean of texts':
                                            ({'image_mean': ['0.5'] * 3}, 'not three numbers'), "a ViT's":
                                                ({'image_processor_type': 'ViTImageProcessor',
                                                  'size': 32}, 'of a ViTImageProcessor'), 'class is a list':
                                                      ({'image_processor_type': []}, 'preprocessor_config.json')}


@pytest.mark.parametrize('kind', SUPPORTED)
def test_setting_of_the_pixels_is_followed(kind: str) -> None:
  settings, expected = SUPPORTED[kind]
  assert view_of_processor(settings, 32) == expected


@pytest.fixture
def folder(clip_folder: Path, tmp_path: Path) -> Path:
  """As others publish it: without this package's checksums."""
  return Path(shutil.copytree(clip_folder, tmp_path / 'clip', ignore=shutil.ignore_patterns('checksums.sha256')))


@pytest.mark.parametrize('kind', REFUSED)
def test_setting_that_cannot_be_followed_is_one_line(kind: str, folder: Path) -> None:
  settings, cause = REFUSED[kind]
  (folder / 'preprocessor_config.json').write_text(json.dumps(settings))
  with pytest.raises(UserError, match=cause) as error:
    load_clip(folder)
  assert 'preprocessor_config.json' in str(error.value)
  assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 500


def test_processor_inside_of_a_processor_config_is_followed_too(folder: Path) -> None:
  (folder / 'preprocessor_config.json').unlink()
  (folder / 'processor_config.json').write_text(json.dumps({'image_processor': {'size': 40}}))
  assert load_clip(folder).view == View(32, 40)
  (folder / 'processor_config.json').write_text(json.dumps({'image_processor': {'size': {'longest_edge': 32}}}))
  with pytest.raises(UserError, match=r'processor_config\.json: size is'):
    load_clip(folder)
