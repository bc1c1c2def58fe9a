"""Writes our students in forms of other libraries: timm, transformers' ViTMAE, and the `.pth` of MAE and the original.

The tables of names are those of the import. Parts that a form cannot hold are left behind; each `write_*` returns lines
for the user that name them.
"""

from collections.abc import Container
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.storage import write_json
from uniemox_jax.convert import mae_weights, name_table, vit_mae_weights
from uniemox_jax.convert.formats.weight_files import SAFETENSORS, write_safetensors
from uniemox_jax.convert.label_order import sort_classes
from uniemox_jax.convert.name_table import NameRule
from uniemox_jax.models.view import FILTERS, View

ARCHITECTURES = {192: 'tiny', 384: 'small', 768: 'base', 1024: 'large'}
"""timm's names of widths. They need not fit, since `model_args` hold every size."""
TIMM_VARIANTS = {
    (False, 'gelu', mae_weights.NORM_EPS): 'patch16_224',
    (True, 'gelu', mae_weights.CLIP_NORM_EPS): 'patch16_clip_224',
    (True, 'quick_gelu', mae_weights.CLIP_NORM_EPS): 'patch16_clip_quickgelu_224',}
"""The end of timm's name for each (pre_norm, activation, norm_eps)."""
_VIT_DEFAULTS = {'norm_eps': mae_weights.NORM_EPS, 'pre_norm': False, 'activation': 'gelu'}
MODEL_DEFAULTS = {
    'encoder': _VIT_DEFAULTS, 'classifier': _VIT_DEFAULTS,
    'uniemox': _VIT_DEFAULTS | {'mask_ratio': 0.9, 'fusion': 'additive', 'fusion_heads': 1, 'reconstruct': True}}
"""The modules' defaults for arguments that a description may leave out."""
PTH = 'checkpoint.pth'


class ExportedStudent(NamedTuple):
  """The student that is exported.

  kind, params: as in a checkpoint. model: the arguments there, over `MODEL_DEFAULTS`. labels: the classes of the head's
  rows, None without a head. view: how it sees images. norm_pix: whether it was trained on normalised patches.
  """

  kind: str
  model: dict[str, Any]
  params: dict[str, Any]
  labels: list[str] | None
  view: View
  norm_pix: bool

  @property
  def reconstructs(self) -> bool:
    """Whether the student has a decoder."""
    return self.kind == 'uniemox' and self.model['reconstruct']

  @property
  def variant(self) -> tuple[bool, str, float]:
    """The (pre_norm, activation, norm_eps) in which ViTs of other libraries differ."""
    return self.model['pre_norm'], self.model['activation'], self.model['norm_eps']


def write_timm(folder: Path, student: ExportedStudent) -> list[str]:
  """Writes what `timm.create_model('local-dir:FOLDER', pretrained=True)` and transformers' timm wrapper load.

  A classifier gives our logits. From other students the encoder is written: `forward_features` gives our tokens,
  `forward` their mean over patches. (A state dict with `mask_token` would be taken for DINOv2.)

  Raises:
    UserError: timm does not have this variant.
  """
  _check_variant(student, 'timm', TIMM_VARIANTS)
  kind = 'classifier' if student.kind == 'classifier' else 'encoder'
  flat, messages = _export(mae_weights.student_rules(kind, student.model), student.params)
  write_safetensors(folder / SAFETENSORS, flat)
  write_json(str(folder / 'config.json'), _timm_config(student))
  return messages


def _timm_config(student: ExportedStudent) -> dict[str, Any]:
  model, classes = student.model, len(student.labels or ())
  size, width = model['image_size'], model['width']
  # timm's image towers of CLIP come in fewer sizes.
  size_name = 'base' if model['pre_norm'] else ARCHITECTURES.get(width, 'base')
  share = size / student.view.short_side
  if math.floor(size / share) != student.view.short_side:  # timm rounds it off: one pixel less at 443, 815...
    share = math.nextafter(share, 0)
  pool = 'token' if model.get('pooling') == 'class_token' else 'avg'
  model_args = {
      'img_size': size, 'patch_size': model['patch_size'], 'embed_dim': width, 'depth': model['depth'],
      'num_heads': model['heads'], 'global_pool': pool,
      'fc_norm': bool(classes) and model.get('pooling', 'mean') == 'mean'}
  pretrained_cfg = {
      'input_size': [3, size, size], 'fixed_input_size': True, 'interpolation': FILTERS[student.view.resample],
      'crop_pct': share, 'crop_mode': 'squash' if student.view.squash else 'center', 'mean': student.view.mean,
      'std': student.view.std, 'num_classes': classes, 'first_conv': 'patch_embed.proj', 'classifier': 'head'}
  labels = {'label_names': student.labels} if classes else {}
  return {
      'architecture': f'vit_{size_name}_{TIMM_VARIANTS[student.variant]}', 'num_classes': classes,
      'num_features': width, 'global_pool': pool, 'model_args': model_args, **labels, 'pretrained_cfg': pretrained_cfg}


def write_vit_mae(folder: Path, student: ExportedStudent) -> list[str]:
  """Writes what transformers' `ViTMAEForPreTraining.from_pretrained` loads.

  Raises:
    UserError: the student has no decoder, or ViTMAE does not have this variant of the ViT.
  """
  if not student.reconstructs:
    raise UserError('a ViTMAE has a decoder, and this checkpoint has none: choose --to=timm')
  _check_variant(student, "transformers' ViTMAE", [(False, 'gelu', student.model['norm_eps'])])
  flat, messages = _export(vit_mae_weights.RULES, student.params)
  # The names in facebook/vit-mae-*, which transformers 4 reads too; the inverse is `vit_mae_weights.canonical`.
  ours, published = 'decoder.decoder_encoder.layer.', 'decoder.decoder_layers.'
  write_safetensors(folder / SAFETENSORS, {name.replace(ours, published): array for name, array in flat.items()})
  write_json(str(folder / 'config.json'), vit_mae_weights.hub_config(student.model, norm_pix=student.norm_pix))
  return messages


def by_folder_names(student: ExportedStudent) -> ExportedStudent:
  """Sorts a student's classes by folder name, by which MAE's and the original's loaders number them.

  A head whose rows have no names stays as it is.
  """
  labels = student.labels
  if not labels or labels == [str(row) for row in range(len(labels))]:
    return student
  head = sort_classes(student.params['head'], labels)
  return student._replace(params=student.params | {'head': head}, labels=sorted(labels))


def write_mae(folder: Path, student: ExportedStudent) -> list[str]:
  """Writes `checkpoint.pth`, {'model': tensors}, with the fusion under 'att_fusion', as the original's scripts save.

  Raises:
    UserError: torch is missing, or MAE's code does not have this variant.
  """
  _check_variant(student, "MAE's code", [(False, 'gelu', mae_weights.NORM_EPS)])
  try:
    import torch
  except ImportError as error:
    raise UserError(
        "--to=mae writes a PyTorch file, and torch is not installed: pip install 'uniemox_jax[torch]'") from error
  kind = student.kind if student.reconstructs or student.kind == 'classifier' else 'encoder'
  fuses = student.reconstructs and 'fusion' in student.params
  flat, messages = _export(mae_weights.student_rules(kind, student.model | {'semantic': fuses}), student.params)
  prefix = mae_weights.FUSION_PREFIX
  parts = {'model': {name: array for name, array in flat.items() if not name.startswith(prefix)}}
  if len(parts['model']) < len(flat):
    parts['att_fusion'] = {name.removeprefix(prefix): flat[name] for name in flat.keys() - parts['model']}
  # Copies: a tensor that is a view would bring the whole of its array into the file.
  torch.save({
      key: {name: torch.from_numpy(np.array(array, order='C')) for name, array in part.items()}
      for key, part in parts.items()}, folder / PTH)
  if fuses and student.model['fusion'] == 'attention':
    messages.append(
        "fusion 'attention': the original takes its softmax over an axis of size 1, so its code does not give "
        'the output that these weights were trained for')
  return messages


def _export(rules: list[NameRule], params: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
  """Their tensors, and a line that names the parts which no rule takes."""
  parts = {rule.ours.split('/')[0] for rule in rules}
  left = sorted(params.keys() - parts)
  flat = name_table.export_params(rules, {name: part for name, part in params.items() if name in parts})
  return flat, [f'left behind: {", ".join(left)}'] if left else []


def _check_variant(student: ExportedStudent, library: str, supported: Container[tuple[bool, str, float]]) -> None:
  """Raises UserError for a variant of the ViT that a library does not have."""
  pre_norm, activation, epsilon = student.variant
  if student.variant not in supported:
    raise UserError(
        f'{library} has no ViT with LayerNorm epsilon {epsilon:g}, {activation} and '
        f'{"a" if pre_norm else "no"} LayerNorm before the blocks: choose --to=saved_model, which takes '
        'any; docs/weights.md says what the other forms have')
