"""Two people label fifty images by keys in a real Chromium while the server is killed: no acknowledged vote is lost."""

import csv
import json
from pathlib import Path
import signal
import socket
import subprocess
import sys

import pytest

from tests.support.servers.browser import NEEDS_CHROMIUM, SECONDS, chromium

pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
pytestmark = NEEDS_CHROMIUM

ROOT = Path(__file__).parents[3]
LABELS = ('amusement', 'awe', 'contentment', 'excitement', 'anger', 'disgust', 'fear', 'sadness')


class Server:
  """The command, on a port that stays, so that a page finds it again after a kill."""

  def __init__(self, source, out, *arguments):
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      self.port = free.getsockname()[1]
    self.url = f'http://127.0.0.1:{self.port}/'
    self._command = [
        sys.executable, '-m', 'data_pipelines.annotate', f'--source={source}', f'--out={out}', f'--port={self.port}',
        *arguments]  # fmt: skip

  def start(self):
    self._process = subprocess.Popen(
        self._command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    lines = [self._process.stdout.readline()]
    while lines[-1] and not lines[-1].startswith('Open http'):
      lines.append(self._process.stdout.readline())
    assert lines[-1], 'the server did not start'

  def kill(self, with_signal=signal.SIGKILL):
    self._process.send_signal(with_signal)
    self._process.communicate(timeout=SECONDS)


class Annotator:
  """A person at a browser of their own, who remembers what the page acknowledged."""

  def __init__(self, browser, url, name):
    self.name, self.acknowledged, self.requested = name, {}, []
    self.page = browser.new_context().new_page()
    self.page.set_default_timeout(SECONDS * 1000)
    self.page.on('response', self._note)
    self.page.on('request', lambda request: self.requested.append(request.url))
    self.page.goto(url)
    self.page.fill('#name', name)
    self.page.keyboard.press('Enter')
    self.ready()

  def _note(self, response):
    if response.url.endswith('/act') and response.status == 200:
      sent = json.loads(response.request.post_data)
      self.acknowledged[sent['key']] = sent

  def ready(self):
    """Waits until the page takes an answer."""
    self.page.wait_for_function(
        "() => !document.querySelector('#end').hidden || !document.querySelector('#work').hidden && "
        "[...document.querySelectorAll('#choices button, #choices input')].some(button => !button.disabled)")

  def press(self, *keys):
    for key in keys:
      self.page.keyboard.press(key)
    self.ready()

  def text(self, place):
    return self.page.inner_text(place)


def lines_of(out):
  return [json.loads(line) for line in (out / 'votes.jsonl').read_text().splitlines()]


def rows_of(path):
  with path.open(newline='') as file:
    return list(csv.DictReader(file))


def test_two_people_label_fifty_images_and_a_kill_loses_no_acknowledged_vote(source, tmp_path):
  out = tmp_path / 'out'
  server = Server(source, out, '--labels=mikels', '--styles=cartoon,natural')
  server.start()
  with chromium() as browser:
    ann, bob = (Annotator(browser, server.url, name) for name in ('Ann', 'Bob <b>'))
    for number in range(20):
      ann.press(str(1 + number % 8), '1')
      bob.press('2', '2')
    assert ann.text('#progress') == '21 of 50' and ann.text('#counts') == '20 answered, 0 skipped'
    ann.press('3')  # The class is chosen, the style is not: not a vote yet.
    server.kill()
    # Bob answers while there is no server. The page says so, and keeps the answer.
    bob.page.keyboard.press('2')
    bob.page.keyboard.press('2')
    bob.page.wait_for_function("() => document.querySelector('#notice').textContent.includes('Not saved yet')")
    acknowledged = {key for person in (ann, bob) for key in person.acknowledged}
    assert len(acknowledged) == 40 and acknowledged == {line['key'] for line in lines_of(out)}
    server.start()
    bob.page.wait_for_function("() => document.querySelector('#progress').textContent === '22 of 50'")
    bob.ready()
    assert bob.text('#notice') == ''
    ann.page.reload()
    ann.ready()
    assert ann.text('#annotator') == 'Ann' and ann.text('#progress') == '21 of 50'
    for _ in range(29):
      bob.press('2', '2')
    for number in range(20, 50):
      ann.press(str(1 + number % 8), '1')
    for person in (ann, bob):
      assert person.text('#progress') == 'all 50 seen' and person.text('#counts') == '50 answered, 0 skipped'
      assert all(url.startswith((server.url, f'blob:{server.url}')) for url in person.requested)
    assert bob.text('#annotator') == 'Bob <b>'
  server.kill()
  acknowledged = [sent for person in (ann, bob) for sent in person.acknowledged.values()]
  assert len(acknowledged) == 100 and {sent['key'] for sent in acknowledged} == {line['key'] for line in lines_of(out)}
  done = subprocess.run([sys.executable, '-m', 'data_pipelines.annotate', f'--out={out}', '--tally'], cwd=ROOT,
                        text=True, capture_output=True)
  assert done.stdout == f'{out}: 100 votes by 2 annotators, on 50 of 50 images\n', done.stderr
  votes, table = rows_of(out / 'votes.csv'), rows_of(out / 'table.csv')
  assert len(votes) == 100 and len(table) == 50
  given = {(line['annotator'], line['image']): line['answer'] for line in lines_of(out)}
  assert {
      (vote['annotator'], vote['image']): {'label': vote['label'], 'style': vote['style']} for vote in votes} == given
  # Of Ann's 50 votes, 7 are awe, as all of Bob's are.
  assert sum(row['label'] == 'awe' for row in table) == 7 and sum(row['label'] == '' for row in table) == 43
  assert {row['awe'] for row in table} == {'1', '2'} and {row['domain'] for row in table} == {''}


def test_keys_undo_skip_arrows_and_buttons(source, tmp_path):
  out = tmp_path / 'out'
  server = Server(source, out, '--labels=<img src=x onerror=alert(1)>,b', '--vad', '--scale=0,100')
  server.start()
  with chromium() as browser:
    ann = Annotator(browser, server.url, 'Ann')
    ann.page.on('dialog', lambda dialog: pytest.fail('a label was run'))
    assert ann.page.inner_text('#choices button:first-child') == '1<img src=x onerror=alert(1)>'
    first = ann.page.evaluate('images[0]')
    ann.press('1')
    ann.page.keyboard.type('130')
    ann.page.keyboard.press('Enter')
    assert 'a whole number from 0 to 100' in ann.text('#notice')
    ann.page.fill('#number', '30')
    ann.page.keyboard.press('Enter')
    ann.page.fill('#number', '0')
    ann.page.keyboard.press('Enter')
    ann.page.wait_for_function("() => document.querySelector('#progress').textContent === '2 of 50'")
    ann.ready()
    ann.press('s')
    ann.page.wait_for_function("() => document.querySelector('#progress').textContent === '3 of 50'")
    assert ann.text('#counts') == '1 answered, 1 skipped'
    ann.ready()
    ann.press('2')
    ann.press('u')  # Back to the first question of the same image; nothing is sent.
    assert len(lines_of(out)) == 2
    for key, counts in (('Backspace', '1 answered, 0 skipped'), ('U', '0 answered, 0 skipped')):
      ann.press(key)
      ann.page.wait_for_function(f"() => document.querySelector('#counts').textContent === '{counts}'")
      ann.ready()
    assert ann.text('#progress') == '1 of 50'
    ann.press('u')
    ann.page.wait_for_function("() => document.querySelector('#notice').textContent.includes('nothing to undo')")
    ann.ready()
    ann.press('ArrowRight')
    ann.press('ArrowRight')
    assert ann.text('#progress') == '3 of 50'
    ann.press('ArrowLeft')
    assert ann.text('#progress') == '2 of 50'
    ann.page.click('#back')
    ann.ready()
    ann.page.click('#skip')
    ann.page.wait_for_function("() => document.querySelector('#counts').textContent === '0 answered, 1 skipped'")
    ann.ready()
    ann.page.click('#finish')
    ann.page.wait_for_function("() => document.querySelector('#said').textContent !== ''")
    assert ann.text('#said') == '0 votes by 0 annotators, on 0 of 50 images'
    ann.page.click('#leave')
    ann.page.fill('#name', 'ANN')
    ann.page.click('#start')
    ann.ready()
    assert ann.text('#annotator') == 'Ann' and 'Welcome back' in ann.text('#notice')
    assert ann.page.evaluate('images[0]') == first
  server.kill(signal.SIGINT)
  assert [line['kind'] for line in lines_of(out)] == ['vote', 'skip', 'undo', 'undo', 'skip']
  assert lines_of(out)[0]['answer'] == {'label': '<img src=x onerror=alert(1)>', 'valence': 30, 'arousal': 0}
  assert (out / 'card.md').exists()


def test_an_image_that_cannot_be_shown_is_said_and_can_be_skipped(source, tmp_path):
  server = Server(source, tmp_path / 'out', '--labels=a,b')
  server.start()
  for image in (source / 'awe').iterdir():
    image.unlink()
  with chromium() as browser:
    page = browser.new_page()
    page.goto(server.url)
    page.fill('#name', 'Ann')
    page.keyboard.press('Enter')
    page.wait_for_function("() => document.querySelector('#notice').textContent.includes('cannot be shown')")
    assert 'No such file' in page.inner_text('#notice') and page.is_disabled('#choices button')
    page.keyboard.press('1')
    page.keyboard.press('s')
    page.wait_for_function("() => document.querySelector('#counts').textContent === '0 answered, 1 skipped'")
  server.kill()
  assert [line['kind'] for line in lines_of(tmp_path / 'out')] == ['skip']
