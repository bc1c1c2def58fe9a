"""Writes `card.md`: what anyone needs to know before they use the labels. It names no annotator."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
import statistics

from data_pipelines.annotate.image_list import CheckedFile
from data_pipelines.annotate.questions import Questions
from data_pipelines.annotate.tally import Agreement, Row, agreement
from data_pipelines.annotate.votes import SKIP, Action, Vote
from data_pipelines.plain_text import markdown_code, markdown_text

MAX_BROKEN = 50
"""How many images that cannot be read are named on the card."""


def card_text(
    source: str, questions: Questions, checked: Mapping[str, CheckedFile], actions: Mapping[str, Collection[Action]],
    votes: Sequence[Vote], rows: Sequence[Row]) -> str:
  """Writes the text of the card.

  Args:
    source: the folder or table that was labelled.
    questions: the questions that were asked.
    checked: every image found.
    actions: the actions of each annotator, without those undone.
    votes: the votes that stand.
    rows: `tally.image_rows` of these votes.
  """
  return '\n'.join([
      f'# Labels of {markdown_text(source)}', '', *_how(questions), '', '## Counts', '',
      *_counts(checked, actions, votes, rows), '', '## Agreement', '', *_agreement(votes, questions), '',
      *_distributions(votes, rows, questions), *_broken(checked), '## Files', '',
      '- `table.csv`: a row an image: the label that most gave, the votes for each class, the means of the ratings.',
      '- `votes.csv`: a row an image and annotator.',
      '- `votes.jsonl`: everything that was done, in its order; the tables are made from it by `--tally`.', '',
      'The last two hold the names that annotators gave themselves: leave them out, or replace the names, before you '
      'publish the labels.', ''])


def _how(questions: Questions) -> Iterator[str]:
  yield (
      'Made with `uniemox annotate`. Every annotator saw the images one at a time, without their file names, in an '
      'order of their own, and could skip, undo and correct. Nobody saw the votes of others on the page.')
  yield ''
  if questions.labels:
    yield f'- Asked for one class: {", ".join(map(markdown_text, questions.labels))}.'
  if questions.styles:
    yield f'- Asked for one style: {", ".join(map(markdown_text, questions.styles))}.'
  if questions.ratings:
    yield f'- Asked for {", ".join(questions.ratings)}, in whole numbers from {questions.low} to {questions.high}.'
  yield '- The label, and the domain, is what most annotators chose. It is empty where several were chosen as often.'


def _counts(
    checked: Mapping[str, CheckedFile], actions: Mapping[str, Collection[Action]], votes: Sequence[Vote],
    rows: Sequence[Row]) -> Iterator[str]:
  place = rows[0].index('annotators')
  per_image = Counter(row[place] for row in rows[1:])
  by_annotator = sorted(Counter(vote.annotator for vote in votes).values(), reverse=True)
  last = {(action.annotator, action.image): action for of_one in actions.values() for action in of_one}
  yield '| | |'
  yield '|---|---|'
  yield f'| images found | {len(checked)} |'
  yield f'| images that cannot be read | {sum(bool(file.problem) for file in checked.values())} |'
  for number, count in sorted(per_image.items()):
    yield f'| images with {number} vote{"" if number == 1 else "s"} | {count} |'
  yield f'| votes | {len(votes)} |'
  yield f'| skipped, and not answered later | {sum(action.kind == SKIP for action in last.values())} |'
  shown = {row[0] for row in rows[1:]}
  if gone := sum(vote.image not in shown for vote in votes):
    yield f'| votes on images that are not there any more, in no row of `table.csv` | {gone} |'
  yield f'| annotators | {len(by_annotator)} |'
  yield f'| votes of each of them | {", ".join(map(str, by_annotator)) or "none"} |'
  if times := [action.time for of_one in actions.values() for action in of_one]:
    yield f'| first and last day | {min(times)[:10]}, {max(times)[:10]} |'


def _agreement(votes: Sequence[Vote], questions: Questions) -> Iterator[str]:
  yield "Krippendorff's alpha over the images with two votes or more: 1 is perfect, 0 is what chance gives."
  yield ''
  yield '| question | level | images | alpha |'
  yield '|---|---|---|---|'
  for name in questions.names:
    level = 'interval' if name in questions.ratings else 'nominal'
    found = agreement(votes, name)
    yield f'| {name} | {level} | {found.images} | {_alpha_text(found)} |'


def _alpha_text(found: Agreement) -> str:
  return f'undefined: {found.why}' if found.alpha is None else f'{found.alpha:.3f}'


def _distributions(votes: Sequence[Vote], rows: Sequence[Row], questions: Questions) -> Iterator[str]:
  for name, heading, choices in (('label', 'label', questions.labels), ('style', 'domain', questions.styles)):
    if choices:
      place, number = rows[0].index(heading), rows[0].index('annotators')
      given = Counter(getattr(vote, name) for vote in votes)
      won = Counter(row[place] for row in rows[1:] if row[number])
      yield f'## {heading.capitalize()}s'
      yield ''
      yield f'| {heading} | votes | images |'
      yield '|---|---|---|'
      for choice in choices:
        yield f'| {markdown_text(choice)} | {given[choice]} | {won[choice]} |'
      yield f'| none: several chosen as often | | {won[""]} |'
      yield ''
  if questions.ratings and votes:
    yield '## Ratings'
    yield ''
    yield '| | mean of votes | standard deviation |'
    yield '|---|---|---|'
    for name in questions.ratings:
      numbers = [getattr(vote, name) for vote in votes]
      yield f'| {name} | {statistics.fmean(numbers):.3f} | {statistics.pstdev(numbers):.3f} |'
    yield ''


def _broken(checked: Mapping[str, CheckedFile]) -> Iterator[str]:
  broken = [(name, file.problem) for name, file in checked.items() if file.problem]
  if broken:
    yield '## Images that cannot be read'
    yield ''
    yield from (f'- {markdown_code(name)}: {markdown_text(problem)}' for name, problem in broken[:MAX_BROKEN])
    if len(broken) > MAX_BROKEN:
      yield f'- and {len(broken) - MAX_BROKEN} more'
    yield ''
