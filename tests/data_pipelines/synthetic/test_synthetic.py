import csv
import json

import numpy as np
from PIL import Image
import pytest

from data_pipelines.emoset import emoset_dataset_builder
from data_pipelines.errors import UserError
from data_pipelines.records.label_sets import EMOTIONS
from data_pipelines.synthetic import datasets, drawing, world

SIZES = {'train': 160, 'val': 8, 'test': 8}


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
  root = tmp_path_factory.mktemp('drawn')
  for dataset in ('emoset', 'emo8'):
    datasets.write_dataset(root / dataset, dataset, datasets.plan_images(dataset, SIZES, seed=3), {})
  return root


def _contents(dataset, sizes, seed) -> dict[str, list[world.Content]]:
  plans = datasets.plan_images(dataset, sizes, seed)
  return {split: [item.content for item in plans if item.split == split] for split in sizes}


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize(('dataset', 'sizes'), [('emo8', datasets.EMO8_SPLITS),
                                                ('emoset', {'train': 2448, 'val': 144, 'test': 288})])
def test_emotion_needs_figure_and_surroundings(dataset, sizes, seed):
  contents = _contents(dataset, sizes, seed)
  oracle = world.oracle(contents['train'], contents['test'])
  assert oracle['all'] >= 0.95 and oracle['scene_only'] <= 0.65 and oracle['figure_only'] <= 0.65


def test_a_world_that_surroundings_decide_is_refused():
  contents = [
      content for content in _contents('emo8', {'train': 800}, 0)['train'] if content.emotion in ('awe', 'disgust')]
  with pytest.raises(AssertionError, match='scene_only'):
    world.oracle(contents, contents)


def test_only_emotions_of_the_place_lack_a_figure():
  without = {content.emotion for content in _contents('emo8', {'train': 800}, 0)['train'] if content.face is None}
  assert without == {'awe', 'contentment', 'disgust', 'sadness'}


def test_one_label_in_twenty_is_wrong_in_train_only_and_classes_stay_equal():
  plans = datasets.plan_images('emo8', datasets.EMO8_SPLITS, 0)
  assert len(plans) == 1440
  wrong = [item for item in plans if item.label != item.content.emotion]
  assert len(wrong) == 40 and {item.split for item in wrong} == {'train'}
  for split, size in datasets.EMO8_SPLITS.items():
    labels = [item.label for item in plans if item.split == split]
    assert {labels.count(label) for label in EMOTIONS} == {size // 8}


def test_the_same_seed_draws_the_same_bytes_whatever_else_is_drawn(tmp_path):
  few, more = {'train': 8}, {'train': 16}
  for name, sizes, seed in (('a', few, 0), ('b', more, 0), ('c', few, 1)):
    datasets.write_dataset(tmp_path / name, 'emo8', datasets.plan_images('emo8', sizes, seed), {})
  a, b, c = ({path.name: path.read_bytes() for path in (tmp_path / name).rglob('*.jpg')} for name in ('a', 'b', 'c'))
  assert a.items() <= b.items()
  assert not set(a.values()) & set(c.values())


def test_person_boxes_hold_the_whole_figure_tightly():
  """The same image drawn without its figure differs inside the box only, up to the box's edges."""
  checked = 0
  for item in datasets.plan_images('emo8', {'train': 200}, 5):
    if item.content.face is None or item.content.style != 'cartoon' or item.content.weather != 'clear':
      continue
    state = item.rng.bit_generator.state
    drawn = drawing.draw_image(item.content, item.rng)
    item.rng.bit_generator.state = state
    empty = drawing.draw_image(world.dataclasses.replace(item.content, face=None), item.rng)
    changed = np.asarray(drawn.image).astype(int) != np.asarray(empty.image)
    rows, columns = np.nonzero(changed.any(axis=-1))
    found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_allclose(found, drawn.box, atol=1.5)
    checked += 1
  assert checked >= 10


def test_figures_are_large_enough_to_read(drawn):
  with (drawn / 'emo8' / 'person_boxes.csv').open() as file:
    boxes = list(csv.DictReader(file))
  heights = [float(box['ymax']) - float(box['ymin']) for box in boxes]
  assert all(65 <= height <= 95 for height in heights)
  assert 0.7 < len(boxes) / 176 < 0.9


def test_layouts_are_the_real_ones(drawn):
  listed = [entry for split in SIZES for entry in json.loads((drawn / 'emoset' / f'{split}.json').read_text())]
  assert len(listed) == 176
  for emotion, image, annotation in listed:
    content = json.loads((drawn / 'emoset' / annotation).read_text())
    assert content['emotion'] == emotion and image.startswith(f'image/{emotion}/')
    with Image.open(drawn / 'emoset' / image) as image:
      assert (image.size, image.format, image.mode) == ((96, 96), 'JPEG', 'RGB')
  counted = {split: len(list((drawn / 'emo8' / split).glob('*/*.jpg'))) for split in SIZES}
  assert counted == SIZES


def test_annotations_use_emosets_own_words_and_each_is_sometimes_missing(drawn):
  vocabulary = emoset_dataset_builder.vocabulary()
  annotations = [json.loads(path.read_text()) for path in (drawn / 'emoset' / 'annotation').rglob('*.json')]
  for attribute, known in vocabulary.items():
    values = [annotation[attribute] for annotation in annotations if attribute in annotation]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    assert {str(item) for item in flat} <= known
    assert len(values) < 0.95 * len(annotations)
  for attribute in ('scene', 'brightness', 'colorfulness'):
    assert sum(attribute in annotation for annotation in annotations) > 0.75 * len(annotations)


@pytest.mark.parametrize('examples', [2399, 4008, 2881])
def test_a_wrong_number_of_images_is_a_users_mistake(tmp_path, examples):
  with pytest.raises(UserError, match='emoset_examples'):
    datasets.draw(tmp_path, emoset_examples=examples)


def test_a_folder_with_something_else_is_not_touched(tmp_path):
  plans = datasets.plan_images('emo8', {'train': 8}, 0)
  datasets.write_dataset(tmp_path / 'emo8', 'emo8', plans, {'seed': 0})
  datasets.write_dataset(tmp_path / 'emo8', 'emo8', plans, {'seed': 0})
  with pytest.raises(UserError, match='something else'):
    datasets.write_dataset(tmp_path / 'emo8', 'emo8', plans, {'seed': 1})
  assert [path.name for path in tmp_path.iterdir()] == ['emo8']


def test_annotators_of_the_task_sets_name_what_is_drawn(tmp_path):
  sizes = {'train': 40, 'val': 8, 'test': 8}
  for dataset in datasets.TASK_SPLITS:
    datasets.write_dataset(tmp_path / dataset, dataset, datasets.plan_images(dataset, sizes, 0), {})
  with (tmp_path / 'emotic' / 'train.csv').open() as file:
    people = list(csv.DictReader(file))
  figures = [
      item.content for item in datasets.plan_images('emotic', sizes, 0) if item.content.face and item.split == 'train']
  assert len(people) == len(figures) == len(list((tmp_path / 'emotic' / 'emotic').rglob('*.jpg'))) - sum(
      item.content.face is not None for item in datasets.plan_images('emotic', sizes, 0)[40:])
  for row, content in zip(people, figures):
    assert ("'Sadness'" in row['Categorical_Labels']) == (content.weather == 'rain')
    assert ("'Disquietment'" in row['Categorical_Labels']) == (content.light == 'night')
  header, *lines = (tmp_path / 'emotion6' / 'ground_truth.txt').read_text().splitlines()
  assert len(lines) == 56 and header.startswith('[image_filename]')
  for line in lines:
    path, valence, arousal, *shares = line.split('\t')
    assert (tmp_path / 'emotion6' / 'images' / path).exists()
    assert 1 <= float(valence) <= 9 and 1 <= float(arousal) <= 9
    assert sum(map(float, shares)) == pytest.approx(1)


def test_task_sets_have_their_sizes(tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(
      datasets, 'write_dataset', lambda folder, dataset, plans, provenance: drawn.append((folder, len(plans))))
  datasets.draw_tasks(tmp_path)
  assert drawn == [(tmp_path / 'emotic', 896), (tmp_path / 'emotion6', 800)]


@pytest.mark.parametrize('cue', ['figure', 'scene'])
@pytest.mark.parametrize('seed', range(3))
def test_one_cue_alone_tells_the_class(cue, seed):
  plans = datasets.plan_images('emo8', datasets.EMO8_SPLITS, seed, cue)
  contents = {split: [item.content for item in plans if item.split == split] for split in datasets.EMO8_SPLITS}
  scores = world.oracle(contents['train'], contents['test'], cue)
  other = {'figure': 'scene_only', 'scene': 'figure_only'}[cue]
  assert scores[f'{cue}_only'] == 1 and scores[other] < 0.25
  assert all(content.face for content in contents['train'])
  assert len({item.content.figure if cue == 'figure' else (item.content.place, item.content.light) for item in plans
             }) == 8


def test_cue_of_both_is_the_world_of_emo8(tmp_path):
  assert datasets.plan_images('emo8', SIZES, 3, 'both')[7].content == datasets.plan_images('emo8', SIZES, 3)[7].content
  sizes = {'train': 320, 'val': 8, 'test': 160}
  datasets.draw_cue(tmp_path, 'figure', sizes)
  assert len(list((tmp_path / 'emo8').rglob('*.jpg'))) == 488
  assert len((tmp_path / 'emo8' / 'person_boxes.csv').read_text().splitlines()) == 489
  with pytest.raises(UserError, match='something else than these settings draw'):
    datasets.draw_cue(tmp_path, 'scene', sizes)
