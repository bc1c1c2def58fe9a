"""Works in one folder of votes: its questions, its images, its log, and the tables that are made of them."""

from collections.abc import Callable, Iterator
import contextlib
import os
import pathlib
import threading
from typing import Any

from data_pipelines import storage
from data_pipelines.annotate import annotation_card, image_list, tally
from data_pipelines.annotate.image_list import CheckedFile
from data_pipelines.annotate.questions import Questions
from data_pipelines.annotate.votes import FILE_NAME, SKIP, UNDO, VOTE, VoteLog, annotator_name, standing_votes
from data_pipelines.errors import UserError
from data_pipelines.plain_text import visible

SETTINGS = 'annotation.json'
_MAX_KEY = 64


class Session:
  """A session, from which the page is served and the tables are written. Threads may share it.

  Attributes:
    questions: the questions that are asked.
    images: the names of the images that can be read.
    log: the log of the votes.
  """

  def __init__(
      self, out: pathlib.Path, root: str, source: str, questions: Questions, checked: dict[str, CheckedFile],
      last_vote: str = ''):
    self.questions, self._out, self._root, self._source, self._checked = questions, out, root, source, checked
    self.images = [name for name, file in checked.items() if not file.problem]
    self._of_key = {image_list.image_key(name): name for name in self.images}
    self._tables_lock = threading.Lock()
    self.log = VoteLog(out / FILE_NAME, last_vote)

  def begin(self, name: Any) -> dict[str, Any]:
    """Returns all that the page needs for an annotator: the questions, the images in order, and their answers so far.

    Raises:
      UserError: the name cannot be used.
    """
    annotator = self.log.known_name(annotator_name(name))
    standing = self.log.standing(annotator)
    order = [
        (image_list.image_key(image), standing.get(image)) for image in image_list.order_for(annotator, self.images)]
    return {
        'annotator': annotator, 'known': annotator in self.log.actions, 'questions': self.questions.as_json(),
        'images': [key for key, _ in order],
        'answers': {key: SKIP if action.kind == SKIP else action.answer for key, action in order if action}}

  def act(self, request: dict[str, Any]) -> dict[str, Any]:
    """Saves a vote, a skip or an undo, and returns once it is on the disk.

    Args:
      request: `key`, `annotator`, `kind`; unless it is an undo, `image`, the key of one; and for a vote `answer`.

    Returns:
      The image's key, and the answer to it that stands now, 'skip', or None.

    Raises:
      UserError: something in the request is not as it must be.
      OSError: it could not be saved.
    """
    annotator = self.log.known_name(annotator_name(request.get('annotator')))
    key, kind = request.get('key'), request.get('kind')
    if not isinstance(key, str) or not 0 < len(key) <= _MAX_KEY or kind not in (VOTE, SKIP, UNDO):
      raise UserError('this is no vote, skip or undo')
    image = '' if kind == UNDO else self.image(request.get('image'))
    answer = self.questions.check(request.get('answer')) if kind == VOTE else None
    done = self.log.add(key, annotator, kind, image, answer)
    stands = self.log.standing(annotator).get(done.image)
    return {
        'image': image_list.image_key(done.image),
        'answer': None if stands is None else SKIP if stands.kind == SKIP else stands.answer}

  def image(self, key: Any) -> str:
    """The name of an image. Raises UserError if no image of the list has this key."""
    name = self._of_key.get(key) if isinstance(key, str) else None
    if name is None:
      raise UserError('there is no such image here: load the page again')
    return name

  def jpeg(self, key: str) -> bytes:
    """Makes `image_list.shown_jpeg` of an image of the list. No other kind of file is ever opened."""
    return image_list.shown_jpeg(pathlib.Path(self._root, self.image(key)))

  def save_settings(self) -> None:
    """Writes annotation.json, in which the last vote vouches for the log: the loss of lines at its end is found."""
    storage.write_sealed(
        self._out / SETTINGS, {
            'questions': self.questions.as_json(), 'root': self._root, 'source': self._source, 'images': self._checked,
            'last_vote': self.log.seal})

  def write_tables(self) -> str:
    """Writes votes.csv, table.csv and card.md, each whole or not at all; returns a line that says what they hold."""
    with self._tables_lock:
      actions = self.log.everything()
      votes = standing_votes(actions.values())
      rows = tally.image_rows(self.images, votes, self.questions)
      storage.write_text(self._out / 'votes.csv', tally.csv_of(tally.vote_rows(votes)))
      storage.write_text(self._out / 'table.csv', tally.csv_of(rows))
      card = annotation_card.card_text(
          os.path.basename(self._source), self.questions, self._checked, actions, votes, rows)
      storage.write_text(self._out / 'card.md', card)
      self.save_settings()
    voted = len({vote.image for vote in votes}.intersection(self.images))
    annotators = len({vote.annotator for vote in votes})
    return f'{len(votes)} votes by {annotators} annotators, on {voted} of {len(self.images)} images'


def check_places(out: str, source: str | None) -> None:
  """Raises UserError if the source does not exist, or, without one, if there are no votes in `out`."""
  if source is not None and not storage.exists(source):
    raise UserError(f'--source={source} does not exist: give a folder of images, or a table with a column image')
  if source is None and not storage.exists(pathlib.Path(out, SETTINGS)):
    raise UserError(f'{out} holds no votes: give the --out of an earlier run')


@contextlib.contextmanager
def begun(source: str, out: str, questions: Questions, say: Callable[[str], None]) -> Iterator[Session]:
  """Begins a session in a folder that this process owns, or goes on with the one there; its images are listed again.

  Args:
    source: a folder of images, or a table.
    out: the folder of votes, owned by this process.
    questions: the questions that are asked.
    say: a function that is given lines for the user.

  Raises:
    UserError: there are no images, or the votes in `out` are about other questions or another source.
  """
  path = pathlib.Path(out, SETTINGS)
  place = os.path.abspath(source)
  known: dict[str, CheckedFile] = {}
  last_vote = ''
  if storage.exists(path):
    earlier, root, earlier_place, known, last_vote = _settings(path)
    if earlier != questions:
      raise UserError(f'the votes in {out} answer other questions: ask the same, or choose another --out')
    if earlier_place != place:
      raise UserError(f'the votes in {out} are on images of {earlier_place}, not {place}: choose another --out')
  found = image_list.list_images(source)
  checked = image_list.check_images(found, known)
  if found.passed_over:
    say(visible('no images: ' + ', '.join(f'{count} {kind}' for kind, count in found.passed_over.items())))
  if problems := image_list.problem_lines(checked):
    say('\n'.join([f'{len(problems)} images cannot be read and are left out:', *problems]))
  if all(file.problem for file in checked.values()):
    raise UserError(f'no image of {source} can be read: give others as --source')
  root = os.path.abspath(found.root)
  pathlib.Path(out).mkdir(parents=True, exist_ok=True)
  with _opened(Session(pathlib.Path(out), root, place, questions, checked, last_vote), out, say) as session:
    session.save_settings()
    yield session


@contextlib.contextmanager
def reopened(out: str, say: Callable[[str], None]) -> Iterator[Session]:
  """Opens the session in a folder, as it was when its page last ran; the images need not be there."""
  questions, root, place, checked, last_vote = _settings(pathlib.Path(out, SETTINGS))
  with _opened(Session(pathlib.Path(out), root, place, questions, checked, last_vote), out, say) as session:
    yield session


@contextlib.contextmanager
def _opened(session: Session, out: str, say: Callable[[str], None]) -> Iterator[Session]:
  with contextlib.closing(session.log) as log:
    if log.dropped:
      say(f'{pathlib.Path(out, FILE_NAME)}: its last line was incomplete, so it was never acknowledged: dropped')
    gone = {action.image for of_one in log.everything().values() for action in of_one}.difference(session.images)
    if gone:
      say(
          f'{len(gone)} images with votes are gone, or cannot be read any more, {visible(min(gone))} first: their '
          'votes are kept, and stand in votes.csv alone')
    yield session


def _settings(path: pathlib.Path) -> tuple[Questions, str, str, dict[str, CheckedFile], str]:
  value = storage.read_json_object(path)
  with storage.parsing(path):
    asked: dict[str, Any] = {
        name: tuple(part) if isinstance(part, list) else part for name, part in value['questions'].items()}
    checked = {name: CheckedFile(*file) for name, file in value['images'].items()}
    return Questions(**asked), value['root'], value['source'], checked, str(value.get('last_vote', ''))
