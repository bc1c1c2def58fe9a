"""Draws figures of a model: python -m uniemox_jax.look --checkpoint=PATH --data_dir=DIR --dataset=NAME --workdir=OUT.

They show attention and relevance, a map of the embeddings, the most confident mistakes and reconstructions: a PNG of
each that the checkpoint has the parts for, look.html with all, and look.json. docs/look.md says how to read them.
"""

from collections.abc import Callable, Mapping, Sequence
import hashlib
import os
from typing import Any, NamedTuple

from etils import epath
import numpy as np
from scipy import special
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits
import tqdm

from data_pipelines.batches.single_examples import Example, read_examples
from data_pipelines.errors import UserError, join_names
from data_pipelines.records import reader
from data_pipelines.storage import write_bytes, write_sealed
from uniemox_jax.look import attention_maps
from uniemox_jax.look.inspected_model import InspectedModel, Inspection, inspect_examples
from uniemox_jax.look.reconstructions import reconstruction_triplets
from uniemox_jax.objectives.tasks import split_columns
from uniemox_jax.recognition.words import read_words
from uniemox_jax.report import figures, look_page
from uniemox_jax.report.figures import Tile

EXPLAINED_TOGETHER = 4
"""How many examples' attention, offsets and gradients are in memory at once: 0.7 GB for four views of a ViT-L/16."""
MIN_POINTS = 8
"""The fewest points of a map: with fewer, it shows no neighbourhoods."""


class Skipped(Exception):
  """A figure cannot be drawn; the message says why."""


class LookFigure(NamedTuple):
  """A figure. content: a PNG. note: its facts in a sentence. facts: further entries of look.json."""

  content: bytes
  note: str
  facts: dict[str, Any]


def draw_attention(inspected: InspectedModel, inspection: Inspection) -> LookFigure:
  """Draws a row per example: its views, their rollout, and for a classifier the relevance to the predicted class."""
  if inspected.no_maps:
    raise Skipped(inspected.no_maps)
  examples, without = inspection.examples, {}
  task = next((task for task in inspected.tasks if task.name != 'vad'), None)
  if task is None:
    without['relevance'] = (
        'a model without classes has nothing to be relevant to'
        if not inspected.tasks else 'the model predicts no class, only valence, arousal and dominance')
    predicted = [''] * len(examples)
  else:
    best_B = split_columns(inspection.outputs_NxW[:len(examples)], inspected.tasks)[task.name].argmax(axis=1)
    predicted = [task.outputs[best] for best in best_B]
  if not inspected.reads_person:
    without['person'] = 'the model reads the scene alone'
  rows = []
  for start in tqdm.trange(0, len(examples), EXPLAINED_TOGETHER, desc='attention', delay=1):
    # The last ones are filled up: one shape, one compilation.
    places = np.minimum(np.arange(start, start + EXPLAINED_TOGETHER), len(examples) - 1)
    views = inspected.views([examples[place] for place in places])
    if task is None:
      maps = {'rollout': attention_maps.encoder_maps(inspected.graphdef, inspected.params, views, inspected.pooled)}
    else:
      columns = inspected.first_columns[task.name] + best_B[places]
      maps = attention_maps.classifier_maps(inspected.graphdef, inspected.params, views, columns)._asdict()
    for row, place in enumerate(range(start, min(start + EXPLAINED_TOGETHER, len(examples)))):
      maps_of_row = {name: np.asarray(values[row]) for name, values in maps.items()}
      rows.append(_attention_row(inspected, examples[place], predicted[place], maps_of_row))
  read_from = 'the class token' if inspected.pooled == 'cls' else 'the patch tokens, whose mean is classified'
  title = f'{inspected.title}. Read from {read_from}. Bright: the most of that one map.'
  return LookFigure(figures.sheet(rows, title), f'{len(rows)} examples, read from {read_from}.', {'without': without})


def _attention_row(inspected: InspectedModel, example: Example, predicted: str,
                   maps: Mapping[str, np.ndarray]) -> list[Tile]:
  """Tiles of one example; `maps` are (V, R, C) by name."""
  truth = inspected.labels[example.label] if inspected.labels and example.label >= 0 else ''
  lines = [os.path.basename(example.id), truth and f'true: {truth}', predicted and f'predicted: {predicted}']
  views: list[tuple[np.ndarray | None, str]] = [(example.scene, '\n'.join(filter(None, lines)))]
  if inspected.reads_person:
    views.append((example.person, 'person'))
  row = []
  for view, (pixels, text) in enumerate(views):
    if pixels is None:
      row.append(Tile(None, 'no person: the model sees the scene again'))
      continue
    row.append(Tile(pixels, text))
    for name, values in maps.items():
      target = f' to {predicted}' if name == 'relevance' else ''
      row.append(Tile(figures.heat_overlay(pixels, values[view]), f'{name}{target}\n{_peak(values[view])}'))
  return row


def _peak(map_RxC: np.ndarray) -> str:
  mean = map_RxC.mean()
  return f'peak {map_RxC.max() / mean:.1f} x mean' if mean > 0 else 'zero throughout'


def draw_embeddings(inspected: InspectedModel, inspection: Inspection, labels: Sequence[str]) -> LookFigure:
  """Draws t-SNE of the features (van der Maaten and Hinton 2008), by scikit-learn, coloured by label."""
  count = len(inspection.features_PxD)
  if count < MIN_POINTS:
    raise Skipped(f'{count} examples are too few for a map: it takes {MIN_POINTS}')
  perplexity = min(30.0, (count - 1) / 3)
  print(f't-SNE of {count} embeddings', flush=True)
  # On several threads it takes longer if other work shares the cores.
  with threadpool_limits(1):
    points_Nx2 = TSNE(perplexity=perplexity, init='pca', random_state=0).fit_transform(inspection.features_PxD)
  note = f'{count} examples, perplexity {perplexity:.3g}, seed 0.'
  title = f'{inspected.title}: t-SNE of features'
  return LookFigure(figures.scatter_plot(points_Nx2, inspection.label_N[:count], labels, title), note, {})


def draw_mistakes(inspected: InspectedModel, split: reader.Split, inspection: Inspection, shown: int) -> LookFigure:
  """Draws the classifier's wrong answers, the most confident first."""
  if not inspected.tasks:
    raise Skipped('the model has no classes to be wrong about')
  if 'label' not in inspected.first_columns:
    raise Skipped(f'the model predicts {", ".join(task.name for task in inspected.tasks)}, and no single label')
  outputs = next(task.outputs for task in inspected.tasks if task.name == 'label')
  if list(outputs) != inspected.labels:
    raise Skipped(f'the words that it is asked, {join_names(outputs)}, are not the labels of {split.name}')
  known_K = np.flatnonzero(inspection.label_N >= 0)
  if not len(known_K):
    raise Skipped(f'no example of {split.name} has a label')
  logits_NxC = split_columns(inspection.outputs_NxW, inspected.tasks)['label']
  probability_NxC = special.softmax(logits_NxC.astype(np.float64), axis=1)
  predicted_N, confidence_N = probability_NxC.argmax(axis=1), probability_NxC.max(axis=1)
  wrong = [place for place in known_K.tolist() if predicted_N[place] != inspection.label_N[place]]
  wrong.sort(key=lambda place: (-confidence_N[place], place))
  mistakes, tiles = [], []
  for view, place in zip(read_examples(split, wrong[:shown], inspected.image_size, person=False), wrong):
    true, predicted = (inspected.labels[index[place]] for index in (inspection.label_N, predicted_N))
    confidence = round(float(confidence_N[place]), 6)
    mistakes.append({'id': inspection.id[place], 'label': true, 'predicted': predicted, 'confidence': confidence})
    text = f'{os.path.basename(view.id)}\ntrue: {true}\npredicted: {predicted}\nconfidence: {confidence:.3f}'
    tiles.append(Tile(view.scene, text))
  shown_note = f'; the {len(mistakes)} surest are shown.' if wrong else ': no mistake to show.'
  note = f'{len(wrong)} of {len(known_K)} examples with a label are named wrong{shown_note}'
  rows = [tiles[start:start + 4] for start in range(0, len(tiles), 4)]
  content = figures.sheet(rows, f'{inspected.title}, {split.name}: {note}')
  return LookFigure(content, note, {'examined': len(known_K), 'wrong': len(wrong), 'shown': mistakes})


def draw_reconstruction(inspected: InspectedModel, inspection: Inspection) -> LookFigure:
  """Draws triplets of masked, reconstructed and original scenes."""
  if not inspected.reconstructs:
    reasons = {
        'classifier': 'a classifier has no decoder', 'encoder': 'the weights hold an encoder alone',
        'clip': 'a CLIP has no decoder', 'siglip': 'a SigLIP has no decoder'}
    raise Skipped(reasons.get(inspected.kind, 'the model was pretrained without reconstruction'))
  scenes = np.stack([example.scene for example in inspection.examples])
  triplets = reconstruction_triplets(inspected.graphdef, inspected.params, scenes, inspected.norm_pix)
  title = 'masked, reconstructed, original'
  rows = [[Tile(tile) for tile in np.split(part, 3, axis=1)] for part in np.split(triplets, len(scenes))]
  note = f'{len(scenes)} examples; columns: {title}' + (
      '; true mean and deviation of each patch.' if inspected.norm_pix else '.')
  return LookFigure(figures.sheet(rows, f'{inspected.title}: {title}'), note, {})


def look(
    checkpoint: str, data_dir: str, dataset: str, workdir: str, *, split_name: str = 'test', examples: int = 16,
    points: int = 1000, labels: str | None = None, prompts: str | None = None) -> dict[str, Any]:
  """Draws every figure that the checkpoint has the parts for into `workdir`.

  Args:
    checkpoint: a checkpoint PATH, or weights of another library.
    data_dir, dataset, split_name: the records; for a classifier, with its own labels.
    workdir: the folder of the PNGs, look.html and look.json, which replace those of an earlier look.
    examples: how many examples of the split, from the first on, are rows of the sheets.
    points: how many embeddings of the split, from the first on, are mapped.
    labels, prompts: what a CLIP or SigLIP is asked, see `read_words`.

  Returns:
    The content of look.json.

  Raises:
    UserError: there is no such checkpoint, no such records or split; the checkpoint has no encoder; or the dataset has
      other labels.
  """
  words = read_words(labels, prompts) if labels or prompts else None
  split = reader.open_split(data_dir, dataset, split_name)
  if words and sorted(map(str.lower, words.classes)) == sorted(map(str.lower, split.labels)):
    words = words._replace(classes=tuple(split.labels))  # in their order, so that answers can be right or wrong
  inspected = InspectedModel(checkpoint, words, split.labels)
  if not words and inspected.tasks and list(split.labels) != inspected.labels:
    raise UserError(
        f"{dataset} has the labels {', '.join(split.labels)}; the checkpoint was trained with "
        f"{', '.join(inspected.labels)}: look at it with its own dataset")
  if epath.Path(workdir).exists() and not epath.Path(workdir).is_dir():
    raise UserError(f'--workdir={workdir} is a file: name a folder')
  count = split.num_examples
  if 'label' not in inspected.first_columns:  # mistakes need the whole split
    count = min(max(points, examples), count)
  inspection = inspect_examples(inspected, split, count, examples, points)
  drawings: dict[str, Callable[[], LookFigure]] = {
      'attention': lambda: draw_attention(inspected, inspection),
      'embeddings': lambda: draw_embeddings(inspected, inspection, split.labels),
      'mistakes': lambda: draw_mistakes(inspected, split, inspection, examples),
      'reconstruction': lambda: draw_reconstruction(inspected, inspection)}
  result: dict[str, Any] = {
      'checkpoint': inspected.path, 'step': inspected.step, 'kind': inspected.kind, 'dataset': dataset,
      'split': split.name, 'examples': split.num_examples, 'pictures': {}, 'skipped': {}}
  for name, draw in drawings.items():
    path = os.path.join(workdir, f'{name}.png')
    try:
      figure = draw()
    except Skipped as reason:
      result['skipped'][name] = str(reason)
      epath.Path(path).unlink(missing_ok=True)
      continue
    write_bytes(path, figure.content)
    result['pictures'][name] = {
        'file': f'{name}.png', 'sha256': hashlib.sha256(figure.content).hexdigest(), 'note': figure.note,
        **figure.facts}
  write_sealed(os.path.join(workdir, look_page.SUMMARY), result)
  look_page.write_page(workdir)
  return result
