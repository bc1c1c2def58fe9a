"""How time and memory grow with the number of records: python -m benchmarks.growth [--most=10000000] [--task=TEXT].

One shard of drawn images is repeated to 10 thousand, 100 thousand, ... records, by links to the same file: what is
opened, ordered and read is real, and takes little disk. Each task runs in a process of its own. All of them take hours:
--most=1000000 leaves the largest out, and --task=TEXT measures some.
"""

from collections.abc import Callable
import json
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile
import time

from absl import flags
import numpy as np

from data_pipelines import build, command, storage
from data_pipelines.checksums import sha256_of
from data_pipelines.records import index, manifest
from data_pipelines.synthetic import datasets
from tests.support import small_runs
from uniemox_jax.finetune import finetune

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
SHARD_RECORDS = 10_000
WORDS = ('tree', 'house', 'road', 'river', 'face', 'dog', 'table', 'window', 'boat', 'lamp')
BATCH = {'batch_size': 256, 'seed': 0, 'image_size': 64}
WIDE = {'image_size': 32, 'patch_size': 16, 'width': 768, 'depth': 1, 'heads': 12}
"""An encoder whose features are as wide as those of ViT-B, and that a CPU computes quickly."""


def repeat(built: Path, folder: Path, records: int) -> None:
  """A dataset of this many train and test records beside a built one of few: TFDS's files, links to one shard, indices.
  """
  final = folder / 'emo8' / built.name
  final.mkdir(parents=True)
  for path in (*built.glob('*.json'), *built.glob('*.txt')):
    if path.name != manifest.MANIFEST:
      (final / path.name).write_bytes(path.read_bytes())
  info = json.loads((final / 'dataset_info.json').read_text())
  info['splits'] = [split for split in info['splits'] if split['name'] in ('train', 'test')]
  for split in info['splits']:
    split['shardLengths'] = [str(SHARD_RECORDS)] * _repeat_split(built, final, split['name'], records)
  (final / 'dataset_info.json').write_text(json.dumps(info))


def _repeat_split(built: Path, final: Path, split: str, records: int) -> int:
  """A split of the few train records, again and again; how many shards it has."""
  shard = next(built.glob('emo8-train.tfrecord*'))
  found = [(shard.name, _split(str(built.parents[1])).num_examples)]
  once, entries = shard.read_bytes(), index.read_index(str(built), 'emo8-train', found).entries_N
  repeats, shards = SHARD_RECORDS // len(entries), records // SHARD_RECORDS
  names = [f'emo8-{split}.tfrecord-{number:05d}-of-{shards:05d}' for number in range(shards)]
  (final / names[0]).write_bytes(once * repeats)
  one = np.tile(entries, repeats)
  one['offset'] += np.repeat(np.arange(repeats) * len(once), len(entries))
  all_N = np.tile(one, shards)
  all_N['shard'] = np.repeat(np.arange(shards), SHARD_RECORDS)
  for name in names[1:]:
    os.link(final / names[0], final / name)
  with storage.new_file(final / f'emo8-{split}{index.ANNOTATIONS}') as file:
    for number in range(records):
      objects = [WORDS[number // 10**digit % 10] for digit in range(3)]
      file.write(json.dumps([f'{number}.jpg', number % 8, {'object': objects}, [], [], []]).encode() + b'\n')
  sized = tuple(index.Shard(name, len(once) * repeats, SHARD_RECORDS) for name in names)
  sha256 = sha256_of(final / f'emo8-{split}{index.ANNOTATIONS}')
  index.write_index(str(final), f'emo8-{split}', index.Index(sized, all_N, sha256, None))
  return shards


def _split(folder: str):  # noqa: ANN202 - the import takes seconds, and listing needs none of it
  from data_pipelines.records.reader import open_split
  return open_split(folder, 'emo8', 'train')


def _first_batch(folder: str, share: float = 0.0) -> None:
  from data_pipelines.batches.pipeline import steps_per_epoch, train_batches
  split = _split(folder)
  next(train_batches(split, start_step=int(share * steps_per_epoch(split, BATCH['batch_size'])), **BATCH))


def _captions(folder: str) -> None:
  from uniemox_jax.teacher.caption_embeddings import embedded_captions
  from uniemox_jax.teacher.frozen_clip import load_clip
  embedded_captions(load_clip(f'{folder}/few/clip'), _split(folder), True, 'natural', folder).at(np.arange(256))


def _token_ids(folder: str) -> None:
  from uniemox_jax.teacher.caption_embeddings import tokenized_captions
  from uniemox_jax.teacher.frozen_clip import load_clip
  tokenized_captions(load_clip(f'{folder}/few/clip'), _split(folder), True, 'natural', folder).at(np.arange(256))


def _evaluation(folder: str) -> None:
  from uniemox_jax.eval.run_evaluation import evaluate
  evaluate(f'{folder}/few/run', 'test', folder)


def _features(folder: str) -> tuple[np.ndarray, np.ndarray]:
  from uniemox_jax.eval.features import load_frozen, split_features
  from uniemox_jax.runtime.sharding import make_mesh
  frozen = load_frozen(None, WIDE, dtype='float32', seed=0)
  return split_features(
      frozen, _split(folder), f'{folder}/features', image_size=WIDE['image_size'], batch_size=256, mesh=make_mesh())


def _linear_probe(folder: str) -> None:
  from uniemox_jax.eval import linear_probe
  linear_probe.MAX_ITERATIONS = 5  # memory is that of the first
  linear_probe.fit_probe(*_features(folder), _split(folder).labels, 1.0)


def _listing(folder: str) -> None:
  from data_pipelines.media.find_images import find
  find([f'{folder}/images'])


TASKS: dict[str, tuple[Callable[[str], object], int]] = {
    'open, labels': (lambda folder: _split(folder).label_array(), SIZES[-1]),
    'digest for resuming': (lambda folder: _split(folder).fingerprint, SIZES[-1]),
    '1 % of each class': (lambda folder: _split(folder).fraction(0.01, 0), SIZES[-1]),
    'first batch': (_first_batch, SIZES[-1]),
    'first batch, resumed at 90 %': (lambda folder: _first_batch(folder, 0.9), SIZES[-1]),
    'captions, the first time': (_captions, SIZES[-1]),
    'captions, again': (_captions, SIZES[-1]),
    'token ids, the first time': (_token_ids, SIZES[-1]),
    'token ids, again': (_token_ids, SIZES[-1]),
    'evaluation': (_evaluation, SIZES[-1]),
    'features, the first time': (_features, SIZES[2]),
    'features, again, and one linear probe': (_linear_probe, SIZES[2]),
    'listing of predict': (_listing, SIZES[-1]),}
"""Each with the most records that it is measured with."""


def run_task(name: str, folder: str) -> None:
  """Prints the seconds of a task, by the clock and of the processors, and by how many MiB the most memory exceeds what
  imports take."""
  _split(f'{folder}/few')  # imports everything
  Path('/proc/self/clear_refs').write_text('5', encoding='ascii')  # the most memory counts from here
  before, started, computed = _most_kibibytes(), time.monotonic(), time.process_time()
  TASKS[name][0](folder)
  grown = (_most_kibibytes() - before) / 1024
  seconds, of_processors = time.monotonic() - started, time.process_time() - computed
  print(f'{seconds:.1f} s, {of_processors:.1f} s of processors, {grown:.0f} MiB', flush=True)


def _most_kibibytes() -> int:
  return int(
      re.search(r'VmHWM:\s+(\d+)',
                Path('/proc/self/status').read_text(encoding='ascii'))[1])  # type: ignore[index]


def main() -> None:
  """Prints a row for each size and task."""
  with tempfile.TemporaryDirectory() as scratch:
    raw, few = Path(scratch) / 'raw', Path(scratch) / 'built'
    datasets.write_dataset(raw, 'emo8', datasets.plan_images('emo8', {'train': 80, 'val': 8, 'test': 8}, seed=0), {})
    build.build('emo8', raw, few)
    small_runs.write_teacher(few / 'clip')
    finetune(small_runs.finetune_config(str(few), epochs=1), str(few / 'run'))
    built = next((few / 'emo8').glob('*/manifest.json')).parent
    for records in (size for size in SIZES if size <= flags.FLAGS.most):
      folder = Path(scratch) / str(records)
      repeat(built, folder, records)
      (folder / 'few').symlink_to(few)
      names = [name for name, (_, most) in TASKS.items() if records <= most and flags.FLAGS.task in name]
      if 'listing of predict' in names:
        (folder / 'images').mkdir()
        for number in range(records):
          (folder / 'images' / f'{number:08d}.jpg').touch()
      for name in names:
        code = f'from benchmarks.growth import run_task; run_task({name!r}, {str(folder)!r})'
        done = subprocess.run([sys.executable, '-c', code], check=True, stdout=subprocess.PIPE, text=True)
        print(f'| {records:,} | {name} | {done.stdout.splitlines()[-1]} |', flush=True)


if __name__ == '__main__':
  flags.DEFINE_integer('most', SIZES[-1], 'Most records.')
  flags.DEFINE_string('task', '', 'Part of the names of the tasks to measure.')
  command.run(main)
