"""TensorBoard's event file, written in the caller's thread.

tensorboardX's SummaryWriter writes in another thread. On a full disk that thread dies, and the run would wait for it
forever.
"""

import os
import time

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter, directory_check
from tensorboardX.proto.event_pb2 import Event, SessionLog

FLUSH_SECONDS = 120.0


class TensorBoardWriter:
  """Scalars and images of a run. Every method may raise OSError, for example on a full disk."""

  def __init__(self, folder: str, first_step: int):
    """Opens a new file in `folder`; TensorBoard shows the steps of older files only before `first_step`."""
    directory_check(folder)
    self._writer = EventsWriter(os.path.join(folder, 'events'))
    self._flushed = time.monotonic()
    self._write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

  def _write(self, event: Event) -> None:
    event.wall_time = time.time()
    self._writer.write_event(event)
    if time.monotonic() - self._flushed > FLUSH_SECONDS:
      self._writer.flush()
      self._flushed = time.monotonic()

  def scalar(self, name: str, value: float, step: int) -> None:
    """One point of a curve."""
    self._write(Event(step=step, summary=summary.scalar(name, value)))

  def image(self, name: str, image_HxWx3: np.ndarray, step: int) -> None:
    """A uint8 image."""
    self._write(Event(step=step, summary=summary.image(name, image_HxWx3, dataformats='HWC')))

  def close(self) -> None:
    """Writes what is still in memory."""
    self._writer.close()
