"""Videos in `predict`: one row per sampled frame. All but one need PyAV, the extra [video]."""

from collections.abc import Callable
from pathlib import Path
import struct

import numpy as np
import pytest

from data_pipelines.user_files import video
from tests.support.predictions import assert_refused, draw, rows_of, save_random
from uniemox_jax.predict.prediction import predict_images


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
  return save_random(tmp_path_factory.mktemp('run'))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
  """Five seconds, ten frames each: grey, brighter from frame to frame."""
  av = pytest.importorskip('av')
  with av.open(str(tmp_path / 'clip.mp4'), 'w') as container:
    stream = container.add_stream('mpeg4', rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
    frames = [av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * index, np.uint8), 'rgb24') for index in range(50)]
    container.mux([packet for frame in [*frames, None] for packet in stream.encode(frame)])
  return tmp_path / 'clip.mp4'


@pytest.mark.parametrize(('per_second', 'seconds'), [(1, [0, 1, 2, 3, 4]), (0.5, [0, 2, 4]), (0.1, [0])])
def test_a_row_a_sampled_frame(clip: Path, checkpoint: str, per_second: float, seconds: list[int]) -> None:
  after = draw(clip.parent / 'z', 1)
  predict_images(checkpoint, [str(clip), *after], str(clip.parent / 'out.csv'), per_second=per_second)
  rows = rows_of(clip.parent / 'out.csv')
  assert [row['path'] for row in rows] == [*(f'{clip}#t={float(second)}' for second in seconds), *after]
  assert all(row['label'] for row in rows)


def test_frames_are_those_of_their_time(clip: Path) -> None:
  for seconds, frame in video.frames(str(clip), 3):
    assert abs(int(np.asarray(frame).mean()) - 50 * seconds) < 6
  assert video.expected_frames(str(clip), 3) == 15


def test_turned_video_is_upright(clip: Path) -> None:
  data = bytearray(clip.read_bytes())
  matrix = data.index(b'tkhd') + 44  # Of the track header: after version, times, id, duration, layer and volume.
  data[matrix:matrix + 36] = struct.pack('>9i', 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
  clip.write_bytes(data)
  assert [frame.size for _, frame in video.frames(str(clip), 1)] == [(48, 64)] * 5


def test_cut_table_goes_on_within_a_video(clip: Path, checkpoint: str) -> None:
  out = clip.parent / 'out.csv'
  predict_images(checkpoint, [str(clip)], str(out), per_second=5)
  whole = out.read_bytes()
  out.write_bytes(whole[:len(whole) // 2])
  predict_images(checkpoint, [str(clip)], str(out), per_second=5, append=True)
  assert out.read_bytes() == whole
  assert_refused(lambda: predict_images(checkpoint, [str(clip)], str(out), per_second=1, append=True), 'another fps')


@pytest.mark.parametrize(('name', 'change', 'reason'), [
    ('half.mp4', lambda data: data[:len(data) // 2], 'cannot be decoded'),
    ('empty.mp4', lambda data: b'', 'cannot be decoded'),
    ('playlist.mp4', lambda data: b'#EXTM3U\n#EXTINF:5,\nclip.mp4\n#EXT-X-ENDLIST\n', 'cannot be decoded')])
def test_broken_video_is_a_row(
    clip: Path, checkpoint: str, name: str, change: Callable[[bytes], bytes], reason: str) -> None:
  path = clip.parent / name
  path.write_bytes(change(clip.read_bytes()))
  predict_images(checkpoint, [str(path), str(clip)], str(clip.parent / 'out.csv'))
  rows = rows_of(clip.parent / 'out.csv')
  assert rows[0]['path'] == str(path) and reason in rows[0]['error'] and not rows[0]['label']
  assert len(rows) == 6


def test_video_without_its_decoder(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
  """Named, it is a mistake; in a folder it is a row, and the rest goes on."""
  monkeypatch.setattr(video.importlib.util, 'find_spec', lambda name: None)
  draw(tmp_path / 'all', 1)
  (tmp_path / 'all' / 'clip.mp4').write_bytes(b'')
  assert_refused(
      lambda: predict_images(checkpoint, [str(tmp_path / 'all' / 'clip.mp4')]), "pip install 'uniemox_jax.video")
  predict_images(checkpoint, [str(tmp_path / 'all')], str(tmp_path / 'out.csv'))
  rows = rows_of(tmp_path / 'out.csv')
  assert [bool(row['label']) for row in rows] == [True, False] and 'pip install' in rows[1]['error']
