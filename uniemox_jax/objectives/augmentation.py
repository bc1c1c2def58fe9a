"""RandAugment and erasing on the devices, as the host has drawn them (docs/method.md, Resizing on the devices)."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from uniemox_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from uniemox_jax.objectives.image_operations import OPERATIONS

FIELDS = ('operation', 'amount', 'erased', 'noise')
"""What a batch says of the views that it wants changed, after the view's name."""

Arrays = dict[str, jax.Array]


@jax.named_scope('inputs')
def augment_views(batch: Arrays) -> Arrays:
  """Changes a batch's views as drawn for them; a batch without draws stays. Every device changes its own images.

  Args:
    batch: holds for some views NAME, uint8 (B, S, S, 3): NAME_operation int32 (B, L), the places in `OPERATIONS` of
      layers, negative for none, with NAME_amount float32 (B, L); and NAME_erased int32 (B, 4), the box (top, left,
      height, width) in pixels that then becomes noise, of height 0 for none, with its seed NAME_noise uint32 (B, 4).

  Returns:
    NAME uint8 (B, S, S, 3), and what else the batch holds.
  """
  fields = {name: {field: batch[f'{name}_{field}'] for field in FIELDS if f'{name}_{field}' in batch} for name in batch}
  drawn = {name: {'image': batch[name]} | of_view for name, of_view in fields.items() if of_view}
  if not drawn:
    return batch
  change, mesh = _change_all, jax.sharding.get_abstract_mesh()
  if not mesh.empty:  # Else the compiler would send all images to all devices, one after the other.
    rows = P(mesh.axis_names)
    change = jax.shard_map(change, in_specs=rows, out_specs=rows, check_vma=False)
  read = {f'{name}_{field}' for name in drawn for field in FIELDS}
  return {name: rows for name, rows in batch.items() if name not in read} | change(drawn)


def _change_all(drawn: dict[str, Arrays]) -> Arrays:
  """The views, changed one image after the other: only what is drawn is computed."""
  merged = jax.tree.map(lambda *views: jnp.concatenate(views), *drawn.values())
  changed = jax.lax.map(_change, merged)
  return dict(zip(drawn, jnp.split(changed, len(drawn))))


def _change(drawn: Arrays) -> jax.Array:
  """One image, uint8 (S, S, 3)."""
  image_3xSxS = jnp.moveaxis(drawn['image'], -1, 0).astype(jnp.int32)
  if 'operation' in drawn:
    choices = [lambda image_3xSxS, amount: image_3xSxS, *OPERATIONS.values()]

    def layer(image_3xSxS: jax.Array, chosen: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
      operation, amount = chosen
      return jax.lax.switch(operation + 1, choices, image_3xSxS, amount), None

    image_3xSxS, _ = jax.lax.scan(layer, image_3xSxS, (drawn['operation'], drawn['amount']))
  if 'erased' in drawn:
    image_3xSxS = jax.lax.cond(
        drawn['erased'][2] > 0, _erase, lambda image_3xSxS, *unread: image_3xSxS, image_3xSxS, drawn['erased'],
        drawn['noise'])
  return jnp.moveaxis(image_3xSxS, 0, -1).astype(jnp.uint8)


def _erase(image_3xSxS: jax.Array, box_4: jax.Array, seed_4: jax.Array) -> jax.Array:
  """Fills a box with noise of the distribution of `data_pipelines.batches.augment.erase`."""
  key = jax.random.wrap_key_data(seed_4[:2], impl='threefry2x32')
  for word in (seed_4[2], seed_4[3]):
    key = jax.random.fold_in(key, word)
  mean_3x1x1, std_3x1x1 = (np.array(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
  noise_3xSxS = 255 * (jax.random.normal(key, image_3xSxS.shape) * std_3x1x1 + mean_3x1x1)
  place_S = jnp.arange(image_3xSxS.shape[1])
  rows_S, columns_S = (
      (place_S >= first) & (place_S < first + side) for first, side in ((box_4[0], box_4[2]), (box_4[1], box_4[3])))
  pixels_3xSxS = jnp.clip(jnp.round(noise_3xSxS), 0, 255).astype(jnp.int32)
  return jnp.where(rows_S[:, None] & columns_S, pixels_3xSxS, image_3xSxS)
