"""Makes batches for training and evaluation. A batch is a function of (seed, step) alone.

There is no shuffle buffer and no iterator state: order comes from a keyed permutation, draws from stateless seeds. So a
resumed run starts at any step, and every host makes its own rows of the same global batch.
"""

import atexit
from collections.abc import Callable, Generator, Iterator, Sequence
import functools
import os
from typing import NamedTuple
import weakref

import numpy as np

from data_pipelines.batches import augment, rand_augment
from data_pipelines.batches.canvas import crop_for_canvas, resolve_draws
from data_pipelines.batches.evaluation_views import BOX_FIELDS, evaluation_views
from data_pipelines.batches.image_changes import REMOVALS
from data_pipelines.batches.order import Order, make_order
from data_pipelines.errors import UserError
from data_pipelines.light_tensorflow import tf
from data_pipelines.records import targets as record_targets
from data_pipelines.records.reader import Split

# TensorFlow's own allocator keeps the memory of a batch for the next. The system's takes it back where a batch has over
# 32 MB, and then every 4 kB of each new batch cost a page fault: a third of the loader's time.
os.environ.setdefault('TF_CPU_ALLOCATOR_USE_BFC', 'true')
# Images are made side by side already. Operations that also share out their own work among threads cost a fifth more.
os.environ.setdefault('TF_NUM_INTRAOP_THREADS', '1')

READ_TOGETHER = 64
"""The number of records per call into Python: enough to make the call cheap, few enough to save memory."""
_FIELDS = {
    'image': tf.io.FixedLenFeature([], tf.string), 'persons': tf.io.RaggedFeature(tf.string),
    'label': tf.io.FixedLenFeature([], tf.int64), 'example_id': tf.io.FixedLenFeature([], tf.int64)}

Batch = dict[str, np.ndarray]
Record = dict[str, tf.Tensor]
ViewFields = dict[str, tf.Tensor]
"""What a batch holds of a view, by what follows the view's name: '' is the pixels."""


class RecurringCrops(NamedTuple):
  """Epoch e crops and flips scenes as epoch e mod `number` does, by draws of this `seed`."""

  number: int
  seed: int


_open: weakref.WeakSet[Generator[Batch]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
  """Ends the reading threads: they call into Python, so the process might hang if they outlived the interpreter."""
  for batches in list(_open):
    batches.close()


def train_batches(
    split: Split, *, batch_size: int, seed: int, image_size: int, start_step: int = 0, mode: str = 'pretrain',
    crop_area: tuple[float, float] = (0.2, 1.0), person: bool | None = None, person_jitter: float = 0.0,
    randaugment: tuple[float, float] | None = None, erase: float = 0.0, targets: Sequence[str] = (),
    balanced_by: np.ndarray | None = None, recurring: RecurringCrops | None = None, canvas: int = 0,
    process_index: int = 0, process_count: int = 1, parallelism: int | None = None) -> Iterator[Batch]:
  """Yields endless training batches from `start_step` on: this host's rows of every global batch.

  Each epoch is a new permutation of the records, of which the last num_examples % batch_size are dropped. Views are
  made as in docs/method.md, Recipes. Every draw is a function of (seed, epoch, example id).

  Args:
    batch_size: the size of the global batch, over all hosts.
    seed: the seed of order and augmentation.
    image_size: the side S of the square views, pixels.
    mode: 'pretrain' makes 'scene' and 'person', 'finetune' makes 'image' and optionally 'person'.
    crop_area: the range of the share of the image's area that the random crop takes.
    person: whether to make the person view; None makes it in 'pretrain' only.
    person_jitter: in 'pretrain', how far each edge of the stored person crop may move inwards, as a share of its side,
      in [0, 0.5). Up to 1/7, it cuts only the margin, if the image had room for one.
    randaugment: in 'finetune', mean and deviation of RandAugment's magnitude for each view; the recipe has (9, 0.5).
    erase: in 'finetune', the probability of random erasing of each view.
    targets: names of `targets.FIELDS` to add, as `targets.dense` describes them.
    balanced_by: every record's class (N,), -1 for none; all classes come equally often. None takes each record once.
    recurring: which crops and flips come again; None draws new ones every epoch.
    canvas: the side C of the square in which crops are left for the devices to resize and augment; 0 does it here.
    process_index, process_count: this host's number, and the number of hosts.
    parallelism: the number of threads; None is one per CPU. It does not change the batches.

  Yields:
    With R = batch_size / process_count rows: 'scene' ('pretrain') or 'image' ('finetune') and 'person', uint8
    (R, S, S, 3); 'position' in the split int32 (R,), 'example_id' int64 (R,), 'label' int32 (R,), -1 for none; the
    `targets`; and if `recurring` is given, which of them it is, 'crop' int32 (R,). 'person' is the stored crop of one
    person, drawn each epoch from those of the record, squashed to S x S and flipped as the scene is. Without a person
    it equals the finished scene view. With a canvas, crops for `preprocess.resize_crops`, draws for `augment_views`.

  Raises:
    UserError: the batch is larger than the split or does not divide by process_count; an augmentation or the canvas is
      out of its range or not of this mode; or, while iterating, a shard is damaged.
  """
  _check_augmentations(mode, person_jitter, randaugment, erase)
  _check_canvas(canvas, image_size)
  person = mode == 'pretrain' if person is None else person
  epoch_steps, sizes = steps_per_epoch(split, batch_size), record_targets.lengths(split, targets)
  first_row, rows = _host_rows(batch_size, process_index, process_count)
  ordered = make_order(split.num_examples, balanced_by)

  def order(step: tf.Tensor) -> Record:
    index_R = step % epoch_steps * batch_size + first_row + tf.range(rows, dtype=tf.int64)
    return _train_order(index_R, step // epoch_steps, ordered, seed, recurring)

  def make(record: Record) -> Record:
    scene, person_view = _train_views(record, image_size, canvas, crop_area, person_jitter, randaugment, erase)
    views = _named('scene' if mode == 'pretrain' else 'image', scene, record)
    if person:
      views |= _named('person', _person_or(scene, record, person_view), record)
    return _labels(record) | record_targets.dense(record, sizes) | views

  steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
  return _batches(split, steps.map(order), make, rows, parallelism, targets, canvas, randaugment)


def _train_order(
    index_R: tf.Tensor, epoch: tf.Tensor, ordered: Order, seed: int, recurring: RecurringCrops | None) -> Record:
  """Position and keys of each of these places of an epoch, int64, and its crop where they recur."""
  keys_K = augment.epoch_keys(seed, epoch)
  position_R, drawn_before_R = ordered(index_R, keys_K[augment.ORDER])
  crop = {}
  if recurring:
    crop['crop'] = tf.fill(tf.shape(index_R), tf.cast(epoch % recurring.number, tf.int32))
    keys_K = augment.with_crop_of(keys_K, augment.epoch_keys(recurring.seed, epoch % recurring.number))
  # A record that comes again in the same epoch has other views.
  return {'position': position_R, 'keys': keys_K[None] + drawn_before_R[:, None]} | crop


def steps_per_epoch(split: Split, batch_size: int) -> int:
  """The number of whole training batches in an epoch. Raises UserError if the batch is larger than the split."""
  if batch_size > split.num_examples:
    raise UserError(
        f'batch_size {batch_size} is more than the {split.num_examples} examples of split {split.name!r}: '
        'make it smaller')
  return split.num_examples // batch_size


def recurring_batches(
    split: Split, seed: int, starts: Sequence[tuple[int, int]], *, batch_size: int, image_size: int,
    crop_area: tuple[float, float], canvas: int = 0, process_index: int = 0, process_count: int = 1,
    parallelism: int | None = None) -> Iterator[Batch]:
  """Yields scenes in the order of the split, cropped and flipped as by training batches with `RecurringCrops`.

  Args: as in `train_batches`, and
    seed: that of the crops.
    starts: for each batch, which crop it shows and the position of its first row.

  Yields:
    'scene' uint8 (R, S, S, 3), R = batch_size / process_count, or with a canvas as in `train_batches`; past the end of
    the split, its last example.

  Raises:
    UserError: the batch does not divide by process_count, or the canvas is too small; or, while iterating, a shard is
      damaged.
  """
  _check_canvas(canvas, image_size)
  first_row, rows = _host_rows(batch_size, process_index, process_count)

  def order(start_2: tf.Tensor) -> Record:
    index_R = start_2[1] + first_row + tf.range(rows, dtype=tf.int64)
    keys_K = augment.epoch_keys(seed, start_2[0])
    return {'position': tf.minimum(index_R, split.num_examples - 1), 'keys': tf.repeat(keys_K[None], rows, axis=0)}

  def make(record: Record) -> Record:
    return _named('scene', _train_views(record, image_size, canvas, crop_area, 0.0, None, 0.0)[0], record)

  starts_Bx2 = tf.data.Dataset.from_tensor_slices(np.array(starts, np.int64).reshape(-1, 2))
  return _batches(split, starts_Bx2.map(order), make, rows, parallelism, (), canvas)


def eval_batches(
    split: Split, *, batch_size: int, image_size: int, person: bool = False, targets: Sequence[str] = (),
    view: Callable[[tf.Tensor], tf.Tensor] | None = None, change: str = '', process_index: int = 0,
    process_count: int = 1, parallelism: int | None = None) -> Iterator[Batch]:
  """Yields every example once over all hosts, in order; all hosts make as many batches of the same shape.

  Args: as in `train_batches`, and
    view: a function from what `augment.centre_view` takes to another model's evaluation view, uint8 (S, S, 3); None is
      the student's.
    change: the change of the images, see `image_changes.read_changes`; '' for none. Corruptions change each finished
      view. If persons are taken away, 'person' equals 'image', as for a record without one; if the scene is, 'person'
      lacks the margin of its crop.

  Yields:
    With R = batch_size / process_count rows: 'image' uint8 (R, S, S, 3), the evaluation view; with `person` also
    'person' likewise, the first stored crop squashed to S x S, or else 'image'; 'label' int32 (R,), 'position' int32
    (R,), 'example_id' int64 (R,); 'mask' float32 (R,), 1 for an example, 0 for the padding of the last batch, which is
    all zero; and the `targets`.

  Raises:
    UserError: the batch does not divide by process_count; or, while iterating, a shard is damaged.
  """
  first_row, rows = _host_rows(batch_size, process_index, process_count)
  sizes = record_targets.lengths(split, targets)
  make_view = view or functools.partial(augment.evaluation_view, size=image_size)

  def order(step: tf.Tensor) -> Record:
    index_R = step * batch_size + first_row + tf.range(rows, dtype=tf.int64)
    # Padding reads a real record, which has all fields in the right shapes, and is zeroed later.
    return {'position': tf.minimum(index_R, split.num_examples - 1), 'mask': index_R < split.num_examples}

  def make(record: Record) -> Record:
    values = _labels(record) | record_targets.dense(record, sizes)
    values |= evaluation_views(record, make_view, image_size, person, change)
    # Not a product: missing targets may be NaN.
    zeroed = {name: tf.where(record['mask'], value, tf.zeros_like(value)) for name, value in values.items()}
    return zeroed | {'mask': tf.cast(record['mask'], tf.float32)}

  steps = tf.data.Dataset.range(-(-split.num_examples // batch_size))
  return _batches(split, steps.map(order), make, rows, parallelism, targets, boxes=change in REMOVALS)


def _host_rows(batch_size: int, process_index: int, process_count: int) -> tuple[int, int]:
  """First row and number of rows of the global batch that this host makes."""
  if batch_size < 1 or batch_size % process_count:
    raise UserError(
        f'batch_size {batch_size} does not divide by {process_count} hosts: choose a multiple of {process_count}')
  rows = batch_size // process_count
  return process_index * rows, rows


def _labels(record: Record) -> Record:
  """What every batch says of its rows."""
  crop = {'crop': record['crop']} if 'crop' in record else {}
  return crop | {
      'position': tf.cast(record['position'], tf.int32), 'example_id': record['example_id'], 'label':
          tf.cast(record['label'], tf.int32)}


def _check_augmentations(mode: str, jitter: float, randaugment: tuple[float, float] | None, erase: float) -> None:
  """Raises UserError if an augmentation is out of its range or would have no effect."""
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


def _check_canvas(canvas: int, size: int) -> None:
  """Raises UserError if a canvas has no room for a view."""
  if canvas and canvas < size:
    raise UserError(f'canvas is {canvas}: choose at least the side of a view, {size}, or 0')


def _train_views(
    record: Record, size: int, canvas: int, crop_area: tuple[float, float], jitter: float,
    randaugment: tuple[float, float] | None, erase: float) -> tuple[ViewFields, Callable[[], ViewFields]]:
  """The view of the whole image, and a function that makes the view of one of the record's persons."""

  def view(name: str, jpeg: tf.Tensor, box: tf.Tensor) -> ViewFields:
    draws = _augmentation_draws(record, name, size, bool(randaugment), erase)
    if canvas:
      pixels, shown = crop_for_canvas(jpeg, box, size, canvas)
      return {'': pixels, '_box': shown} | draws
    resized = augment.resize(augment.decode_crop(jpeg, box), size, size)
    image = tf.cond(_flip(record), lambda: tf.reverse(resized, [1]), lambda: resized)
    image = tf.ensure_shape(image, [size, size, 3])
    if randaugment:
      image = rand_augment.rand_augment(image, draws['_draws'], *randaugment)
    if erase:
      image = augment.erase(image, draws['_erased'], draws['_noise'])
    return {'': image}

  return view('image', *_scene_crop(record, crop_area)), lambda: view('person', *_person_crop(record, jitter))


def _augmentation_draws(record: Record, name: str, size: int, randaugment: bool, erase: float) -> ViewFields:
  """The draws of one view for `rand_augment`, and the box and the seed for `augment.erase`."""
  keys, example_id, draws = record['keys'], record['example_id'], {}
  if randaugment:
    draws['_draws'] = augment.uniform(keys[augment.RANDAUGMENT[name]], example_id, list(rand_augment.DRAWS))
  if erase:
    erasing = augment.uniform(keys[augment.ERASE[name]], example_id, [2, augment.TRIES + 2])
    draws['_erased'] = augment.erased_box(erasing, size, erase)
    draws['_noise'] = tf.stack([keys[augment.NOISE[name]], example_id])
  return draws


def _named(name: str, view: ViewFields, record: Record) -> Record:
  """A view as fields of the batch."""
  fields = {f'{name}{field}': value for field, value in view.items()}
  return fields | {'flip': _flip(record)} if '_box' in view else fields


def _flip(record: Record) -> tf.Tensor:
  """Whether the views of a record are flipped, all of them alike."""
  return augment.uniform(record['keys'][augment.FLIP], record['example_id'], []) < 0.5


def _person_or(scene: ViewFields, record: Record, person: Callable[[], ViewFields]) -> ViewFields:
  """The person view of a record with a person, else the scene."""
  return tf.cond(tf.size(record['persons']) > 0, person, lambda: scene)


def _scene_crop(record: Record, area: tuple[float, float]) -> tuple[tf.Tensor, tf.Tensor]:
  """The JPEG of the scene, and a random box of it."""
  jpeg = record['image']
  draws = augment.uniform(record['keys'][augment.CROP], record['example_id'], [2, augment.TRIES + 1])
  height, width, _ = tf.unstack(tf.image.extract_jpeg_shape(jpeg))
  return jpeg, augment.random_crop(draws, height, width, area)


def _person_crop(record: Record, jitter: float) -> tuple[tf.Tensor, tf.Tensor]:
  """The JPEG of one of the record's persons, and the box of it that is shown."""
  persons_P, keys, example_id = record['persons'], record['keys'], record['example_id']
  count = tf.cast(tf.size(persons_P), tf.float32)
  jpeg = persons_P[tf.cast(augment.uniform(keys[augment.PERSON], example_id, []) * count, tf.int32)]
  height, width, _ = tf.unstack(tf.image.extract_jpeg_shape(jpeg))
  if not jitter:
    return jpeg, tf.stack([0, 0, height, width])
  return jpeg, augment.inner_box(augment.uniform(keys[augment.JITTER], example_id, [4]), height, width, jitter)


def _batches(
    split: Split, ordered: tf.data.Dataset, make: Callable[[Record], Record], rows: int, parallelism: int | None,
    targets: Sequence[str], canvas: int = 0, randaugment: tuple[float, float] | None = None,
    boxes: bool = False) -> Iterator[Batch]:
  """Reads the records at the positions in `ordered`, makes each into one row, and batches the rows in that order.

  Sides that differ from row to row become those of the canvas.
  """
  failures: list[UserError] = []
  fields = _FIELDS | record_targets.fields(targets) | (BOX_FIELDS if boxes else {})

  def read(positions_R: np.ndarray) -> np.ndarray:
    try:
      return np.array(split.read_many(positions_R), dtype=object)
    except UserError as error:
      # TensorFlow would print and wrap the error; an empty record ends the stream instead.
      failures.append(error)
      return np.array([b''], dtype=object)

  def add_serialized(names: Record) -> Record:
    serialized_R = tf.numpy_function(read, [names['position']], tf.string)
    return names | {'serialized': tf.ensure_shape(serialized_R, [None])}

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
  dataset = dataset.take_while(lambda names: tf.strings.length(names['serialized'][0]) > 0).map(parse)
  dataset = dataset.unbatch().map(make, num_parallel_calls=calls)
  if canvas:
    shapes = {name: [side or canvas for side in spec.shape] for name, spec in dataset.element_spec.items()}
    dataset = dataset.padded_batch(rows, shapes, drop_remainder=True)
    dataset = dataset.map(functools.partial(resolve_draws, randaugment=randaugment))
  else:
    dataset = dataset.batch(rows, drop_remainder=True)
  dataset = dataset.prefetch(2).with_options(options)
  _open.add(batches := _iterate(dataset, failures))
  return batches


def _iterate(dataset: tf.data.Dataset, failures: list[UserError]) -> Generator[Batch]:
  """The batches, then the error that stopped them, if any."""
  yield from dataset.as_numpy_iterator()
  if failures:
    raise failures[0]
