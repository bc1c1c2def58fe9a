"""Reads ahead of the caller with threads: in order, and only so many items at a time."""

import collections
from collections.abc import Iterator
from concurrent import futures
import itertools
import os
from typing import TypeVar

T = TypeVar('T')
THREADS = min(32, (os.cpu_count() or 1) + 4)  # Pillow decodes, resizes and encodes without holding Python's lock.


def read_ahead(submitted: Iterator[futures.Future[T]], count: int) -> Iterator[futures.Future[T]]:
  """Yields the futures in their order. It takes up to `count` from `submitted`, and so starts them, ahead of the
  caller."""
  running = collections.deque(itertools.islice(submitted, count))
  while running:
    yield running.popleft()
    running.extend(itertools.islice(submitted, 1))
