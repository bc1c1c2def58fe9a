from concurrent import futures
import contextlib
import io
import zlib

import numpy as np
from PIL import Image
import pytest

from data_pipelines import images
from data_pipelines.errors import UserError
from data_pipelines.light_tensorflow import tf
from data_pipelines.person_boxes import box_file, crops


def _photo(width=120, height=80) -> Image.Image:
  """Smooth, so that JPEG changes it little; the left half is red, the right half blue."""
  pixels = np.zeros((height, width, 3), np.uint8)
  pixels[:, :width // 2] = (220, 30, 20)
  pixels[:, width // 2:] = (20, 30, 220)
  return Image.fromarray(pixels)


def _in_mode(mode: str) -> Image.Image:
  return _photo().quantize(8) if mode == 'P' else _photo().convert(mode)


def _read_jpeg(path, short_side: int) -> bytes:
  with images.open_image(path) as image:
    return image.jpeg(short_side)


def _decoded(jpeg: bytes) -> np.ndarray:
  stored = Image.open(io.BytesIO(jpeg))
  assert (stored.format, stored.mode) == ('JPEG', 'RGB')
  return np.asarray(stored)


def test_clean_jpeg_is_kept_byte_for_byte(tmp_path):
  path = tmp_path / 'a.JPG'
  _photo().save(path, 'JPEG', quality=80)
  assert _read_jpeg(path, 256) == path.read_bytes()


@pytest.mark.parametrize('options', [{'progressive': True}, {'exif': 6}])
def test_progressive_or_rotated_jpeg_is_encoded_again(tmp_path, options):
  if 'exif' in options:
    exif = Image.Exif()
    exif[0x0112] = options['exif']
    options = {'exif': exif}
  path = tmp_path / 'a.jpg'
  _photo().save(path, 'JPEG', **options)
  stored = _read_jpeg(path, 256)
  assert stored != path.read_bytes()
  again = Image.open(io.BytesIO(stored))
  assert again.getexif().get(0x0112, 1) == 1 and 'progressive' not in again.info


@pytest.mark.parametrize(('mode', 'file_format'), [
    ('RGB', 'PNG'),
    ('RGBA', 'PNG'),
    ('P', 'PNG'),
    ('P', 'GIF'),
    ('RGB', 'WEBP'),
    ('RGB', 'BMP'),
    ('CMYK', 'JPEG'),
    ('CMYK', 'TIFF'),
    ('RGBA', 'WEBP'),])  # fmt: skip
def test_every_format_and_mode_becomes_the_same_rgb_jpeg_under_any_name(tmp_path, mode, file_format):
  path = tmp_path / 'wrongly_named.jpg'
  _in_mode(mode).save(path, file_format)
  pixels = _decoded(_read_jpeg(path, 256)).astype(int)
  expected = np.asarray(_in_mode(mode).convert('RGB')).astype(int)
  # Away from the edge between the halves, where chroma subsampling blurs.
  for column in (20, 100):
    assert np.abs(pixels[:, column] - expected[:, column]).max() <= 12


@pytest.mark.parametrize(('dtype', 'name'), [(np.uint16, 'a.png'), (np.int32, 'a.tif')])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, dtype, name):
  grey = np.full((40, 50), 0x4000, np.uint16)
  grey[:, 25:] = 0xC000
  path = tmp_path / name
  Image.fromarray(grey.astype(dtype)).save(path)
  pixels = _decoded(_read_jpeg(path, 256))
  assert abs(int(pixels[20, 10, 0]) - 0x40) <= 2 and abs(int(pixels[20, 40, 0]) - 0xC0) <= 2


def test_transparency_becomes_white(tmp_path):
  path = tmp_path / 'a.png'
  Image.new('RGBA', (30, 30), (0, 0, 0, 0)).save(path)
  assert _decoded(_read_jpeg(path, 256)).min() >= 253


def test_images_are_shrunk_and_never_enlarged(tmp_path):
  path = tmp_path / 'a.png'
  _photo(600, 400).save(path)
  assert _decoded(_read_jpeg(path, 256)).shape == (256, 384, 3)
  _photo(60, 40).save(path)
  assert _decoded(_read_jpeg(path, 256)).shape == (40, 60, 3)


def test_short_side_0_keeps_the_original_size(tmp_path):
  path = tmp_path / 'a.png'
  _photo(600, 400).save(path)
  assert _decoded(_read_jpeg(path, 0)).shape == (400, 600, 3)
  _photo(600, 400).save(path, 'JPEG')
  assert _read_jpeg(path, 0) == path.read_bytes()


def test_a_jpeg_that_training_could_not_decode_is_encoded_again(tmp_path):
  good = bytearray(images.encode_jpeg(_photo()))
  for position in range(good.index(b'\xff\xda') + 20, len(good) - 2):
    damaged = bytes(good[:position]) + b'\xff' + bytes(good[position + 1:])
    (tmp_path / 'a.jpg').write_bytes(damaged)
    try:
      tf.io.decode_jpeg(damaged)
    except tf.errors.InvalidArgumentError:
      with contextlib.suppress(images.RejectedError):
        tf.io.decode_jpeg(_read_jpeg(tmp_path / 'a.jpg', 256))
        return
  pytest.fail('no byte made a JPEG that Pillow reads and TensorFlow does not')


def test_large_images_are_in_memory_one_at_a_time(tmp_path, monkeypatch):
  path = tmp_path / 'a.png'
  _photo(60, 40).save(path)
  monkeypatch.setattr(images, '_LARGE', 60 * 40 - 1)
  with futures.ThreadPoolExecutor() as pool:
    with images.open_image(path):
      other = pool.submit(_read_jpeg, path, 256)
      assert not futures.wait([other], timeout=0.5).done
    assert other.result(timeout=30)


def _bomb() -> bytes:
  """A PNG whose header says 100 megapixels."""
  buffer = io.BytesIO()
  Image.new('L', (1, 1)).save(buffer, 'PNG')
  data = bytearray(buffer.getvalue())
  data[16:24] = (10_000).to_bytes(4, 'big') * 2
  data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, 'big')
  return bytes(data)


def _truncated() -> bytes:
  noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
  return images.encode_jpeg(noise)[:-600]


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize(('data', 'reason'), [
    (b'', 'empty'),
    (b'hello', 'known format'),
    (_truncated(), 'truncated'),
    (_bomb(), 'megapixels'),
    (None, 'No such file'),])  # fmt: skip
def test_unusable_images_are_rejected_with_the_reason(tmp_path, data, reason):
  path = tmp_path / 'a.jpg'
  if data is not None:
    path.write_bytes(data)
  with pytest.raises(images.RejectedError, match=reason):
    _read_jpeg(path, 256)


def _boxes(*rows) -> tuple[np.ndarray, np.ndarray]:
  return crops.to_fractions(np.array(rows, float), 120, 80)


def test_boxes_are_clamped_fractions_and_empty_ones_go():
  boxes_Nx4, scores_N = _boxes((-10, 20, 60, 100, 0.9), (200, 0, 300, 10, 0.8))
  np.testing.assert_allclose(boxes_Nx4, [[0.25, 0, 1, 0.5]])
  np.testing.assert_allclose(scores_N, [0.9])
  assert boxes_Nx4.dtype == scores_N.dtype == np.float32


def test_person_crop_is_the_largest_confident_box_with_its_margin():
  boxes_Nx4, scores_N = _boxes((70, 20, 90, 60, 0.9), (70, 20, 75, 25, 1.0), (0, 0, 120, 80, 0.4))
  box_4 = crops.largest_persons(boxes_Nx4, scores_N)[0]
  crop = Image.open(io.BytesIO(crops.person_crop(_photo(), box_4)))
  assert crop.size == (20 + 2 * 4, 40 + 2 * 8)
  assert np.asarray(crop)[..., 2].min() > 150  # All from the blue half.


def test_no_person_without_a_confident_box():
  assert not len(crops.largest_persons(*_boxes((0, 0, 50, 50, 0.49))))
  assert not len(crops.largest_persons(np.zeros((0, 4), np.float32), np.zeros(0, np.float32)))


def test_boxes_mean_the_image_as_displayed(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # Displayed turned clockwise: the stored left half, red, is the upper half.
  _photo().save(tmp_path / 'a.jpg', 'JPEG', exif=exif)
  with images.open_image(tmp_path / 'a.jpg') as image:
    original = image.original
  assert original.size == (80, 120)
  (upper_4,), _ = crops.to_fractions(np.array([[10, 10, 70, 40, 1.0]]), *original.size)
  crop = np.asarray(Image.open(io.BytesIO(crops.person_crop(original, upper_4))))
  assert crop[..., 0].mean() > 200 and crop[..., 2].mean() < 50


def test_a_bad_line_of_boxes_is_named(tmp_path):
  (tmp_path / 'person_boxes.csv').write_text('image,xmin,ymin,xmax,ymax,score\na.jpg,1,2,3,4,1\nb.jpg,1,2,nan,4,1\n')
  with pytest.raises(UserError, match='line 3'):
    box_file.read_boxes(tmp_path)
  (tmp_path / 'person_boxes.csv').write_text('image,xmin,ymin,xmax,ymax\n')
  with pytest.raises(UserError, match="lacks column 'score'"):
    box_file.read_boxes(tmp_path)
