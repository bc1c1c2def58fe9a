"""The log of a run: metrics.jsonl, TensorBoard, progress lines, skipped steps, profiles."""

from collections.abc import Iterator
import contextlib
import os
import socket
import sys
import time
from typing import Any

from etils import epath
import jax
import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter, directory_check
from tensorboardX.proto.event_pb2 import Event, SessionLog

from data_pipelines import storage
from data_pipelines.errors import UserError
from data_pipelines.seals import read_lines, seal_lines
from uniemox_jax.runtime.clock import Clock, Profile, duration
from uniemox_jax.runtime.hardware import peak_flops

METRICS_FILE = 'metrics.jsonl'
SHOWN_IDS = 16
FLUSH_SECONDS = 120.0
_WITHOUT = 'restore it, or delete it to go on without the lines so far'


def read_metrics(workdir: str) -> list[dict[str, Any]]:
  """Reads all lines of a run's metrics.jsonl; a last line cut short by a kill is left out, and named.

  Raises:
    UserError: another line is not what was written.
  """
  path = os.path.join(workdir, METRICS_FILE)
  if not storage.exists(path):
    return []
  whole, newline, rest = storage.read_bytes(path).rpartition(b'\n')
  if rest:
    print(f'{path}: its last line was cut short, and is left out', file=sys.stderr, flush=True)
  with storage.parsing(path, _WITHOUT):
    return read_lines(whole + newline)[0]


def _lines_before(workdir: str, start_step: int, seal: str) -> list[dict[str, Any]]:
  """The lines of a run's metrics.jsonl up to the step at which it is resumed; see `RunLog`."""
  path = os.path.join(workdir, METRICS_FILE)
  found = read_metrics(workdir) if start_step else []
  with storage.parsing(path, _WITHOUT):
    kept = [line for line in found if line['step'] <= start_step]
    if seal and kept and seal not in [own for _, own in seal_lines(kept)]:
      raise ValueError(f'it is not the log of the run that was saved at step {start_step}')
  if seal and not kept:
    print(f'{path} has no line up to step {start_step}: the run goes on without', file=sys.stderr, flush=True)
  return kept


def _skipped_before(start_step: int, lines: list[dict[str, Any]]) -> int:
  """How many steps in a row had been skipped when `start_step` was done, by the lines of a log."""
  skipped = {line['step'] for line in lines if 'skipped' in line}
  return next(count for count in range(start_step + 1) if start_step - count not in skipped)


@contextlib.contextmanager
def _tensorflow_restored() -> Iterator[None]:
  """Restores a function that tensorflow calls with every operation, and which the profiler of jax 0.7 overwrites."""
  trace: Any = sys.modules.get('tensorflow.python.profiler.trace')
  enabled = trace and trace.enabled
  yield
  if trace:
    trace.enabled = enabled


class _TensorBoard:
  """A run's event file, written in the caller's thread; every method may raise OSError.

  tensorboardX's SummaryWriter writes in another thread. On a full disk that thread dies, and the run would wait for it
  forever.
  """

  def __init__(self, folder: str, first_step: int):
    """Opens a new file in `folder`; TensorBoard shows the steps of older files only before `first_step`."""
    self._folder, self._parts, self._started, self._flushed = folder, 0, time.time(), 0.0
    self._open()
    self.write(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

  def write(self, event: Event) -> None:
    """Writes an event of now."""
    event.wall_time = time.time()
    self._writer.write_event(event)
    if time.monotonic() - self._flushed > FLUSH_SECONDS:
      if storage.is_remote(self._folder):
        self.close()
        self._open()
      self._writer.flush()
      self._flushed = time.monotonic()

  def _open(self) -> None:
    """A new file; for a bucket, a local one, of which a part after the other is uploaded, each once."""
    remote = storage.is_remote(self._folder)
    self._local = storage.temporary_folder() if remote else None
    place = self._local.name if self._local else self._folder
    directory_check(place)
    self._writer, self._flushed = EventsWriter(os.path.join(place, 'events')), time.monotonic()

  def close(self) -> None:
    """Writes what is still in memory."""
    self._writer.close()
    if self._local:
      part = next(epath.Path(self._local.name).iterdir())
      name = f'events.out.tfevents.{self._started:.0f}.{socket.gethostname()}.{self._parts:04d}'
      storage.write_bytes(os.path.join(self._folder, name), part.read_bytes())
      self._parts += 1
      self._local.cleanup()


class RunLog:
  """A run's log. Metrics stay on the device until `flush`, which also counts the steps that were skipped.

  seal: the seal of the last line of metrics.jsonl; '' before the first line, and in other processes than the first.
  """

  def __init__(
      self, workdir: str, *, name: str, total_steps: int, batch_size: int, start_step: int,
      flops_per_example: int | None = None, profile: Profile | None = None, seal: str = ''):
    """Opens the log and cuts it back to `start_step`, the step that was restored (0 for a new run).

    `flops_per_example` of training gives `mfu`, the share of the devices' peak, where that is known too. `seal` is that
    of the log when the step was saved, '' if it is not known.

    Raises:
      UserError: metrics.jsonl is damaged, or another run's.
    """
    self.name, self.total_steps, self.batch_size = name, total_steps, batch_size
    self.clock = Clock()
    self._tracing, self._profile_folder = False, os.path.join(workdir, 'profile')
    self._profile = profile and profile.of_run(start_step)
    peak = peak_flops(jax.devices()[0].device_kind)
    self._mfu_of_one = flops_per_example / (peak * jax.device_count()) if flops_per_example and peak else None
    self._pending: list[tuple[int, dict[str, jax.Array], np.ndarray]] = []
    self._writes, self.seal = jax.process_index() == 0, ''
    kept = _lines_before(workdir, start_step, seal)
    self.skipped_in_row = _skipped_before(start_step, kept)
    if self._writes:
      if self._profile and self._profile.last < start_step:
        print(
            f'--profile: step {self._profile.last} is over, the run resumes at {start_step}: nothing is traced',
            flush=True)
      epath.Path(workdir).mkdir(parents=True, exist_ok=True)
      lines = []
      for text, self.seal in seal_lines(kept):
        lines.append(text)
      self._file = storage.GrowingFile(os.path.join(workdir, METRICS_FILE), ''.join(lines))
      self._board = _TensorBoard(os.path.join(workdir, 'tensorboard'), start_step + 1)

  @contextlib.contextmanager
  def stepping(self, step: int, first: bool) -> Iterator[None]:
    """Surrounds the update after `step` others: counts the first as compilation, and traces what was asked for."""
    if self._profile and not self._tracing and self._profile.first <= step <= self._profile.last:
      with _tensorflow_restored():
        jax.profiler.start_trace(self._profile_folder)
      self._tracing = True
    with self.clock.apart('compile') if first else contextlib.nullcontext():
      yield
      if first:
        jax.block_until_ready(self._pending[-1][1])
    if first:
      self.clock.start()
    if self._tracing and self._profile and step == self._profile.last:
      jax.block_until_ready(self._pending[-1][1])
      self._stop_tracing()

  def _stop_tracing(self) -> None:
    with self.clock.apart('profile'), _tensorflow_restored():
      jax.profiler.stop_trace()
    self._profile, self._tracing = None, False
    if self._writes:
      print(f'profile: {self._profile_folder} (tensorboard with tensorboard-plugin-profile shows it)', flush=True)

  def add(self, step: int, metrics: dict[str, jax.Array], example_ids: np.ndarray) -> None:
    """Keeps a step's metrics, still on the device, and the ids of this host's examples."""
    self._pending.append((step, metrics, example_ids))
    self.clock.count_step()

  def flush(self, max_skipped: int, newest_checkpoint: str) -> None:
    """Writes the mean of all kept metrics as one line, one more for every skipped step, and prints the progress.

    Args:
      max_skipped: how many steps in a row may be skipped.
      newest_checkpoint: the checkpoint that the error names.

    Raises:
      UserError: more were skipped; it names step, reason and examples.
    """
    if not self._pending:
      return
    fetched = [(step, jax.device_get(metrics), ids) for step, metrics, ids in self._pending]
    self._pending = []
    for step, metrics, example_ids in fetched:
      self.skipped_in_row = self.skipped_in_row + 1 if metrics['skipped'] else 0
      if metrics['skipped']:
        self._report_skipped(step, metrics, example_ids, max_skipped, newest_checkpoint)
    step, last, _ = fetched[-1]
    done = [metrics for _, metrics, _ in fetched if not metrics['skipped']]
    line = {name: float(np.mean([metrics[name] for metrics in done])) for name in last if done and name != 'skipped'}
    line |= {'lr': float(last['lr']), 'skipped_steps': len(fetched) - len(done)}
    progress = f"{self.name} {step}/{self.total_steps}" + (f"  loss {line['loss']:.4f}" if 'loss' in line else '')
    if seconds := self.clock.lap():
      line['examples_per_second'] = self.batch_size / seconds
      line['examples_per_second_per_device'] = line['examples_per_second'] / jax.device_count()
      if self._mfu_of_one:
        line['mfu'] = self._mfu_of_one * line['examples_per_second']
      left = duration((self.total_steps - step) * seconds)
      progress += f"  {line['examples_per_second']:.0f} examples/s  {left} left"
    self.write(step, line | self.clock.newly_apart())
    if self._writes:
      print(progress, flush=True)

  def _report_skipped(
      self, step: int, metrics: dict[str, np.ndarray], example_ids: np.ndarray, max_skipped: int,
      newest_checkpoint: str) -> None:
    why = f"gradient_norm is {metrics['gradient_norm']:.4g}, loss {metrics['loss']:.4g}"
    if self._writes:
      self._append({'step': step, 'skipped': why, 'example_ids': example_ids.tolist()})
      print(f'{self.name} {step}/{self.total_steps}  skipped: {why}', flush=True)
    if self.skipped_in_row >= max_skipped:
      shown = ', '.join(map(str, example_ids[:SHOWN_IDS])) + (', …' if len(example_ids) > SHOWN_IDS else '')
      raise UserError(
          f'step {step}: {why}, and {self.skipped_in_row} steps in a row had to be skipped; example ids '
          f'{shown} (all in {METRICS_FILE}); newest checkpoint: {newest_checkpoint}: lower '
          '--config.optimizer.base_lr, raise --config.max_gradient_norm, or look at these images')

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes one line of metrics.jsonl, and the same scalars to TensorBoard."""
    if not self._writes:
      return
    self._append({'step': step, **values})
    for name, value in values.items():
      self._board.write(Event(step=step, summary=summary.scalar(name, value)))

  def _append(self, line: dict[str, Any]) -> None:
    [(text, self.seal)] = seal_lines([line], self.seal)
    self._file.add(text)

  def image(self, step: int, name: str, image_HxWx3: np.ndarray) -> None:
    """Writes a uint8 image to TensorBoard."""
    if self._writes:
      self._board.write(Event(step=step, summary=summary.image(name, image_HxWx3, dataformats='HWC')))

  def sync(self) -> None:
    """Brings all lines into storage. It is called before a checkpoint is saved, from which a resumed run continues."""
    if self._writes:
      self._file.flush()

  def close(self) -> None:
    """Ends a trace, flushes TensorBoard, and prints where the time went."""
    if self._tracing:
      self._stop_tracing()
    self.sync()
    if self._writes:
      self._board.close()
      if self.clock.seconds['train']:
        print(f'{self.name}: {self.clock.summary()}', flush=True)
