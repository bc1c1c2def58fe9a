"""Finds which library wrote a weight file by the names of its tensors; the file's own name does not matter."""

from collections import Counter
from collections.abc import Callable, Iterable
import re

from data_pipelines.errors import UserError, join_names
from data_pipelines.plain_text import single_line
from uniemox_jax.convert import clip_weights, mae_weights, siglip_weights, vit_mae_weights
from uniemox_jax.convert.formats import hub
from uniemox_jax.convert.formats.weight_files import Weights

CLIP, OPENAI_CLIP, SIGLIP, MAE, VIT = 'clip', 'openai_clip', 'siglip', 'mae', 'vit'
TITLES = {
    CLIP: "a CLIP in transformers' form", OPENAI_CLIP: "a CLIP in OpenAI's form",
    SIGLIP: "a SigLIP in transformers' form", MAE: "a ViT in the form of MAE, timm or the original",
    VIT: "a ViT or MAE in transformers' form"}
CLIPS = (CLIP, OPENAI_CLIP)
ZERO_SHOT = (*CLIPS, SIGLIP)
"""The families of models of images and texts, which can be teachers, and can be asked in words."""
ENOUGH = 0.5
"""The share of a file's names that a family must know. The check against its table names the rest."""
MAX_PARTS = 64
"""How many state dicts of a checkpoint are looked at."""
MAX_PREFIX = 3
"""How many parts of a name may stand before what a family knows, as in 'model.student.backbone'."""
LEAST_UNDER_PREFIX = 0.2
"""The share of a file's tensors that must lie under a prefix to be looked at alone."""

_TABLES = {
    CLIP: (clip_weights.RULES, clip_weights.IGNORED), OPENAI_CLIP: (clip_weights.OPENAI_RULES, clip_weights.IGNORED),
    SIGLIP: (siglip_weights.RULES, siglip_weights.IGNORED),
    MAE: (mae_weights.ALL_RULES, rf'{re.escape(mae_weights.FUSION_PREFIX)}.*'), VIT:
        (vit_mae_weights.RULES, vit_mae_weights.LEFT)}
"""The rules of each family, and a regular expression of its other names."""
_KNOWN = {family: {name for rule in rules for name in rule.theirs} for family, (rules, _) in _TABLES.items()}
_CANONICAL: dict[str, Callable[[str], str]] = {OPENAI_CLIP: clip_weights.openai_name, VIT: vit_mae_weights.canonical}
"""The functions that give one name, for families whose files have several names for one tensor."""


def recognise(weights: Weights, key: str = '') -> str:
  """Finds a file's family, a key of `TITLES`. Its tensors get the family's names, without a prefix such as 'model.'.

  Args:
    weights: the result of `weight_files.read_weights`. Tensors without the prefix are dropped, and named in `notes`.
    key: what `--key` chooses: a state dict, which `read_weights` has taken, or a prefix.

  Raises:
    UserError: no family knows half of the names, or there is nothing under `key`.
  """
  flat, source = weights.flat, str(weights.path)
  found = weights.metadata.get('keys')
  keys = [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
  beside = _unknown_parts(flat, [name for name in keys if name != weights.metadata.get('chosen')])
  names = [name for name in flat if name not in beside]
  enough = max(_count_known(names, '').values()) >= ENOUGH * len(names)
  prefixes = ['', *(() if enough else _prefixes(names))]
  if key and key != weights.metadata.get('chosen'):
    prefixes = [f'{key}.']
    if not any(name.startswith(prefixes[0]) for name in names):
      there = [*keys, *(prefix[:-1] for prefix in _prefixes(names) if any(_count_known(names, prefix).values()))]
      raise UserError(f"{source} holds no tensors under '{key}': --key chooses among {join_names(there) or 'nothing'}")
  known = {prefix: _count_known(names, prefix) for prefix in prefixes}
  prefix = max(prefixes, key=lambda prefix: (max(known[prefix].values()), -len(prefix)))
  family = max(known[prefix], key=known[prefix].__getitem__)
  under = [name for name in names if name.startswith(prefix)]
  if known[prefix][family] < ENOUGH * max(len(under), 1):
    raise UserError(f'{source} {_unknown_by_name(weights, names)}: wanted {"; ".join(TITLES.values())}')
  canonical = _CANONICAL.get(family, str)
  renamed = {canonical(name.removeprefix(prefix)): flat[name] for name in under}
  if len(renamed) < len(under):
    raise UserError(f'{source} holds two tensors of one name: use another copy')
  left = sorted(flat.keys() - set(under))
  flat.clear()
  flat.update(renamed)
  if prefix or left:
    which = f"the {len(under)} tensors under '{prefix[:-1]}'" if prefix else f'{len(under)} tensors'
    weights.notes.append(f'{source}: {which} are taken' + (f', left behind: {join_names(left)}' if left else ''))
  return family


def _unknown_by_name(weights: Weights, names: list[str]) -> str:
  """What weights of no family are: by the config beside them, or by some names of tensors."""
  config = hub.read_config(hub.config_folder(weights.path, weights.path), 'config.json')
  if config.get('model_type') == 'uniemox':
    return 'holds a shared model of this package, which every verb takes as it is (--checkpoint=, --config.init=)'
  for key in ('model_type', 'architecture'):
    if isinstance(config.get(key), str):
      return f"holds a model of another kind, by its config.json of {key} '{single_line(config[key])[:80]}'"
  return f'holds {len(names)} tensors ({", ".join(sorted(names)[:3])}, …) of no family known here'


def _unknown_parts(names: Iterable[str], keys: list[str]) -> set[str]:
  """The names under those keys of a checkpoint's other state dicts of which no family knows one."""
  parts = [{name for name in names if name.startswith(f'{key}.')} for key in keys[:MAX_PARTS]]
  return {name for part in parts if not any(_count_known(part, '').values()) for name in part}


def _prefixes(names: Iterable[str]) -> list[str]:
  """What a good part of the names begin with, each with its last dot; numbers are of layers, and no part of it."""
  names, counts = list(names), Counter[str]()
  for name in names:
    parts = name.split('.', MAX_PREFIX)[:-1]
    for length in range(1, min(MAX_PREFIX, len(parts)) + 1):
      if parts[length - 1].isdigit():
        break
      counts['.'.join(parts[:length]) + '.'] += 1
  return [prefix for prefix, count in counts.items() if count >= LEAST_UNDER_PREFIX * len(names)]


def _count_known(names: Iterable[str], prefix: str) -> dict[str, int]:
  """How many of the names under a prefix each family knows."""
  names = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
  return {
      family:
          sum(
              re.sub(r'\.\d+\.', '.{}.', name) in _KNOWN[family] or bool(re.fullmatch(others, name))
              for name in map(_CANONICAL.get(family, str), names)) for family, (_, others) in _TABLES.items()}
