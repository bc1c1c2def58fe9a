"""What a run tells: metrics.jsonl, TensorBoard, progress lines, and a clock that leaves out what is not training."""

from collections.abc import Iterator
import contextlib
import json
import os
import time
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter

from data_pipelines.errors import UserError
from uniemox_jax.files import write_text
from uniemox_jax.topology import peak_flops

METRICS_FILE = 'metrics.jsonl'


def read_metrics(workdir: str) -> list[dict[str, Any]]:
  """All lines of a run's metrics.jsonl; a last line cut short by a kill is left out."""
  path = os.path.join(workdir, METRICS_FILE)
  if not os.path.exists(path):
    return []
  with open(path, encoding='utf-8') as file:
    return [json.loads(line) for line in file if line.endswith('\n')]


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}h{minutes:02d}m' if hours else f'{minutes}m{seconds:02d}s' if minutes else f'{seconds}s'


class Clock:
  """Seconds spent training: starts after the first step, which compiles, and stops while paused."""

  def __init__(self) -> None:
    self._started: float | None = None
    self._interval_seconds, self._interval_steps = 0.0, 0
    self.seconds, self.steps = 0.0, 0

  def start(self) -> None:
    """Begins to count."""
    self._started = time.perf_counter()

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Leaves out what runs inside: evaluation, saving."""
    running = self._started is not None
    self._stop()
    yield
    if running:
      self.start()

  def _stop(self) -> None:
    if self._started is not None:
      elapsed = time.perf_counter() - self._started
      self._interval_seconds += elapsed
      self.seconds += elapsed
      self._started = None

  def count_step(self) -> None:
    """Counts a step if the clock runs."""
    if self._started is not None:
      self._interval_steps += 1
      self.steps += 1

  def lap(self) -> float | None:
    """Seconds a step since the last lap; None where no step was counted."""
    running = self._started is not None
    self._stop()
    if running:
      self.start()
    if not self._interval_steps:
      return None
    rate = self._interval_seconds / self._interval_steps
    self._interval_seconds, self._interval_steps = 0.0, 0
    return rate


class RunLog:
  """A run's log. Metrics stay on the device until `flush`, which also checks that every loss is finite."""

  def __init__(self, workdir: str, *, name: str, total_steps: int, batch_size: int, start_step: int,
               flops_per_example: int | None = None):
    """Opens the log and cuts it back to `start_step`, the step that was restored (0 for a new run).

    `flops_per_example` of training gives `mfu`, the share of the devices' peak, where that is known too.
    """
    self.name, self.total_steps, self.batch_size = name, total_steps, batch_size
    self.clock = Clock()
    peak = peak_flops(jax.devices()[0].device_kind)
    self._mfu_of_one = flops_per_example / (peak * jax.device_count()) if flops_per_example and peak else None
    self._pending: list[tuple[int, dict[str, jax.Array]]] = []
    self._writes = jax.process_index() == 0
    if self._writes:
      os.makedirs(workdir, exist_ok=True)
      self._path = os.path.join(workdir, METRICS_FILE)
      kept = [line for line in read_metrics(workdir) if line['step'] <= start_step and start_step > 0]
      write_text(self._path, ''.join(json.dumps(line) + '\n' for line in kept))
      self._board = SummaryWriter(os.path.join(workdir, 'tensorboard'), purge_step=start_step + 1)

  def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Keeps a step's metrics, still on the device."""
    self._pending.append((step, metrics))
    self.clock.count_step()

  def flush(self, last_good: str) -> None:
    """Writes the mean of all kept metrics as one line, and prints the progress.

    Args:
      last_good: the newest checkpoint, named when a loss is not finite.

    Raises:
      UserError: a loss is not finite, naming step, loss and `last_good`.
    """
    if not self._pending:
      return
    fetched = [(step, jax.device_get(metrics)) for step, metrics in self._pending]
    for step, metrics in fetched:
      broken = [name for name, value in metrics.items() if name != 'loss' and not np.isfinite(value)]
      if broken:
        raise UserError(f'step {step}: {broken[0]} is {float(metrics[broken[0]])}; the last good checkpoint is '
                        f'{last_good}: lower --config.optimizer.base_lr, or look at the pictures of this batch')
    step, last = fetched[-1]
    line = {name: float(np.mean([metrics[name] for _, metrics in fetched])) for name in last}
    line['lr'] = float(last['lr'])
    self._pending = []
    rate = self.clock.lap()
    if rate:
      line['examples_per_second'] = self.batch_size / rate
      if self._mfu_of_one:
        line['mfu'] = self._mfu_of_one * line['examples_per_second']
    self.write(step, line)
    self._progress(step, line, rate)

  def write(self, step: int, values: dict[str, float]) -> None:
    """One line of metrics.jsonl, and the same scalars to TensorBoard."""
    if not self._writes:
      return
    with open(self._path, 'a', encoding='utf-8') as file:
      file.write(json.dumps({'step': step, **values}) + '\n')
    for name, value in values.items():
      self._board.add_scalar(name, value, step)

  def image(self, step: int, name: str, image_HxWx3: np.ndarray) -> None:
    """A uint8 picture to TensorBoard."""
    if self._writes:
      self._board.add_image(name, image_HxWx3, step, dataformats='HWC')

  def _progress(self, step: int, line: dict[str, float], rate: float | None) -> None:
    if not self._writes:
      return
    text = f"{self.name} {step}/{self.total_steps}  loss {line['loss']:.4f}"
    if rate:
      left = _duration((self.total_steps - step) * rate)
      text += f"  {line['examples_per_second']:.0f} examples/s  {left} left"
    print(text, flush=True)

  def close(self) -> None:
    """Flushes TensorBoard."""
    if self._writes:
      self._board.close()
