"""Which library's names a weight file has: told from the names themselves, so that a file may be called anything."""

from collections.abc import Iterable
import re

from data_pipelines.errors import UserError
from uniemox_jax.convert import clip, mae, vit_mae
from uniemox_jax.convert.table import Row

CLIP, OPENAI_CLIP, MAE, VIT = 'clip', 'openai_clip', 'mae', 'vit'
TITLES = {
    CLIP: "a CLIP in transformers' form", OPENAI_CLIP: "a CLIP in OpenAI's form",
    MAE: "a ViT in the form of MAE, timm or the original", VIT: "a ViT or MAE in transformers' form",
}
CLIPS = (CLIP, OPENAI_CLIP)
ENOUGH = 0.5
"""Share of a file's names that a family must know; what is still wrong then is the table's to say."""


def _known_names(rows: Iterable[Row], *others: str) -> re.Pattern[str]:
  names = (re.escape(name).replace(r'\{\}', r'\d+') for row in rows for name in row.theirs)
  return re.compile('|'.join((*names, *others)))


_NAMES = {
    CLIP: _known_names(clip.ROWS, clip.IGNORED),
    OPENAI_CLIP: _known_names(clip.OPENAI_ROWS, clip.IGNORED),
    MAE: _known_names([*mae.ENCODER_ROWS, *mae.PRE_NORM_ROWS, *mae.NORM_ROWS, *mae.CLASSIFIER_ROWS, *mae.PROJECT_ROWS,
                       *mae.DECODER_ROWS], re.escape(mae.FUSION_PREFIX) + '.*'),
    VIT: _known_names(vit_mae.ROWS, vit_mae.LEFT),
}


def family_of(names: Iterable[str], source: str) -> str:
  """A key of `TITLES`.

  Raises:
    UserError: no family knows half of the names.
  """
  names = list(names)
  known = {family: sum(bool(pattern.fullmatch(vit_mae.canonical(name) if family == VIT else name)) for name in names)
           for family, pattern in _NAMES.items()}
  best = max(known, key=known.__getitem__)
  if known[best] < ENOUGH * max(len(names), 1):
    first = ', '.join(sorted(names)[:3])
    raise UserError(f'{source} holds {len(names)} tensors ({first}, …) of no family known here: wanted '
                    f'{"; ".join(TITLES.values())}')
  return best
