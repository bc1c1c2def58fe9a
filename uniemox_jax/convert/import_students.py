"""Imports students of other libraries: an encoder, a whole MAE, the original's pretraining, or a fine-tuned classifier.
The image tower of a CLIP is an encoder, too.

Heads and LayerNorm's epsilon do not follow from shapes. They come from the config beside the weights, or are known by
the origin, or the user has to give them; nothing is guessed.
"""

from collections.abc import Mapping
from pathlib import Path
import re
import reprlib
from typing import Any, NamedTuple

from flax import nnx
import numpy as np

from data_pipelines import storage
from data_pipelines.errors import UserError, join_names
from data_pipelines.plain_text import single_line
from uniemox_jax.convert import mae_weights, name_table, vit_mae_weights, weight_families
from uniemox_jax.convert.formats import hub
from uniemox_jax.convert.formats.weight_files import Weights
from uniemox_jax.convert.name_table import NameRule
from uniemox_jax.convert.position_embeddings import are_sincos, side_of
from uniemox_jax.convert.published_views import CLASSIFIERS, HALVES, view_of_processor, view_of_timm
from uniemox_jax.models.clip import CLIPConfig
from uniemox_jax.models.registry import abstract_student
from uniemox_jax.models.view import View

Shapes = Mapping[str, tuple[int, ...]]

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""The attention heads by width, for every ViT that MAE, timm and the original publish under these names."""
DECODER_HEADS = {512: 16}
PRETRAINING = rf'decoder_.*|mask_token|{re.escape(mae_weights.FUSION_PREFIX)}.*'
"""The names of the parts that only pretraining needs."""
SIZES = {192: 'Ti', 384: 'S', 768: 'B', 1024: 'L', 1280: 'H'}
FUSED_MASK_RATIO, MAE_MASK_RATIO = 0.9, 0.75
"""The ratios that the original and MAE published, for files that do not say theirs."""
PRINTED = ('mask_ratio', 'norm_pix_loss', 'input_size', 'use_fusion', 'global_pool', 'nb_classes')
"""Settings in the `args` of MAE's and the original's checkpoints that are printed."""
HEADS_OF_OTHERS = (
    r'(head|heads|head_drop|head_dist|mlp_head|cls_head|fc|classifier|linear|pre_logits|projector|projection|proj_head'
    r'|predictor|criterion|loss\w*|attn_pool|MAPHead_\d+)(\..*)?|n_averaged')
"""The names of parts that follow an encoder, which is whole without them."""
PROBE_EPS = 1e-6
"""The epsilon of the batch norm before the head of MAE's linear probe (main_linprobe.py)."""

TIMM_FREE = (
    'num_classes', 'img_size', 'patch_size', 'embed_dim', 'depth', 'num_heads', 'global_pool', 'fc_norm', 'drop_rate',
    'drop_path_rate', 'dynamic_img_size', 'strict_img_size')
"""Those of timm's `model_args` that follow from shapes, that only training reads, or that are read here."""
TIMM_FIXED = {'class_token': True, 'qkv_bias': True, 'final_norm': True, 'mlp_ratio': 4, 'in_chans': 3}


class AttentionHeads(NamedTuple):
  """The numbers of attention heads, for files that do not have them; None if they are not known.

  binding: whether it is an error if the file has others.
  """

  encoder: int | None = None
  decoder: int | None = None
  binding: bool = True


UNKNOWN_HEADS = AttentionHeads()


class ImportedStudent(NamedTuple):
  """A student of another library.

  kind, model, params: as in a checkpoint. labels: class names in the head's order, None if the file has none.
  statistics: {'mean', 'std'} of its pixels in 0..1 if the file has them, else {}. view: how a classifier wants its
  images, see `View.geometry`; {} for our own evaluation view. norm_pix: whether its decoder predicts normalised
  patches. messages: lines for the user. task: the task of a classifier's head, as in `objectives.tasks`.
  """

  kind: str
  model: dict[str, Any]
  params: dict[str, Any]
  labels: list[str] | None
  statistics: dict[str, list[float]]
  view: dict[str, Any]
  norm_pix: bool
  messages: list[str]
  task: str = 'label'


class _Recognised(NamedTuple):
  """A student by the names and shapes of its tensors: its table of names, and a regular expression of what is left."""

  kind: str
  model: dict[str, Any]
  rules: list[NameRule]
  left: str


def import_student(
    weights: Weights, source: Path, heads: AttentionHeads, *, decoder: bool = True,
    head: bool = True) -> ImportedStudent:
  """Reads the student in `weights`, whose `flat` is emptied.

  Args:
    weights: from `weight_files.read_weights(source)`.
    source: the file or folder; the configuration beside it counts, see `hub.config_folder`.
    heads: the numbers of heads, for files that do not have them.
    decoder: whether to take a decoder and a fusion; False leaves them behind.
    head: whether to take a classifier's head. False gives the encoder alone; a last LayerNorm before the pooling is
      then a part of it.

  Raises:
    UserError: the family is another, a part is missing or left over, a shape or the config contradicts, or `heads` is
      needed.
  """
  name, folder = str(weights.path), hub.config_folder(source, weights.path)
  config = hub.read_config(folder, 'config.json') or (weights.metadata if weights.form == 'npz' else {})
  family = weight_families.recognise(weights)
  if family not in (weight_families.VIT, weight_families.MAE):
    raise UserError(
        f'{name} holds {weight_families.TITLES[family]}, not a student: it can be a teacher '
        '(--config.teacher=, load_clip), or be asked in words (predict --labels=)')
  with storage.parsing(weights.path, 'fetch it again'):
    messages = [*weights.notes, *_complete(weights.flat, name)]
  shapes = {key: array.shape for key, array in weights.flat.items()}
  stated = _stated(weights.metadata)
  with storage.parsing(folder / 'config.json' if folder and config else weights.path, 'correct it, or fetch it again'):
    task = 'label'
    if family == weight_families.VIT:
      found = _from_transformers(shapes, heads, config, decoder, head, name)
      stated = {'norm_pix_loss': config.get('norm_pix_loss')}
      (view, statistics), labels = _processor_view(folder, found), vit_mae_weights.class_names(config)
      task = vit_mae_weights.task_of_head(config) if found.kind == 'classifier' else task
    else:
      pretrained = _check_timm(config, shapes, name) if config else {}
      settings = config | {name: stated.get(name) for name in ('mask_ratio', 'global_pool') if name in stated}
      found = _from_mae(shapes, heads, settings, decoder, head, name)
      (view, statistics), labels = _timm_view(pretrained, found), _timm_names(config, pretrained)
    module = abstract_student(found.kind, found.model)
  template = nnx.to_pure_dict(nnx.state(module, nnx.Param))
  params = name_table.import_params(found.rules, weights.flat, template, source=name, ignored=found.left)
  messages.append(f'{name}: {_describe(weight_families.TITLES[family], found.kind, found.model, params)}')
  messages += _tell(found, shapes, stated)
  norm_pix = found.kind == 'uniemox' and stated.get('norm_pix_loss') is True
  return ImportedStudent(
      found.kind, found.model, params, labels if found.kind == 'classifier' else None, statistics,
      view.geometry if view else {}, norm_pix, [single_line(line) for line in messages], task)


def _tell(found: _Recognised, shapes: Shapes, stated: Mapping[str, Any]) -> list[str]:
  """Lines for the user: what is left behind, what the file says of its training, and what cannot be reproduced."""
  messages = []
  if dropped := sorted(key for key in shapes if re.fullmatch(found.left, key)):
    messages.append(f'left behind: {join_names(dropped)}')
  if printed := {setting: stated[setting] for setting in PRINTED if stated.get(setting) is not None}:
    messages.append(
        'the file states: ' + ', '.join(f'{setting} {reprlib.repr(value)}' for setting, value in printed.items()))
  if found.model.get('fusion') == 'attention':
    messages.append(
        "fusion 'attention': the original takes its softmax over an axis of size 1, here it is over the two "
        'streams; the weights are taken, the output of the original cannot be reproduced')
  return messages


def _processor_view(folder: Path | None, found: _Recognised) -> tuple[View | None, dict[str, list[float]]]:
  """(view, statistics) by the `preprocessor_config.json` in a folder; an encoder's file gives the statistics alone."""
  processor = hub.read_config(folder, 'preprocessor_config.json')
  with storage.parsing((folder or Path()) / 'preprocessor_config.json', 'correct it, or fetch it again'):
    if found.kind == 'classifier':
      view = view_of_processor(processor, found.model['image_size'], CLASSIFIERS)
      return view, view.statistics
    return None, hub.pixel_statistics(processor, HALVES, HALVES) if processor else {}


def _timm_view(pretrained: dict[str, Any], found: _Recognised) -> tuple[View | None, dict[str, list[float]]]:
  """(view, statistics) as timm prepares images; neither for files without its config, which are the original's."""
  if not pretrained:
    return None, {}
  view = view_of_timm(pretrained, found.model['image_size'])
  if found.kind == 'classifier':
    return view, view.statistics
  return None, view.statistics if {pretrained.get('mean') is None, pretrained.get('std') is None} != {True} else {}


def _timm_names(config: dict[str, Any], pretrained: dict[str, Any]) -> list[str] | None:
  names = config.get('label_names') or pretrained.get('label_names')
  return [names[key] for key in sorted(names, key=int)] if isinstance(names, dict) else names


def _stated(metadata: dict[str, Any]) -> dict[str, Any]:
  """What a checkpoint's `args` say of its training, {} without them."""
  stated = metadata.get('args')
  return stated if isinstance(stated, dict) else {}


def _complete(flat: dict[str, np.ndarray], source: str) -> list[str]:
  """Gives `flat` what our modules have and MAE's code leaves out or keeps in another form; says so."""
  messages = []
  probe = [f'head.{name}' for name in ('0.running_mean', '0.running_var', '1.weight', '1.bias')]
  if {'fc_norm.weight', 'norm.weight'} & flat.keys() and flat.keys() >= set(probe) and 'head.0.weight' not in flat:
    mean, variance, weight, bias = (flat.pop(name) for name in probe)
    flat.pop('head.0.num_batches_tracked', None)
    flat['head.weight'] = weight / np.sqrt(np.maximum(variance, 0) + PROBE_EPS)
    flat['head.bias'] = bias - flat['head.weight'] @ mean
    messages.append(f'{source}: the batch norm before the head is folded into it')
  if 'fc_norm.weight' in flat and not {'head.weight', 'norm.weight'} & flat.keys():
    flat['norm.weight'], flat['norm.bias'] = (
        make_like(flat['fc_norm.weight']) for make_like in (np.ones_like, np.zeros_like))
    messages.append(
        f'{source} has neither a head nor a LayerNorm after its blocks, since it was fine-tuned on pooled tokens: that '
        'LayerNorm gets scale 1 and bias 0')
  return messages


def student_of_clip(
    config: CLIPConfig, params: dict[str, Any], statistics: dict[str, list[float]], source: str) -> ImportedStudent:
  """Makes an encoder of the image tower of a CLIP, with the same numbers up to the last block's output.

  CLIP's LayerNorm after the blocks, which it applies to the class token alone, becomes the final norm, as in timm.

  Args:
    config, params: those of the whole CLIP, as in `frozen_clip.Clip`.
    statistics: see `ImportedStudent`.
    source: what messages call the file.

  Raises:
    UserError: the MLP is not as wide as our ViT's.
  """
  tower, vision = config.vision, params['vision']
  if tower.hidden != 4 * tower.width:
    raise UserError(
        f"{source}: the MLP of its image tower is {tower.hidden} wide, a student's four times its width, "
        f'{4 * tower.width}: this CLIP can only be a teacher')
  model = {
      'image_size': config.image_size, 'patch_size': config.patch_size, 'width': tower.width, 'depth': tower.depth,
      'heads': tower.heads, 'norm_eps': tower.norm_eps, 'pre_norm': True, 'activation': tower.activation}
  same = {name: vision[name] for name in ('patch_embed', 'positions', 'pre_norm', 'blocks')}
  encoder = {'encoder': same | {'cls_token': vision['class_embedding'][None], 'norm': vision['post_norm']}}
  messages = [
      f"{source}: {_describe('the image tower of a CLIP', 'encoder', model, encoder)}",
      'left behind: text tower, projections, logit_scale']
  return ImportedStudent('encoder', model, encoder, None, statistics, {}, False, messages)


def _describe(title: str, kind: str, model: dict[str, Any], params: dict[str, Any]) -> str:
  size = f"ViT{'-' + SIZES[model['width']] if model['width'] in SIZES else ''}/{model['patch_size']}"
  positions = 'sine-cosine' if are_sincos(params['encoder']['positions']) else 'learned'
  decoder = 'no decoder'
  if kind == 'uniemox':
    decoder = f"decoder {model['decoder_width']} wide with {model['decoder_depth']} blocks"
  fusion = f", fusion '{model['fusion']}'" if model.get('semantic') else ''
  classes = f", {model['classes']} classes" if kind == 'classifier' else ''
  clip = f", a LayerNorm before the blocks, {model['activation']}" if model.get('pre_norm') else ''
  return (
      f"{title}: {size} at {model['image_size']} pixels, {model['width']} wide, {model['depth']} "
      f"blocks, {model['heads']} heads, {positions} positions, LayerNorm epsilon {model['norm_eps']:g}{clip}, "
      f'{decoder}{fusion}{classes}')


def _from_transformers(
    shapes: Shapes, heads: AttentionHeads, config: dict[str, Any], decoder: bool, head: bool,
    source: str) -> _Recognised:
  if not config:
    raise UserError(
        f'{source} has no config.json beside it, which says how many heads it has and its LayerNorm '
        'epsilon: put it there, and give the folder')
  encoder = vit_mae_weights.vit_arguments(config)
  _agree(encoder['heads'], heads, 'encoder', 'config.json: the encoder', source)
  if head and 'classifier.weight' in shapes:
    classes = _shape(shapes, 'classifier.weight', 2, source)[0]
    model = encoder | {'classes': classes, 'pooling': 'class_token'}
    return _Recognised('classifier', model, vit_mae_weights.CLASSIFIER_RULES, vit_mae_weights.POOLER)
  if not decoder or not any(name.startswith('decoder.') for name in shapes):
    return _Recognised('encoder', encoder, vit_mae_weights.ENCODER_RULES, rf'{vit_mae_weights.LEFT}|decoder\..*')
  model = vit_mae_weights.vit_mae_arguments(config)
  _agree(model['decoder_heads'], heads, 'decoder', 'config.json: the decoder', source)
  return _Recognised('uniemox', model, vit_mae_weights.RULES, name_table.NOTHING)


def _from_mae(
    shapes: Shapes, heads: AttentionHeads, config: dict[str, Any], decoder: bool, head: bool,
    source: str) -> _Recognised:
  if 'dist_token' in shapes:
    raise UserError(f'{source} is a DeiT with a token for distillation, which our ViT does not have: give one without')
  width, _, _, patch = _shape(shapes, 'patch_embed.proj.weight', 4, source)
  known_heads = config.get('model_args', {}).get('num_heads', HEADS.get(width))
  encoder_heads = _agree(known_heads, heads, 'encoder', f'an encoder {width} wide', source)
  side = side_of(_shape(shapes, 'pos_embed', 3, source)[1], source)
  model = {
      'image_size': patch * side, 'patch_size': patch, 'width': width, 'depth': _depth(shapes, 'blocks', source),
      'heads': encoder_heads, **_variant(shapes, config, source)}
  kind, left = 'encoder', rf'{HEADS_OF_OTHERS}|fc_norm\.(weight|bias)|{PRETRAINING}'
  pooling = _pooling(shapes, config)
  if pooling == 'mean' or pooling and head:
    kind, left = 'classifier', rf'{"norm" if pooling == "mean" else "fc_norm"}\.(weight|bias)|n_averaged'
    model |= {'classes': _shape(shapes, 'head.weight', 2, source)[0]}
    model |= {} if pooling == 'mean' else {'pooling': pooling}
  elif decoder and 'decoder_embed.weight' in shapes:
    kind, left = 'uniemox', HEADS_OF_OTHERS
    model |= _decoder_arguments(shapes, heads, config, source)
  return _Recognised(kind, model, mae_weights.student_rules(kind, model), left)


def _pooling(shapes: Shapes, config: dict[str, Any]) -> str | None:
  """What the head reads, one of `classifier.POOLINGS`; None without a head that is one linear layer on the encoder."""
  between = ('pre_logits', 'attn_pool', 'MAPHead_')
  if not {'head.weight', 'head.bias'} <= shapes.keys() or any(name.startswith(between) for name in shapes):
    return None
  if 'fc_norm.weight' in shapes:
    return 'mean'
  # In timm and MAE, a head after the encoder's own LayerNorm reads the class token, unless the config says otherwise.
  return 'mean_of_normed' if config.get('global_pool') == 'avg' else 'class_token'


def _decoder_arguments(shapes: Shapes, heads: AttentionHeads, config: dict[str, Any], source: str) -> dict[str, Any]:
  """Arguments of `UniEmoX` beside those of its encoder."""
  width = _shape(shapes, 'decoder_embed.weight', 2, source)[0]
  decoder_heads = _agree(DECODER_HEADS.get(width), heads, 'decoder', f'a decoder {width} wide', source)
  fusion, fusion_heads = mae_weights.find_fusion(shapes)
  fuses = fusion != 'none'
  mask_ratio = config.get('mask_ratio')
  if not isinstance(mask_ratio, float) or not 0 < mask_ratio < 1:
    mask_ratio = FUSED_MASK_RATIO if fuses else MAE_MASK_RATIO
  return {
      'decoder_width': width, 'decoder_depth': _depth(shapes, 'decoder_blocks',
                                                      source), 'decoder_heads': decoder_heads, 'mask_ratio': mask_ratio,
      'fusion': fusion, 'fusion_heads': fusion_heads, 'decode': 'scene', 'semantic': fuses, 'reconstruct': True}


def _variant(shapes: Shapes, config: dict[str, Any], source: str) -> dict[str, Any]:
  """The arguments in which timm's image towers of CLIP differ from other ViTs."""
  if 'norm_pre.weight' not in shapes:
    return {'norm_eps': mae_weights.NORM_EPS}
  architecture = str(config.get('architecture'))
  if '_clip_' not in architecture:
    raise UserError(
        f"{source} has a LayerNorm before its blocks, as CLIP's image towers in timm: their config.json "
        'says the activation, by an architecture such as vit_base_patch16_clip_224: put it there, and give '
        'the folder')
  return {
      'norm_eps': mae_weights.CLIP_NORM_EPS, 'pre_norm': True,
      'activation': 'quick_gelu' if '_quickgelu_' in architecture else 'gelu'}


def _shape(shapes: Shapes, name: str, rank: int, source: str) -> tuple[int, ...]:
  if len(shapes.get(name, ())) != rank:
    found = f'{name} has shape {shapes[name]}' if name in shapes else f'{name} is missing'
    raise UserError(f'{source}: {found}, where {rank} dimensions give the size of the model: give a whole file')
  return shapes[name]


def _depth(shapes: Shapes, prefix: str, source: str) -> int:
  numbers = [int(name.split('.')[1]) for name in shapes if re.match(rf'{prefix}\.\d+\.', name)]
  if not numbers:
    raise UserError(f'{source} has no {prefix}: give a whole file')
  return 1 + max(numbers)


def _agree(known: int | None, heads: AttentionHeads, name: str, part: str, source: str) -> int:
  """The one number of heads that file or origin (`known`) and the user's `heads` agree on."""
  given, flag = getattr(heads, name), 'heads' if name == 'encoder' else f'{name}_heads'
  if known is None:
    if given is None:
      raise UserError(
          f'{source}: {part} may have any number of attention heads, and the file does not say: give --{flag}=N')
    return given
  if heads.binding and given not in (None, known):
    raise UserError(f'{source}: {part} has {known} attention heads there, not {given}: set {flag}={known}')
  return known


def _check_timm(config: dict[str, Any], shapes: Shapes, source: str) -> dict[str, Any]:
  """Checks timm's config.json against the tensors; returns its `pretrained_cfg`.

  Raises:
    UserError: another library's config, a model that is no plain ViT, or another width or number of classes.
  """
  if not re.match('(vit|deit)_', str(config.get('architecture'))):
    raise UserError(
        f"{source} has timm's names, but config.json names no timm ViT (architecture "
        f"{config.get('architecture')!r}): give the config that belongs to it")
  strange = {
      key: value
      for key, value in config.get('model_args', {}).items()
      if value and key not in TIMM_FREE and TIMM_FIXED.get(key) != value}
  pool = config.get('global_pool', '')
  if strange or pool not in ('', 'token', 'avg'):
    raise UserError(f'{source}: config.json asks for {strange or pool!r}, which this ViT does not have')
  pretrained = config.get('pretrained_cfg', config)  # the oldest files have one level
  for key, name, axis in (('num_features', 'cls_token', 2), ('num_classes', 'head.bias', 0)):
    found = shapes[name][axis] if name in shapes else 0
    if config.get(key, found) != found:
      raise UserError(
          f'{source}: config.json says {key} {config[key]}, but {name} is {shapes.get(name, "missing")}: '
          'give the config that belongs to it')
  return pretrained
