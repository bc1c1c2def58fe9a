"""Looks at a model: python -m uniemox_jax.look --checkpoint=PATH --data_dir=DIR --dataset=NAME --workdir=OUT.

Attention and relevance over scene and person, a map of the embeddings, the most confident mistakes, reconstructions,
as far as the checkpoint has what they need: a PNG each, look.html with all of them, look.json. docs/look.md says how to
read them, and how not to.
"""

from collections.abc import Callable, Sequence
import os
from typing import Any, NamedTuple

from etils import epath
import numpy as np
from scipy import special
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits
import tqdm

from data_pipelines.batches.single_examples import Example, read_examples
from data_pipelines.errors import UserError
from data_pipelines.records import reader
from uniemox_jax.look import attention_maps
from uniemox_jax.look.inspected_model import Seen, Subject, see
from uniemox_jax.objectives.tasks import split_columns
from uniemox_jax.report import figures, look_page
from uniemox_jax.report.figures import Tile
from uniemox_jax.report.model_card import read_run_config, run_folder
from uniemox_jax.runtime.files import write_bytes, write_json
from uniemox_jax.train.reconstructions import reconstruction_triplets

EXPLAINED_TOGETHER = 4
"""Examples. Attention, offsets and gradients are kept: 0.7 GB, by their shapes, for four views of a ViT-L/16."""
FEWEST_POINTS = 8
"""Below it, neighbourhoods are nothing to draw a map of."""


class Skipped(Exception):
  """A picture cannot be drawn; the message says why."""


class Drawn(NamedTuple):
  """A picture. content: PNG; note: the facts of it, in a sentence; facts: what else look.json says of it."""

  content: bytes
  note: str
  facts: dict[str, Any]


def draw_attention(subject: Subject, seen: Seen) -> Drawn:
  """A row an example: what the model saw, rollout, of a classifier also relevance to what it says; the person's too."""
  without = {}
  task = next((task for task in subject.tasks if task.name != 'vad'), None)
  if task is None:
    without['relevance'] = (
        'a model without classes has nothing to be relevant to'
        if not subject.tasks else 'the model predicts no class, only valence, arousal and dominance')
    said = [''] * len(seen.examples)
  else:
    best_B = split_columns(seen.outputs_NxW[:len(seen.examples)], subject.tasks)[task.name].argmax(axis=1)
    said = [task.outputs[best] for best in best_B]
  if not subject.reads_person:
    without['person'] = 'the model reads the scene alone'
  table = []
  for start in tqdm.trange(0, len(seen.examples), EXPLAINED_TOGETHER, desc='attention', delay=1):
    # The last ones are filled up: one shape, one compilation.
    places = np.minimum(np.arange(start, start + EXPLAINED_TOGETHER), len(seen.examples) - 1)
    views = subject.views([seen.examples[place] for place in places])
    if task is None:
      rows = 'patches' if subject.tasks else 'cls'
      maps = {'rollout': attention_maps.encoder_maps(subject.graphdef, subject.params, views, rows)}
    else:
      columns = subject.first_columns()[task.name] + best_B[places]
      maps = attention_maps.classifier_maps(subject.graphdef, subject.params, views, columns)._asdict()
    for row, place in enumerate(dict.fromkeys(places.tolist())):
      of_row = {name: np.asarray(values[row]) for name, values in maps.items()}
      table.append(_attention_row(subject, seen.examples[place], said[place], of_row))
  read_from = 'the patch tokens, whose mean is classified' if subject.tasks else 'the class token'
  title = f'{subject.kind}, step {subject.step}. Read from {read_from}. Bright: the most of that one map.'
  return Drawn(
      figures.png(figures.sheet(table, title)), f'{len(table)} examples, read from {read_from}.', {'without': without})


def _attention_row(subject: Subject, example: Example, said: str, maps: dict[str, np.ndarray]) -> list[Tile]:
  """Tiles of one example; `maps` are (V, R, C) by name."""
  truth = subject.labels[example.label] if subject.labels and example.label >= 0 else ''
  lines = [os.path.basename(example.id), truth and f'true: {truth}', said and f'said: {said}']
  row = []
  for view, (pixels, text) in enumerate([(example.scene, '\n'.join(filter(None, lines))), (example.person, 'person')]):
    if view and not subject.reads_person:
      break
    if pixels is None:
      row.append(Tile(None, 'no person: the model sees the scene again'))
      continue
    row.append(Tile(pixels, text))
    row += [
        Tile(
            figures.heat_overlay(pixels, values[view]),
            f'{name}{f" to {said}" if name == "relevance" else ""}\n{_peak(values[view])}')
        for name, values in maps.items()
    ]
  return row


def _peak(map_RxC: np.ndarray) -> str:
  mean = map_RxC.mean()
  return f'peak {map_RxC.max() / mean:.1f} x mean' if mean > 0 else 'zero throughout'


def draw_embeddings(subject: Subject, seen: Seen, labels: Sequence[str], seed: int = 0) -> Drawn:
  """t-SNE of the features (van der Maaten and Hinton 2008), by scikit-learn, coloured by label."""
  count = len(seen.features_PxD)
  if count < FEWEST_POINTS:
    raise Skipped(f'{count} examples are too few for a map: it takes {FEWEST_POINTS}')
  perplexity = min(30.0, (count - 1) / 3)
  print(f't-SNE of {count} embeddings', flush=True)
  # On several threads it takes longer where other work shares the cores.
  with threadpool_limits(1):
    points_Nx2 = TSNE(perplexity=perplexity, init='pca', random_state=seed).fit_transform(seen.features_PxD)
  note = f'{count} examples, perplexity {perplexity:.3g}, seed {seed}.'
  title = f'{subject.kind}, step {subject.step}: t-SNE of features'
  return Drawn(figures.cloud(points_Nx2, seen.label_N[:count], labels, title), note, {})


def draw_mistakes(subject: Subject, split: reader.Split, seen: Seen, shown: int) -> Drawn:
  """The wrong answers that the classifier was surest of, the surest first."""
  if not subject.tasks:
    raise Skipped('the model has no classes to be wrong about')
  if 'label' not in subject.first_columns():
    raise Skipped(f'the model predicts {", ".join(task.name for task in subject.tasks)}, and no single label')
  known_K = np.flatnonzero(seen.label_N >= 0)
  if not len(known_K):
    raise Skipped(f'no example of {split.name} has a label')
  probability_NxC = special.softmax(split_columns(seen.outputs_NxW, subject.tasks)['label'].astype(np.float64), axis=1)
  said_N, confidence_N = probability_NxC.argmax(axis=1), probability_NxC.max(axis=1)
  wrong = sorted((place for place in known_K.tolist() if said_N[place] != seen.label_N[place]), key=lambda place:
                 (-confidence_N[place], place))
  listed = [{
      'id': seen.id[place], 'label': subject.labels[seen.label_N[place]], 'predicted': subject.labels[said_N[place]],
      'confidence': round(float(confidence_N[place]), 6)
  } for place in wrong[:shown]]
  views = read_examples(split, wrong[:shown], subject.image_size, person=False)
  tiles = [
      Tile(
          view.scene, f"{os.path.basename(row['id'])}\ntrue: {row['label']}\nsaid: {row['predicted']}\n"
          f"with: {row['confidence']:.3f}") for view, row in zip(views, listed)
  ]
  note = (
      f'{len(wrong)} of {len(known_K)} examples with a label are named wrong' +
      (f'; the {len(listed)} surest are shown.' if wrong else ': no mistake to show.'))
  rows = [tiles[start:start + 4] for start in range(0, len(tiles), 4)]
  content = figures.png(figures.sheet(rows, f'{subject.kind}, step {subject.step}, {split.name}: {note}'))
  return Drawn(content, note, {'examined': len(known_K), 'wrong': len(wrong), 'shown': listed})


def draw_reconstruction(subject: Subject, seen: Seen) -> Drawn:
  """Triplets of masked, reconstructed and original scenes."""
  if not subject.decodes:
    raise Skipped({'classifier': 'a classifier has no decoder', 'encoder': 'the weights hold an encoder alone'
                  }.get(subject.kind, 'the model was pretrained without reconstruction'))
  norm_pix = read_run_config(run_folder(subject.path)).get('loss', {}).get('norm_pix', False)
  scenes = np.stack([example.scene for example in seen.examples])
  triplets = reconstruction_triplets(subject.graphdef, subject.params, scenes, norm_pix)
  title = 'masked, reconstructed, original'
  parts = np.split(triplets, len(scenes))
  rows = [[Tile(tile) for tile in np.split(part, 3, axis=1)] for part in parts]
  note = f'{len(scenes)} examples; columns: {title}' + ('; true mean and deviation of each patch.' if norm_pix else '.')
  return Drawn(figures.png(figures.sheet(rows, f'{subject.kind}, step {subject.step}: {title}')), note, {})


def _check(subject: Subject, split: reader.Split, dataset: str, workdir: str) -> None:
  if subject.tasks and list(split.labels) != subject.labels:
    raise UserError(
        f"{dataset} has the labels {', '.join(split.labels)}; the checkpoint was trained with "
        f"{', '.join(subject.labels)}: look at it with its own dataset")
  if epath.Path(workdir).exists() and not epath.Path(workdir).is_dir():
    raise UserError(f'--workdir={workdir} is a file: name a folder')


def look(
    checkpoint: str, data_dir: str, dataset: str, workdir: str, *, split_name: str = 'test', examples: int = 16,
    points: int = 1000) -> dict[str, Any]:
  """Draws what can be drawn of a checkpoint into `workdir`.

  Args:
    checkpoint: a checkpoint PATH of pretrain, finetune or import_torch.
    data_dir, dataset, split_name: the records; a classifier's own labels.
    workdir: gets the PNGs, look.html and look.json; those of an earlier look are replaced.
    examples: rows of the sheets; the first of the split.
    points: embeddings that are mapped; the first of the split.

  Returns:
    What look.json holds.

  Raises:
    UserError: no such checkpoint, records or split, a checkpoint without an encoder, or a dataset with other labels.
  """
  subject, split = Subject(checkpoint), reader.open_split(data_dir, dataset, split_name)
  _check(subject, split, dataset, workdir)
  count = split.num_examples if 'label' in subject.first_columns() else min(max(points, examples), split.num_examples)
  seen = see(subject, split, count, examples, points)
  draw: dict[str, Callable[[], Drawn]] = {
      'attention': lambda: draw_attention(subject, seen),
      'embeddings': lambda: draw_embeddings(subject, seen, split.labels),
      'mistakes': lambda: draw_mistakes(subject, split, seen, examples),
      'reconstruction': lambda: draw_reconstruction(subject, seen)
  }
  result = {
      'checkpoint': subject.path, 'step': subject.step, 'kind': subject.kind, 'dataset': dataset, 'split': split.name,
      'examples': split.num_examples, 'pictures': {}, 'skipped': {}
  }
  for name, drawing in draw.items():
    path = os.path.join(workdir, f'{name}.png')
    try:
      drawn = drawing()
    except Skipped as reason:
      result['skipped'][name] = str(reason)
      epath.Path(path).unlink(missing_ok=True)
      continue
    write_bytes(path, drawn.content)
    result['pictures'][name] = {'file': f'{name}.png', 'note': drawn.note, **drawn.facts}
  write_json(os.path.join(workdir, look_page.SUMMARY), result)
  look_page.write_page(workdir)
  return result
