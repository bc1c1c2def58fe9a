"""Answers of a known quality on ambiguous images: every measure prefers what is better by its own truth."""

from types import SimpleNamespace

import numpy as np
import pytest

from data_pipelines.records import targets
from data_pipelines.records.label_sets import EMOTIONS
from data_pipelines.synthetic import hard_annotators, hard_oracle, hard_rows
from uniemox_jax.eval.ambiguity import MEASURES, Truths, measure_ambiguity, read_truths
from uniemox_jax.objectives.tasks import Task

IMAGES = 2000


@pytest.fixture(scope='module')
def measured() -> dict[str, dict[str, float]]:
  """Of the test images of the harder world: the best answer to votes, the best to the majority, and the latter said
  with 99 % confidence of every image."""
  planned = [hard_rows.plan_scene('test', index, 0) for index in range(IMAGES)]
  said = np.array([each.said for each in planned])
  votes = (said[:, :, None] == np.arange(len(EMOTIONS))).mean(axis=1).astype(np.float32)
  truths = Truths(EMOTIONS, hard_annotators.by_majority(said).astype(np.int32), votes)
  best = {
      target: np.stack([hard_oracle.best_shares(each.scene.case, target) for each in planned])
      for target in ('votes', 'label')}
  best['overconfident'] = np.where(np.eye(8)[best['label'].argmax(axis=1)] > 0, 0.99, 0.01 / 7)
  task = Task('distribution', EMOTIONS, 'kl')
  return {
      name: measure_ambiguity([task], np.log(shares), truths)['distribution']['ambiguity']
      for name, shares in best.items()}


def test_the_best_answers_are_calibrated_each_against_its_own_truth(measured):
  # 15 bins of 133 images: chance alone leaves some 0.02.
  assert measured['votes']['votes_adaptive_ece'] < 0.03
  assert measured['label']['ece'] < 0.03 and measured['label']['adaptive_ece'] < 0.03
  # The majority of five is surer than one of them.
  assert measured['votes']['adaptive_ece'] > 0.1 and measured['label']['votes_adaptive_ece'] > 0.1


def test_the_best_answer_to_votes_agrees_best_with_them(measured):
  for name in ('kl', 'brier'):
    assert measured['votes'][name] < min(measured[other][name] for other in ('label', 'overconfident')) - 0.01
  assert measured['votes']['kl'] == pytest.approx(0.5966, abs=1e-4)  # as `hard_oracle.scores` computes it
  assert measured['votes']['entropy_pearson'] > 0.1


@pytest.mark.parametrize('name', ['aurc', 'ece', 'adaptive_ece', 'votes_adaptive_ece', 'kl', 'brier'])
def test_confidence_that_is_always_high_is_worse(measured, name):
  assert measured['votes'][name] < measured['overconfident'][name] - 0.05
  assert measured['label'][name] < measured['overconfident'][name] - 0.05


def test_confidence_that_is_always_high_ranks_nothing(measured):
  overconfident = measured['overconfident']
  assert overconfident['top1'] == pytest.approx(overconfident['top1_at_80'])
  assert overconfident['aurc'] == pytest.approx(1 - overconfident['top1'])
  assert overconfident['entropy_pearson'] is None
  assert measured['votes']['top1_at_80'] > measured['votes']['top1'] + 0.05


def test_truths_are_over_the_classes_that_votes_and_labels_share(monkeypatch: pytest.MonkeyPatch):
  votes = np.array([[0.2, 0.4, 0.4], [0, 1, 0], [0, 0, 0], [0.5, 0, 0.5]], np.float32)
  found = {'label': np.array([0, 1, 2, -1], np.int32), 'distribution': votes}
  monkeypatch.setattr(targets, 'columns', lambda split, name: ('c', 'neutral', 'a'))
  monkeypatch.setattr(targets, 'read', lambda split: found)
  truths = read_truths(SimpleNamespace(labels=('a', 'b', 'c')))
  assert truths.classes == ('a', 'c') and truths.majority_N.tolist() == [0, -1, 1, -1]
  expected = [[2 / 3, 1 / 3], [np.nan, np.nan], [np.nan, np.nan], [0.5, 0.5]]
  np.testing.assert_allclose(truths.votes_NxC, expected, rtol=1e-6)
  found['label'] = np.full(4, -1, np.int32)
  assert read_truths(SimpleNamespace(labels=('a', 'b', 'c'))) is None
  assert read_truths(SimpleNamespace(labels=('b', 'c', 'd'))) is None


def test_a_model_of_other_classes_is_asked_about_those_that_both_name():
  truths = Truths(('a', 'b'), np.array([0, 1, -1], np.int32), np.array([[1, 0], [0.5, 0.5], [np.nan] * 2], np.float32))
  outputs = np.log(np.array([[0.2, 0.2, 0.6], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4]]))
  found = measure_ambiguity([Task('label', ('c', 'a', 'b'), 'cross_entropy')], outputs, truths)['label']['ambiguity']
  assert (found['examples_with_majority'], found['examples_with_votes'], found['classes']) == (2, 2, 2)
  assert found['top1'] == 0  # 0.25 and 0.75 of a and b, then 5 / 9 and 4 / 9
  assert found['brier'] == pytest.approx((2 * 0.75**2 + 2 * (5 / 9 - 0.5)**2) / 2)
  assert measure_ambiguity([Task('vad', ('valence',), 'l2')], outputs[:, :1], truths) == {}
  assert measure_ambiguity([Task('label', ('a', 'b'), 'cross_entropy')], outputs[:, :2], None) == {}
  assert set(MEASURES) < set(found)
