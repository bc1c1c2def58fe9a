"""Simulates the annotators of the harder world: how often each errs is known, and so is what can be learned of them.

An annotator sees the emotion of an image; if two cues conflict, with a probability of 0.3 that of the other cue. What
they say of it is right as often as they are reliable. Half of their errors are the most similar emotion.
"""

import functools

import numpy as np

from data_pipelines.records.label_sets import EMOTIONS

RELIABILITY = (0.95, 0.9, 0.8, 0.7, 0.6)
OTHER_CUE = 0.3
SIMILAR = {
    'amusement': 'contentment', 'contentment': 'amusement', 'awe': 'excitement', 'excitement': 'awe',
    'anger': 'disgust', 'disgust': 'anger', 'fear': 'sadness', 'sadness': 'fear'}


@functools.cache
def confusion() -> np.ndarray:
  """The probability of each answer of an annotator to an emotion that they see, (annotators, emotions, emotions); rows
  sum to 1."""
  classes = len(EMOTIONS)
  similar = np.array([[SIMILAR[seen] == said for said in EMOTIONS] for seen in EMOTIONS], float)
  errors = 0.5 * similar + 0.5 * (1 - similar - np.eye(classes)) / (classes - 2)
  return np.stack([right * np.eye(classes) + (1 - right) * errors for right in RELIABILITY])


@functools.cache
def answers(emotion: str, other: str) -> np.ndarray:
  """The probability of each annotator's answers to an image, (annotators, emotions). `other` is `Case.other`."""
  said = confusion()[:, EMOTIONS.index(emotion)]
  return (1 - OTHER_CUE) * said + OTHER_CUE * confusion()[:, EMOTIONS.index(other)] if other else said


def ask(emotion: str, other: str, rng: np.random.Generator) -> list[int]:
  """Draws what each annotator says of an image, as indices of EMOTIONS."""
  return [int(rng.choice(len(EMOTIONS), p=shares)) for shares in answers(emotion, other)]


def by_majority(said: np.ndarray) -> np.ndarray:
  """Finds the emotion with most votes; of equal ones that of the most reliable annotator.

  Args:
    said: the answers as indices of EMOTIONS, (images, annotators).

  Returns:
    The indices, (images,).
  """
  votes = (said[:, :, None] == said[:, None]).sum(axis=-1)  # For each annotator, how many say the same.
  return np.take_along_axis(said, votes.argmax(axis=1)[:, None], axis=1)[:, 0]


@functools.cache
def majority_shares(emotion: str, other: str) -> np.ndarray:
  """The probability of each emotion to be the majority's, (emotions,): the sum over all that annotators may say."""
  classes, annotators = len(EMOTIONS), len(RELIABILITY)
  joint = functools.reduce(np.multiply.outer, answers(emotion, other)).ravel()
  return np.bincount(_majorities(classes, annotators), weights=joint, minlength=classes)


@functools.cache
def _majorities(classes: int, annotators: int) -> np.ndarray:
  return by_majority(np.indices((classes,) * annotators).reshape(annotators, -1).T)
