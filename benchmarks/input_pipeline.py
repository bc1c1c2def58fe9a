"""Measures our input pipeline beside a PyTorch-style loader and bare JPEG decoding, in one run, on Linux.

python -m benchmarks.input_pipeline

Draws 500 x 375 images with a person each and builds records of them, at a short side of 256 and at original size.
Loaders of pretraining make two views of 224 x 224, scene and person, each of which counts as an image; those of
fine-tuning one, with RandAugment and erasing. They run on all CPUs of this process (`taskset -c 0` for one). Where
torchvision is missing, its row is left out; .venv-timm has it (`make test-timm`). Rates need a quiet machine: among
other jobs, a loader's share of the CPUs grows with its number of threads. CPU time does not depend on that.
docs/input.md holds what was measured.
"""

from collections.abc import Callable, Generator, Iterator
import contextlib
import importlib.metadata
import multiprocessing
from multiprocessing import connection
import os
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any, NamedTuple

from absl import flags, logging
import tqdm

from benchmarks import photographs, torch_loaders
from data_pipelines import build, command
from data_pipelines.batches import augment, pipeline
from data_pipelines.errors import UserError
from data_pipelines.light_tensorflow import tf
from data_pipelines.records import reader

BATCH, SIZE = 64, 224
REPETITIONS = 5
WARM_UP_BATCHES, TIMED_BATCHES = 6, 8
SETTLE_SECONDS = 1.5
CPUS = len(os.sched_getaffinity(0))
MEMORY_IMAGES, MEMORY_EVERY = 20_000, 2_000
MEMORY_OF = 'ours, short side 256'
SIDES = {256: 'short side 256', 0: 'original size'}
"""Short sides of the records, 0 for no limit, by name."""
CANVAS = 384
"""Holds every crop of the records at short side 256, persons too, and of those at original size most."""
RECIPE: dict[str, Any] = {'mode': 'finetune', 'crop_area': (0.08, 1.0), 'randaugment': (9.0, 0.5), 'erase': 0.25}
PIL = f'PIL loader, {CPUS} worker processes'
TORCHVISION = f'torchvision, {CPUS} worker processes'


class Cost(NamedTuple):
  """The cost of a stream of images. CPU time is that of this process and its workers, all threads."""
  images_per_second: float
  cpu_milliseconds_per_image: float


def ours(data_dir: pathlib.Path, options: dict[str, Any]) -> Generator[int, None, None]:
  """Views in each batch of our pipeline."""
  split = reader.open_split(data_dir, 'folder', 'train')
  for batch in pipeline.train_batches(split, batch_size=BATCH, seed=0, image_size=SIZE, parallelism=CPUS, **options):
    yield sum(len(batch[name]) for name in ('scene', 'image', 'person') if name in batch)


def in_a_process(name: str, make: Callable[..., Iterator[int]], *arguments: Any) -> Generator[int, None, None]:
  """A stream in a process of that name, as a training run has it: several that are open in one slow each other."""
  here, there = multiprocessing.Pipe()
  process = multiprocessing.get_context('spawn').Process(
      target=_serve, args=(there, make, *arguments), name=name, daemon=True)
  process.start()
  try:
    while True:
      here.send(True)
      yield here.recv()
  finally:
    process.terminate()
    process.join()


def _serve(parent: connection.Connection, make: Callable[..., Iterator[int]], *arguments: Any) -> None:
  stream = make(*arguments)
  while parent.recv():
    parent.send(next(stream))


def bare_decoding(source: pathlib.Path) -> Generator[int, None, None]:
  """Images decoded by our pipeline's decoder, and discarded."""
  paths = tf.data.Dataset.list_files(str(source / 'train' / '*' / '*.jpg'), seed=0).cache().repeat()
  shapes = paths.map(lambda path: tf.shape(augment.decode(tf.io.read_file(path))), num_parallel_calls=CPUS)
  yield from (len(batch) for batch in shapes.batch(BATCH).prefetch(2).as_numpy_iterator())


def measure_costs(streams: dict[str, Iterator[int]]) -> dict[str, list[Cost]]:
  """REPETITIONS costs of each endless stream, measured in turns so that a busy moment of the machine affects all.

  Before a stream is timed, all others have filled their buffers and rest, and its own buffer has been emptied.
  """
  costs: dict[str, list[Cost]] = {name: [] for name in streams}
  for name in tqdm.tqdm(list(streams) * REPETITIONS, desc='measuring'):
    time.sleep(SETTLE_SECONDS)
    for _ in range(WARM_UP_BATCHES):
      next(streams[name])
    start, cpu_start = time.perf_counter(), _cpu_seconds()
    images = sum(next(streams[name]) for _ in range(TIMED_BATCHES))
    seconds, cpu_seconds = time.perf_counter() - start, _cpu_seconds() - cpu_start
    costs[name].append(Cost(images / seconds, 1000 * cpu_seconds / images))
  return costs


def resident_memory(name: str, stream: Iterator[int]) -> dict[int, float]:
  """Resident memory of a stream's process in MiB, after every MEMORY_EVERY images (two views each)."""
  taken: dict[int, float] = {}
  images = 0
  pid, = (child.pid for child in multiprocessing.active_children() if child.name == name)
  with tqdm.tqdm(total=MEMORY_IMAGES, desc='memory', unit=' images') as progress:
    while images < MEMORY_IMAGES:
      images += next(stream) // 2
      progress.update(min(images, MEMORY_IMAGES) - progress.n)
      if images // MEMORY_EVERY > len(taken):
        taken[images] = _resident_mebibytes(pid)
  return taken


def cost_table(costs: dict[str, list[Cost]], reference: str) -> str:
  """Medians and ranges, in Markdown; a ratio is the median of the ratios within one turn."""
  lines = [f'| | images/s, median | range | times {reference} | CPU ms an image |', '|---|---|---|---|---|']
  for name, measured in costs.items():
    rates, cpu = zip(*measured)
    ratios = [rate / other for rate, (other, _) in zip(rates, costs.get(reference, []))]
    times = f'{statistics.median(ratios):.2f}' if ratios else '-'
    spread = f'{min(rates):.0f}-{max(rates):.0f}'
    lines.append(f'| {name} | {statistics.median(rates):.0f} | {spread} | {times} | {statistics.median(cpu):.2f} |')
  return '\n'.join(lines)


def _torch_streams(source: pathlib.Path) -> dict[str, Generator[int, None, None]]:
  """The loaders to compare with, their processes started."""
  pairs = torch_loaders.batches(torch_loaders.TwoViewDataset(source, SIZE), BATCH, CPUS)
  streams = {PIL: (len(scenes) + len(persons) for scenes, persons in pairs)}
  if torch_loaders.has_torchvision():
    images = torch_loaders.batches(torch_loaders.AugmentedDataset(source, SIZE), BATCH, CPUS)
    streams[TORCHVISION] = (len(batch) for batch in images)
  else:
    print('torchvision is not installed, and left out', file=sys.stderr, flush=True)
  return streams


def _our_streams(folder: pathlib.Path) -> dict[str, Generator[int, None, None]]:
  """Our loaders of records in `folder`."""
  streams = {}
  for short_side, stored in SIDES.items():
    records = folder / str(short_side)
    for made, options in (('', {}), (', resized on the device', {'canvas': CANVAS}), (', augmented', RECIPE),
                          (', augmented on the device', RECIPE | {'canvas': CANVAS})):
      name = f'ours, {stored}{made}'
      streams[name] = in_a_process(name, ours, records, options)
  return streams


def main() -> None:
  """The command."""
  logging.set_verbosity(logging.WARNING)
  workdir = flags.FLAGS.workdir
  if workdir and not os.path.isdir(workdir):
    raise UserError(f'--workdir={workdir} is not a folder: make it first, or leave it out')
  with tempfile.TemporaryDirectory(dir=workdir) as folder:
    folder = pathlib.Path(folder)
    source = folder / 'raw'
    photographs.draw_photographs(source, flags.FLAGS.images)
    # Forks its processes while TensorFlow has no threads yet: a fork copies locks but not the threads that hold them.
    theirs = _torch_streams(source)
    for short_side in SIDES:
      with contextlib.redirect_stdout(sys.stderr):  # Standard output is for the result.
        build.build('folder', source, folder / str(short_side), short_side=short_side)
    streams = _our_streams(folder) | theirs | {'bare decoding, one view of each': bare_decoding(source)}
    with contextlib.ExitStack() as stack:
      for stream in streams.values():  # An open one can keep an interrupted process from ending.
        stack.callback(stream.close)
      costs = measure_costs(streams)
      resident = resident_memory(MEMORY_OF, streams[MEMORY_OF])
  versions = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in ('tensorflow-cpu', 'torch', 'pillow'))
  print(
      f'{flags.FLAGS.images} images of {photographs.WIDTH} x {photographs.HEIGHT}, {REPETITIONS} turns of '
      f'{TIMED_BATCHES} batches of {BATCH}; {versions}; {CPUS} CPUs, load {os.getloadavg()[0]:.1f} at the end\n')
  augmented = {name: costs.pop(name) for name in streams if 'augmented' in name or name == TORCHVISION}
  print('Pretraining, two views an image:\n\n' + cost_table(costs, PIL) + '\n')
  print('Fine-tuning, with RandAugment and erasing:\n\n' + cost_table(augmented, TORCHVISION) + '\n')
  print('Resident MiB after so many images: ' + ', '.join(f'{count:,}: {mib:.0f}' for count, mib in resident.items()))


def _cpu_seconds() -> float:
  """User and system time so far, of this process and the loader's workers."""
  ticks = 0
  for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
    after_name = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    ticks += int(after_name[11]) + int(after_name[12])
  return ticks / os.sysconf('SC_CLK_TCK')


def _resident_mebibytes(pid: int | None) -> float:
  pages = int(pathlib.Path(f'/proc/{pid}/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Where 0.3 MB of temporary files an image are written.')
  flags.DEFINE_integer('images', 1000, 'Images drawn.', BATCH)
  command.run(main)
