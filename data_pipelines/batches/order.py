"""Makes the order of an epoch as a function of a key: every record once, or every class equally often."""

from collections.abc import Callable

import numpy as np

from data_pipelines.batches import augment
from data_pipelines.light_tensorflow import tf

Order = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""A function (int64 slots (R,) of an epoch, its key (3,)) -> int64 positions (R,), and how often each was drawn before
(R,)."""


def make_order(records: int, balanced_by: np.ndarray | None) -> Order:
  """Makes an order of every record once; given every record's class (N,), a `balanced_order`."""
  if balanced_by is not None:
    return balanced_order(balanced_by)
  return lambda slot_R, key_3: (augment.shuffled(slot_R, key_3, records), tf.zeros_like(slot_R))


def balanced_order(label_N: np.ndarray) -> Order:
  """Makes an order of every class equally often (docs/tasks.md, Unbalanced classes); -1 is no class, and never drawn.

  The slots of an epoch go to the classes in turn. A class is drawn in a permutation of its records, and once it is
  through, in another one.
  """
  by_class_N = np.argsort(label_N, kind='stable')
  labels_C, start_C, count_C = np.unique(label_N[by_class_N], return_index=True, return_counts=True)
  known_C = labels_C >= 0
  start_C, count_C = (tf.constant(values_C[known_C], tf.int64) for values_C in (start_C, count_C))
  records, positions_N = len(label_N), tf.constant(by_class_N, tf.int64)

  def order(slot_R: tf.Tensor, key_3: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    place_R = augment.shuffled(slot_R, key_3, records)
    classes = tf.size(start_C, tf.int64)
    class_R, turn_R = place_R % classes, place_R // classes
    start_R, count_R = tf.gather(start_C, class_R), tf.gather(count_C, class_R)
    drawn_before_R = turn_R // count_R
    # Each class and each time through it have a permutation of their own.
    key_Rx3 = key_3[None] + tf.stack([class_R, drawn_before_R, tf.ones_like(class_R)], axis=1)
    inside_R = tf.raw_ops.RandomIndexShuffle(
        index=turn_R % count_R, seed=key_Rx3, max_index=count_R - 1, rounds=augment.SHUFFLE_ROUNDS)
    return tf.gather(positions_N, start_R + inside_R), drawn_before_R

  return order
