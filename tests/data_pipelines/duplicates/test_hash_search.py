"""The search gives the pairs that comparing all of them would give, each once, in bounded memory."""

import tracemalloc

import numpy as np
import pytest

from data_pipelines.duplicates.hash_search import near_pairs


def hashes(count: int, rng: np.random.Generator) -> np.ndarray:
  """Clusters: a few hashes, of which up to six bits are turned."""
  found_N = rng.integers(0, 2**64, count // 8, np.uint64)[rng.integers(0, count // 8, count)]
  for _ in range(6):
    found_N ^= np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64)
  return found_N


@pytest.mark.parametrize('distance', [0, 1, 3, 6, 16])
def test_the_pairs_are_those_of_comparing_all_each_once(distance):
  rng = np.random.default_rng(distance)
  query_Q, base_B = hashes(300, rng), hashes(500, rng)
  base_B[:100] = query_Q[:100]
  found = [pair for both in near_pairs(query_Q, base_B, distance) for pair in zip(*map(np.ndarray.tolist, both))]
  expected = np.argwhere(np.bitwise_count(query_Q[:, None] ^ base_B) <= distance).tolist()
  assert len(expected) >= 100
  assert sorted(map(list, found)) == expected


def test_many_equal_hashes_are_compared_a_block_at_a_time():
  equal_N = np.zeros(4000, np.uint64)
  tracemalloc.start()
  count = sum(len(pairs) for pairs, _ in near_pairs(equal_N, equal_N, 3))
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert count == 4000**2 and peak < 80e6  # as one block, the pairs alone would take 256 MB
