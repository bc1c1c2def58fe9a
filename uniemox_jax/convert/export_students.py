"""Our students -> folders of other libraries: timm, transformers' ViTMAE, and the `.pth` of MAE and the original.

The tables of names are those of the import. What a form has no place for is left behind, and named.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.errors import UserError
from uniemox_jax.convert import mae_weights, name_table, vit_mae_weights
from uniemox_jax.convert.formats import weight_files
from uniemox_jax.convert.label_order import to_sorted
from uniemox_jax.convert.name_table import Row
from uniemox_jax.runtime.files import write_json

ARCHITECTURES = {192: 'tiny', 384: 'small', 768: 'base', 1024: 'large'}
"""timm's names of widths; `model_args` state every size anyway."""
TIMM_VARIANTS = {
    (False, 'gelu', mae_weights.NORM_EPS): 'patch16_224',
    (True, 'gelu', mae_weights.CLIP_NORM_EPS): 'patch16_clip_224',
    (True, 'quick_gelu', mae_weights.CLIP_NORM_EPS): 'patch16_clip_quickgelu_224',
}
"""(pre_norm, activation, norm_eps) -> the end of timm's name for it."""
_VIT_DEFAULTS = {'norm_eps': mae_weights.NORM_EPS, 'pre_norm': False, 'activation': 'gelu'}
MODEL_DEFAULTS = {
    'encoder': _VIT_DEFAULTS, 'classifier': _VIT_DEFAULTS,
    'uniemox': _VIT_DEFAULTS | {'mask_ratio': 0.9, 'fusion': 'additive', 'fusion_heads': 1, 'reconstruct': True}
}
"""What a description may leave out, as the modules have it."""
PTH = 'checkpoint.pth'


class Student(NamedTuple):
  """What is exported.

  kind, params: as in a checkpoint. model: the arguments there, `MODEL_DEFAULTS` too. labels: of the head's rows, None
  without a head. mean, std: of pixels in 0..1. short_side: pixels before the centre crop. norm_pix: whether it was
  trained on normalised patches.
  """

  kind: str
  model: dict[str, Any]
  params: dict[str, Any]
  labels: list[str] | None
  mean: tuple[float, ...]
  std: tuple[float, ...]
  short_side: int
  norm_pix: bool

  @property
  def reconstructs(self) -> bool:
    """Whether there is a decoder."""
    return self.kind == 'uniemox' and self.model['reconstruct']


def write_timm(folder: Path, student: Student) -> list[str]:
  """Writes what `timm.create_model('local-dir:FOLDER', pretrained=True)` and transformers' timm wrapper load.

  A classifier gives our logits. Of other students the encoder is written: `forward_features` gives our tokens,
  `forward` their mean over patches. (A state dict with `mask_token` would be taken for DINOv2.)

  Returns:
    Lines for the user.

  Raises:
    UserError: a variant that timm does not have.
  """
  if _variant(student) not in TIMM_VARIANTS:
    raise _no_place(student, 'timm')
  kind = 'classifier' if student.kind == 'classifier' else 'encoder'
  flat, said = _export(mae_weights.rows(kind, student.model), student.params)
  weight_files.write_safetensors(folder / weight_files.SAFETENSORS, flat)
  write_json(str(folder / 'config.json'), _timm_config(student))
  return said


def _timm_config(student: Student) -> dict[str, Any]:
  model, classes = student.model, len(student.labels or ())
  size, patch, width = model['image_size'], model['patch_size'], model['width']
  arguments = {
      'img_size': size, 'patch_size': patch, 'embed_dim': width, 'depth': model['depth'], 'num_heads': model['heads'],
      'global_pool': 'avg', 'fc_norm': bool(classes)
  }
  preprocessing = {
      'input_size': [3, size, size], 'fixed_input_size': True, 'interpolation': 'bicubic',
      'crop_pct': size / student.short_side, 'crop_mode': 'center', 'mean': student.mean, 'std': student.std
  }
  labels = {'label_names': student.labels} if classes else {}
  # Its image towers of CLIP come in fewer sizes.
  size_name = 'base' if model['pre_norm'] else ARCHITECTURES.get(width, 'base')
  return {
      'architecture': f'vit_{size_name}_{TIMM_VARIANTS[_variant(student)]}', 'num_classes': classes,
      'num_features': width, 'global_pool': 'avg', 'model_args': arguments, **labels, 'pretrained_cfg':
          preprocessing | {'num_classes': classes, 'first_conv': 'patch_embed.proj', 'classifier': 'head'}
  }


def write_vit_mae(folder: Path, student: Student) -> list[str]:
  """Writes what transformers' `ViTMAEForPreTraining.from_pretrained` loads; returns lines for the user.

  Raises:
    UserError: the student has no decoder, or a variant of the ViT that ViTMAE does not have.
  """
  if not student.reconstructs:
    raise UserError('a ViTMAE has a decoder, and this checkpoint has none: choose --to=timm')
  _check_plain(student, "transformers' ViTMAE", student.model['norm_eps'])
  flat, said = _export(vit_mae_weights.ROWS, student.params)
  weight_files.write_safetensors(
      folder / weight_files.SAFETENSORS, {_published(name): array for name, array in flat.items()})
  write_json(str(folder / 'config.json'), vit_mae_weights.hub_config(student.model, norm_pix=student.norm_pix))
  return said


def _published(name: str) -> str:
  """As in facebook/vit-mae-*, which transformers 4 reads as well; `vit_mae.canonical` is the way back."""
  return name.replace('decoder.decoder_encoder.layer.', 'decoder.decoder_layers.')


def by_folder_names(student: Student) -> Student:
  """With its classes in the order of sorted folder names, by which MAE's and the original's loaders number them.

  A head whose rows have no names stays as it is.
  """
  labels = student.labels
  if not labels or labels == [str(row) for row in range(len(labels))]:
    return student
  head = to_sorted(student.params['head'], labels)
  return student._replace(params=student.params | {'head': head}, labels=sorted(labels))


def write_mae(folder: Path, student: Student) -> list[str]:
  """Writes `checkpoint.pth`, {'model': tensors}, with the fusion under 'att_fusion', as the original's scripts save.

  Returns:
    Lines for the user.

  Raises:
    UserError: torch is missing, or a variant that MAE's code does not have.
  """
  _check_plain(student, "MAE's code", mae_weights.NORM_EPS)
  kind = student.kind if student.reconstructs or student.kind == 'classifier' else 'encoder'
  # The paper's figure has the fusion 'prior', the original's code does not.
  fuses = student.reconstructs and 'fusion' in student.params and student.model['fusion'] != 'prior'
  flat, said = _export(mae_weights.rows(kind, student.model | {'semantic': fuses}), student.params)
  parts = {'model': {name: array for name, array in flat.items() if not name.startswith(mae_weights.FUSION_PREFIX)}}
  if len(parts['model']) < len(flat):
    parts['att_fusion'] = {
        name.removeprefix(mae_weights.FUSION_PREFIX): flat[name] for name in flat.keys() - parts['model']
    }
  _save_torch(folder / PTH, parts)
  if fuses and student.model['fusion'] == 'attention':
    said.append(
        "fusion 'attention': the original takes its softmax over an axis of size 1, so its code does not give "
        'the output that these weights were trained for')
  return said


def _save_torch(path: Path, parts: dict[str, dict[str, np.ndarray]]) -> None:
  try:
    import torch
  except ImportError as error:
    raise UserError(
        "--to=mae writes a PyTorch file, and torch is not installed: pip install 'uniemox_jax[torch]'") from error
  # Copies: a tensor that is a view would bring the whole of its array into the file.
  torch.save({
      key: {name: torch.from_numpy(np.array(array, order='C')) for name, array in part.items()}
      for key, part in parts.items()
  }, path)


def _export(rows: Iterable[Row], params: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
  """Their tensors, and a line that names the parts which no row takes."""
  rows = list(rows)
  parts = {row.ours.split('/')[0] for row in rows}
  left = sorted(params.keys() - parts)
  flat = name_table.export_params(rows, {name: part for name, part in params.items() if name in parts})
  return flat, [f'left behind: {", ".join(left)}'] if left else []


def _variant(student: Student) -> tuple[bool, str, float]:
  return tuple(student.model[name] for name in ('pre_norm', 'activation', 'norm_eps'))


def _check_plain(student: Student, whose: str, epsilon: float) -> None:
  """Raises UserError for a variant that `whose` form cannot say."""
  if _variant(student) != (False, 'gelu', epsilon):
    raise _no_place(student, whose)


def _no_place(student: Student, whose: str) -> UserError:
  pre_norm, activation, epsilon = _variant(student)
  return UserError(
      f'{whose} has no ViT with LayerNorm epsilon {epsilon:g}, {activation} and '
      f'{"a" if pre_norm else "no"} LayerNorm before the blocks: choose --to=saved_model, which takes '
      'any; docs/weights.md says what the other forms have')
