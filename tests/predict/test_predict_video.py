"""Videos in `predict`: one row per sampled frame. All but one need PyAV, the extra [video]."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
import struct

import numpy as np
import pytest

from data_pipelines import images
from data_pipelines.media import video
from tests.support.predictions import assert_refused, draw, rows_of
from uniemox_jax.predict.prediction import predict_images


def write_video(
    path: Path, count: int, rate: Fraction | int | None, codec: str = 'mpeg4', times: Sequence[float] = (),
    sound: int = 0, options: dict[str, str] | None = None) -> Path:
  """Grey frames, brighter from one to the next: at a steady rate, or at these times; with seconds of sound."""
  av = pytest.importorskip('av')
  with av.open(str(path), 'w', options=options or {}) as container:
    stream = container.add_stream(codec, rate=rate)
    stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
    if times:
      stream.codec_context.time_base = Fraction(1, 1000)
    voice = container.add_stream('aac', rate=8000) if sound else None
    for index in range(count):
      frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * index % 256, np.uint8), 'rgb24')
      if times:
        frame.pts, frame.time_base = round(1000 * times[index]), Fraction(1, 1000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
    for _ in range(sound):
      tone = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), 'fltp', 'mono')
      tone.sample_rate = 8000
      container.mux(voice.encode(tone))
    if voice:
      container.mux(voice.encode(None))
  return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
  """Five seconds, ten frames each."""
  return write_video(tmp_path / 'clip.mp4', 50, 10)


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


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv'])
@pytest.mark.parametrize('rate', [1, 24, 25, Fraction(30000, 1001), 30, 60, 240])
def test_every_frame_is_taken_at_the_rate_of_the_video(tmp_path: Path, name: str, rate: Fraction | int) -> None:
  clip = write_video(tmp_path / name, 50, rate)
  found = [seconds for seconds, _ in video.frames(str(clip), float(rate))]
  assert found == pytest.approx([float(index / rate) for index in range(50)], abs=0.001)


@pytest.mark.parametrize(('rate', 'per_second'), [(240, 1), (240, 30), (30, 1), (1, 5), (Fraction(1, 5), 1)])
def test_any_rate_is_sampled_at_the_asked_one(tmp_path: Path, rate: Fraction | int, per_second: int) -> None:
  clip = write_video(tmp_path / 'a.mp4', 3 * max(1, int(rate)), rate)
  found = [seconds for seconds, _ in video.frames(str(clip), per_second)]
  step = float(1 / min(rate, per_second))
  assert found == pytest.approx([step * index for index in range(len(found))], abs=0.001)
  assert len(found) == 3 * max(1, min(rate, per_second))


@pytest.mark.parametrize('name', ['a.mp4', 'a.mkv', 'a.webm'])
def test_header_without_a_frame_rate(tmp_path: Path, name: str) -> None:
  times = (0, 1, 1.4, 2.7, 3.1, 9.5)
  clip = write_video(tmp_path / name, 6, None, 'libvpx' if name == 'a.webm' else 'libx264', times)
  assert [seconds for seconds, _ in video.frames(str(clip), 1)] == pytest.approx([0, 1, 2.7, 3.1, 9.5], abs=0.001)
  assert [seconds for seconds, _ in video.frames(str(clip), 0.2)] == pytest.approx([0, 9.5], abs=0.001)


@pytest.mark.parametrize('name', ['a.mp4', 'a.mov', 'a.mkv', 'a.avi'])
@pytest.mark.parametrize(('count', 'rate'), [(4, Fraction(1, 5)), (1, Fraction(1, 20)), (1, 25), (3, Fraction(1, 60)),
                                             (20, Fraction(1, 2)), (90, 30)])
def test_last_frame_is_shown_as_long_as_any_other(tmp_path: Path, name: str, count: int, rate: Fraction | int) -> None:
  clip = write_video(tmp_path / name, count, rate)
  assert len(list(video.frames(str(clip), 1000))) == count


@pytest.mark.parametrize('codec', ['mpeg4', 'libx264'])
@pytest.mark.parametrize('times', [(0, 5, 10, 15), (0, 1, 2, 40), (0, 30, 30.5, 31), (0, 0.1, 9, 9.1, 30)])
def test_complete_video_of_any_rhythm_is_read(tmp_path: Path, codec: str, times: tuple[float, ...]) -> None:
  clip = write_video(tmp_path / 'a.mp4', len(times), 10, codec, times)
  assert [seconds for seconds, _ in video.frames(str(clip), 1000)] == pytest.approx(times)


def test_sound_may_go_on_after_the_last_frame(tmp_path: Path) -> None:
  clip = write_video(tmp_path / 'a.mp4', 20, 10, sound=30)
  assert len(list(video.frames(str(clip), 10))) == 20


@pytest.mark.parametrize(('count', 'rate'), [(8, Fraction(1, 5)), (200, 10)])
def test_slow_video_that_lacks_its_end_is_truncated(tmp_path: Path, count: int, rate: Fraction | int) -> None:
  data = write_video(tmp_path / 'a.mp4', count, rate, options={'movflags': 'faststart'}).read_bytes()
  start = data.index(b'mdat') + 4
  (tmp_path / 'a.mp4').write_bytes(data[:start + (len(data) - start) // 2])
  with pytest.raises(images.RejectedError, match='truncated|cannot be decoded'):
    list(video.frames(str(tmp_path / 'a.mp4'), 1))


def test_short_video_that_lacks_half_of_its_frames_is_truncated(tmp_path: Path) -> None:
  data = write_video(tmp_path / 'a.mkv', 60, 30).read_bytes()
  (tmp_path / 'a.mkv').write_bytes(data[:len(data) // 2])
  with pytest.raises(images.RejectedError, match='truncated|cannot be decoded'):
    list(video.frames(str(tmp_path / 'a.mkv'), 1))


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
