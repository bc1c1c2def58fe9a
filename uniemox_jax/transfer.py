"""Which weights of a checkpoint start which part of a new model: strict, and said aloud."""

from typing import Any

from flax import traverse_util
import numpy as np

from data_pipelines.errors import UserError
from uniemox_jax.checkpoint import load_checkpoint

# Parts that a new model may have to draw itself, and parts of a checkpoint that it may leave behind.
PRETRAIN_NEW, PRETRAIN_LEFT = ('project', 'fusion', 'decoder'), ('fusion', 'decoder', 'fc_norm', 'head')
CLASSIFIER_NEW, CLASSIFIER_LEFT = ('fc_norm', 'head'), ('encoder/norm', 'project', 'fusion', 'decoder')


def transfer(source: dict[str, Any], template: dict[str, Any], *, new: tuple[str, ...], left: tuple[str, ...],
             origin: str) -> tuple[dict[str, Any], str]:
  """The part of `source` that fits `template`.

  Args:
    source: nested dict of arrays, from a checkpoint.
    template: nested dict of shapes of the model to start.
    new: path prefixes that `source` may lack.
    left: path prefixes of `source` that `template` may lack.
    origin: the checkpoint's name, for messages.

  Returns:
    Nested dict of the arrays to take, and a line that says what was taken, drawn anew and left behind.

  Raises:
    UserError: another name is missing or left over, or a shape differs; all of them named.
  """
  have, want = (traverse_util.flatten_dict(tree, sep='/') for tree in (source, template))
  missing = [name for name in want if name not in have and not name.startswith(new)]
  extra = [name for name in have if name not in want and not name.startswith(left)]
  shapes = [f'{name} {tuple(have[name].shape)} for {tuple(want[name].shape)}' for name in want
            if name in have and have[name].shape != want[name].shape]
  problems = [f'{kind} {", ".join(names[:6])}{f" and {len(names) - 6} more" if len(names) > 6 else ""}'
              for kind, names in (('missing', missing), ('left over', extra), ('other shape', shapes)) if names]
  if problems:
    raise UserError(f'{origin} is of another model: {"; ".join(problems)}: '
                    'set --config.model to the sizes it was trained with')
  taken = {name: np.asarray(have[name]) for name in want if name in have}
  parts = {'taken': sorted({name.split('/')[0] for name in taken}),
           'drawn anew': [part for part in new if any(name.startswith(part) for name in want.keys() - have.keys())],
           'left behind': [part for part in left if any(name.startswith(part) for name in have.keys() - want.keys())]}
  said = '; '.join(f'{kind}: {", ".join(names) or "nothing"}' for kind, names in parts.items())
  return traverse_util.unflatten_dict(taken, sep='/'), f'init from {origin}: {said}'


def initial_weights(init: str, template: dict[str, Any], *, classifier: bool) -> dict[str, Any] | None:
  """Weights for `--config.init`, or None for 'none'. Prints what was taken.

  A classifier's head is always new: its rows belong to one dataset's label table.
  """
  if init == 'none':
    return None
  source = load_checkpoint(init).params
  if classifier:
    source = {name: part for name, part in source.items() if name != 'head'}
  new, left = (CLASSIFIER_NEW, CLASSIFIER_LEFT) if classifier else (PRETRAIN_NEW, PRETRAIN_LEFT)
  taken, said = transfer(source, template, new=new, left=left, origin=init)
  print(said, flush=True)
  return taken
