"""Predictions as the columns of a table with one row per image (docs/predict.md)."""

from collections.abc import Mapping, Sequence
import itertools
from typing import Any

import numpy as np

from uniemox_jax.objectives.tasks import Task, predict, split_columns, width

Columns = dict[str, Sequence[str | float]]


class Predictions(dict[str, np.ndarray]):
  """The predictions for N images: for each task a float32 array (N, columns), whose names the table of `to_dict` has.

  columns: the columns of that table, by name. names: the images' names, with None for one that is no file; None if no
  image is a file.
  """

  def __init__(self, arrays: Mapping[str, np.ndarray], columns: Columns, names: Sequence[str | None] | None):
    super().__init__(arrays)
    self.columns, self.names = columns, names

  def to_dict(self) -> dict[str, list[Any]]:
    """The table of `predict` by columns: 'path' if images are files, 'label', 'probability', 'p_CLASS'…"""
    path = {} if self.names is None else {'path': list(self.names)}
    return path | {name: list(values) for name, values in self.columns.items()}

  def to_pandas(self) -> Any:
    """The same table as a pandas DataFrame, with a row per image.

    Raises:
      ImportError: pandas is not installed.
    """
    import pandas as pd
    return pd.DataFrame(self.to_dict())


def prediction_columns(
    outputs_BxW: np.ndarray, tasks: Sequence[Task], thresholds: Sequence[float | None] | None,
    texts: Sequence[str]) -> Columns:
  """Makes the columns for a batch of outputs, in order.

  Args:
    outputs_BxW: the outputs of a `Recogniser`'s module. The other arguments are its tasks, thresholds and texts.
  """
  outputs = split_columns(outputs_BxW[:, :width(tasks)].astype(np.float64), tasks)
  table: Columns = {}
  first_with_classes = next((task.name for task in tasks if task.name != 'vad'), None)
  for task in tasks:
    predicted_BxC = predict(task, outputs[task.name])
    if task.name == 'label':
      table['label'] = [task.outputs[best] for best in predicted_BxC.argmax(axis=1)]
      table['probability'] = predicted_BxC.max(axis=1).tolist()
    if task.name == 'labels' and thresholds is not None:
      limits_C = np.array([np.inf if threshold is None else threshold for threshold in thresholds])
      table['labels'] = [';'.join(itertools.compress(task.outputs, row)) for row in predicted_BxC >= limits_C]
    # Two tasks may name the same classes: only the first has short headings.
    prefix = '' if task.name == 'vad' else 'p_' if task.name == first_with_classes else f'{task.name}_p_'
    for name, predicted_B in zip(task.outputs, predicted_BxC.T.tolist(), strict=True):
      table[prefix + name] = predicted_B
  for text, cosine_B in zip(texts, outputs_BxW[:, width(tasks):].T.tolist(), strict=True):
    table[f'similarity_{text}'] = cosine_B
  return table
