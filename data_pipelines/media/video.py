"""Reads frames of a video at a steady rate, decoded by PyAV if it is installed."""

import collections
from collections.abc import Iterator
import contextlib
import importlib.util
import math
import os
import pathlib
from typing import Any

from PIL import Image

from data_pipelines import images
from data_pipelines.errors import UserError
from data_pipelines.media.sampling import sampled

SUFFIXES = ('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv', '.flv', '.3gp', '.ogv', '.mts')
REMEDY = "pip install 'uniemox_jax[video]'"

# Other containers may be playlists, which make FFmpeg open other files and addresses.
_CONTAINERS = 'mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,asf,flv,ogg'

_MAX_SOUND_AFTER = 0.1
"""The share of a file's length that sound may go on after the last frame; more, and a second, means truncated."""
_MAX_SILENCE_AFTER = 0.02
"""The same share for a file without sound, or half a second: lengths in headers are rounded."""
_REORDERED = 16
"""H.264 stores up to 16 frames in another order than it shows them, and their durations in the order of storing."""


def is_video(path: str | os.PathLike) -> bool:
  """Whether a file has a video's suffix, and is no image."""
  return os.fspath(path).lower().endswith(SUFFIXES) and not images.is_image(pathlib.Path(path))


def check_installed(path: str) -> None:
  """Raises UserError, naming the video, if PyAV is not installed."""
  if importlib.util.find_spec('av') is None:
    raise UserError(f"'{path}' is a video, and PyAV, which decodes them, is not installed: {REMEDY}")


def frames(path: str, per_second: float,
           max_megapixels: float = images.MAX_MEGAPIXELS) -> Iterator[tuple[float, Image.Image]]:
  """Yields the first frame at or after each of 0, 1 / per_second, ... seconds from the start, decoded one at a time.

  Yields:
    Seconds from the start to a millisecond, and the frame as displayed, mode RGB.

  Raises:
    images.RejectedError: the file is no video that can be decoded; also after some frames, if a later part is damaged.
  """
  for seconds, frame in sampled(_decoded(path, max_megapixels), per_second):
    yield round(seconds, 3), frame.to_image().rotate(frame.rotation, expand=True)


def _decoded(path: str, max_megapixels: float) -> Iterator[tuple[float, Any]]:
  """Yields every frame, an `av.VideoFrame`; raises what `frames` does."""
  with _opened(path, max_megapixels) as container:
    stream = container.streams.video[0]
    stream.thread_type = 'AUTO'
    start, seconds = None, 0.0
    shown: collections.deque[float] = collections.deque(maxlen=_REORDERED)
    for frame in container.decode(stream):
      if frame.time is None:
        raise images.RejectedError('cannot be decoded: a frame without a time')
      start = frame.time if start is None else start
      shown.append(max(frame.time - start - seconds, _duration(frame, stream)))
      seconds = frame.time - start
      yield seconds, frame
    if start is None:
      raise images.RejectedError('cannot be decoded: no frames')
    length = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
    end = seconds + max(shown)
    after = 1 + _MAX_SOUND_AFTER * length if container.streams.audio else max(0.5, _MAX_SILENCE_AFTER * length)
    if length - end > after:
      raise images.RejectedError(f'truncated: it ends after {end:.1f} of {length:.1f} seconds')


def _duration(frame: Any, stream: Any) -> float:
  """The seconds for which a frame is shown, by its own word or the stream's; 0 if neither says."""
  if frame.duration:
    return float(frame.duration * frame.time_base)
  return float(1 / stream.average_rate) if stream.average_rate else 0.0


def expected_frames(path: str, per_second: float) -> int:
  """Estimates how many frames `frames` yields, by the length in the file's header; 1 without one."""
  try:
    with _opened(path, math.inf) as container:
      return max(1, math.ceil((container.duration or 0) / 1e6 * per_second))
  except images.RejectedError:
    return 1


@contextlib.contextmanager
def _opened(path: str, max_megapixels: float) -> Iterator[Any]:
  """An `av.container.InputContainer` with an image stream; FFmpeg's errors become a RejectedError."""
  if importlib.util.find_spec('av') is None:
    raise images.RejectedError(f'a video, and PyAV is not installed: {REMEDY}')
  import av

  try:
    with av.open(path, options={'format_whitelist': _CONTAINERS, 'protocol_whitelist': 'file'}) as container:
      if not container.streams.video:
        raise images.RejectedError('cannot be decoded: it has sound alone')
      stream = container.streams.video[0]
      if stream.codec_context is None:
        raise images.RejectedError('cannot be decoded: its codec is unknown')
      images.check_size(stream.width, stream.height, max_megapixels)
      yield container
  except (av.error.FFmpegError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError) as error:
    raise images.RejectedError(f'cannot be decoded: {getattr(error, "strerror", None) or error}') from error
