"""Sorts a head's rows in two orders: ours is the dataset's label table, the original's its sorted folder names."""

from collections.abc import Sequence
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.plain_text import check_distinct, check_labels


def name_head(head: dict[str, Any], names: Sequence[str] | None, table: Sequence[str] | None,
              source: str = 'its file') -> tuple[dict[str, Any], list[str], str]:
  """Names the class of each row of an imported head, and puts the rows in our order.

  Args:
    head: {'kernel': (D, C), 'bias': (C,)}.
    names: the classes in the head's order, if the file has them.
    table: the dataset's label table, if the user named a dataset. A head without names then has the order of
      ImageFolder, which numbers sorted folder names (docs/method.md, Parity traps).
    source: where the names come from, for messages.

  Returns:
    The head, with its rows in the order of `table` if there is one; the names of the rows; a line for the user.

  Raises:
    UserError: the classes are not the table's, or one is named twice.
  """
  classes = head['bias'].shape[0]
  check_labels(names or (), source)
  check_distinct(names or (), source)
  if names and len(names) != classes:
    raise UserError(f'the head has {classes} classes, and its file names {len(names)}: fetch both again')
  if table is None:
    how = 'named by the file' if names else 'numbered, since the file does not name them: --dataset=NAME does'
    return head, list(names or map(str, range(classes))), f'classes: {how}'
  found = list(names) if names else sorted(table)
  if sorted(found) != sorted(table) or len(found) != classes:
    raise UserError(
        f'the head has {classes} classes{" (" + ", ".join(names) + ")" if names else ""}, the dataset has '
        f'{len(table)} ({", ".join(table)}): name the dataset that it was trained on')
  order = [found.index(label) for label in table]
  how = 'by their names' if names else 'from sorted folder names'
  return _take(head, order), list(table), f'classes: put in the order of our label table {how}'


def sort_classes(head: dict[str, Any], labels: Sequence[str]) -> dict[str, Any]:
  """Puts a head whose rows are `labels` in ImageFolder's order, sorted(labels), as in the original's files."""
  return _take(head, sorted(range(len(labels)), key=labels.__getitem__))


def _take(head: dict[str, Any], rows: list[int]) -> dict[str, Any]:
  return {name: array[..., rows] for name, array in head.items()}
