"""What Python calls take as images: each form gives what the same image as a file gives."""

from pathlib import Path

import numpy as np
from PIL import Image
import pytest

from tests.support.predictions import LABELS, save_random
import uniemox_jax


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
  return uniemox_jax.load_classifier(save_random(tmp_path_factory.mktemp('run')))


@pytest.fixture(scope='module')
def pixels() -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


FORMS = {
    'path': lambda pixels, folder: str(file(pixels, folder)), 'Path': lambda pixels, folder: file(pixels, folder),
    'PIL': lambda pixels, folder: Image.fromarray(pixels), 'HWC': lambda pixels, folder: pixels,
    'BHWC': lambda pixels, folder: pixels[None], 'float in 0..1': lambda pixels, folder: pixels / 255,
    'float32 in 0..1': lambda pixels, folder: (pixels / 255).astype(np.float32),
    'uint16': lambda pixels, folder: pixels.astype(np.uint16) * 257,
    'uint16 of 8 bits': lambda pixels, folder: pixels.astype(np.uint16),
    'int32': lambda pixels, folder: pixels.astype(np.int32),
    'int64, a batch': lambda pixels, folder: pixels[None].astype(np.int64),
    'whole float32 in 0..255': lambda pixels, folder: pixels.astype(np.float32),
    'CHW': lambda pixels, folder: pixels.transpose(2, 0, 1),
    'BCHW, float': lambda pixels, folder: pixels.transpose(2, 0, 1)[None] / 255,
    'array of paths': lambda pixels, folder: np.array([str(file(pixels, folder))]),
    'array of Paths': lambda pixels, folder: np.array([file(pixels, folder)]),
    'PIL, RGBX': lambda pixels, folder: Image.fromarray(pixels).convert('RGBX'),
    'PIL, RGBa': lambda pixels, folder: Image.fromarray(pixels).convert('RGBA').convert('RGBa'),
    'opaque RGBA': lambda pixels, folder: np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]),
    'list of one': lambda pixels, folder: [pixels], 'PIL, turned by EXIF': lambda pixels, folder: turned(pixels)}


def file(pixels: np.ndarray, folder: Path) -> Path:
  Image.fromarray(pixels).save(folder / 'image.png')
  return folder / 'image.png'


def turned(pixels: np.ndarray) -> Image.Image:
  image = Image.fromarray(np.rot90(pixels).copy())
  image.getexif()[0x0112] = 6  # to be turned a quarter clockwise
  return image


@pytest.mark.parametrize('form', FORMS)
def test_every_form_of_an_image_gives_the_same_answer(form, classifier, pixels, tmp_path):
  expected = classifier.predict_proba(pixels[None])
  np.testing.assert_allclose(classifier.predict_proba(FORMS[form](pixels, tmp_path)), expected, atol=1e-6)


def test_list_may_mix_sizes_and_forms(classifier, pixels, tmp_path):
  mixed = [pixels, Image.fromarray(pixels[:20]), file(pixels[:, :9], tmp_path), pixels[..., 0]]
  alone = [classifier.predict_proba(one)[0] for one in mixed]
  np.testing.assert_allclose(classifier.predict_proba(mixed), alone, atol=1e-6)


class Unreadable:
  """As a tensor of PyTorch with gradients."""

  def __array__(self, *args, **kwargs):
    raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


@pytest.mark.parametrize(
    'wrong', [
        np.zeros((5, 5, 2), np.uint8),
        np.zeros((5, 5, 12), np.uint8),
        np.zeros((2, 2, 5, 5), np.uint8),
        np.full((5, 5, 3), 256, np.int64),
        np.full((5, 5, 3), -1),
        np.full((5, 5, 3), 200.5),
        np.zeros((5, 5, 3), bool),
        np.full((5, 5, 3), np.nan),
        np.zeros((0, 5, 3), np.uint8), 3, None, [None],
        Image.new('RGB', (0, 5)), [Image.new('L', (5, 0))],
        np.zeros((48, 64, 3), np.uint8).tolist(),
        Unreadable(), [Unreadable()]])  # fmt: skip
def test_what_is_no_image_is_a_value_error_that_says_what_is_wanted(wrong, classifier):
  with pytest.raises(ValueError, match='wanted a path, a PIL image, an array'):
    classifier.predict_proba(wrong)


def test_grey_images_need_no_axis_of_channels(classifier, pixels):
  grey = pixels[..., 0]
  expected = classifier.predict_proba([Image.fromarray(grey), Image.fromarray(grey[::-1].copy())])
  np.testing.assert_allclose(classifier.predict_proba(np.stack([grey, grey[::-1]])), expected, atol=1e-6)
  np.testing.assert_allclose(classifier.predict_proba(grey), expected[:1], atol=1e-6)


@pytest.mark.parametrize('mode', ['YCbCr', 'HSV', 'PA', 'La', 'CMYK', 'LAB', '1', 'P', 'I', 'I;16'])
def test_every_mode_of_pillow_that_has_colours_is_converted(mode, classifier, pixels):
  image = Image.fromarray(pixels[..., 0] if mode in ('La', '1', 'I', 'I;16') else pixels)
  image = image.convert('P').convert('PA') if mode == 'PA' else image.convert('LA').convert('La') if mode == 'La' else (
      Image.fromarray(pixels[..., 0].astype(np.uint16)) if mode == 'I;16' else image.convert(mode))
  expected = image.convert('LA').convert('RGB') if mode == 'La' else image.convert('L' if mode == 'I;16' else 'RGB')
  assert image.mode == mode
  np.testing.assert_allclose(classifier.predict_proba(image), classifier.predict_proba(expected), atol=1e-6)


def test_a_mode_without_known_colours_is_a_value_error_that_names_it(classifier):
  with pytest.raises(ValueError, match='a PIL image of mode F: floating-point pixels'):
    classifier.predict_proba(Image.new('F', (40, 30)))


def test_a_truncated_image_that_pillow_has_not_read_yet_is_a_value_error(classifier, pixels, tmp_path):
  Image.fromarray(np.tile(pixels, (4, 4, 1))).save(tmp_path / 'whole.jpg')
  (tmp_path / 'cut.jpg').write_bytes((tmp_path / 'whole.jpg').read_bytes()[:2000])
  with Image.open(tmp_path / 'cut.jpg') as image, pytest.raises(ValueError,
                                                                match='PIL image of mode RGB cannot be used'):
    classifier.predict_proba(image)


def test_twelve_bits_are_shrunk_alike_as_a_file_a_pil_image_and_an_array(classifier, pixels, tmp_path):
  grey = pixels[..., 0].astype(np.uint16) * 16
  image = Image.fromarray(grey)
  image.save(tmp_path / 'grey.png')
  expected = classifier.predict_proba(pixels[..., 0])
  for given in (tmp_path / 'grey.png', image, grey, grey[None, ..., None]):
    np.testing.assert_allclose(classifier.predict_proba(given), expected, atol=1e-6)


def test_a_file_over_the_limit_of_pixels_is_told_what_python_offers(classifier, tmp_path):
  Image.new('1', (10000, 7000)).save(tmp_path / 'large.png')
  with pytest.raises(ValueError, match=r'large\.png: .*over 64 megapixels \(a PIL image may be as large as it is\)'):
    classifier.predict_proba(tmp_path / 'large.png')


def test_file_that_cannot_be_read_is_named(classifier, tmp_path):
  (tmp_path / 'broken.jpg').write_bytes(b'no image')
  with pytest.raises(ValueError, match=r'broken\.jpg: not an image'):
    classifier.predict(str(tmp_path / 'broken.jpg'))


def test_no_images_give_no_rows(classifier):
  assert classifier.predict_proba([]).shape == (0, len(LABELS))


def test_more_images_than_a_batch_give_what_each_gives_alone(classifier, pixels):
  many = [np.roll(pixels, shift, axis=1) for shift in range(71)]
  found = classifier.predict_proba(many)
  np.testing.assert_allclose(found[[0, 40, 70]], [classifier.predict_proba(many[i])[0] for i in (0, 40, 70)], atol=1e-6)


def test_results_name_their_columns_as_the_table_does(classifier, pixels, tmp_path):
  pd = pytest.importorskip('pandas')
  path = file(pixels, tmp_path)
  table = classifier.predict([path, path]).to_dict()
  assert list(table) == ['path', 'label', 'probability', *(f'p_{label}' for label in LABELS)]
  assert table['path'] == [str(path)] * 2
  assert classifier.predict([path, pixels]).to_dict()['path'] == [str(path), None]
  frame = classifier.predict(pixels).to_pandas()
  assert isinstance(frame, pd.DataFrame) and list(frame) == list(table)[1:] and len(frame) == 1
