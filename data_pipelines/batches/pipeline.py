"""Batches for training and evaluation. What a batch holds is a function of (seed, step) alone.

There is no shuffle buffer and no iterator state: order comes from a keyed permutation, draws from stateless seeds. So a
run resumes by asking for the batches from its step on, and every host makes its own rows of the same global batch.
"""

import atexit
from collections.abc import Callable, Iterator, Sequence
import functools
import os
import weakref

import numpy as np
import tensorflow as tf

from data_pipelines.batches import augment, rand_augment
from data_pipelines.errors import UserError
from data_pipelines.records import targets as record_targets
from data_pipelines.records.reader import Split

READ_TOGETHER = 64
"""Records per call into Python: enough to make the call cheap, few enough to keep a large batch out of memory."""
_FIELDS = {
    'image': tf.io.FixedLenFeature([], tf.string), 'persons': tf.io.RaggedFeature(tf.string),
    'label': tf.io.FixedLenFeature([], tf.int64), 'example_id': tf.io.FixedLenFeature([], tf.int64)
}

Batch = dict[str, np.ndarray]
Record = dict[str, tf.Tensor]

_open: weakref.WeakSet[Iterator[Batch]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
  """The reading threads call into Python: where they outlive the interpreter, the process may never end."""
  for batches in list(_open):
    batches.close()


def train_batches(
    split: Split, *, batch_size: int, seed: int, image_size: int, start_step: int = 0, mode: str = 'pretrain',
    crop_area: tuple[float, float] = (0.2, 1.0), person: bool | None = None, person_jitter: float = 0.0,
    randaugment: tuple[float, float] | None = None, erase: float = 0.0, targets: Sequence[str] = (),
    process_index: int = 0, process_count: int = 1, parallelism: int | None = None) -> Iterator[Batch]:
  """Endless training batches from `start_step` on: this host's rows of every global batch.

  Each epoch is a new permutation that shows no record twice; the num_examples % batch_size records left at its end are
  dropped, others each time. Views follow method.md, sections 2 and 3: random resized crop, bicubic and antialiased, and
  flip; then RandAugment and erasing where asked for. Every draw is a function of (seed, epoch, example id).

  Args:
    split: the records.
    batch_size: of the global batch, over all hosts.
    seed: of order and augmentation.
    image_size: side S of the square views, pixels.
    start_step: the step of the first batch.
    mode: 'pretrain' for a scene and a person view, 'finetune' for one image, or for both.
    crop_area: share of the picture's area that the random crop takes.
    person: whether the person view is made; None makes it in 'pretrain' alone.
    person_jitter: in 'pretrain', how far each edge of the stored person crop may move inwards, as a share of its side,
      in [0, 0.5). Up to 1/7, it cuts nothing but the margin, where the picture had room for one.
    randaugment: in 'finetune', mean and standard deviation of RandAugment's magnitude, drawn for each view; the
      recipe's m9-mstd0.5-inc1 is (9, 0.5).
    erase: in 'finetune', probability of random erasing, of each view.
    targets: names of `targets.TARGETS` to add, as `targets.dense` describes them.
    process_index, process_count: which host this is, of how many.
    parallelism: threads; None is one a CPU. It does not change what a batch holds.

  Yields:
    With R = batch_size / process_count rows: 'scene' ('pretrain') or 'image' ('finetune') and 'person', uint8
    (R, S, S, 3); 'position' in the split int32 (R,), 'example_id' int64 (R,), 'label' int32 (R,), -1 for none; what
    `targets` asks for. 'person' is the stored crop of one person, drawn each epoch where the record has several,
    squashed to S x S and flipped as the scene is; the finished scene view itself where there is none.

  Raises:
    UserError: the batch is larger than the split or does not divide by process_count, an augmentation is out of its
      range or not of this mode; while iterating, a damaged shard.
  """
  _check_augmentations(mode, person_jitter, randaugment, erase)
  if mode == 'pretrain':
    views = functools.partial(_pretrain_views, person=person is not False, jitter=person_jitter)
  else:
    views = functools.partial(_finetune_views, person=bool(person), randaugment=randaugment, erase=erase)
  epoch_steps = steps_per_epoch(split, batch_size)
  first_row, rows = _host_rows(batch_size, process_index, process_count)
  sizes = record_targets.lengths(split, targets)

  def order(step: tf.Tensor) -> Record:
    keys_K = augment.epoch_keys(seed, step // epoch_steps)
    index_R = step % epoch_steps * batch_size + first_row + tf.range(rows, dtype=tf.int64)
    position_R = augment.shuffled(index_R, keys_K[augment.ORDER], split.num_examples)
    return {'position': position_R, 'keys': tf.tile(keys_K[None], [rows, 1])}

  def make(record: Record) -> Record:
    labels = _labels(record) | record_targets.dense(record, sizes)
    return labels | views(record, size=image_size, crop_area=crop_area)

  steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
  return _batches(split, steps.map(order), make, rows, parallelism, targets)


def steps_per_epoch(split: Split, batch_size: int) -> int:
  """Whole training batches in one epoch.

  Raises:
    UserError: the batch is larger than the split.
  """
  if batch_size > split.num_examples:
    raise UserError(
        f'batch_size {batch_size} is more than the {split.num_examples} examples of split {split.name!r}: '
        'make it smaller')
  return split.num_examples // batch_size


def eval_batches(
    split: Split, *, batch_size: int, image_size: int, person: bool = False, targets: Sequence[str] = (),
    view: Callable[[tf.Tensor], tf.Tensor] | None = None, process_index: int = 0, process_count: int = 1,
    parallelism: int | None = None) -> Iterator[Batch]:
  """Every example once over all hosts, in order; every host makes `eval_step_count` batches of the same shape.

  Args: as in `train_batches`, and
    view: from a JPEG to the uint8 (S, S, 3) of another model's evaluation; None is the student's.

  Yields:
    With R = batch_size / process_count rows: 'image' uint8 (R, S, S, 3), the evaluation view; with `person` also
    'person' likewise, the first stored crop squashed to S x S, or 'image' where there is none; 'label' int32 (R,),
    'position' int32 (R,), 'example_id' int64 (R,); 'mask' float32 (R,), 1 for an example, 0 for the padding of the last
    batch, which is zero throughout; and what `targets` asks for.

  Raises:
    UserError: the batch does not divide by process_count; while iterating, a damaged shard.
  """
  first_row, rows = _host_rows(batch_size, process_index, process_count)
  sizes = record_targets.lengths(split, targets)
  make_view = view or functools.partial(augment.evaluation_view, size=image_size)

  def order(step: tf.Tensor) -> Record:
    index_R = step * batch_size + first_row + tf.range(rows, dtype=tf.int64)
    # Padding reads a real record, so that it has every field in its shape, and is then zeroed.
    return {'position': tf.minimum(index_R, split.num_examples - 1), 'mask': index_R < split.num_examples}

  def make(record: Record) -> Record:
    values = _labels(record) | _evaluation_views(record, make_view, image_size, person)
    values |= record_targets.dense(record, sizes)
    # Not a product: what is missing may be NaN.
    zeroed = {name: tf.where(record['mask'], value, tf.zeros_like(value)) for name, value in values.items()}
    return zeroed | {'mask': tf.cast(record['mask'], tf.float32)}

  steps = tf.data.Dataset.range(eval_step_count(split, batch_size))
  return _batches(split, steps.map(order), make, rows, parallelism, targets)


def eval_step_count(split: Split, batch_size: int) -> int:
  """How many batches `eval_batches` yields on every host."""
  return -(-split.num_examples // batch_size)


def _host_rows(batch_size: int, process_index: int, process_count: int) -> tuple[int, int]:
  """First row and number of rows of the global batch that this host makes."""
  if batch_size < 1 or batch_size % process_count:
    raise UserError(
        f'batch_size {batch_size} does not divide by {process_count} hosts: choose a multiple of '
        f'{process_count}')
  rows = batch_size // process_count
  return process_index * rows, rows


def _labels(record: Record) -> Record:
  return {
      'position': tf.cast(record['position'], tf.int32), 'example_id': record['example_id'],
      'label': tf.cast(record['label'], tf.int32)
  }


def _check_augmentations(mode: str, jitter: float, randaugment: tuple[float, float] | None, erase: float) -> None:
  """UserError where an augmentation is out of its range or would have no effect."""
  if mode not in ('pretrain', 'finetune'):
    raise UserError(f"mode is {mode!r}: choose 'pretrain' or 'finetune'")
  if mode == 'pretrain' and (randaugment or erase):
    raise UserError("randaugment and erase belong to mode 'finetune': leave them off")
  if mode == 'finetune' and jitter:
    raise UserError("person_jitter belongs to mode 'pretrain': leave it at 0")
  if not 0 <= jitter < 0.5:
    raise UserError(f'person_jitter is {jitter}: choose at least 0 and less than 0.5')
  if not 0 <= erase <= 1:
    raise UserError(f'erase is {erase}: a probability lies in [0, 1]')
  if randaugment and not (0 <= randaugment[0] <= rand_augment.MAX_MAGNITUDE and randaugment[1] >= 0):
    raise UserError(
        f'randaugment is {randaugment}: choose a magnitude in [0, {rand_augment.MAX_MAGNITUDE:g}] and a '
        'standard deviation of at least 0')


def _pretrain_views(record: Record, size: int, crop_area: tuple[float, float], person: bool, jitter: float) -> Record:
  finish = _finisher(record, size)
  scene = finish(_random_crop(record, crop_area))
  if not person:
    return {'scene': scene}
  persons_P = record['persons']
  return {
      'scene': scene,
      'person': tf.cond(tf.size(persons_P) > 0, lambda: finish(_person_crop(record, jitter)), lambda: scene)
  }


def _finetune_views(
    record: Record, size: int, crop_area: tuple[float, float], person: bool, randaugment: tuple[float, float] | None,
    erase: float) -> Record:
  finish = _finisher(record, size)

  def augmented(view: str, image: tf.Tensor) -> tf.Tensor:
    key, example_id = record['keys'], record['example_id']
    image = finish(image)
    if randaugment:
      draws = augment.uniform(key[augment.RANDAUGMENT[view]], example_id, list(rand_augment.DRAWS))
      image = rand_augment.rand_augment(image, draws, *randaugment)
    if erase:
      draws = augment.uniform(key[augment.ERASE[view]], example_id, [2, augment.TRIES + 2])
      image = augment.erase(image, draws, tf.stack([key[augment.NOISE[view]], example_id]), erase)
    return image

  image = augmented('image', _random_crop(record, crop_area))
  if not person:
    return {'image': image}
  return {
      'image': image, 'person':
          tf.cond(
              tf.size(record['persons']) > 0, lambda: augmented('person', _person_crop(record, 0.0)), lambda: image)
  }


def _evaluation_views(record: Record, view: Callable[[tf.Tensor], tf.Tensor], size: int, person: bool) -> Record:
  image, persons_P = view(record['image']), record['persons']
  if not person:
    return {'image': image}

  def squashed() -> tf.Tensor:
    return tf.ensure_shape(augment.resize(augment.decode(persons_P[0]), size, size), [size, size, 3])

  return {'image': image, 'person': tf.cond(tf.size(persons_P) > 0, squashed, lambda: image)}


def _random_crop(record: Record, area: tuple[float, float]) -> tf.Tensor:
  jpeg = record['image']
  draws = augment.uniform(record['keys'][augment.CROP], record['example_id'], [2, augment.TRIES + 1])
  height, width, _ = tf.unstack(tf.image.extract_jpeg_shape(jpeg))
  return augment.decode_crop(jpeg, augment.random_crop(draws, height, width, area))


def _person_crop(record: Record, jitter: float) -> tf.Tensor:
  """The stored crop of one of the record's persons, uint8 (H, W, 3)."""
  persons_P, keys, example_id = record['persons'], record['keys'], record['example_id']
  count = tf.cast(tf.size(persons_P), tf.float32)
  jpeg = persons_P[tf.cast(augment.uniform(keys[augment.PERSON], example_id, []) * count, tf.int32)]
  if not jitter:
    return augment.decode(jpeg)
  draws_4 = augment.uniform(keys[augment.JITTER], example_id, [4])
  height, width, _ = tf.unstack(tf.image.extract_jpeg_shape(jpeg))
  return augment.decode_crop(jpeg, augment.inner_box(draws_4, height, width, jitter))


def _finisher(record: Record, size: int) -> Callable[[tf.Tensor], tf.Tensor]:
  """What gives all views of a record their size and the same flip."""
  flip = augment.uniform(record['keys'][augment.FLIP], record['example_id'], []) < 0.5

  def finish(image: tf.Tensor) -> tf.Tensor:
    image = augment.resize(image, size, size)
    return tf.ensure_shape(tf.cond(flip, lambda: tf.reverse(image, [1]), lambda: image), [size, size, 3])

  return finish


def _batches(
    split: Split, ordered: tf.data.Dataset, make: Callable[[Record], Record], rows: int, parallelism: int | None,
    targets: Sequence[str]) -> Iterator[Batch]:
  """Reads the records that `ordered` names, makes each into one row, and batches the rows in the same order."""
  failures = []
  fields = _FIELDS | record_targets.fields(targets)

  def read(positions_R: np.ndarray) -> np.ndarray:
    try:
      return np.array([split.read(position) for position in positions_R], dtype=object)
    except UserError as error:
      # TensorFlow would print and wrap what is raised here; an empty record ends the stream instead.
      failures.append(error)
      return np.array([b''], dtype=object)

  def add_serialized(names: Record) -> Record:
    serialized_R = tf.numpy_function(read, [names['position']], tf.string)
    return names | {'serialized': tf.ensure_shape(serialized_R, [None])}

  def intact(names: Record) -> tf.Tensor:
    return tf.strings.length(names['serialized'][0]) > 0

  def parse(names: Record) -> Record:
    serialized_R = names.pop('serialized')
    return names | tf.io.parse_example(serialized_R, fields)

  options = tf.data.Options()
  options.deterministic = True
  # The autotuner's thread sleeps for up to a minute, and closing an iterator waits for it.
  options.autotune.enabled = False
  options.threading.max_intra_op_parallelism = 1
  if parallelism:
    options.threading.private_threadpool_size = parallelism
  calls = parallelism or os.cpu_count() or 1
  dataset = ordered.unbatch().batch(READ_TOGETHER).map(add_serialized, num_parallel_calls=calls)
  dataset = dataset.take_while(intact).map(parse).unbatch().map(make, num_parallel_calls=calls)
  dataset = dataset.batch(rows, drop_remainder=True).prefetch(2).with_options(options)
  _open.add(batches := _iterate(dataset, failures))
  return batches


def _iterate(dataset: tf.data.Dataset, failures: list[UserError]) -> Iterator[Batch]:
  """The batches, and after the last that could be made what stopped them."""
  yield from dataset.as_numpy_iterator()
  if failures:
    raise failures[0]
