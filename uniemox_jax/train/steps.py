"""The training steps: pure functions (state, frozen, batch, key) -> (state, metrics). No mesh, no files.

Accumulation changes nothing but memory: every random draw is made for the whole batch and split with it, every
micro-batch sees all texts, and every loss is a mean over rows (docs/method.md, Losses).
"""

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from uniemox_jax.models.classifier import stack_views
from uniemox_jax.models.masking import patchify
from uniemox_jax.models.preprocess import normalise
from uniemox_jax.objectives import losses
from uniemox_jax.objectives.regularisation import Mix, draw_branch_scales, draw_mix
from uniemox_jax.objectives.tasks import Task, prepare, row_loss, row_weights, single_label, split_columns
from uniemox_jax.train.optimizer import update_average
from uniemox_jax.train.state import TrainState

Arrays = dict[str, jax.Array]
Schedule = Callable[[jax.Array], jax.Array]
Step = Callable[[TrainState, Any, Arrays, jax.Array], tuple[TrainState, Arrays]]


class PretrainOptions(NamedTuple):
  """What one pretraining step optimises.

  weights: of 'contrastive' (L1), 'similarity' (L2), 'reconstruction' (L3); a zero removes the term from the program,
    and what only it needs.
  contrastive: 'cosine' (published) or 'kl'.
  negatives: texts of L1 from the 'global' batch, or from consecutive groups of `local_batch` rows ('local').
  norm_pix: normalise target patches. accum_steps: micro-batches a step. max_gradient_norm: see `update`.
  """

  weights: dict[str, float]
  contrastive: str = 'cosine'
  negatives: str = 'global'
  local_batch: int = 2
  norm_pix: bool = False
  accum_steps: int = 1
  max_gradient_norm: float = math.inf


class Teacher(NamedTuple):
  """The frozen CLIP as the step sees it.

  embed_image: (params, uint8 scene views (B, H, W, 3)) -> unit-norm float32 (B, E).
  scale: (params) -> CLIP's learned logit scale s.
  tower: the module behind `embed_image`, shapes in place of parameters, for counting its FLOPs.
  """

  embed_image: Callable[[Any, jax.Array], jax.Array]
  scale: Callable[[Any], jax.Array]
  tower: nnx.Module | None = None


def make_pretrain_step(
    student: nnx.GraphDef, teacher: Teacher | None, tx: optax.GradientTransformation, schedule: Schedule,
    options: PretrainOptions) -> Step:
  """The UniEmoX step (docs/method.md, One pretraining step).

  Its batch: 'scene' uint8 (B, H, W, 3); 'person' likewise where the student has two streams; 'text' float32 (B, E),
  unit-norm caption embeddings, where L1 is on. `frozen` holds the teacher's parameters; `key` belongs to the run.
  """
  weights = {name: weight for name, weight in options.weights.items() if weight}

  def step(state: TrainState, frozen: Any, batch: Arrays, key: jax.Array) -> tuple[TrainState, Arrays]:
    model = nnx.merge(student, state.params)
    views = [batch[name] for name in ('scene', 'person')[:model.streams]]
    noise_shape = (len(batch['scene']), model.streams, model.encoder.patches)
    rows = {
        'views': jnp.stack(views, axis=1),
        'noise': jax.random.uniform(jax.random.fold_in(key, state.step), noise_shape)
    }
    texts = batch['text'] if 'contrastive' in weights else None
    if texts is not None and options.negatives == 'local':
      rows['texts'] = losses.group_texts(texts, options.local_batch)

    def row_losses(params: dict[str, Any], rows: Arrays) -> Arrays:
      model = nnx.merge(student, params)
      values = semantic_losses(model, rows, rows.get('texts', texts), teacher, frozen, options)
      return {name: values[name] for name in weights}

    return update(state, row_losses, weights, rows, tx, schedule, options.accum_steps, options.max_gradient_norm)

  return step


def semantic_losses(
    model: nnx.Module, rows: Arrays, texts: jax.Array | None, teacher: Teacher | None, frozen: Any,
    options: PretrainOptions) -> Arrays:
  """Mask, encode, fuse, decode, teach, lose: every loss that has a weight, per example."""
  views_BxVxHxWx3 = normalise(rows['views'])
  outputs = model(views_BxVxHxWx3, rows['noise'])
  values = {}
  if outputs.fused_BxE is not None:
    image_BxE = jax.lax.stop_gradient(teacher.embed_image(frozen, rows['views'][:, 0]))
    values['similarity'] = losses.similarity(outputs.fused_BxE, image_BxE)
    if texts is not None:
      scale = (teacher.scale(frozen),) if options.contrastive == 'kl' else ()
      contrast = losses.contrastive_kl if scale else losses.contrastive_cosine
      values['contrastive'] = contrast(outputs.fused_BxE, image_BxE, texts, *scale)
  if outputs.prediction_BxDxLxP is not None:
    target_BxDxLxP = jax.vmap(lambda views: patchify(views, model.encoder.patch_size), 1,
                              1)(views_BxVxHxWx3[:, :model.decoded_streams])
    values['reconstruction'] = losses.reconstruction(
        outputs.prediction_BxDxLxP, target_BxDxLxP, outputs.mask_BxDxL, options.norm_pix)
  return values


class FinetuneOptions(NamedTuple):
  """mixup, cutmix: Beta parameters, 0 is off; smoothing: label smoothing; drop_path: rate of the last block;
  accum_steps, max_gradient_norm, ema_decay: see `update`."""

  mixup: float = 0.8
  cutmix: float = 1.0
  smoothing: float = 0.1
  drop_path: float = 0.2
  accum_steps: int = 1
  max_gradient_norm: float = math.inf
  ema_decay: float = 0.0


def make_finetune_step(
    classifier: nnx.GraphDef, tx: optax.GradientTransformation, schedule: Schedule, options: FinetuneOptions,
    tasks: Sequence[Task] | None = None) -> Step:
  """The classifier's step (docs/method.md, Recipes) for any tasks; None is a single label.

  Its batch: 'image' uint8 (B, H, W, 3); 'person' likewise where the classifier has two streams; and the field of every
  task as `tasks.prepare` takes it.
  """

  def step(state: TrainState, frozen: Any, batch: Arrays, key: jax.Array) -> tuple[TrainState, Arrays]:
    del frozen
    mix_key, drop_key = jax.random.split(jax.random.fold_in(key, state.step))
    model = nnx.merge(classifier, state.params)
    learned = tasks or (single_label(range(model.head.out_features)),)
    views, depth = stack_views(batch), model.encoder.blocks.depth
    mix = draw_mix(mix_key, views.shape[-3:-1], options.mixup, options.cutmix)
    scales_NxDx2 = draw_branch_scales(drop_key, len(views) * model.streams, depth, options.drop_path)
    rows = {'views': views, 'branch_scale': scales_NxDx2.reshape(len(views), model.streams, depth, 2)}
    for task in learned:
      target_BxC, there_BxK = prepare(task, batch[task.name], options.smoothing)
      if mix is not None:  # A mixture has a target where both its pictures have one.
        target_BxC, there_BxK = mix_with_reversed(target_BxC, mix), there_BxK * there_BxK[::-1]
      rows[task.name] = target_BxC, row_weights(task, target_BxC, there_BxK)
    if mix is not None:
      rows['partner'] = views[::-1]

    def row_losses(params: dict[str, Any], rows: Arrays) -> Arrays:
      views = normalise(rows['views'])
      if mix is not None:
        views = mix.blend(views, normalise(rows['partner']))
      branch_scale_DxNx2 = rows['branch_scale'].reshape(-1, depth, 2).swapaxes(0, 1) if options.drop_path else None
      outputs = split_columns(nnx.merge(classifier, params)(views, branch_scale_DxNx2), learned)
      return {task.loss: row_loss(task, outputs[task.name], *rows[task.name]) for task in learned}

    weights = {task.loss: task.weight for task in learned}
    return update(
        state, row_losses, weights, rows, tx, schedule, options.accum_steps, options.max_gradient_norm,
        options.ema_decay)

  return step


def mix_with_reversed(target_BxC: jax.Array, mix: Mix | None) -> jax.Array:
  """Targets of images each mixed with its partner from the other end of the batch."""
  return target_BxC if mix is None else mix.share * target_BxC + (1 - mix.share) * target_BxC[::-1]


def make_clip_step(
    clip: nnx.GraphDef, tx: optax.GradientTransformation, schedule: Schedule, view: Callable[[jax.Array], jax.Array],
    max_gradient_norm: float = math.inf) -> Step:
  """CLIP's contrastive step. Its batch: 'scene' uint8 (B, H, W, 3), 'ids' int32 (B, T); `view` normalises pixels."""

  def step(state: TrainState, frozen: Any, batch: Arrays, key: jax.Array) -> tuple[TrainState, Arrays]:
    del frozen, key

    def row_losses(params: dict[str, Any], rows: Arrays) -> Arrays:
      model = nnx.merge(clip, params)
      image_BxE, text_BxE = model.image(view(rows['scene'])), model.text(rows['ids'])
      # CLIP clips its temperature at 100.
      scale = jnp.exp(jnp.minimum(model.logit_scale[...], jnp.log(100.0)))
      return {'contrastive': losses.clip_contrastive(image_BxE, text_BxE, scale)}

    # One micro-batch: splitting would change the negatives, and so the loss.
    return update(state, row_losses, {'contrastive': 1.0}, batch, tx, schedule, 1, max_gradient_norm)

  return step


def update(
    state: TrainState, row_losses: Callable[[dict[str, Any], Arrays], Arrays], weights: dict[str, float], rows: Arrays,
    tx: optax.GradientTransformation, schedule: Schedule, accum_steps: int, max_gradient_norm: float,
    ema_decay: float = 0.0) -> tuple[TrainState, Arrays]:
  """One optimizer update; metrics are the loss, its terms, the gradient's norm, the rate, and whether it was skipped.

  A gradient that is not finite, or longer than `max_gradient_norm`, is not applied: parameters, optimizer and average
  stay as they are to the bit, only the step is counted, so that the next one sees other examples. `ema_decay` is of the
  state's average, if it has one, see `update_average`.
  """
  gradients, means = accumulate(row_losses, weights, state.params, rows, accum_steps)
  loss, norm = sum(weight * means[name] for name, weight in weights.items()), optax.tree.norm(gradients)
  sound = jnp.isfinite(loss) & jnp.isfinite(norm) & (norm <= max_gradient_norm)
  updates, opt_state = tx.update(gradients, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  average = None if state.average is None else update_average(state.average, params, state.step, ema_decay)
  kept = jax.tree.map(
      lambda new, old: jnp.where(sound, new, old), (params, opt_state, average),
      (state.params, state.opt_state, state.average))
  metrics = {'loss': loss, **means, 'gradient_norm': norm, 'lr': schedule(state.step), 'skipped': ~sound}
  return TrainState(state.step + 1, *kept), metrics


def accumulate(
    row_losses: Callable[[dict[str, Any], Arrays], Arrays], weights: dict[str, float], params: dict[str, Any],
    rows: Arrays, accum_steps: int) -> tuple[dict[str, Any], Arrays]:
  """Gradient of the weighted mean losses over all rows, and the mean of each loss, in `accum_steps` micro-batches."""
  batch = len(jax.tree.leaves(rows)[0])

  def objective(params: dict[str, Any], rows: Arrays) -> tuple[jax.Array, Arrays]:
    shares = {name: jnp.sum(values) / batch for name, values in row_losses(params, rows).items()}
    return sum(weight * shares[name] for name, weight in weights.items()), shares

  gradient = jax.grad(objective, has_aux=True)
  if accum_steps == 1:
    return gradient(params, rows)
  # Micro-batch i takes rows i, i + accum, ...: every device keeps its own rows.
  micro_rows = jax.tree.map(lambda x: x.reshape(-1, accum_steps, *x.shape[1:]).swapaxes(0, 1), rows)
  first = jax.tree.map(lambda x: x[0], micro_rows)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, params, first))

  def add(total: Any, rows: Arrays) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, total, gradient(params, rows)), None

  return jax.lax.scan(add, zeros, micro_rows)[0]
