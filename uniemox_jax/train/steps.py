"""The training steps: pure functions (state, frozen, batch, key) -> (state, metrics). No mesh, no files.

Accumulation changes nothing but memory: every random draw is made for the whole batch and split with it, every
micro-batch sees all texts, and every loss is a mean over examples (docs/method.md, One pretraining step).
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from uniemox_jax.models.classifier import stack_views
from uniemox_jax.models.masking import patchify
from uniemox_jax.models.preprocess import normalise, resize_crops
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.objectives import losses
from uniemox_jax.objectives.augmentation import augment_views
from uniemox_jax.objectives.regularisation import draw_branch_scales, draw_mix
from uniemox_jax.objectives.tasks import Task, prepare_targets, row_loss, row_weights, single_label_task, split_columns
from uniemox_jax.teacher.step_teacher import Teacher, embed_views_as_one
from uniemox_jax.train.optimizer import Optimizer, update_average
from uniemox_jax.train.settings import LossSettings, RegularisationSettings
from uniemox_jax.train.state import TrainState

Params = dict[str, Any]
Arrays = dict[str, jax.Array]
Step = Callable[[TrainState, Any, Arrays, jax.Array], tuple[TrainState, Arrays]]
ExampleLosses = Callable[[Params, Any], Arrays]
"""A function (parameters, rows of a batch) -> each loss by name, float32 (B,)."""


def make_pretrain_step(
    student: nnx.GraphDef, teacher: Teacher | None, optimizer: Optimizer, settings: LossSettings) -> Step:
  """Makes the UniEmoX step (docs/method.md, One pretraining step).

  Its batch holds 'scene' uint8 (B, H, W, 3), or a crop for `resize_crops`; 'person' likewise if the student has two
  streams; 'text' float32 (B, E), unit-norm caption embeddings, if L1 is on; and 'image' float32 (B, E), the teacher's
  unit-norm embeddings of the scenes, if they were computed before: then the step has no image tower.
  `frozen` holds the teacher's parameters; `key` belongs to the run.
  """
  weights = loss_weights(settings)

  def step(state: TrainState, frozen: Any, batch: Arrays, key: jax.Array) -> tuple[TrainState, Arrays]:
    model = nnx.merge(student, state.params)
    batch = resize_crops(batch, model.encoder.image_size, optimizer.accum_steps)
    with jax.named_scope('inputs'):
      views_BxVxHxWx3 = jnp.stack([batch[name] for name in ('scene', 'person')[:model.view_count]], axis=1)
      noise_shape = (*views_BxVxHxWx3.shape[:2], model.encoder.patches)
      noise_BxVxL = jax.random.uniform(jax.random.fold_in(key, state.step), noise_shape)
    rows, text = {'views': views_BxVxHxWx3, 'noise': noise_BxVxL}, batch.get('text')
    if 'image' in batch:
      rows['image'] = batch['image']
    if text is not None and settings.negatives == 'local':
      rows['text'] = losses.group_texts(text, settings.local_batch)
    example_losses = functools.partial(pretrain_losses, student, teacher, frozen, text, settings)
    return update(state, *accumulate(example_losses, weights, state.params, rows, optimizer.accum_steps), optimizer)

  return step


class Part(NamedTuple):
  """What the losses compare with one teacher. What no loss reads is None.

  fused_BxE, image_BxE: the student's gamma, and the teacher's embedding. text: texts of unit norm, (T, E), or
  (B, T, E) with own texts for each row. scale: the learned logit scale. predicted_BxLxD, tokens_BxLxD: the tokens of
  the scene's patches that the student's decoder and the teacher give.
  """

  fused_BxE: jax.Array
  image_BxE: jax.Array
  text: Any
  scale: jax.Array
  predicted_BxLxD: Any
  tokens_BxLxD: Any


class Compared(NamedTuple):
  """What the losses read: the student, what it saw, its `uniemox.Outputs`, and a part for each teacher."""

  student: UniEmoX
  views_BxVxHxWx3: jax.Array
  outputs: Any
  parts: Sequence[Part]


def _contrastive(seen: Compared, settings: LossSettings) -> jax.Array:
  by_part = []
  for part in seen.parts:
    weight = losses.equal_text_weights(part.text) if settings.equal_texts == 'once' else None
    if settings.form == 'kl':
      by_part.append(losses.contrastive_kl(part.fused_BxE, part.image_BxE, part.text, part.scale, weight))
    else:
      by_part.append(losses.contrastive_cosine(part.fused_BxE, part.image_BxE, part.text, weight))
  return _mean(by_part)


def _similarity(seen: Compared, settings: LossSettings) -> jax.Array:
  return _mean([losses.similarity(part.fused_BxE, part.image_BxE) for part in seen.parts])


def _reconstruction(seen: Compared, settings: LossSettings) -> jax.Array:
  decoded_BxUxHxWx3 = seen.views_BxVxHxWx3[:, :seen.student.decoded_streams]
  to_patches = functools.partial(patchify, patch_size=seen.student.encoder.patch_size)
  target_BxUxLxP = jax.vmap(to_patches, 1, 1)(decoded_BxUxHxWx3)
  return losses.reconstruction(
      seen.outputs.prediction_BxUxLxP, target_BxUxLxP, seen.outputs.mask_BxUxL, settings.norm_pix)


def _distillation(seen: Compared, settings: LossSettings) -> jax.Array:
  mask_BxL = seen.outputs.mask_BxUxL[:, 0]
  return _mean([losses.distillation(part.predicted_BxLxD, part.tokens_BxLxD, mask_BxL) for part in seen.parts])


def _mean(by_part: Sequence[jax.Array]) -> jax.Array:
  return sum(by_part) / len(by_part)  # type: ignore[return-value]  # not empty


PRETRAIN_LOSSES: dict[str, tuple[Callable[[Compared, LossSettings], jax.Array], str]] = {
    'similarity': (_similarity, 'L2: 1 - cosine between the fused embedding and CLIP’s of the image'),
    'contrastive': (_contrastive, 'L1: how differently student and CLIP rank the captions'),
    'reconstruction': (_reconstruction, 'L3: squared error of the hidden patches'), 'distillation':
        (_distillation, 'L4: 1 - cosine between predicted and true tokens of CLIP for the hidden patches')}
"""The losses, float32 (B,), and their meanings, by the key of their weight in `LossSettings`. In another order, a step
would compute other last bits, and no run would resume exactly."""


def pretrain_losses(
    student: nnx.GraphDef, teacher: Teacher | None, frozen: Any, text_TxE: jax.Array | None, settings: LossSettings,
    params: Params, rows: Arrays) -> Arrays:
  """Computes every pretraining loss that has a weight, per example.

  Args:
    student, params: graph and parameters of a `UniEmoX`.
    teacher, frozen: the teacher and its parameters; None if no loss needs it.
    text_TxE: unit-norm embeddings of the texts that all examples share.
    settings: weights and forms.
    rows: 'views' uint8 (B, V, H, W, 3); 'noise' (B, V, L), which decides what is hidden; 'text' (B, G, E), the texts of
      each example's group, in place of the shared ones; 'image' (B, E), in place of what the teacher would compute.
  """
  model = nnx.merge(student, params)
  views_BxVxHxWx3 = normalise(rows['views'])
  outputs = model(views_BxVxHxWx3, rows['noise'])
  parts: Sequence[Part] = ()
  if teacher is not None and outputs.fused_BxE is not None:
    tokens = None
    if 'image' in rows:
      image_BxE = rows['image']
    else:
      seen = rows['views'] if settings.teacher_sees == 'both' else rows['views'][:, :1]
      side = round(model.encoder.patches**0.5) if settings.distillation else 0
      image_BxE, tokens = jax.lax.stop_gradient(embed_views_as_one(teacher, frozen, seen, side))
    parts = [
        Part(*values) for values in zip(
            teacher.split(outputs.fused_BxE), teacher.split(image_BxE), teacher.split(rows.get('text', text_TxE)),
            teacher.scales(frozen), teacher.split_tokens(outputs.teacher_tokens_BxLxD), teacher.split_tokens(tokens),
            strict=True)]
  compared = Compared(model, views_BxVxHxWx3, outputs, parts)
  return {name: PRETRAIN_LOSSES[name][0](compared, settings) for name in loss_weights(settings)}


def loss_weights(settings: LossSettings) -> dict[str, float]:
  """The weights of the losses that are trained, by name."""
  return {name: weight for name in PRETRAIN_LOSSES if (weight := getattr(settings, name))}


def make_finetune_step(
    classifier: nnx.GraphDef, optimizer: Optimizer, settings: RegularisationSettings,
    tasks: Sequence[Task] | None = None) -> Step:
  """Makes the classifier's step (docs/method.md, Recipes) for any tasks; None means a single label.

  Its batch holds 'image' uint8 (B, H, W, 3), or a crop for `resize_crops` and what `augment_views` does to its view;
  'person' likewise if the classifier has two streams; and the field of every task as `tasks.prepare_targets` takes it.
  """

  def step(state: TrainState, frozen: Any, batch: Arrays, key: jax.Array) -> tuple[TrainState, Arrays]:
    del frozen
    mix_key, drop_key = jax.random.split(jax.random.fold_in(key, state.step))
    model = nnx.merge(classifier, state.params)
    chosen = tasks or (single_label_task(range(model.head.out_features)),)
    batch = augment_views(resize_crops(batch, model.encoder.image_size, optimizer.accum_steps))
    views, depth = stack_views(batch), model.encoder.blocks.depth
    mix = draw_mix(mix_key, (views.shape[-3], views.shape[-2]), settings.mixup, settings.cutmix)
    scales_RxNx2 = draw_branch_scales(drop_key, len(views) * model.view_count, depth, settings.drop_path)
    rows: dict[str,
               Any] = {'views': views, 'branch_scale': scales_RxNx2.reshape(len(views), model.view_count, depth, 2)}
    for task in chosen:
      target_BxC, present_BxK = prepare_targets(task, batch[task.name], settings.smoothing)
      if mix is not None:  # A mixture has a target where both of its images have one.
        target_BxC, present_BxK = mix.blend_targets(target_BxC), present_BxK * present_BxK[::-1]
      rows[task.name] = target_BxC, row_weights(task, target_BxC, present_BxK)
    if mix is not None:
      rows['partner'] = views[::-1]

    def example_losses(params: Params, rows: Any) -> Arrays:
      views = normalise(rows['views'])
      if mix is not None:
        views = mix.blend(views, normalise(rows['partner']))
      branch_scale_NxRx2 = rows['branch_scale'].reshape(-1, depth, 2).swapaxes(0, 1) if settings.drop_path else None
      outputs = split_columns(nnx.merge(classifier, params)(views, branch_scale_NxRx2), chosen)
      return {task.loss: row_loss(task, outputs[task.name], *rows[task.name]) for task in chosen}

    weights = {task.loss: task.weight for task in chosen}
    return update(state, *accumulate(example_losses, weights, state.params, rows, optimizer.accum_steps), optimizer)

  return step


def make_clip_step(
    clip: nnx.GraphDef, optimizer: Optimizer, view: Callable[[jax.Array], jax.Array],
    equal_texts: str = 'each') -> Step:
  """Makes CLIP's contrastive step. Its batch holds 'scene' uint8 (B, H, W, 3) and 'ids' int32 (B, T).

  `view` normalises pixels.
  """

  def step(state: TrainState, frozen: Any, batch: Arrays, key: jax.Array) -> tuple[TrainState, Arrays]:
    del frozen, key

    def example_losses(params: Params, rows: Arrays) -> Arrays:
      model = nnx.merge(clip, params)
      image_BxE, text_BxE = model.image(view(rows['scene'])), model.text(rows['ids'])
      # CLIP limits its temperature to 100.
      scale = jnp.exp(jnp.minimum(model.logit_scale[...], jnp.log(100.0)))
      ids_BxT = rows['ids'] if equal_texts == 'once' else None
      return {'contrastive': losses.clip_contrastive(image_BxE, text_BxE, scale, ids_BxT)}

    # One micro-batch: splitting would change the negatives, and so the loss.
    return update(state, *accumulate(example_losses, {'contrastive': 1.0}, state.params, batch, 1), optimizer)

  return step


def accumulate(example_losses: ExampleLosses, weights: dict[str, float], params: Params, rows: Any,
               accum_steps: int) -> tuple[Params, Arrays]:
  """Computes the gradient of the weighted mean losses over all rows, in `accum_steps` micro-batches.

  Returns:
    The gradient, and a dict of the mean of each loss by name and of 'loss', their weighted sum.
  """
  batch = len(jax.tree.leaves(rows)[0])

  @jax.named_scope('losses')  # but for what its callees give a name of their own
  def objective(params: Params, rows: Any) -> tuple[jax.Array, Arrays]:
    shares = {name: jnp.sum(values) / batch for name, values in example_losses(params, rows).items()}
    return _weighted(shares, weights), shares

  gradient = jax.grad(objective, has_aux=True)
  if accum_steps == 1:
    total, means = gradient(params, rows)
  else:
    # Micro-batch i takes rows i, i + accum, ...: every device keeps its own rows.
    micro_rows = jax.tree.map(lambda x: x.reshape(-1, accum_steps, *x.shape[1:]).swapaxes(0, 1), rows)
    first = jax.tree.map(lambda x: x[0], micro_rows)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, params, first))

    def add(total: Any, rows: Any) -> tuple[Any, None]:
      return jax.tree.map(jnp.add, total, gradient(params, rows)), None

    total, means = jax.lax.scan(add, zeros, micro_rows)[0]
  return total, {'loss': _weighted(means, weights)} | means


def _weighted(values: Arrays, weights: dict[str, float]) -> jax.Array:
  return sum(weight * values[name] for name, weight in weights.items())  # type: ignore[return-value]  # not empty


@jax.named_scope('optimizer')
def update(state: TrainState, gradient: Params, means: Arrays, optimizer: Optimizer) -> tuple[TrainState, Arrays]:
  """Applies one update; its metrics are `means`, the gradient's norm, the learning rate, and whether it was skipped.

  A gradient that is not finite, or longer than `max_gradient_norm`, is not applied: parameters, optimizer and average
  keep every bit. Only the step is counted, so that the next one sees other examples.
  """
  norm = optax.tree.norm(gradient)
  sound = jnp.isfinite(means['loss']) & jnp.isfinite(norm) & (norm <= optimizer.max_gradient_norm)
  updates, opt_state = optimizer.tx.update(gradient, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  average = None if state.average is None else update_average(state.average, params, state.step, optimizer.ema_decay)
  kept = jax.tree.map(
      lambda new, old: jnp.where(sound, new, old), (params, opt_state, average),
      (state.params, state.opt_state, state.average))
  metrics = {**means, 'gradient_norm': norm, 'lr': optimizer.schedule(state.step), 'skipped': ~sound}
  return TrainState(state.step + 1, *kept), metrics
