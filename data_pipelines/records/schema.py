"""The one record schema, shared by all datasets whatever their annotations."""

import numpy as np
import tensorflow_datasets as tfds


def record_features(labels: tuple[str, ...]) -> tfds.features.FeaturesDict:
  """The features of one record. A target that a dataset does not have is empty, -1 or NaN.

  Args:
    labels: the class names in label order; () if they are set later, before the first record is encoded.

  Returns:
    id            path of the image inside the raw folder, plus '#k' if the record is about one of its persons; unique
                  in the dataset.
    example_id    rank of `id` among all ids, sorted; the key of every random draw.
    image         the whole image as a clean sRGB JPEG (uint8, H x W x 3).
    persons       JPEGs of persons with a 20 % margin, cut from the original pixels (short side <= 256): the person that
                  the record is about, else the largest confident ones, largest first.
    boxes         all person boxes, float32 (N, 4) as (ymin, xmin, ymax, xmax), fractions of the stored image; first the
                  person that the record is about.
    box_scores    their confidences, float32 (N,), 1.0 for a box that a human drew.
    label         class index, -1 without a single class.
    labels        class indices of a multi-label dataset, int64 (M,).
    distribution  shares of votes, float32 (D,), over the names in the manifest's `distribution`.
    vad           valence, arousal, dominance on the dataset's own scale, float32 (3,), NaN where not annotated.
    attributes    JSON object of what else is known: EmoSet's annotation fields; a table's caption, domain, subject and
                  confidence; the group that no split may cut. '{}' without any.
  """
  names = list(labels) or None
  text, tensor, sequence = tfds.features.Text, tfds.features.Tensor, tfds.features.Sequence
  return tfds.features.FeaturesDict({
      'id': text(),
      'example_id': np.int64,
      'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
      'persons': sequence(tensor(shape=(), dtype=np.object_)),
      'boxes': tensor(shape=(None, 4), dtype=np.float32),
      'box_scores': tensor(shape=(None,), dtype=np.float32),
      'label': tfds.features.ClassLabel(names=names),
      'labels': sequence(tfds.features.ClassLabel(names=names)),
      'distribution': tensor(shape=(None,), dtype=np.float32),
      'vad': tensor(shape=(3,), dtype=np.float32),
      'attributes': text(),})
