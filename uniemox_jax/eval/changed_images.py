"""Says how many test images show a person, for tests in which persons or the scene are taken away."""

from typing import Any

from data_pipelines.batches.image_changes import PERSON_REMOVED, REMOVALS, read_changes
from data_pipelines.errors import UserError
from data_pipelines.records import manifest, reader


def count_persons(split: reader.Split) -> tuple[int, int]:
  """Counts the images of the whole split that show a person, and all images."""
  counts = [found for name, found in manifest.read_manifest(split.folder)['splits'].items() if name in split.splits]
  with_person, examples = (sum(found[key] for found in counts) for key in ('with_person', 'examples'))
  return with_person, examples


def report_persons(split: reader.Split) -> int:
  """Prints how many images of the whole split show a person, and returns it; for a model of scene and person."""
  with_person, examples = count_persons(split)
  print(
      f"persons: {with_person} of the {examples} images of {'+'.join(split.splits)} show one; the others use the scene "
      'as person view', flush=True)
  return with_person


def changes_of(text: str, split: reader.Split) -> tuple[str, ...]:
  """Reads the changes that a `test_changes` names, for the images of a split.

  Raises:
    UserError: a change is unknown, or takes persons or scenes away and no image shows a person.
  """
  changes = read_changes(text)
  if removals := [name for name in changes if name in REMOVALS and not count_persons(split)[0]]:
    raise UserError(
        f"{removals[0]} of the test changes needs persons, and no image of {'+'.join(split.splits)} shows one: find "
        'them (docs/person_boxes.md) and build the records again, or leave it out')
  return changes


def describe_change(change: str, split: reader.Split) -> dict[str, Any]:
  """Returns what else the result on changed images says, and prints how many images show no person if that matters.

  Returns:
    {} without a change; else 'test_change', and if something is taken away 'with_person' and 'whole_split', the
    numbers of `count_persons`.
  """
  if not change:
    return {}
  if change not in REMOVALS:
    return {'test_change': change}
  with_person, examples = count_persons(split)
  of_others = 'stay as they are' if change == PERSON_REMOVED else 'have nothing left'
  print(
      f"{change}: {with_person} of the {examples} images of {'+'.join(split.splits)} show a person; the other "
      f'{examples - with_person} {of_others}', flush=True)
  return {'test_change': change, 'with_person': with_person, 'whole_split': examples}
