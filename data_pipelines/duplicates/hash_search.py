"""Finds pairs of hashes that differ in few bits, without comparing all pairs."""

from collections.abc import Iterator
import itertools

import numpy as np

BITS = 64
_BLOCK = 1024
"""Hashes of either side that are compared at once: 1024 x 1024 x 8 bytes are 8 MiB."""


def near_pairs(query_Q: np.ndarray, base_B: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Finds pairs of a query and a base hash that differ in at most `distance` bits.

  The bits are cut into `distance + 1` parts. Such a pair agrees in one part at least, so only hashes that agree in a
  part are compared. Memory grows neither with the number of hashes nor with that of the pairs.

  Args:
    query_Q, base_B: uint64.
    distance: 0 to 16.

  Yields:
    The positions in `query_Q` and in `base_B`, int64 (P,), each pair once.
  """
  edges = [BITS * part // (distance + 1) for part in range(distance + 2)]
  masks = [np.uint64((1 << end) - (1 << start)) for start, end in itertools.pairwise(edges)]
  for number, mask in enumerate(masks):
    for queries_K, bases_K in _equal_keys(query_Q & mask, base_B & mask):
      differ_QxB = query_Q[queries_K][:, None] ^ base_B[bases_K]
      rows_P, columns_P = np.nonzero(np.bitwise_count(differ_QxB) <= distance)
      found_P = differ_QxB[rows_P, columns_P]
      # What agrees in an earlier part, too, was found there.
      new_P = np.all([found_P & earlier != 0 for earlier in masks[:number]], axis=0) if number else slice(None)
      if len(rows_P):
        yield queries_K[rows_P[new_P]], bases_K[columns_P[new_P]]


def _equal_keys(query_Q: np.ndarray, base_B: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Positions of queries and of bases with one key, at most `_BLOCK` of each."""
  query_order_Q, base_order_B = np.argsort(query_Q, kind='stable'), np.argsort(base_B, kind='stable')
  sorted_B = base_B[base_order_B]
  keys_K, starts_K, counts_K = np.unique(query_Q[query_order_Q], return_index=True, return_counts=True)
  left_K, right_K = np.searchsorted(sorted_B, keys_K, 'left'), np.searchsorted(sorted_B, keys_K, 'right')
  for key in np.flatnonzero(right_K > left_K).tolist():
    queries = query_order_Q[starts_K[key]:starts_K[key] + counts_K[key]]
    bases = base_order_B[left_K[key]:right_K[key]]
    for start in range(0, len(queries), _BLOCK):
      for first in range(0, len(bases), _BLOCK):
        yield queries[start:start + _BLOCK], bases[first:first + _BLOCK]
