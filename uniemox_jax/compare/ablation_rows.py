"""The rows of the ablation: what each changes of a pretraining."""

from typing import Any, NamedTuple

from uniemox_jax.train.settings import WITH_HEADS


class Variant(NamedTuple):
  """One way to pretrain. labels: where its pretraining meets the EmoSet-like labels. change: what differs from the
  demo's pretraining config; None for a row that does not pretrain by that verb."""

  labels: str
  change: dict[str, Any] | None


_CAPTIONS = 'in captions'
ROWS = {
    'full': Variant(_CAPTIONS, {}),
    'no_emotion_word': Variant('none', {'emotion_in_caption': False}),
    'original_captions': Variant(_CAPTIONS, {'caption_style': 'original'}),
    'equal_texts_once': Variant(_CAPTIONS, {'loss': {'equal_texts': 'once'}}),
    'no_contrastive': Variant('through the teacher', {'loss': {'contrastive': 0.0}}),
    'no_similarity': Variant(_CAPTIONS, {'loss': {'similarity': 0.0}}),
    'no_reconstruction': Variant(_CAPTIONS, {'loss': {'reconstruction': 0.0}}),
    'contrastive_kl': Variant(_CAPTIONS, {'loss': {'form': 'kl'}}),
    'local_negatives': Variant(_CAPTIONS, {'loss': {'negatives': 'local'}}),
    'no_fusion': Variant(_CAPTIONS, {'model': {'fusion': 'none'}}),
    **{f'fusion_{name}': Variant(_CAPTIONS, {'model': {'fusion': name}}) for name in ('prior', *WITH_HEADS)},
    'whole_image': Variant(_CAPTIONS, {'person_view': 'scene'}),
    'decode_both': Variant(_CAPTIONS, {'model': {'decode': 'both'}}),
    'mask_50': Variant(_CAPTIONS, {'model': {'mask_ratio': 0.5}}),
    'mask_90': Variant(_CAPTIONS, {'model': {'mask_ratio': 0.9}}),
    'teacher_imagenet_statistics': Variant(_CAPTIONS, {'teacher_statistics': 'imagenet'}),
    'teacher_sees_both': Variant(_CAPTIONS, {'loss': {'teacher_sees': 'both'}}),
    'mean_embedding': Variant(_CAPTIONS, {'model': {'embedding': 'mean'}}),
    'distillation': Variant(_CAPTIONS, {'loss': {'distillation': 1.0}}),
    'averaged_weights': Variant(_CAPTIONS, {'ema_decay': 0.999}),
    'mae_only': Variant('none', {'loss': {'contrastive': 0.0, 'similarity': 0.0}}),
    'supervised': Variant('as targets', None),
    'scratch': Variant('-', None),}
"""`full` is the demo's pretraining: all three losses, additive fusion, person crops, 75 % hidden, the scene decoded,
texts from the global batch, CLIP's own pixel statistics. Every other row changes what its name says."""

OWN_TEACHER = ('no_emotion_word', 'original_captions')
"""Rows with other captions than the demo's: their teacher learns from these, too."""
