"""A vote that was acknowledged survives any crash, counts once, and is never edited."""

import errno
import json
import os

import pytest

from data_pipelines.annotate.votes import SKIP, UNDO, VOTE, Vote, VoteLog, annotator_name, standing_votes
from data_pipelines.errors import UserError


def labelled(log):
  """Annotator and image -> label, of the votes that stand."""
  return {(vote.annotator, vote.image): vote.label for vote in standing_votes(log.actions.values())}


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'votes.jsonl'


def filled(path):
  """A log of four lines."""
  log = VoteLog(path)
  log.add('1', 'ann', VOTE, 'a.png', {'label': 'awe'})
  log.add('2', 'ann', VOTE, 'b.png', {'label': 'fear'})
  log.add('3', 'bob', VOTE, 'a.png', {'label': 'fear'})
  log.add('4', 'bob', SKIP, 'b.png')
  return log


@pytest.mark.parametrize('left', [1, 40, -1])
def test_half_a_line_after_a_crash_is_dropped_and_all_before_it_stands(path, left):
  filled(path).close()
  whole = path.read_bytes()
  last = whole.splitlines(keepends=True)[-1]
  path.write_bytes(whole + last[:left])
  log = VoteLog(path)
  assert log.dropped == len(last[:left]) and path.read_bytes() == whole
  assert labelled(log) == {('ann', 'a.png'): 'awe', ('ann', 'b.png'): 'fear', ('bob', 'a.png'): 'fear'}
  log.add('5', 'bob', VOTE, 'b.png', {'label': 'awe'})
  log.close()
  assert labelled(VoteLog(path))['bob', 'b.png'] == 'awe'


def test_a_line_that_was_changed_is_named(path):
  filled(path).close()
  path.write_text(path.read_text().replace('"fear"', '"awe"', 1))
  with pytest.raises(UserError, match=r'votes\.jsonl is damaged.*line 2'):
    VoteLog(path)


@pytest.mark.parametrize('left', [0, 2])
def test_lines_lost_at_the_end_are_named_by_who_knows_the_last_one(path, left):
  log = filled(path)
  log.close()
  VoteLog(path, log.seal).close()
  path.write_bytes(b''.join(path.read_bytes().splitlines(keepends=True)[:left]))
  with pytest.raises(UserError, match=r'votes\.jsonl.*last lines are missing'):
    VoteLog(path, log.seal)


def test_each_line_is_flushed_to_the_device_before_add_returns(path, monkeypatch):
  log, flushed = VoteLog(path), []
  monkeypatch.setattr(os, 'fsync', lambda descriptor: flushed.append(os.fstat(descriptor).st_size))
  for number in range(3):
    log.add(str(number), 'ann', VOTE, f'{number}.png', {'label': 'awe'})
    assert flushed[-1] == path.stat().st_size and path.read_bytes().count(b'\n') == len(flushed) == number + 1


def test_undo_is_a_line_more_and_brings_back_what_stood_before(path):
  log = filled(path)
  log.add('5', 'ann', VOTE, 'a.png', {'label': 'anger'})
  before = path.read_bytes()
  assert log.add('6', 'ann', UNDO).image == 'a.png'
  assert path.read_bytes().startswith(before) and json.loads(path.read_text().splitlines()[-1])['kind'] == UNDO
  assert labelled(log)['ann', 'a.png'] == 'awe'
  assert log.add('7', 'ann', UNDO).image == 'b.png'
  assert labelled(log) == {('ann', 'a.png'): 'awe', ('bob', 'a.png'): 'fear'}
  log.close()
  assert labelled(VoteLog(path)) == labelled(log)


def test_undo_of_nothing_is_refused_and_leaves_no_line(path):
  log = VoteLog(path)
  with pytest.raises(UserError, match='nothing to undo'):
    log.add('1', 'ann', UNDO)
  assert path.read_bytes() == b''


def test_an_action_that_is_sent_again_counts_once_even_after_a_restart(path):
  log = filled(path)
  log.add('5', 'bob', UNDO)
  log.close()
  before, log = path.read_bytes(), VoteLog(path)
  assert log.add('2', 'ann', VOTE, 'b.png', {'label': 'fear'}).key == '2'
  assert log.add('5', 'bob', UNDO).image == 'b.png'
  assert path.read_bytes() == before and ('bob', 'a.png') in labelled(log)


@pytest.mark.parametrize('failing', ['write', 'fsync'])
def test_after_a_full_disk_the_file_is_as_before_and_the_same_vote_can_be_sent_again(path, monkeypatch, failing):
  log = filled(path)
  before, real = path.read_bytes(), log._file

  class Full:
    """A file on a disk that has room for ten bytes more."""

    def write(self, line):
      return real.write(line[:10])

    def __getattr__(self, name):
      return getattr(real, name)

  def fail(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with monkeypatch.context() as patch:
    if failing == 'write':
      patch.setattr(log, '_file', Full())
    else:
      patch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match=r'No space left on device.*votes\.jsonl'):
      log.add('5', 'ann', VOTE, 'c.png', {'label': 'awe'})
  assert path.read_bytes() == before and ('ann', 'c.png') not in labelled(log)
  log.add('5', 'ann', VOTE, 'c.png', {'label': 'awe'})
  log.close()
  assert labelled(VoteLog(path))['ann', 'c.png'] == 'awe'


def test_a_skipped_image_has_no_vote_and_a_later_vote_takes_its_place(path):
  log = filled(path)
  assert ('bob', 'b.png') not in labelled(log)
  log.add('5', 'bob', VOTE, 'b.png', {'label': 'awe'})
  assert labelled(log)['bob', 'b.png'] == 'awe'


def test_votes_hold_what_was_answered_and_nothing_else(path):
  log = VoteLog(path)
  log.add('1', 'ann', VOTE, 'a.png', {'style': 'cartoon', 'valence': 0})
  assert standing_votes(log.actions.values()) == [Vote('a.png', 'ann', '', 'cartoon', 0, None, None)]


def test_names_are_compared_without_case_and_must_be_visible(path):
  assert filled(path).known_name('ANN') == 'ann'
  assert annotator_name('  A\tB ') == 'A B' and annotator_name('e\u0301') == 'é'
  for wrong in ('', '  ', 'a' * 81, 'a\x1bb', 'a\u202eb', None, 3):
    with pytest.raises(UserError, match='a name must have'):
      annotator_name(wrong)
