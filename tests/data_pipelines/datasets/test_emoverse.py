"""EmoVerse in the two forms that its descriptions name: the same records, crops of persons alone, and filters."""

import json

import pytest

from data_pipelines.build import build
from data_pipelines.records.reader import open_split
from data_pipelines.table.table_dataset_builder import TableOptions
from tests.support import tables

EMOTIONS = ('Amusement', 'Sadness', 'Awe')
SUBJECTS = ('a young woman', 'a mountain lake', 'two children with a dog')


def _records(folder):
  """JSON records, as the release has them."""
  found = []
  for number in range(12):
    emotion = EMOTIONS[number % 3]
    path = folder / 'images' / emotion.lower() / f'{emotion}{number:06d}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tables.image_bytes(number))
    found.append({
        'id': path.stem, 'image_path': path.relative_to(folder).as_posix(), 'description': f'Description {number}.',
        'emotion': emotion, 'confidence': number / 12, 'background': 'a park', 'attribute': 'bright',
        'subject': SUBJECTS[number % 3], 'B-A-S': 'x', 'DES': [0.5] * 1024,
        'bbox': [{'x1': 6, 'y1': 5, 'x2': 18, 'y2': 15}], 'mask_path': 'masks/1.png'})  # fmt: skip
  return found


def _release(folder):
  (folder / 'emoverse.json').write_text(json.dumps(_records(folder)))


def _hub(folder):
  from datasets import Dataset, Features, Image, List, Value
  features = Features({
      'image': Image(), 'description': Value('string'), 'emotion_category': Value('string'),
      'confidence_score': Value('float32'), 'background': Value('string'), 'attribute': Value('string'),
      'subject': Value('string'), 'DES_representation': List(Value('float32')), 'bounding_box': List(Value('int32')),
      'source': Value('string')})  # fmt: skip
  found = [{
      'image': {'bytes': tables.image_bytes(number), 'path': one['image_path']}, 'description': one['description'],
      'emotion_category': one['emotion'], 'confidence_score': one['confidence'], 'background': '', 'attribute': '',
      'subject': one['subject'], 'DES_representation': one['DES'], 'bounding_box': [6, 5, 18,
                                                                                    15], 'source': 'Flickr30k'}
           for number, one in enumerate(_records(folder / 'drawn'))]  # fmt: skip
  (folder / 'data').mkdir()
  for split, part in (('train', found[:8]), ('test', found[8:])):
    Dataset.from_list(part, features).to_parquet(folder / 'data' / f'{split}-00000-of-00001.parquet')


@pytest.mark.parametrize('write', [_release, _hub])
def test_both_forms_have_their_captions_confidences_and_persons(write, tmp_path):
  (tmp_path / 'raw').mkdir()
  write(tmp_path / 'raw')
  columns = {} if write == _hub else {'split': ''}
  manifest = build('emoverse', tmp_path / 'raw', tmp_path / 'data', table=TableOptions(columns, min_confidence=0.2))
  assert manifest['ignored']['rows of a confidence below 0.2'] == 3 and manifest['rejected'] == 0
  assert manifest['labels'] == ['amusement', 'awe', 'contentment', 'excitement', 'anger', 'disgust', 'fear', 'sadness']
  splits = [open_split(tmp_path / 'data', 'emoverse', split) for split in manifest['splits']]
  assert sum(split.num_examples for split in splits) == 9
  for split in splits:
    for position, found in enumerate(split.annotations()):
      number = int(found.attributes['caption'].split()[1].rstrip('.'))
      assert split.labels[found.label] == EMOTIONS[number % 3].lower()
      assert found.attributes['confidence'] == pytest.approx(number / 12)
      record = split.features.deserialize_example_np(split.read(position), decoders=None)
      assert len(record['persons']) == (number % 3 != 1)


def test_boxes_of_any_subject_can_be_kept(tmp_path):
  (tmp_path / 'raw').mkdir()
  _release(tmp_path / 'raw')
  manifest = build('emoverse', tmp_path / 'raw', tmp_path / 'data', table=TableOptions(subject='any'))
  assert all(split['with_person_share'] == 1 for split in manifest['splits'].values())
