"""Names of files in `predict`: none decides what an image is, and each has a row of its own."""

import os

from PIL import Image
import pytest

from data_pipelines.media import find_images, read_media


@pytest.mark.parametrize('name', ['a.zip', 'a.tar', 'a.tgz', 'a.mp4', 'a.txt', 'a.csv', 'a'])
def test_an_image_that_is_named_is_read_whatever_its_ending(tmp_path, name):
  path = str(tmp_path / name)
  Image.new('RGB', (40, 40), 'white').save(path, 'JPEG')
  found = [(view.name, view.error) for view in read_media.read_media(find_images.find([path]).paths, 32, ahead=2)]
  assert found == [(path, '')]


def test_no_two_paths_have_one_name_in_the_table() -> None:
  names = [
      b'a\nb.jpg', rb'a\nb.jpg', rb'a\\nb.jpg', b'\xff', rb'\xff', 'ÿ'.encode(), b'\x80', '\x80'.encode(), rb'\u0080',
      b'v.mp4#t=1.0', rb'v.mp4\x23t=1.0']  # fmt: skip
  frame = read_media.printable('v.mp4') + '#t=1.0'
  shown = [read_media.printable(os.fsdecode(name)) for name in names]
  assert len({frame, *shown}) == len(names) + 1 and all(name.isprintable() for name in shown)
  assert read_media.printable('holiday/#t.jpg') == 'holiday/#t.jpg'
