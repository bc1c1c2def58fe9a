"""Starts a new model from the weights of a checkpoint, ours or another library's, and prints what was taken."""

import dataclasses
import os
from typing import Any, NamedTuple, TypeVar

from absl import flags
from flax import traverse_util
import numpy as np

from data_pipelines.errors import UserError, join_names
from data_pipelines.storage import exists, parsing, read_json_object
from uniemox_jax.convert.import_students import AttentionHeads
from uniemox_jax.convert.position_embeddings import are_sincos, resize_positions, side_of
from uniemox_jax.models.preprocess import IMAGENET_MEAN, IMAGENET_STD
from uniemox_jax.train.config import FinetuneConfig, PretrainConfig, ProbeConfig
from uniemox_jax.train.open_model import open_student
from uniemox_jax.train.settings import OFF

# Parts that a new model may have to draw itself, and parts of a checkpoint that it may leave behind.
PRETRAIN_NEW = ('project', 'fusion', 'adapter', 'decoder')
PRETRAIN_LEFT = ('fusion', 'adapter', 'decoder', 'fc_norm', 'head')
CLASSIFIER_NEW, CLASSIFIER_LEFT = ('fc_norm', 'head'), ('encoder/norm', 'project', 'fusion', 'adapter', 'decoder')

ARCHITECTURE = {
    'patch_size': None, 'width': None, 'depth': None, 'heads': None, 'decoder_width': None, 'decoder_depth': None,
    'decoder_heads': None, 'norm_eps': 1e-6, 'pre_norm': False, 'activation': 'gelu'}
"""Arguments that a model must share with its weights, each with the value that a description without it means. The
image size may differ."""

Config = TypeVar('Config', FinetuneConfig, PretrainConfig, ProbeConfig)


def transfer(
    source: dict[str, Any], template: dict[str, Any], *, new: tuple[str, ...], left: tuple[str, ...],
    origin: str) -> tuple[dict[str, Any], str]:
  """Takes the part of `source` that fits `template`.

  Positions of another image size are resized, see `convert.position_embeddings`.

  Args:
    source: nested dict of arrays, from a checkpoint.
    template: nested dict of shapes of the model to start.
    new: path prefixes that `source` may lack.
    left: path prefixes of `source` that `template` may lack.
    origin: the checkpoint's name, for messages.

  Returns:
    Nested dict of the arrays to take, and a line that says what was taken, resized, drawn anew and left behind.

  Raises:
    UserError: another name is missing or left over, or a shape differs; all of them named.
  """
  have, want = (traverse_util.flatten_dict(tree, sep='/') for tree in (source, template))
  resized = _fit_positions(have, want, origin)
  missing = [name for name in want if name not in have and not name.startswith(new)]
  extra = [name for name in have if name not in want and not name.startswith(left)]
  shapes = [
      f'{name} {tuple(have[name].shape)} for {tuple(want[name].shape)}' for name in want
      if name in have and have[name].shape != want[name].shape]
  found = {'missing': missing, 'left over': extra, 'other shape': shapes}
  problems = [f'{problem} {join_names(names)}' for problem, names in found.items() if names]
  if problems:
    raise UserError(
        f'{origin} is of another model: {"; ".join(problems)}: '
        'set --config.model to the sizes it was trained with')
  taken = {name: np.asarray(have[name]) for name in want if name in have}
  parts = {
      'taken': sorted({name.split('/')[0] for name in taken}), 'resized': resized,
      'drawn anew': [part for part in new if any(name.startswith(part) for name in want.keys() - have.keys())],
      'left behind': [part for part in left if any(name.startswith(part) for name in have.keys() - want.keys())]}
  said = '; '.join(f'{kind}: {", ".join(names) or "nothing"}' for kind, names in parts.items())
  return traverse_util.unflatten_dict(taken, sep='/'), f'init from {origin}: {said}'


def _fit_positions(have: dict[str, Any], want: dict[str, Any], origin: str) -> list[str]:
  """Replaces positions in `have` by ones for the image size of `want`; says which, from and to how many patches."""
  resized = []
  for name in sorted(name for name in have.keys() & want.keys() if name.endswith('/positions')):
    old, new = have[name], want[name]
    if old.shape[0] != new.shape[0] and old.shape[1:] == new.shape[1:]:
      how = 'sine-cosine, made anew' if are_sincos(old) else 'bicubic'
      have[name] = resize_positions(old, new.shape[0], origin)
      resized.append(f'{name} {side_of(len(old), origin)}² → {side_of(len(have[name]), origin)}² ({how})')
  return resized


class Source(NamedTuple):
  """The weights that a run starts from.

  init: where they were found. kind, model, params: as in a checkpoint. statistics: {'mean', 'std'} of their pixels
  where they are known not to be ImageNet's, else {}. step: that of our checkpoint, None for a file of another library.
  """

  init: str
  kind: str
  model: dict[str, Any]
  params: dict[str, Any]
  statistics: dict[str, list[float]]
  step: int | None


def read_source(init: str, model: dict[str, Any], *, decoder: bool) -> Source:
  """Reads a checkpoint PATH of ours, or a file, folder or hub id that `import_torch` reads.

  Args:
    init: where the weights lie.
    model: arguments of the model to start; its heads count where the file does not say.
    decoder: whether another library's decoder is wanted.

  Raises:
    UserError: there is nothing, or nothing that can be read.
  """
  heads = AttentionHeads(model.get('heads'), model.get('decoder_heads'), binding=False)
  loaded = open_student(init, heads=heads, decoder=decoder, head=False)
  description = loaded.description
  step = None if description.get('source') == init else loaded.step
  return Source(init, description['kind'], description['model'], loaded.params, description.get('statistics', {}), step)


def open_source(config: Config, workdir: str, adopt: bool = True) -> tuple[Source | None, Config]:
  """Reads what `--config.init` names, None for 'none', and returns it with the config that has its architecture.

  A key of `model` stays if the user gave it: by a flag, or by a config file with another value than the default. The
  other keys become those of a run that was begun in the workdir, else those of the source. It prints which were taken.
  Without `adopt` all keys stay, which a comparison of several sources needs.

  Raises:
    UserError: there is nothing to start from, or nothing that can be read; or a key that was given contradicts it.
  """
  model, kept = dataclasses.asdict(config.model), os.path.join(workdir, 'config.json')
  default = dataclasses.asdict(type(config)().model)
  free = {name for name in (*ARCHITECTURE, 'image_size') if name in model and model[name] == default[name]}
  free = free if adopt and config.init != OFF else set()
  free -= {key.removeprefix('model.') for key in given_flags()}
  if exists(kept):
    with parsing(kept):
      begun = read_json_object(kept).get('model', {})
      model |= {name: begun[name] for name in free & begun.keys() if type(begun[name]) is type(model[name])}
    free = set()
  source = None
  if config.init != OFF:
    source = read_source(config.init, model, decoder=isinstance(config, PretrainConfig))
    taken = {
        name: source.model[name] for name in sorted(free & source.model.keys()) if source.model[name] != model[name]}
    if taken:
      print(
          f"config.model as in {config.init}: {', '.join(f'{name} {value}' for name, value in taken.items())}",
          flush=True)
    model |= taken
    check_architecture(source, model)
  return source, dataclasses.replace(config, model=dataclasses.replace(config.model, **model))


def given_flags() -> set[str]:
  """The keys of the config that the command line sets, even if it sets the default."""
  return set(getattr(flags.FLAGS['config'], 'override_values', ()) if 'config' in flags.FLAGS else ())


def initial_weights(source: Source, template: dict[str, Any], *, classifier: bool) -> dict[str, Any]:
  """Returns the weights to start from, and prints what was taken.

  A classifier's head is always new: its rows belong to one dataset's label table. An adapter to a teacher of another
  width is left behind.

  Args:
    source: see `open_source`; a CLIP is represented by its image tower.
    template: shapes of the model to start.
    classifier: whether that model is a classifier, which needs no decoder.

  Raises:
    UserError: the source is another model.
  """
  params, statistics = source.params, source.statistics
  if classifier:
    params = {name: part for name, part in params.items() if name != 'head'}
  widths = {tree['adapter']['bias'].shape for tree in (params, template) if 'adapter' in tree}
  if len(widths) > 1:
    params = {name: part for name, part in params.items() if name != 'adapter'}
  new, left = (CLASSIFIER_NEW, CLASSIFIER_LEFT) if classifier else (PRETRAIN_NEW, PRETRAIN_LEFT)
  taken, said = transfer(params, template, new=new, left=left, origin=source.init)
  print(said, flush=True)
  if statistics and (tuple(statistics['mean']), tuple(statistics['std'])) != (IMAGENET_MEAN, IMAGENET_STD):
    print(
        f"{source.init} saw pixels with mean {statistics['mean']} and deviation {statistics['std']}; here they are "
        "normalised with ImageNet's, which training has to get used to", flush=True)
  return taken


def check_architecture(source: Source, model: dict[str, Any]) -> None:
  """Raises UserError if a model's arguments differ from those that a source was trained with, see `ARCHITECTURE`."""
  decodes = 'decoder' in source.params
  values = {
      name: (source.model.get(name, default), model.get(name, default))
      for name, default in ARCHITECTURE.items()
      if decodes or not name.startswith('decoder')}
  differ = {name: (was, now) for name, (was, now) in values.items() if None not in (was, now) and was != now}
  if differ:
    differences = '; '.join(f'{name} {was}, config.model.{name} is {now}' for name, (was, now) in differ.items())
    raise UserError(
        f'{source.init} was trained with {differences}: set ' +
        ' '.join(f'--config.model.{name}={was}' for name, (was, _) in differ.items()))
