"""Archives as arguments of `predict`: every image has its row, nothing is unpacked, and what is broken is named."""

import gzip
import io
from pathlib import Path
import stat
import tarfile
import zipfile

import numpy as np
from PIL import Image
import pytest

from data_pipelines.media import archives, find_images
from data_pipelines.media.read_media import read_media
from data_pipelines.person_boxes.person_finder import PersonFinder
from tests.support.predictions import assert_refused, draw, pack, save_random
from uniemox_jax.predict.prediction import predict_images

FORMS = ['a.zip', 'a.tar', 'a.tar.gz', 'a.TGZ']


def png(level: int, size: tuple[int, int] = (48, 40)) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(np.full((*size, 3), level, np.uint8)).save(buffer, 'PNG')
  return buffer.getvalue()


def seen(path: Path) -> list[tuple[str, int | str]]:
  """(name in the archive, level or error) of each view."""
  found = find_images.find([str(path)])
  return [(view.name.removeprefix(str(path)), view.error or round(float(view.pixels.mean())))
          for view in read_media(found.paths, 32, ahead=4)]


@pytest.mark.parametrize('name', FORMS)
def test_every_image_has_its_row_in_the_archives_order(tmp_path, name):
  members = {'z/b.png': png(10), './a/a.PNG': png(20), 'broken.jpg': b'nothing', 'ünïcode ☂.png': png(30)}
  assert seen(pack(tmp_path / name, members)) == [('/z/b.png', 10), ('/a/a.PNG', 20),
                                                  ('/broken.jpg', 'not an image in a known format'),
                                                  ('/ünïcode ☂.png', 30)]
  assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize('name', FORMS)
def test_other_members_are_passed_over_and_counted(tmp_path, name):
  members = {
      'a.png': png(10), '__MACOSX/._a.png': b'', '._b.png': b'', '.hidden/c.png': png(1), 'inner.zip': b'PK',
      'deep/inner.tar.gz': b'', 'notes.md': b'', 'LICENSE': b'', 'clip.mp4': b'', '../up.png': png(1),
      'a/../../up.png': png(1), '/etc/root.png': png(1)}
  found = find_images.find([str(pack(tmp_path / name, members))])
  assert found.paths == [f'{tmp_path}/{name}/a.png']
  assert found.passed_over == {
      '__MACOSX': 1, '.*': 2, '*.zip': 1, '*.gz': 1, '*.md': 1, 'LICENSE': 1, '*.mp4': 1,
      'name that leads out of its archive': 3}


def test_archive_in_a_folder_is_passed_over_and_counted(tmp_path):
  draw(tmp_path, 1)
  pack(tmp_path / 'a.zip', {'a.png': png(10)})
  assert find_images.find([str(tmp_path)])[1] == {'*.zip': 1}


def test_globs_and_lists_name_archives_too(tmp_path):
  for name in ('a.zip', 'b.tar'):
    pack(tmp_path / name, {'x.png': png(10), 'y.png': png(20)})
  (tmp_path / 'list.txt').write_text(f'{tmp_path}/b.tar/y.png\n{tmp_path}/a.zip\n{tmp_path}/a.zip/gone.png\n')
  assert find_images.find([f'{tmp_path}/*.[zt][ia][pr]']).paths == [
      f'{tmp_path}/{name}' for name in ('a.zip/x.png', 'a.zip/y.png', 'b.tar/x.png', 'b.tar/y.png')]
  listed = find_images.find([f'{tmp_path}/list.txt']).paths
  assert [(view.name.removeprefix(f'{tmp_path}/'), view.error) for view in read_media(listed, 32, ahead=2)] == [
      ('b.tar/y.png', ''), ('a.zip/x.png', ''), ('a.zip/y.png', ''), ('a.zip/gone.png', 'not an image of this archive')]


def test_links_and_devices_are_never_followed(tmp_path):
  draw(tmp_path / 'outside', 1)
  with tarfile.open(tmp_path / 'a.tar', 'w') as archive:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
      info = tarfile.TarInfo(f'{kind.decode()}.png')
      info.type, info.linkname = kind, str(tmp_path / 'outside' / '0000.png')
      archive.addfile(info)
  with pytest.raises(ValueError, match='no images in .*4 link or device in an archive'):
    find_images.find([str(tmp_path / 'a.tar')])


def test_link_in_a_zip_is_passed_over_and_counted(tmp_path):
  with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
    archive.writestr('x.png', png(10))
    link = zipfile.ZipInfo('link.png')
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(link, 'x.png')
  found = find_images.find([str(tmp_path / 'a.zip')])
  assert found.paths == [f'{tmp_path}/a.zip/x.png'] and found.passed_over == {'link or device in an archive': 1}


def _encrypted(data: bytes) -> bytes:
  """The same zip, whose members say that they are encrypted."""
  changed = bytearray(data)
  for mark, place in ((b'PK\3\4', 6), (b'PK\1\2', 8)):
    changed[data.index(mark) + place] |= 1
  return bytes(changed)


def _damaged(data: bytes) -> bytes:
  return data.replace(png(10)[-20:], bytes(20), 1)


@pytest.mark.parametrize(('change', 'reason'), [(_encrypted, 'encrypted: '), (_damaged, 'damaged in its archive: ')])
def test_member_that_cannot_be_read_has_its_row(tmp_path, change, reason):
  path = tmp_path / 'a.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a.png', png(10))
    archive.writestr('b.png', png(20))
  path.write_bytes(change(path.read_bytes()))
  (first, error), second = seen(path)
  assert first == '/a.png' and str(error).startswith(reason) and second == ('/b.png', 20)


@pytest.mark.parametrize('name', FORMS)
@pytest.mark.parametrize('content', [b'', b'nothing of the kind', b'PK\3\4' + bytes(2000)])
def test_archive_that_is_none_has_a_row(tmp_path, name, content):
  (tmp_path / name).write_bytes(content)
  ((inside, reason),) = seen(tmp_path / name)
  assert inside == '' and reason.startswith('damaged archive: ')


@pytest.mark.parametrize('name', FORMS[1:])
def test_archive_that_breaks_off_has_a_row_after_what_can_be_read(tmp_path, name):
  path = pack(tmp_path / name, {f'{seed}.png': _noise(seed) for seed in range(4)})
  data = path.read_bytes()
  path.write_bytes(data[:len(data) // 2])
  first, *others, (inside, reason) = seen(path)
  assert first[0] == '/0.png' and not isinstance(first[1], str)
  assert inside == '' and reason.startswith('damaged archive: ')
  assert all(isinstance(level, int) or 'in its archive' in level for _, level in others)


def test_damaged_header_in_a_tar_is_not_taken_for_its_end(tmp_path):
  path = pack(tmp_path / 'a.tar', {'0.png': png(10), '1.png': png(20)})
  data = bytearray(path.read_bytes())
  data[data.index(b'1.png')] ^= 1
  path.write_bytes(data)
  assert seen(path) == [('/0.png', 10), ('', 'damaged archive: it breaks off')]


@pytest.mark.parametrize('name', FORMS[1:])
@pytest.mark.parametrize(('kind', 'size', 'reason'), [(tarfile.REGTYPE, -512, 'a member of negative size'),
                                                      (tarfile.XHDTYPE, 2**40, 'a header of 1099511627776 bytes'),
                                                      (tarfile.GNUTYPE_LONGNAME, -512, 'a header of -512 bytes')])
def test_header_that_lies_is_neither_followed_nor_read_whole(tmp_path, name, kind, size, reason):
  info = tarfile.TarInfo('a.png')
  info.type, info.size = kind, size
  data = info.tobuf(tarfile.GNU_FORMAT) + bytes(10_000)
  (tmp_path / name).write_bytes(data if name == 'a.tar' else gzip.compress(data))
  assert seen(tmp_path / name) == [('', f'damaged archive: {reason}')]


def test_members_are_no_larger_in_memory_than_they_may_be(tmp_path, monkeypatch):
  """Neither by their declared size, nor, if they declare less than they inflate to, by that."""
  monkeypatch.setattr(archives, 'MAX_BYTES', 1000)
  path = pack(tmp_path / 'a.zip', {'a.png': bytes(1001), 'b.png': png(20)})
  assert seen(path) == [('/a.png', '1001 bytes in its archive, over 0 MiB: unpack the archive'), ('/b.png', 20)]
  path = pack(tmp_path / 'lies.zip', {'a.png': bytes(100_000_000)})
  path.write_bytes(path.read_bytes().replace((100_000_000).to_bytes(4, 'little'), (900).to_bytes(4, 'little')))
  with archives.open_archive(str(path)) as read, pytest.raises(archives.images.RejectedError, match='damaged'):
    read('a.png')


def test_animation_in_an_archive_is_sampled(tmp_path):
  buffer = io.BytesIO()
  Image.new('RGB', (48, 40), 'black').save(
      buffer, 'GIF', save_all=True, append_images=[Image.new('RGB', (48, 40), 'white')], duration=1000)
  path = pack(tmp_path / 'a.tgz', {'a.gif': buffer.getvalue()})
  assert seen(path) == [('/a.gif#t=0.0', 0), ('/a.gif#t=1.0', 255)]


@pytest.mark.parametrize('name', FORMS)
def test_table_of_an_archive_is_that_of_its_folder_and_resumes(tmp_path, name):
  checkpoint = save_random(tmp_path / 'run')
  paths = [Path(path) for path in draw(tmp_path / 'images', 20)]
  packed = pack(tmp_path / name, {path.name: path.read_bytes() for path in paths})
  out = tmp_path / 'out.csv'
  predict_images(checkpoint, [str(tmp_path / 'images')], str(tmp_path / 'folder.csv'), batch_size=8)
  predict_images(checkpoint, [str(packed)], str(out), batch_size=8)
  whole = out.read_bytes()
  assert whole.replace(f'{packed}/'.encode(), f'{tmp_path}/images/'.encode()) == (tmp_path / 'folder.csv').read_bytes()
  out.write_bytes(whole[:len(whole) // 2])
  predict_images(checkpoint, [str(packed)], str(out), append=True)
  assert out.read_bytes() == whole


def test_boxes_name_an_image_of_an_archive_as_the_table_does(tmp_path):
  path = pack(tmp_path / 'a.zip', {'day 1/a.png': png(10), 'b.png': png(20)})
  (tmp_path / 'person_boxes.csv').write_text('image,xmin,ymin,xmax,ymax,score\na.zip/day 1/a.png,4,4,30,40,0.9\n')
  finder, paths = PersonFinder(str(tmp_path), None), find_images.find([str(path)]).paths
  finder.check_names(paths)
  assert [view.person is not None for view in read_media(paths, 32, ahead=2, finder=finder)] == [True, False]


@pytest.mark.parametrize('address', ['https://example.org/a.jpg', 's3://bucket/a/', 'gs://bucket/a.zip'])
def test_address_is_refused_in_a_line(tmp_path, address):
  (tmp_path / 'list.txt').write_text(address)
  for argument in (address, str(tmp_path / 'list.txt')):
    assert_refused(lambda argument=argument: find_images.find([argument]), f'^{address} is an address.*download it')


def _noise(seed: int) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48, 3), np.uint8)).save(buffer, 'PNG')
  return buffer.getvalue()
