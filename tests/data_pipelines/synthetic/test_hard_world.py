"""The harder world: its bytes, its cues and nuisances, what its oracle reaches, and that its tables build."""

import csv
import dataclasses
import hashlib
import json
import subprocess
import sys

import numpy as np
import PIL
import pytest

from configs import finetune
from data_pipelines.build import build
from data_pipelines.errors import UserError
from data_pipelines.records.label_sets import EMOTIONS
from data_pipelines.records.reader import open_split
from data_pipelines.synthetic import (
    datasets,
    drawing,
    hard_annotators,
    hard_drawing,
    hard_oracle,
    hard_rows,
    hard_tables,
    hard_world,
)
from data_pipelines.synthetic.world import STYLES
from uniemox_jax.train.config import FinetuneConfig
from uniemox_jax.train.schema import parse

DEMO = '2b0dab154d66a584dbf84e9bad17be69d78b6141ebbb780f9c80e6090b4263a0'
"""SHA-256 of the first 40 images of the demo's Emo8, from before there was a harder world."""
SIZES = {'unlabelled': 40, 'train': 24, 'val': 24, 'test': 24}


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
  root = tmp_path_factory.mktemp('drawn')
  hard_tables.draw_hard(root, SIZES, seed=2, workers=1)
  return root


@pytest.fixture(scope='module')
def planned():
  return [hard_rows.plan_scene('test', index, seed=1) for index in range(6000)]


def _rows(folder):
  with (folder / 'table.csv').open(newline='') as file:
    return list(csv.DictReader(file))


def _bytes(folder):
  return {path.relative_to(folder): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def _redrawn(one, **changes):
  """The same image with another case; hiding and drawing of faces and postures take nothing from the generator."""
  scene = dataclasses.replace(one.scene, case=one.scene.case._replace(**changes))
  state = one.rng.bit_generator.state
  image = np.asarray(hard_drawing.draw_scene(scene, one.rng).image)
  one.rng.bit_generator.state = state
  return image


@pytest.mark.skipif(not PIL.__version__.startswith('12.'), reason='the bytes are those of another Pillow')
def test_the_demo_keeps_its_images():
  digest = hashlib.sha256()
  for item in datasets.plan_images('emo8', {'train': 40}, 0):
    digest.update(np.asarray(drawing.draw_image(item.content, item.rng).image).tobytes())
  assert digest.hexdigest() == DEMO


def test_any_number_of_workers_draws_the_same_bytes(drawn, tmp_path, monkeypatch):
  monkeypatch.setattr(hard_tables, '_CHUNK', 7)
  hard_tables.draw_hard(tmp_path, SIZES, seed=2, workers=2)
  assert _bytes(tmp_path) == _bytes(drawn)


def test_a_larger_train_split_begins_with_the_smaller_and_test_stays(drawn, tmp_path):
  hard_tables.draw_hard(tmp_path, SIZES | {'train': 32}, seed=2, workers=1)
  few, more = _rows(drawn / 'labelled'), _rows(tmp_path / 'labelled')
  assert more[:24] == few[:24] and more[32:] == few[24:]


def test_what_is_drawn_is_kept_and_nothing_else_is_touched(drawn, monkeypatch, capsys):
  monkeypatch.setattr(hard_tables, 'draw_rows', None)  # Drawing again would fail.
  hard_tables.draw_hard(drawn, SIZES, seed=2, workers=1)
  assert capsys.readouterr().out.count('already drawn') == 2
  with pytest.raises(UserError, match='something else'):
    hard_tables.draw_hard(drawn, SIZES, seed=3, workers=1)


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):

  def fails_in_train(folder, part, indices, seed):
    if part == 'train':
      raise OSError('disk')
    return hard_rows.draw_rows(folder, part, indices, seed)

  monkeypatch.setattr(hard_tables, 'draw_rows', fails_in_train)
  with pytest.raises(OSError, match='disk'):
    hard_tables.draw_hard(tmp_path, SIZES, workers=1)
  assert [path.name for path in tmp_path.iterdir()] == ['unlabelled']


def test_cases_are_all_that_there_is():
  for emotion in EMOTIONS:
    cases, shares = hard_world.cases(emotion)
    assert shares.sum() == pytest.approx(1) and shares.min() > 0
    for kind, share in hard_world.CUE_SHARES.items():
      assert sum(shares[[case.cues == kind for case in cases]]) == pytest.approx(share)
    for case in cases:
      shown = {'figure': ('figure_cue',), 'scene': ('scene_cue',), 'both': ('figure_cue', 'scene_cue')}
      assert all(getattr(case, name) == emotion for name in shown.get(case.cues, ()))
      if case.cues == 'conflicting':
        assert {case.emotion, case.other} == {case.figure_cue, case.scene_cue}
        assert case.emotion == (case.figure_cue if case.near else case.scene_cue)


def test_every_nuisance_is_there(planned):
  scenes = [one.scene for one in planned]
  with_figure = [scene for scene in scenes if scene.case.face]
  assert len(with_figure) / len(scenes) == pytest.approx(0.9, abs=0.02)
  near = [scene.case.near for scene in with_figure]
  assert np.mean(near) == pytest.approx(0.5, abs=0.03)
  for hidden, share in hard_world.HIDDEN_SHARES.items():
    assert np.mean([scene.case.hidden == hidden for scene in with_figure]) == pytest.approx(share, abs=0.03)
  for others, share in enumerate(hard_world.OTHERS_SHARES):
    assert np.mean([scene.others == others for scene in with_figure]) == pytest.approx(share, abs=0.03)
  for style in STYLES:
    assert np.mean([scene.style == style for scene in scenes]) == pytest.approx(0.2, abs=0.02)
  assert {scene.distractors for scene in scenes} == set(range(hard_world.MOST_DISTRACTORS + 1))
  weak = [
      scene.case.posture == 'standing' or scene.case.face == 'neutral' for scene in scenes if scene.case.figure_cue
  ]  # fmt: skip
  assert np.mean(weak) == pytest.approx(0.5, abs=0.03)
  dusk = [scene.case.light == 'dusk' for scene in scenes if scene.case.scene_cue]
  assert np.mean(dusk) == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize(('hidden', 'part', 'look'), [('face', 'face', 'laughing'), ('posture', 'posture', 'arms_up')])
def test_what_is_hidden_does_not_change_a_pixel_and_what_is_seen_does(planned, hidden, part, look):
  found = [one for one in planned if one.scene.case.hidden == hidden and getattr(one.scene.case, part) != look][:12]
  for one in found:
    case = one.scene.case
    assert case._replace(**{part: look}).figure_seen == case.figure_seen  # All that the oracle uses of it.
    assert (_redrawn(one) == _redrawn(one, **{part: look})).all()
    assert (_redrawn(one, hidden='') != _redrawn(one, **{part: look, 'hidden': ''})).any()
    assert (_redrawn(one) != _redrawn(one, hidden='')).any()


def test_the_main_figure_is_the_largest_person(planned):
  for one in [one for one in planned[:400] if one.scene.others]:
    state = one.rng.bit_generator.state
    boxes = np.array(hard_drawing.draw_scene(one.scene, one.rng).boxes)
    one.rng.bit_generator.state = state
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert len(boxes) == 1 + one.scene.others and areas.argmax() == 0
    assert boxes.min() >= 0 and boxes.max() <= 96


def test_annotators_err_as_they_are_said_to(planned):
  said = np.array([one.said for one in planned])
  agreed = np.array([one.scene.case.cues != 'conflicting' for one in planned])
  truth = np.array([EMOTIONS.index(one.scene.case.emotion) for one in planned])
  np.testing.assert_allclose((said == truth[:, None])[agreed].mean(axis=0), hard_annotators.RELIABILITY, atol=0.025)
  other = np.array([EMOTIONS.index(one.scene.case.other or one.scene.case.emotion) for one in planned])
  assert (said == other[:, None])[~agreed].mean() == pytest.approx(0.3 * 0.79 + 0.7 * 0.03, abs=0.025)
  majority = hard_annotators.by_majority(said)
  expected = np.mean([
      hard_annotators.majority_shares(one.scene.case.emotion, one.scene.case.other)[label]
      for one, label in zip(planned, truth)])  # fmt: skip
  assert (majority == truth).mean() == pytest.approx(expected, abs=0.02)
  assert hard_annotators.by_majority(np.array([[3, 1, 1, 3, 0], [2, 4, 4, 4, 2]])).tolist() == [3, 4]


def test_the_oracle_reaches_what_it_should(planned):
  """Within 3.5 standard errors of the exact accuracy; what it says of its own certainty is as often right."""
  labels = hard_rows.majority_labels(np.array([one.said for one in planned]))
  scenes = [one.scene for one in planned]
  found = hard_oracle.scores(scenes, np.array([one.said for one in planned]), labels)
  for name, question in hard_oracle.QUESTIONS.items():
    expected = hard_oracle.expected_accuracy(*question)
    error = 3.5 * (expected * (1 - expected) / len(scenes))**0.5
    assert found[name] == pytest.approx(expected, abs=error)
    certainty = np.mean([hard_oracle.best_shares(scene.case, *question).max() for scene in scenes])
    assert certainty == pytest.approx(expected, abs=error)
  assert found['domain'] == 1
  assert found['class'] > found['label'] > 0.15 + max(found['figure_alone'], found['scene_alone'])
  by_cues = found['by_cues']
  assert by_cues['figure']['scene_alone'] < 0.25 > by_cues['scene']['figure_alone']
  assert by_cues['both']['label'] > 0.9 > 0.7 > by_cues['conflicting']['label']
  votes = np.mean([np.bincount(one.said, minlength=8) / 5 for one in planned if one.scene.case.cues == 'conflicting'],
                  axis=0)
  shares = [hard_oracle.best_shares(scene.case, 'votes') for scene in scenes if scene.case.cues == 'conflicting']
  np.testing.assert_allclose(np.mean(shares, axis=0), votes, atol=0.03)


@pytest.mark.parametrize('sees', ['both', 'figure', 'scene'])
def test_no_other_answer_is_better(planned, sees):
  """The most frequent class of each thing seen in one half of the images, asked about the other half."""
  seen = {
      'both': lambda case: (case.figure_seen, case.scene_seen), 'figure': lambda case: case.figure_seen,
      'scene': lambda case: case.scene_seen}[sees]  # fmt: skip
  cases = [one.scene.case for one in planned]
  table = {}
  for case in cases[:3000]:
    table.setdefault(seen(case), []).append(case.emotion)
  fitted = np.mean([case.emotion == max(EMOTIONS, key=table.get(seen(case), []).count) for case in cases[3000:]
                   ])  # fmt: skip
  best = np.mean([hard_oracle.best_answer(case, 'class', sees) == case.emotion for case in cases[3000:]])
  assert best - 0.12 < fitted < best + 0.02


def test_tables_build_with_domains_boxes_and_votes(drawn, tmp_path):
  for name in ('unlabelled', 'labelled'):
    manifest = build('table', drawn / name, tmp_path, name=name)
    assert manifest['rejected'] == 0 and manifest['provenance']['world'] == 'hard'
  assert set(manifest['labels']) == set(manifest['distribution']) == set(EMOTIONS)
  records = {
      one.id: one for part in ('train', 'val', 'test')
      for one in open_split(tmp_path, 'labelled', part).annotations()}  # fmt: skip
  for row in _rows(drawn / 'labelled'):
    record = records[row['image']]
    votes = json.loads(row['votes'])
    assert manifest['labels'][record.label] == row['label'] and votes[row['label']] == max(votes.values())
    np.testing.assert_allclose(record.distribution, [votes[name] / 5 for name in manifest['distribution']], atol=1e-6)
    assert record.attributes['domain'] == row['domain'] and record.attributes['caption'] == row['caption']
    assert not any(emotion in row['caption'] for emotion in EMOTIONS)
  assert open_split(tmp_path, 'labelled', 'test').domain('natural', inside=True).num_examples == sum(
      row['domain'] == 'natural' and row['split'] == 'test' for row in _rows(drawn / 'labelled'))
  config = finetune.get_config('labelled')
  config.update(data_dir=str(tmp_path), left_out_domain='natural', tasks='label+distribution', init='none')
  assert parse(FinetuneConfig, config).left_out_domain == 'natural'


def test_flags_of_the_other_world_are_refused(tmp_path):
  done = subprocess.run(
      [sys.executable, '-m', 'data_pipelines.synthetic', f'--out={tmp_path}', '--world=hard', '--tasks'],
      capture_output=True, text=True)
  assert done.returncode == 2 and done.stderr.startswith('error: --tasks would change nothing')
