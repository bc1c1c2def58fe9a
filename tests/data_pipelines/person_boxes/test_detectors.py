"""The three kinds of detector: what they find and where, and the one line when they cannot run."""

import json
import math
import sys

import numpy as np
from PIL import Image
import pytest

from data_pipelines.errors import UserError
from data_pipelines.person_boxes import detectors
from tests.support.tiny_onnx import write_yolox

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)

# Of blue, green, red: red and green are objects; class 0, the person, is red; class 1 is green.
_OBJECT, _PERSON, _OTHER = (0, 1, 1), (-2, -2, 1), (-2, 1, -2)


def _image(width, height, *blocks):
  """A black image with coloured blocks (colour, left, top, side)."""
  image = Image.new('RGB', (width, height))
  for colour, left, top, side in blocks:
    image.paste(colour, (left, top, left + side, top + side))
  return image


@pytest.fixture
def yolox(tmp_path):

  def write(sides=1.0, height=64, width=96, weights=(_OBJECT, _PERSON, _OTHER)):
    path = tmp_path / 'tiny.ONNX'
    write_yolox(path, height, width, math.log(sides), np.array(weights, np.float32))
    return detectors.load_detector(str(path))

  return write


@pytest.mark.parametrize(('width', 'height'), [(192, 128), (96, 128), (192, 80)], ids=['fits', 'tall', 'wide'])
def test_yolox_finds_the_person_where_it_is(yolox, width, height):
  red = _image(width, height, (RED, 32, 32, 32))  # Half the size, it fills cell (1, 1) of stride 16.
  found, nobody = yolox()([red, _image(width, height)])
  np.testing.assert_allclose(found, [[32, 32, 64, 64, 1]], atol=1e-4)
  assert nobody.shape == (0, 5) and found.dtype == np.float64


@pytest.mark.parametrize('shape', [(1, 4000), (4000, 1), (41, 1), (60_000, 100)])
def test_nobody_is_found_in_a_strip_and_the_images_beside_it_keep_their_boxes(yolox, shape):
  red = _image(192, 128, (RED, 32, 32, 32))
  assert [len(boxes) for boxes in yolox()([_image(*shape), red, _image(*shape), red])] == [0, 1, 0, 1]


def test_yolox_reads_blue_green_red_and_takes_the_class_person_only(yolox):
  found, = yolox()([_image(192, 128, (BLUE, 0, 0, 32), (GREEN, 64, 0, 32), (RED, 128, 64, 32))])
  np.testing.assert_allclose(found[:, :4], [[128, 64, 160, 96]], atol=1e-4)


def test_yolox_keeps_the_surest_of_boxes_that_overlap(yolox):
  image = _image(192, 128, ((200, 0, 0), 32, 32, 32), (RED, 64, 32, 32))
  two, = yolox(sides=1)([image])
  one, = yolox(sides=4)([image])
  assert len(two) == 2 and len(one) == 1
  np.testing.assert_allclose(one, [[16, -16, 144, 112, 1]], atol=1e-3)


def test_yolox_gives_unsure_boxes_too_but_none_below_the_floor(yolox):
  reds = [(round(255 * math.sqrt(score)), 0, 0) for score in (0.3, 0.05)]  # The score is red squared.
  found, = yolox()([_image(192, 128, (reds[0], 0, 0, 32), (reds[1], 96, 64, 32))])
  np.testing.assert_allclose(found, [[0, 0, 32, 32, 0.3]], atol=0.01)


def test_yolox_says_when_a_file_is_not_its_export(yolox, tmp_path):
  with pytest.raises(UserError, match='does not load as an ONNX file'):
    detectors.load_detector(str(tmp_path / 'missing.onnx'))
  (tmp_path / 'text.onnx').write_text('hello')
  with pytest.raises(UserError, match='does not load as an ONNX file'):
    detectors.load_detector(str(tmp_path / 'text.onnx'))
  with pytest.raises(UserError, match='not .1, 3, H, W.'):
    yolox(height=72)
  with pytest.raises(UserError, match='decode_in_inference'):
    yolox(sides=1e6)([_image(192, 128)])


def test_yolox_tells_broken_scores_from_an_empty_image(yolox):
  broken, = yolox(weights=([np.nan] * 3, _PERSON))([_image(192, 128)])
  assert len(broken) == 1 and np.isnan(broken).all()


@pytest.fixture(scope='module')
def dfine(tmp_path_factory):
  """A folder that holds the recommended model's architecture in small, with random weights."""
  import torch
  import transformers

  torch.manual_seed(0)
  sides = [16] * 4
  backbone = transformers.HGNetV2Config(
      embedding_size=8, hidden_sizes=sides, depths=[1] * 4, stem_channels=[3, 8, 8], stage_in_channels=[8, 16, 16, 16],
      stage_mid_channels=[4] * 4, stage_out_channels=sides, stage_num_blocks=[1] * 4, stage_numb_of_layers=[1] * 4,
      out_indices=[2, 3, 4])  # fmt: skip
  config = transformers.DFineConfig(
      backbone_config=backbone, encoder_in_channels=[16] * 3, decoder_in_channels=[16] * 3, d_model=16,
      encoder_hidden_dim=16, encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2, num_queries=30,
      decoder_attention_heads=2, decoder_layers=2, num_denoising=0, id2label={0: 'bicycle', 1: 'person',
                                                                              2: 'car'})  # fmt: skip
  folder = tmp_path_factory.mktemp('dfine')
  model = transformers.AutoModelForObjectDetection.from_config(config)
  for parameter in model.parameters():  # As initialised, all scores and boxes are nearly the same.
    parameter.data += 0.3 * torch.randn_like(parameter)
  model.save_pretrained(folder)
  transformers.RTDetrImageProcessorPil(size={'height': 64, 'width': 64}).save_pretrained(folder)
  return folder


@pytest.fixture
def edited(dfine, tmp_path):
  """Copies the model's folder with another config."""

  def copy(change):
    for file in dfine.iterdir():
      (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / 'config.json').read_text())
    (tmp_path / 'config.json').write_text(json.dumps(config | change))
    return tmp_path

  return copy


def test_transformers_model_gives_the_boxes_of_persons_in_pixels_without_torchvision(dfine):
  import torch
  import transformers

  images = [_image(120, 80, (RED, 20, 20, 40)), _image(50, 90, (GREEN, 0, 0, 30))]
  found = detectors.load_detector(str(dfine))(images)
  model = transformers.AutoModelForObjectDetection.from_pretrained(dfine).eval()
  for image, boxes_Nx5 in zip(images, found):
    resized = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR), np.float32) / 255
    with torch.no_grad():
      outputs = model(torch.tensor(resized).permute(2, 0, 1)[None])
    # RT-DETR's own rule: the best pairs of query and class, as many as there are queries.
    scores_QxC = outputs.logits[0].sigmoid().numpy()
    least = np.sort(scores_QxC, axis=None)[-len(scores_QxC)]
    sure_Q = scores_QxC[:, 1] >= max(least, detectors.FLOOR)
    centre_x, centre_y, width, height = outputs.pred_boxes[0, sure_Q].numpy().T
    expected_Nx4 = np.stack([centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2],
                            axis=1)
    expected_Nx4 *= np.tile(image.size, 2)
    order = np.argsort(-scores_QxC[sure_Q, 1], kind='stable')
    assert len(boxes_Nx5) and boxes_Nx5.dtype == np.float64
    np.testing.assert_allclose(boxes_Nx5[:, 4], scores_QxC[sure_Q, 1][order], atol=1e-3)
    np.testing.assert_allclose(boxes_Nx5[:, :4], expected_Nx4[order], atol=0.5)
  assert 'torchvision' not in sys.modules


def test_transformers_model_without_persons_or_weights_is_a_users_mistake(edited, tmp_path):
  folder = edited({'id2label': {0: 'cat', 1: 'dog', 2: 'car'}, 'label2id': {'cat': 0, 'dog': 1, 'car': 2}})
  with pytest.raises(UserError, match=r"no class 'person' \(it has cat, dog, car"):
    detectors.load_detector(str(folder))
  folder = edited({'decoder_layers': 3})
  with pytest.raises(UserError, match='lacks [0-9]+ weights'):
    detectors.load_detector(str(folder))


def test_settings_that_only_its_use_reads_are_checked_when_it_is_loaded(edited):
  folder = edited({})
  settings = json.loads((folder / 'preprocessor_config.json').read_text())
  (folder / 'preprocessor_config.json').write_text(
      json.dumps(settings | {'do_normalize': True, 'image_mean': [0.5] * 2}))
  with pytest.raises(UserError, match='is damaged'):
    detectors.load_detector(str(folder))


def test_weights_are_never_unpickled(edited):
  import torch

  folder = edited({})
  (folder / 'model.safetensors').unlink()
  torch.save({}, folder / 'pytorch_model.bin')
  with pytest.raises(UserError, match='safetensors'):
    detectors.load_detector(str(folder))


def test_missing_model_and_code_from_its_folder_are_refused_in_one_line(edited, tmp_path):
  with pytest.raises(UserError) as error:
    detectors.load_detector(str(tmp_path / 'nothing'))
  assert '\n' not in str(error.value) and detectors.RECOMMENDED in str(error.value)
  theirs = {'AutoModelForObjectDetection': 'code.Model', 'AutoConfig': 'code.Config'}
  folder = edited({'model_type': 'theirs', 'auto_map': theirs})
  (folder / 'code.py').write_text('raise SystemExit("their code ran")')
  with pytest.raises(UserError):
    detectors.load_detector(str(folder))


@pytest.mark.parametrize(('name', 'module', 'extra'), [('hog', 'cv2', 'detect'), ('x.onnx', 'cv2', 'detect'),
                                                       ('x.onnx', 'onnxruntime', 'detect'), ('x', 'torch', 'torch')])
def test_missing_library_names_the_extra(name, module, extra, monkeypatch):
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(UserError, match=rf"pip install 'uniemox_jax\[{extra}\]'"):
    detectors.load_detector(name)


@pytest.fixture
def fake_hog(monkeypatch):
  """Stands for OpenCV's detector, which no installed version need have: keeps what it is shown, gives one window."""
  cv2 = pytest.importorskip('cv2')

  class Descriptor:
    shown = []
    found = (np.array([[64, 128, 64, 128]], np.int32), np.array([0.8]))

    def setSVMDetector(self, weights):  # noqa: N802  # OpenCV's name.
      assert weights == 'weights'

    def detectMultiScale(self, bgr_HxWx3, winStride, padding, scale):  # noqa: N802
      assert bgr_HxWx3.flags.c_contiguous
      self.shown.append(bgr_HxWx3)
      return self.found

  monkeypatch.setattr(cv2, 'HOGDescriptor', Descriptor, raising=False)
  monkeypatch.setattr(cv2, 'HOGDescriptor_getDefaultPeopleDetector', lambda: 'weights', raising=False)
  return Descriptor


def test_hog_boxes_are_scaled_back_without_the_room_around_and_scores_are_logistic(fake_hog):
  found, = detectors.load_detector('hog')([Image.new('RGB', (96, 192), BLUE)])
  shown, = fake_hog.shown
  assert shown.shape == (768, 384, 3) and shown[0, 0].tolist() == [255, 0, 0]
  left, top, width, height = 64 / 4, 128 / 4, 64 / 4, 128 / 4
  expected = [left + 0.1 * width, top + 0.07 * height, left + 0.9 * width, top + 0.87 * height]
  np.testing.assert_allclose(found, [[*expected, 1 / (1 + math.exp(-0.8))]])


def test_hog_that_finds_nobody_gives_no_boxes(fake_hog, monkeypatch):
  monkeypatch.setattr(fake_hog, 'found', ((), ()))  # What OpenCV gives then.
  found, = detectors.load_detector('hog')([Image.new('RGB', (96, 96))])
  assert found.shape == (0, 5)


def test_opencv_without_hog_is_a_users_mistake(fake_hog, monkeypatch):
  import cv2

  monkeypatch.delattr(cv2, 'HOGDescriptor')
  with pytest.raises(UserError, match=r"has no HOG detector.*pip install 'opencv-python-headless<5'"):
    detectors.load_detector('hog')


def test_opencvs_own_hog_takes_our_images_and_gives_scores_from_one_half():
  if not hasattr(pytest.importorskip('cv2'), 'HOGDescriptor'):
    pytest.skip('this OpenCV has no HOG detector')
  pixels = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
  hog = detectors.Hog()
  for image in (Image.fromarray(pixels), Image.new('RGB', (40, 30))):
    found = hog(image)
    assert found.shape[1] == 5 and ((found[:, 4] >= 0.5) & (found[:, 4] <= 1)).all()
