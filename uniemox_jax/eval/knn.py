"""The weighted nearest-neighbour classifier on frozen features, exact (Caron et al. 2021; Wu et al. 2018)."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from data_pipelines.errors import UserError
from uniemox_jax.models.layers import unit
from uniemox_jax.runtime.sharding import BATCH, replicate

NEIGHBOURS = (5, 10, 20, 50, 100, 200)
TEMPERATURE = 0.07
CHUNK = 256
"""The number of queries per device at a time: with 100,000 training images, 100 MB of similarities."""
MIN_SHARE = 1e-6
"""The share of votes that a class without votes is given, so that its logarithm is finite."""


@functools.partial(jax.jit, static_argnums=2)
def _nearest(query_QxD: jax.Array, bank_NxD: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
  cosine_QxN = jnp.matmul(unit(query_QxD), bank_NxD.T, precision='highest')
  return jax.lax.with_sharding_constraint(jax.lax.top_k(cosine_QxN, count), P())


def neighbours(query_QxD: np.ndarray, bank_NxD: np.ndarray, count: int, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
  """Finds the nearest training images of each query by cosine, nearest first; of equals, the earlier in the bank.

  Args:
    query_QxD, bank_NxD: float32 features of the queries and of the training images, the same on every host.
    count: the number K of neighbours, at most N.
    mesh: the devices over which queries are split; each holds the whole bank.

  Returns:
    The cosines, float32 (Q, K), and the positions in the bank, int32 (Q, K).
  """
  rows = CHUNK * mesh.size
  bank_NxD = jax.jit(unit)(replicate(bank_NxD, mesh))
  cosines, positions = [], []
  with jax.set_mesh(mesh):
    for first in range(0, len(query_QxD), rows):
      chunk_RxD = query_QxD[first:first + rows]
      padded_RxD = np.pad(chunk_RxD, ((0, rows - len(chunk_RxD)), (0, 0)))
      split_RxD = jax.make_array_from_callback(padded_RxD.shape, NamedSharding(mesh, BATCH), padded_RxD.__getitem__)
      cosine_RxK, position_RxK = jax.device_get(_nearest(split_RxD, bank_NxD, count))
      cosines.append(cosine_RxK[:len(chunk_RxD)])
      positions.append(position_RxK[:len(chunk_RxD)])
  return np.concatenate(cosines), np.concatenate(positions)


def log_shares(cosine_QxK: np.ndarray, label_QxK: np.ndarray, classes: int) -> np.ndarray:
  """The logarithms of the classes' shares of the votes, float64 (Q, C), at least log `MIN_SHARE`.

  A neighbour votes for its class with weight exp(cosine / temperature).
  """
  weight_QxK = np.exp(cosine_QxK.astype(np.float64) / TEMPERATURE)
  votes_QxC = np.stack([(weight_QxK * (label_QxK == index)).sum(axis=1) for index in range(classes)], axis=1)
  return np.log(np.maximum(votes_QxC / votes_QxC.sum(axis=1, keepdims=True), MIN_SHARE))


def probe_knn(
    train: tuple[np.ndarray, np.ndarray], classes: int, mesh: Mesh, val_NxD: np.ndarray,
    val_score: Callable[[np.ndarray], float]) -> tuple[Callable[[np.ndarray], np.ndarray], dict[str, Any]]:
  """Chooses the number of neighbours that is best on val; of equals, the smaller.

  Args:
    train, val_NxD: features_NxD float32 and label_N, class indices, of train; features of val.
    classes: the number C of classes.
    mesh: see `neighbours`.
    val_score: a function from logits on val to the score; higher is better.

  Returns:
    The classifier, from features (N, D) to logits (N, C) as `log_shares` gives them; and the choice, for result.json.

  Raises:
    UserError: there are fewer training images than the smallest number of neighbours.
  """
  bank_NxD, label_N = train
  allowed = [count for count in NEIGHBOURS if count <= len(label_N)]
  if not allowed:
    raise UserError(
        f'kNN needs {NEIGHBOURS[0]} or more training images, and there are {len(label_N)}: raise --config.fraction')
  cosine_QxK, position_QxK = neighbours(val_NxD, bank_NxD, allowed[-1], mesh)
  scores = {k: val_score(log_shares(cosine_QxK[:, :k], label_N[position_QxK[:, :k]], classes)) for k in allowed}
  best = max(allowed, key=scores.__getitem__)  # max takes the first of equals
  for count, score in scores.items():
    print(f'kNN: k {count}  val top1 {score:.4f}', flush=True)

  def predict(features_NxD: np.ndarray) -> np.ndarray:
    cosine_QxK, position_QxK = neighbours(features_NxD, bank_NxD, best, mesh)
    return log_shares(cosine_QxK, label_N[position_QxK], classes)

  return predict, {
      'k': best, 'val_top1': scores[best], 'temperature': TEMPERATURE,
      'tried': [{'k': count, 'val_top1': score} for count, score in scores.items()]}
