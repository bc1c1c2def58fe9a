"""Measures our input pipeline beside a PyTorch-style loader and bare JPEG decoding, in one run, on Linux.

python -m benchmarks.input_pipeline

Draws 500 x 375 images with a person each and builds records of them, at a short side of 256 and at original size.
Every loader makes two views of 224 x 224, scene and person, each of which counts as an image, on all CPUs of this
process (`taskset -c 0,1` for two). Rates need a quiet machine: among other jobs, a loader's share of the CPUs grows
with its number of threads. CPU time does not depend on that. docs/input.md holds what was measured.
"""

from collections.abc import Generator, Iterator
import contextlib
import importlib.metadata
import math
import multiprocessing
import os
import pathlib
import random
import statistics
import sys
import tempfile
import time
from typing import NamedTuple

from absl import flags, logging
import numpy as np
from PIL import Image
import tensorflow as tf
import tqdm

from benchmarks import photographs
from data_pipelines import build, command
from data_pipelines.batches import augment, pipeline
from data_pipelines.errors import UserError
from data_pipelines.person_boxes import box_file, crops
from data_pipelines.records import reader

BATCH, SIZE = 64, 224
REPETITIONS = 5
WARM_UP_BATCHES, TIMED_BATCHES = 6, 8
SETTLE_SECONDS = 1.5
CPUS = len(os.sched_getaffinity(0))
MEMORY_IMAGES, MEMORY_EVERY = 20_000, 2_000
PIL = f'PIL loader, {CPUS} worker processes'


class Cost(NamedTuple):
  """The cost of a stream of images. CPU time is that of this process and its workers, all threads."""
  images_per_second: float
  cpu_milliseconds_per_image: float


def ours(data_dir: pathlib.Path) -> Generator[int, None, None]:
  """Views in each batch of our pretraining pipeline."""
  split = reader.open_split(data_dir, 'folder', 'train')
  for batch in pipeline.train_batches(split, batch_size=BATCH, seed=0, image_size=SIZE, parallelism=CPUS):
    yield len(batch['scene']) + len(batch['person'])


def bare_decoding(source: pathlib.Path) -> Generator[int, None, None]:
  """Images decoded by our pipeline's decoder, and discarded."""
  paths = tf.data.Dataset.list_files(str(source / 'train' / '*' / '*.jpg'), seed=0).cache().repeat()
  shapes = paths.map(lambda path: tf.shape(augment.decode(tf.io.read_file(path))), num_parallel_calls=CPUS)
  yield from (len(batch) for batch in shapes.batch(BATCH).prefetch(2).as_numpy_iterator())


class TwoViewDataset:
  """The images of a PyTorch-style loader: scene and person view, uint8 (S, S, 3) each, decoded once for both.

  The scene is a random resized crop of 0.2 to 1 of the area; the person is its box with a 20 % margin, squashed; both
  are flipped together. These are the Pillow calls of torchvision's RandomResizedCrop (bicubic) and
  RandomHorizontalFlip. ToTensor and Normalize are left out, in this loader's favour.
  """

  def __init__(self, source: pathlib.Path):
    boxes = box_file.read_boxes(source)
    self._paths = [source / image for image in boxes]
    self._persons: list[crops.Box] = [tuple(boxes_Nx5[0, :4].tolist()) for boxes_Nx5 in boxes.values()]

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
    with Image.open(self._paths[index]) as file:
      image = file.convert('RGB')
    boxes = random_crop(*image.size), crops.with_margin(self._persons[index], *image.size)
    views = [image.crop(box).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for box in boxes]
    if random.random() < 0.5:
      views = [view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for view in views]
    return tuple(map(np.array, views))


def random_crop(width: int, height: int) -> crops.Box:
  """(left, top, right, bottom) of torchvision's RandomResizedCrop(scale=(0.2, 1)), pixels."""
  for _ in range(10):
    area = width * height * random.uniform(0.2, 1)
    ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
    wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if wide <= width and high <= height:
      left, top = random.randint(0, width - wide), random.randint(0, height - high)
      return left, top, left + wide, top + high
  wide, high = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
  left, top = (width - wide) // 2, (height - high) // 2
  return left, top, left + wide, top + high


def pil_loader(source: pathlib.Path) -> Generator[int, None, None]:
  """Views in each endless, shuffled batch of PyTorch's loader, a process for each CPU; they start with this call.

  Raises:
    UserError: torch is not installed.
  """
  try:
    from torch.utils import data
  except ImportError as error:
    raise UserError("the loader to compare with needs torch: pip install 'uniemox_jax[torch]'") from error
  images = TwoViewDataset(source)
  endless = data.RandomSampler(images, replacement=True, num_samples=1 << 40)
  batches = iter(data.DataLoader(images, BATCH, sampler=endless, num_workers=CPUS))
  return (len(scenes) + len(persons) for scenes, persons in batches)


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


def resident_memory(stream: Iterator[int]) -> dict[int, float]:
  """Resident memory of this process in MiB, after every MEMORY_EVERY images (two views each) of a stream."""
  taken, images = {}, 0
  with tqdm.tqdm(total=MEMORY_IMAGES, desc='memory', unit=' images') as progress:
    while images < MEMORY_IMAGES:
      images += next(stream) // 2
      progress.update(min(images, MEMORY_IMAGES) - progress.n)
      if images // MEMORY_EVERY > len(taken):
        taken[images] = _resident_mebibytes()
  return taken


def cost_table(costs: dict[str, list[Cost]]) -> str:
  """Medians and ranges, in Markdown; a ratio is the median of the ratios within one turn."""
  lines = ['| | images/s, median | range | times the PIL loader | CPU ms an image |', '|---|---|---|---|---|']
  for name, measured in costs.items():
    rates, cpu = zip(*measured)
    ratio = statistics.median(rate / reference for rate, (reference, _) in zip(rates, costs[PIL]))
    spread = f'{min(rates):.0f}-{max(rates):.0f}'
    lines.append(f'| {name} | {statistics.median(rates):.0f} | {spread} | {ratio:.2f} | {statistics.median(cpu):.2f} |')
  return '\n'.join(lines)


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
    theirs = pil_loader(source)
    for short_side in (256, 0):
      with contextlib.redirect_stdout(sys.stderr):  # Standard output is for the result.
        build.build('folder', source, folder / str(short_side), short_side=short_side)
    streams = {
        'ours, stored at short side 256': ours(folder / '256'), 'ours, stored at original size': ours(folder / '0'),
        PIL: theirs, 'bare decoding, one view of each': bare_decoding(source)}
    with contextlib.ExitStack() as stack:
      for stream in streams.values():  # An open one can keep an interrupted process from ending.
        stack.callback(stream.close)
      costs = measure_costs(streams)
      resident = resident_memory(streams['ours, stored at short side 256'])
  versions = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in ('tensorflow-cpu', 'torch', 'pillow'))
  print(
      f'{flags.FLAGS.images} images of {photographs.WIDTH} x {photographs.HEIGHT}, {REPETITIONS} turns of '
      f'{TIMED_BATCHES} batches of {BATCH}; {versions}; {CPUS} CPUs, load {os.getloadavg()[0]:.1f} at the end\n')
  print(cost_table(costs) + '\n')
  print('Resident MiB after so many images: ' + ', '.join(f'{count:,}: {mib:.0f}' for count, mib in resident.items()))


def _cpu_seconds() -> float:
  """User and system time so far, of this process and the loader's workers."""
  ticks = 0
  for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
    after_name = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    ticks += int(after_name[11]) + int(after_name[12])
  return ticks / os.sysconf('SC_CLK_TCK')


def _resident_mebibytes() -> float:
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Where 0.3 MB of temporary files an image are written.')
  flags.DEFINE_integer('images', 1000, 'Images drawn.', BATCH)
  command.run(main)
