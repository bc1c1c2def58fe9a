"""The one record schema: what every dataset's TFRecord shards hold, whatever the dataset knows about its pictures."""

import numpy as np
import tensorflow_datasets as tfds

EMOTIONS = ('amusement', 'awe', 'contentment', 'excitement', 'anger', 'disgust', 'fear', 'sadness')
"""Mikels' eight emotions in EmoSet's order: the label table of EmoSet, Emo8 and FI."""


def record_features(labels: tuple[str, ...]) -> tfds.features.FeaturesDict:
  """Features of one record. A target that a dataset does not have is empty, -1 or NaN.

  Args:
    labels: class names in label order; () leaves them open, and they are set before the first record is encoded.

  Returns:
    id            path of the picture inside the raw folder, with '#k' after it where a record is one of its persons;
                  unique in the dataset.
    example_id    rank of `id` among all listed, sorted; the key of every random draw.
    image         the whole picture as a clean sRGB JPEG (uint8, H x W x 3).
    persons       JPEGs of persons with a 20 % margin, cut from the original pixels (short side <= 256): the annotated
                  subject where the record has one, else the largest confident ones, largest first; none where there is
                  no person.
    boxes         all person boxes, float32 (N, 4) as (ymin, xmin, ymax, xmax), fractions of the stored picture; an
                  annotated subject first.
    box_scores    their confidences, float32 (N,), 1.0 where a human drew the box.
    label         class index, -1 where the picture has no single class.
    labels        class indices of a multi-label dataset, int64 (M,).
    distribution  shares of votes, float32 (D,), over the names in the manifest's `distribution`.
    vad           valence, arousal, dominance on the dataset's own scale, float32 (3,), NaN where not annotated.
    attributes    JSON object of EmoSet's annotation fields that are present; '{}' where there are none.
  """
  names = list(labels) or None
  return tfds.features.FeaturesDict({
      'id': tfds.features.Text(), 'example_id': np.int64,
      'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
      'persons': tfds.features.Sequence(tfds.features.Tensor(shape=(), dtype=np.object_)
                                       ), 'boxes': tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
      'box_scores': tfds.features.Tensor(shape=(None,),
                                         dtype=np.float32), 'label': tfds.features.ClassLabel(names=names),
      'labels': tfds.features.Sequence(tfds.features.ClassLabel(names=names)
                                      ), 'distribution': tfds.features.Tensor(shape=(None,), dtype=np.float32),
      'vad': tfds.features.Tensor(shape=(3,), dtype=np.float32), 'attributes': tfds.features.Text()
  })
