"""How fast records are read from a bucket. No network: the tests' emulator.

python -m benchmarks.bucket_records --records=10000 --shards=1000 --latency=0.03

It writes records of 40 kB into an emulated bucket, waits `latency` seconds before each answer, and prints the time to
the first batch, then bytes, records a second, and memory.
"""

import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time

from absl import flags
import numpy as np
from PIL import Image

from data_pipelines import command, images
from data_pipelines.batches.pipeline import train_batches
from data_pipelines.light_tensorflow import tf
from data_pipelines.records import index, label_sets, reader, schema
from tests.support.servers import bucket as buckets

IMAGE_SIDES = (220, 220)  # of noise, which makes a JPEG of 40 kB
TOGETHER = 1024
BATCH = 256


def resident_mebibytes() -> float:
  """Memory of this process, as Linux counts it."""
  pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


def write_shards(folder: Path, records: int, shards: int) -> list[tuple[str, int]]:
  """Shards of random records of equal size, and their index; returns name and length of each."""
  lengths = []
  pixels = np.random.default_rng(0).integers(0, 256, (*IMAGE_SIDES, 3), np.uint8)
  jpeg = images.encode_jpeg(Image.fromarray(pixels))
  for number, part in enumerate(np.array_split(np.arange(records), shards)):
    name = f'drawn-train.tfrecord-{number:05d}-of-{shards:05d}'
    with tf.io.TFRecordWriter(str(folder / name)) as writer:
      for record in part:
        feature = (example := tf.train.Example()).features.feature
        feature['image'].bytes_list.value.append(jpeg)
        feature['id'].bytes_list.value.append(f'{record}.jpg'.encode())
        feature['attributes'].bytes_list.value.append(b'{}')
        feature['label'].int64_list.value.append(int(record) % 8)
        feature['example_id'].int64_list.value.append(int(record))
        writer.write(example.SerializeToString())
    lengths.append((name, len(part)))
  for _ in index.make_index(str(folder), 'drawn-train', lengths):
    pass
  return lengths


def open_split(folder: str, lengths: list[tuple[str, int]]) -> reader.Split:
  """The split, without TFDS's own files; prints the time."""
  started = time.monotonic()
  part = index.read_index(folder, 'drawn-train', [(name, length) for name, length in lengths])
  split = reader.Split('train', schema.record_features(label_sets.EMOTIONS), folder, {'drawn-train': part})
  print(f'opened {len(lengths)} shards in {time.monotonic() - started:.2f} s', flush=True)
  return split


def first_batch(folder: str, lengths: list[tuple[str, int]]) -> None:
  """Opens the split and makes a training batch; prints what it took."""
  split, started = open_split(folder, lengths), time.monotonic()
  next(train_batches(split, batch_size=BATCH, seed=0, image_size=224, mode='finetune'))
  print(f'first batch of {BATCH} views in {time.monotonic() - started:.2f} s', flush=True)


def read_all(folder: str, lengths: list[tuple[str, int]]) -> None:
  """Opens the split and reads every record once, in random order; prints what it took."""
  split = open_split(folder, lengths)
  order = np.random.default_rng(0).permutation(split.num_examples)
  split.read_many(order[:TOGETHER])
  before, started = resident_mebibytes(), time.monotonic()
  for start in range(0, len(order), TOGETHER):
    split.read_many(order[start:start + TOGETHER])
  seconds = time.monotonic() - started
  print(
      f'{len(order) / seconds:.0f} records a second; memory grew by {resident_mebibytes() - before:.0f} MiB',
      flush=True)


def in_a_bucket(records: int, shards: int, latency: float) -> None:
  """Measures both in processes that take the emulator for Google's storage."""
  with tempfile.TemporaryDirectory() as scratch, buckets.running(Path(scratch)) as bucket:
    folder = Path(scratch) / 'drawn'
    folder.mkdir()
    lengths = write_shards(folder, records, shards)
    size = sum((folder / name).stat().st_size for name, _ in lengths)
    bucket.upload(folder, 'drawn')
    bucket.set(latency=latency)

    def measure(function: str) -> None:
      code = (
          'import json, sys; from benchmarks import bucket_records; '
          'getattr(bucket_records, sys.argv[1])(sys.argv[2], json.load(sys.stdin))')
      subprocess.run([sys.executable, '-c', code, function, f'{bucket.url}/drawn'], input=json.dumps(lengths),
                     env=os.environ | bucket.environment, check=True, text=True, stderr=subprocess.DEVNULL)

    measure('read_all')
    counts = bucket.counts()
    warm = TOGETHER * size / records  # read once more, before the clock
    print(f"{counts['requests']} requests; {(counts['bytes'] - warm) / size:.3f} of the shards' {size / 2**20:.0f} MiB")
    measure('first_batch')


def main() -> None:
  """The command."""
  values = flags.FLAGS
  in_a_bucket(values.records, values.shards, values.latency)


if __name__ == '__main__':
  flags.DEFINE_integer('records', 10_000, 'How many.', 1)
  flags.DEFINE_integer('shards', 1_000, 'In how many files.', 1)
  flags.DEFINE_float('latency', 0.03, 'Seconds before each answer.', 0)
  command.run(main)
