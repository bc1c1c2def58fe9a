"""Makes the views of a record that a model is tested on: as the record is, or changed as `image_changes` does."""

from collections.abc import Callable
import functools

import numpy as np

from data_pipelines.batches import augment, image_changes
from data_pipelines.light_tensorflow import tf

BOX_FIELDS = {'boxes': tf.io.RaggedFeature(tf.float32), 'box_scores': tf.io.RaggedFeature(tf.float32)}
"""The fields of a record that changes need which take persons or scenes away, beside those of every view."""


def evaluation_views(
    record: dict[str, tf.Tensor], make_view: Callable[[tf.Tensor], tf.Tensor], size: int, person: bool,
    change: str) -> dict[str, tf.Tensor]:
  """Makes the scene as 'image', and with `person` the first person as 'person'; uint8 (size, size, 3).

  Args:
    record: its 'image', 'persons' and 'example_id'; and `BOX_FIELDS` if the change needs them.
    make_view: a function that makes the view of what `augment.centre_view` takes.
    size: the side of the views, pixels.
    person: whether to make the person view. Without a person, it is the finished view of the scene.
    change: one of `image_changes.read_changes`; '' for none.
  """
  removes = change in image_changes.REMOVALS

  def corrupted(view: tf.Tensor, number: int) -> tf.Tensor:
    if removes or not change:
      return view
    return _by_numpy(functools.partial(image_changes.corrupt, change), view, [record['example_id'], number])

  def of_persons(function: Callable[..., np.ndarray], jpeg: tf.Tensor, *arguments: tf.Tensor) -> tf.Tensor:
    boxes_Nx4 = tf.reshape(record['boxes'], [-1, 4])
    return _by_numpy(function, augment.decode(jpeg), boxes_Nx4, record['box_scores'], *arguments)

  def person_view() -> tf.Tensor:
    crop = record['persons'][0]
    if removes:
      crop = of_persons(image_changes.take_margin_away, crop, tf.image.extract_jpeg_shape(record['image'])[:2])
    return corrupted(augment.squashed_view(crop, size), 1)

  scene = record['image']
  if removes:
    scene = of_persons(functools.partial(image_changes.take_away, change), scene)
  image = corrupted(make_view(scene), 0)
  if not person:
    return {'image': image}
  if change == image_changes.PERSON_REMOVED:
    return {'image': image, 'person': image}
  return {'image': image, 'person': tf.cond(tf.size(record['persons']) > 0, person_view, lambda: image)}


def _by_numpy(function: Callable[..., np.ndarray], image: tf.Tensor, *arguments: tf.Tensor) -> tf.Tensor:
  """An image of the same shape, uint8, by a function of numpy."""
  return tf.ensure_shape(tf.numpy_function(function, [image, *arguments], tf.uint8), image.shape)
