"""Which library wrote a weight file, by the names of its tensors: the file's own name does not matter."""

from collections.abc import Iterable
import re

from data_pipelines.errors import UserError
from uniemox_jax.convert import clip_weights, mae_weights, vit_mae_weights
from uniemox_jax.convert.name_table import NameRule

CLIP, OPENAI_CLIP, MAE, VIT = 'clip', 'openai_clip', 'mae', 'vit'
TITLES = {
    CLIP: "a CLIP in transformers' form", OPENAI_CLIP: "a CLIP in OpenAI's form",
    MAE: "a ViT in the form of MAE, timm or the original", VIT: "a ViT or MAE in transformers' form"}
CLIPS = (CLIP, OPENAI_CLIP)
ENOUGH = 0.5
"""Share of a file's names that a family must know. The check against its table names the rest."""


def _known_names(rules: Iterable[NameRule], *others: str) -> re.Pattern[str]:
  names = (re.escape(name).replace(r'\{\}', r'\d+') for rule in rules for name in rule.theirs)
  return re.compile('|'.join((*names, *others)))


_MAE_PRETRAINING = mae_weights.ENCODER_RULES + mae_weights.PROJECT_RULES + mae_weights.DECODER_RULES
_MAE_OTHERS = mae_weights.PRE_NORM_RULES + mae_weights.NORM_RULES + mae_weights.CLASSIFIER_RULES
_NAMES = {
    CLIP: _known_names(clip_weights.RULES, clip_weights.IGNORED),
    OPENAI_CLIP: _known_names(clip_weights.OPENAI_RULES, clip_weights.IGNORED),
    MAE: _known_names(_MAE_PRETRAINING + _MAE_OTHERS, rf'{re.escape(mae_weights.FUSION_PREFIX)}.*'),
    VIT: _known_names(vit_mae_weights.RULES, vit_mae_weights.LEFT)}


def family_of(names: Iterable[str], source: str) -> str:
  """A key of `TITLES`.

  Raises:
    UserError: no family knows half of the names.
  """
  names = list(names)
  known = dict.fromkeys(_NAMES, 0)
  for family, pattern in _NAMES.items():
    canonical = map(vit_mae_weights.canonical, names) if family == VIT else names
    known[family] = sum(bool(pattern.fullmatch(name)) for name in canonical)
  best = max(known, key=known.__getitem__)
  if known[best] < ENOUGH * max(len(names), 1):
    first = ', '.join(sorted(names)[:3])
    raise UserError(
        f'{source} holds {len(names)} tensors ({first}, …) of no family known here: wanted '
        f'{"; ".join(TITLES.values())}')
  return best
