"""An endless stream of batches can be closed at once, does not keep its process alive, and keeps its memory."""

import subprocess
import sys
import time

from data_pipelines.batches.pipeline import train_batches
from tests.support import small_runs


def test_closing_a_stream_is_immediate(train):
  """tf.data's autotuner would be waited for: longer, the longer the stream has run."""
  batches = train_batches(train, batch_size=8, seed=1, image_size=32)
  started = time.monotonic()
  while time.monotonic() - started < 4:
    next(batches)
  closing = time.monotonic()
  batches.close()
  assert time.monotonic() - closing < 0.5


def test_a_process_with_an_open_stream_ends(data_dir):
  program = f"""
from data_pipelines.batches.pipeline import train_batches
from data_pipelines.records.reader import open_split
kept = train_batches(open_split({str(data_dir)!r}, 'tiny', 'train'), batch_size=8, seed=0, image_size=32)
next(kept)
"""
  small_runs.finish(small_runs.start(['-c', program]))


def test_a_large_batch_takes_the_memory_of_the_one_before(data_dir):
  """Counted in page faults of 4 kB, in a process of its own: TensorFlow chooses its allocator once."""
  program = f"""
import resource
from data_pipelines.batches.pipeline import train_batches
from data_pipelines.records.reader import open_split
split = open_split({str(data_dir)!r}, 'tiny', 'train')
batches = train_batches(split, batch_size=8, seed=0, image_size=32, canvas=1200)
for _ in range(12):
  next(batches)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(6):
  size = next(batches)['scene'].nbytes
print(size > 2**25, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * 4096 < 3 * size)  # else 6
"""
  # Not a copy of a process that has chosen already.
  done = subprocess.run([sys.executable, '-c', program], check=True, capture_output=True, text=True,
                        cwd=small_runs.ROOT)
  assert done.stdout.split() == ['True', 'True']
