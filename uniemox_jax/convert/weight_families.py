"""Which library's names a weight file has: told from the names themselves, so that a file may be called anything."""

from collections.abc import Iterable
import re

from data_pipelines.errors import UserError
from uniemox_jax.convert import clip_weights, mae_weights, vit_mae_weights
from uniemox_jax.convert.name_table import Row

CLIP, OPENAI_CLIP, MAE, VIT = 'clip', 'openai_clip', 'mae', 'vit'
TITLES = {
    CLIP: "a CLIP in transformers' form", OPENAI_CLIP: "a CLIP in OpenAI's form",
    MAE: "a ViT in the form of MAE, timm or the original", VIT: "a ViT or MAE in transformers' form"
}
CLIPS = (CLIP, OPENAI_CLIP)
ENOUGH = 0.5
"""Share of a file's names that a family must know; what is still wrong then is the table's to say."""


def _known_names(rows: Iterable[Row], *others: str) -> re.Pattern[str]:
  names = (re.escape(name).replace(r'\{\}', r'\d+') for row in rows for name in row.theirs)
  return re.compile('|'.join((*names, *others)))


_NAMES = {
    CLIP: _known_names(clip_weights.ROWS, clip_weights.IGNORED),
    OPENAI_CLIP: _known_names(clip_weights.OPENAI_ROWS, clip_weights.IGNORED), MAE:
        _known_names([
            *mae_weights.ENCODER_ROWS, *mae_weights.PRE_NORM_ROWS, *mae_weights.NORM_ROWS, *mae_weights.CLASSIFIER_ROWS,
            *mae_weights.PROJECT_ROWS, *mae_weights.DECODER_ROWS
        ],
                     re.escape(mae_weights.FUSION_PREFIX) + '.*'),
    VIT: _known_names(vit_mae_weights.ROWS, vit_mae_weights.LEFT)
}


def family_of(names: Iterable[str], source: str) -> str:
  """A key of `TITLES`.

  Raises:
    UserError: no family knows half of the names.
  """
  names = list(names)
  known = {
      family: sum(
          bool(pattern.fullmatch(vit_mae_weights.canonical(name) if family == VIT else name))
          for name in names) for family, pattern in _NAMES.items()
  }
  best = max(known, key=known.__getitem__)
  if known[best] < ENOUGH * max(len(names), 1):
    first = ', '.join(sorted(names)[:3])
    raise UserError(
        f'{source} holds {len(names)} tensors ({first}, …) of no family known here: wanted '
        f'{"; ".join(TITLES.values())}')
  return best
