"""Which library wrote a weight file, by the names of its tensors: the file's own name does not matter."""

from collections.abc import Iterable
import re

from data_pipelines.errors import UserError
from uniemox_jax.convert import clip_weights, mae_weights, vit_mae_weights

CLIP, OPENAI_CLIP, MAE, VIT = 'clip', 'openai_clip', 'mae', 'vit'
TITLES = {
    CLIP: "a CLIP in transformers' form", OPENAI_CLIP: "a CLIP in OpenAI's form",
    MAE: "a ViT in the form of MAE, timm or the original", VIT: "a ViT or MAE in transformers' form"}
CLIPS = (CLIP, OPENAI_CLIP)
ENOUGH = 0.5
"""Share of a file's names that a family must know. The check against its table names the rest."""

_TABLES = {
    CLIP: (clip_weights.RULES, clip_weights.IGNORED), OPENAI_CLIP: (clip_weights.OPENAI_RULES, clip_weights.IGNORED),
    MAE: (mae_weights.ALL_RULES, rf'{re.escape(mae_weights.FUSION_PREFIX)}.*'),
    VIT: (vit_mae_weights.RULES, vit_mae_weights.LEFT)}
"""The rules of each family, and a regular expression of its other names."""


def family_of(names: Iterable[str], source: str) -> str:
  """A key of `TITLES`.

  Raises:
    UserError: no family knows half of the names.
  """
  names, known = list(names), {}
  for family, (rules, others) in _TABLES.items():
    ours = {name for rule in rules for name in rule.theirs}
    canonical = map(vit_mae_weights.canonical, names) if family == VIT else names
    known[family] = sum(
        re.sub(r'\.\d+\.', '.{}.', name) in ours or bool(re.fullmatch(others, name)) for name in canonical)
  best = max(known, key=known.__getitem__)
  if known[best] < ENOUGH * max(len(names), 1):
    first = ', '.join(sorted(names)[:3])
    raise UserError(
        f'{source} holds {len(names)} tensors ({first}, …) of no family known here: wanted '
        f'{"; ".join(TITLES.values())}')
  return best
