"""Recall of copies and false pairs, for each distance; and how long the search takes.

nice -n 19 python -m benchmarks.near_duplicates --images=3000

Draws different images, makes a copy of each in every form, and compares by the rule of `duplicates`: with pHash alone,
and with the hashes of differences as well. docs/dataset_report.md holds what was measured.
"""

from concurrent import futures
import time

from absl import app, flags
import numpy as np

from benchmarks.near_duplicates.copies import COPIES, encoded
from data_pipelines.duplicates.hash_search import near_pairs
from data_pipelines.duplicates.image_hashes import hash_image, image_hash_library
from data_pipelines.synthetic import datasets, drawing

DISTANCES = (0, 2, 4, 6, 8, 10)
SEARCHED = 120_000


def hashes_of(plan: datasets.PlannedImage) -> np.ndarray:
  """uint64 (1 + copies, 2, HASHES) of the drawn image and of its copies."""
  image, library = drawing.draw_image(plan.content, plan.rng).image, image_hash_library()
  found = [hash_image(library, content) for content in (encoded(image), *(make(image) for make in COPIES.values()))]
  return np.array(found)


def is_near(differ_H: np.ndarray, distance: int, with_differences: bool) -> np.ndarray:
  """The rule of `duplicates`, for differing bits (..., HASHES)."""
  near = differ_H[..., 0] <= distance
  return near & (differ_H[..., 1:].sum(-1) <= 2 * distance + 4) if with_differences else near


def table(hashes_NxKx2xH: np.ndarray) -> str:
  """A row for each distance and rule: the recall of each copy, and false pairs among the different images."""
  lines = ['| distance | hashes | ' + ' | '.join(COPIES) + ' | false pairs |', '|' + '---|' * (3 + len(COPIES))]
  plain_NxH = hashes_NxKx2xH[:, 0, 0]
  copy_NxCx2xH = np.bitwise_count(hashes_NxKx2xH[:, 1:, 0][:, :, None] ^ hashes_NxKx2xH[:, :1])
  for distance in DISTANCES:
    for with_differences in (False, True):
      recall_C = is_near(copy_NxCx2xH, distance, with_differences).any(-1).mean(0)
      false = 0
      for row in range(len(plain_NxH)):
        differ_2xNxH = np.bitwise_count(hashes_NxKx2xH[row, 0][:, None] ^ plain_NxH[None, :row])
        false += int(is_near(differ_2xNxH, distance, with_differences).any(0).sum())
      kind = 'all three' if with_differences else 'pHash'
      lines.append(f'| {distance} | {kind} | ' + ' | '.join(f'{share:.3f}' for share in recall_C) + f' | {false} |')
  return '\n'.join(lines)


def main(argv: list[str]) -> None:
  """The measurement."""
  del argv
  plans = datasets.plan_images('emo8', {'train': flags.FLAGS.images}, seed=7)
  with futures.ProcessPoolExecutor() as pool:
    hashes_NxKx2xH = np.array(list(pool.map(hashes_of, plans, chunksize=50)))
  print(table(hashes_NxKx2xH))
  print(f'{len(plans)} images, {len(plans) * (len(plans) - 1) // 2} pairs')
  rng = np.random.default_rng(0)
  many_N = hashes_NxKx2xH[rng.integers(0, len(plans), SEARCHED), 0, 0, 0]
  for _ in range(3):
    many_N ^= np.uint64(1) << rng.integers(0, 64, SEARCHED).astype(np.uint64)
  for distance in DISTANCES:
    start = time.perf_counter()
    pairs = sum(len(found) for found, _ in near_pairs(many_N, many_N, distance))
    print(f'{SEARCHED} hashes, distance {distance}: {time.perf_counter() - start:.1f} s, {pairs} pairs')


if __name__ == '__main__':
  flags.DEFINE_integer('images', 3000, 'Different images, a multiple of 8.')
  app.run(main)
