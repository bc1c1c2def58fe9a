"""The command: one server a folder, tables on each start and by --tally, and mistakes in one line."""

import contextlib
import csv
import http.client
import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from data_pipelines import build
from data_pipelines.annotate import session
from data_pipelines.annotate.questions import read_questions
from data_pipelines.records.reader import open_split
from data_pipelines.table.table_dataset_builder import TableOptions
from tests.support.servers.served_page import started

ASKED = read_questions(['mikels'], [], True, False, ['1', '9'])
QUESTIONS = ('--labels=mikels', '--vad')
HALF_A_LINE = b'{"key": "2", "annotator": "Ann", "kind": "vo'


@pytest.fixture
def out(source, tmp_path):
  """A folder with a vote, and half a line that a crash left."""
  with session.begun(str(source), str(tmp_path / 'out'), ASKED, print) as opened:
    opened.log.add('1', 'Ann', 'vote', 'awe/00.png', {'label': 'awe', 'valence': 2, 'arousal': 3})
  with (tmp_path / 'out' / 'votes.jsonl').open('ab') as file:
    file.write(HALF_A_LINE)
  return tmp_path / 'out'


def test_a_second_server_is_refused_and_ctrl_c_ends_the_first_with_its_tables(source, out, command, capsys):
  with started('data_pipelines.annotate', f'--source={source}', f'--out={out}', *QUESTIONS) as (first, lines):
    assert re.fullmatch(r'Open http://127\.0\.0\.1:\d+/ in a browser; Ctrl-C here ends it\.\n', lines[-1])
    assert any('its last line was incomplete' in line for line in lines)
    assert (out / 'table.csv').exists()
    assert command('data_pipelines.annotate', f'--out={out}', '--tally') == 2
    assert f'in use by process {first.pid} ' in capsys.readouterr().err
    (out / 'table.csv').unlink()
    first.send_signal(signal.SIGINT)
    told, errors = first.communicate(timeout=120)
  assert first.returncode == 0 and told == f'{out}: 1 votes by 1 annotators, on 1 of 50 images\n', errors
  assert (out / 'table.csv').exists()


def test_tally_writes_the_tables_without_the_images_and_drops_half_a_line(source, out, command, capsys):
  for image in (source / 'awe').iterdir():
    image.unlink()
  assert not command('data_pipelines.annotate', f'--out={out}', '--tally')
  told = capsys.readouterr().out
  assert 'its last line was incomplete' in told and '1 votes by 1 annotators, on 1 of 50 images' in told
  assert HALF_A_LINE not in (out / 'votes.jsonl').read_bytes()
  with (out / 'table.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 50 and rows[0]['label'] == 'awe' and rows[0]['annotators'] == '1' and rows[1]['label'] == ''
  assert '| votes | 1 |' in (out / 'card.md').read_text()


@pytest.mark.parametrize('table', ['table.csv', 'votes.csv'])
def test_table_and_votes_become_records(source, tmp_path, table):
  with session.begun(str(source), str(tmp_path / 'out'), ASKED, print) as opened:
    for number, image in enumerate(opened.images[1:]):
      for person, label in enumerate(('awe', 'awe' if number % 2 else 'fear')):
        answer = {'label': label, 'valence': 1 + number % 8 + person, 'arousal': 5}
        opened.log.add(f'{image} {person}', f'p{person}', 'vote', image, answer)
    opened.write_tables()
  columns = {'votes': ','.join(ASKED.labels)} if table == 'table.csv' else {}
  made = build.build(
      'table', tmp_path / 'out' / table, tmp_path / 'data', max_rejects=0.02, images_dir=source,
      table=TableOptions(columns, ASKED.labels, (1, 9)))
  assert (made['read'], made['rejected']) == (49, 1 if table == 'table.csv' else 0)  # The first has no votes.
  found = {}
  for name in made['splits']:
    split = open_split(tmp_path / 'data', 'table', name)
    for position in range(split.num_examples):
      record = split.features.deserialize_example_np(split.read(position), decoders=None)
      found[record['id'].decode()] = record
  awe, fear = (made['distribution'].index(label) for label in ('awe', 'fear'))
  assert len(found) == 49 and {record['label'] for record in found.values()} == {-1, ASKED.labels.index('awe')}
  record = found['awe/03.png']
  assert record['label'] == -1 and record['distribution'][awe] == record['distribution'][fear] == 0.5
  assert record['vad'][:2].tolist() == [3.5, 5]


@pytest.mark.parametrize(('arguments', 'thing', 'remedy'),
                         [(['--tally'], '--out is missing', '--help'),
                          (['--out={out}', *QUESTIONS], '--source is missing', '--help'),
                          (['--out={out}', '--tally'], 'holds no votes', '--out'),
                          (['--out={out}', '--source={out}/absent', *QUESTIONS], 'does not exist', 'give a folder'),
                          (['--out={out}', '--source={source}'], 'nothing is asked', '--labels=mikels'),
                          (['--out={out}', '--source={source}', '--vad', '--scale=9'], '--scale=9', '--scale=1,9'),
                          (['--out=gs://b/o', '--source={source}', '--vad'], 'out', 'local path')])  # fmt: skip
def test_mistake_ends_in_one_line_and_leaves_nothing(
    source, tmp_path, command, capsys, assert_one_line, arguments, thing, remedy):
  places = {'out': tmp_path / 'out', 'source': source}
  code = command('data_pipelines.annotate', *(argument.format(**places) for argument in arguments))
  assert_one_line(code, capsys.readouterr().err, thing, remedy)
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('library', ['starlette', 'uvicorn', 'krippendorff'])
def test_without_its_libraries_it_ends_in_a_line_with_the_command_that_helps(
    source, tmp_path, monkeypatch, command, capsys, assert_one_line, library):
  found = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *rest: None if name == library else found(name, *rest))
  code = command('data_pipelines.annotate', f'--source={source}', f'--out={tmp_path / "out"}', *QUESTIONS)
  assert_one_line(code, capsys.readouterr().err, library, "pip install 'uniemox_jax[annotate]'")
  assert not (tmp_path / 'out').exists()


def test_a_port_in_use_is_one_line(source, out, command, capsys, assert_one_line):
  from data_pipelines.local_page.page_server import bound_socket

  with bound_socket('127.0.0.1', 0) as taken:
    taken.listen()
    port = taken.getsockname()[1]
    arguments = [f'--source={source}', f'--out={out}', f'--port={port}', *QUESTIONS]
    code = command('data_pipelines.annotate', *arguments)
  assert_one_line(code, capsys.readouterr().err, f'port {port}', 'choose another --port')


def test_listening_elsewhere_says_what_that_means(source, out):
  with started('data_pipelines.annotate', f'--source={source}', f'--out={out}', '--host=0.0.0.0',
               *QUESTIONS) as (_, lines):
    told = next(line for line in lines if line.startswith('Others can reach this page'))
  assert 'sees all the images' in told and 'any name' in told and 'not encrypted' in told and os.linesep in told


def post(port, path, value):
  connection = http.client.HTTPConnection('127.0.0.1', port, timeout=5)
  with contextlib.closing(connection):
    connection.request('POST', path, json.dumps(value), {'Content-Type': 'application/json'})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    assert answer.status == 200, content
    return content


@pytest.mark.slow
def test_kills_at_random_moments_lose_no_acknowledged_vote(source, tmp_path):
  out, acknowledged, draws = tmp_path / 'out', [], random.Random(0)

  def vote(name, port, attempt):
    with contextlib.suppress(OSError, http.client.HTTPException):
      for number, key in enumerate(post(port, '/begin', {'annotator': name})['images'] * 1000):
        sent = {
            'key': f'{name} {attempt} {number}', 'annotator': name, 'kind': 'vote', 'image': key,
            'answer': {'label': 'awe', 'valence': 1 + number % 9, 'arousal': 5}}
        post(port, '/act', sent)
        acknowledged.append(sent['key'])

  for attempt in range(10):
    with started('data_pipelines.annotate', f'--source={source}', f'--out={out}', *QUESTIONS) as (process, lines):
      port = int(re.search(r':(\d+)/', lines[-1])[1])
      threads = [threading.Thread(target=vote, args=(f'person {number}', port, attempt)) for number in range(4)]
      for thread in threads:
        thread.start()
      time.sleep(0.2 + draws.random())
      process.kill()
      for thread in threads:
        thread.join()
  with session.reopened(str(out), print) as opened:
    saved = (out / 'votes.jsonl').read_text().splitlines()
    kept = {json.loads(line)['key'] for line in saved}
    assert len(acknowledged) > 500 and kept >= set(acknowledged) and len(kept) == len(saved)
    assert len(kept) <= len(acknowledged) + 4 * 10  # One a person may be on the disk, and the answer lost on the way.
    assert '4 annotators' in opened.write_tables()


ENDED_EARLY = """
import signal, sys
from starlette.applications import Starlette
from data_pipelines.local_page import page_server

class Dropped:
  def __del__(self):
    signal.raise_signal(int(sys.argv[1]))

def address(*arguments):
  Dropped()
  return 'there'

page_server.address = address
with page_server.bound_socket('127.0.0.1', 0) as listening:
  page_server.serve(Starlette(), '127.0.0.1', listening, 'can use it')
print('ended')
"""


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_page_ends_however_early_it_is_told_to_where_python_drops_an_error(number):
  done = subprocess.run([sys.executable, '-c', ENDED_EARLY, str(int(number))], capture_output=True, text=True,
                        timeout=60)
  assert (done.returncode, done.stderr) == (0, '') and done.stdout.splitlines()[-1] == 'ended'
