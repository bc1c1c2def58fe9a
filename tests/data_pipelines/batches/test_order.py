"""Balanced sampling: every class equally often, every record of a class before any comes again, resumed anywhere."""

import numpy as np

from data_pipelines.batches.order import balanced_order
from data_pipelines.light_tensorflow import tf

LABELS = np.array([2] * 50 + [0] * 7 + [-1] * 4 + [1] * 3)


def draw(slots: np.ndarray, key: int = 5) -> tuple[np.ndarray, np.ndarray]:
  positions, before = balanced_order(LABELS)(tf.constant(slots, tf.int64), tf.constant([key, 6, 7], tf.int64))
  return positions.numpy(), before.numpy()


def test_classes_come_equally_often_and_records_without_a_class_never():
  positions, _ = draw(np.arange(len(LABELS)))
  counts = np.bincount(LABELS[positions], minlength=3)
  assert counts.max() - counts.min() <= 1 and counts.sum() == len(LABELS)


def test_a_class_is_gone_through_before_any_of_its_records_comes_again():
  positions, before = draw(np.arange(len(LABELS)))
  for label in range(3):
    own = LABELS[positions] == label
    drawn = np.bincount(positions[own], minlength=len(LABELS))[label == LABELS]
    assert drawn.max() - drawn.min() <= 1
    for times in range(drawn.max()):
      again = positions[own & (before == times)]
      assert len(set(again)) == len(again)


def test_the_order_depends_on_slot_and_key_alone():
  whole, _ = draw(np.arange(len(LABELS)))
  parts = np.concatenate([draw(np.arange(20))[0], draw(np.arange(20, len(LABELS)))[0]])
  np.testing.assert_array_equal(whole, parts)
  assert not np.array_equal(whole, draw(np.arange(len(LABELS)), key=8)[0])
