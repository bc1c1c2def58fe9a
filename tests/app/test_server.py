"""Over HTTP: answers to this page alone, within its limits, and no file of the machine nor image of another visitor."""

import concurrent.futures
import contextlib
import json
import socket
import threading
import time
from urllib.parse import urlencode

import pytest

from data_pipelines.errors import UserError
from data_pipelines.images import RejectedError
from tests.support.servers.served_page import Client, assert_loads_nothing_from_elsewhere, serving

pytest.importorskip('uvicorn')
IMAGE = {'Content-Type': 'application/octet-stream'}


class Stub:
  """In place of the models: says how long the image is; waits while it is told to."""

  def __init__(self):
    self.open = threading.Event()
    self.open.set()
    self.asked, self.at_once, self.most_at_once = [], 0, 0

  def describe(self):
    return [{'name': 'stub', 'words': None}]

  def answer(self, content, name, typed):
    self.at_once += 1
    self.most_at_once = max(self.at_once, self.most_at_once)
    self.asked.append(name)
    assert self.open.wait(20)
    self.at_once -= 1
    if content == b'broken':
      raise RejectedError('no image')
    if typed == 'bad':
      raise UserError('no such\nwords')
    if content == b'bug':
      raise AssertionError('a bug')
    return {'bytes': len(content), 'name': name, 'typed': typed}

  def refused(self, name, typed, reason):
    return {'error': reason, 'models': [{'row': name}]}


class Visitor(Client):

  def ask(self, body, headers=IMAGE, **query):
    status, content, found = self.send('POST', '/answer?' + urlencode({'name': 'a.png'} | query), body, headers)
    return status, json.loads(content), found


@pytest.fixture
def stub():
  return Stub()


@pytest.fixture
def visitor(stub):
  from uniemox_jax.app import server

  limits = server.Limits(megabytes=0.1, waiting=2)
  with serving(server.trial_page(stub, limits)) as port:
    yield Visitor(port)
    stub.open.set()


def test_an_image_is_answered_and_the_limits_are_told(visitor):
  status, content, headers = visitor.ask(b'x' * 100_000, name='ä/b.png', words='joy,awe')
  assert status == 200 and content == {'bytes': 100_000, 'name': 'ä/b.png', 'typed': 'joy,awe'}
  assert headers['Cache-Control'] == 'no-store' and "default-src 'none'" in headers['Content-Security-Policy']
  settings = json.loads(visitor.send('GET', '/settings')[1])
  assert settings == {
      'models': [{'name': 'stub', 'words': None}], 'megabytes': 0.1, 'megapixels': 64, 'files': 200, 'waiting': 2}


def in_parts(size):
  yield from (b'x' * 1000 for _ in range(size // 1000))


def test_what_is_too_large_is_refused_whether_it_says_so_or_not(visitor, stub):
  for body, query in ((b'x' * 100_001, {}), (b'', {'bytes': 100_001}), (b'', {'bytes': '-1'}), (b'', {'bytes': '9' * 30
                                                                                                     })):
    status, content, _ = visitor.ask(body, **query)
    assert status == 413 and content == {'error': 'larger than 0.1 MB', 'models': [{'row': 'a.png'}]}
  with contextlib.suppress(ConnectionError):  # The server may close before all is sent.
    status, content, _ = visitor.ask(in_parts(200_000))
    assert status == 413 and content['error'] == 'larger than 0.1 MB'
  assert not stub.asked


def test_a_broken_file_wrong_words_and_a_bug_are_answered(visitor, capfd):
  assert visitor.ask(b'broken')[:2] == (422, {'error': 'no image', 'models': [{'row': 'a.png'}]})
  assert visitor.ask(b'', words='bad')[:2] == (400, {'error': 'no such words'})
  status, content, _ = visitor.ask(b'', words='x' * 3001)
  assert status == 400 and 'too long' in content['error']
  status, content, _ = visitor.send('POST', '/answer', b'bug', IMAGE)
  assert status == 500 and b'Traceback' not in content and b'bug' not in content
  assert visitor.ask(b'fine')[0] == 200
  assert len(visitor.ask(b'fine', name='x' * 2000)[1]['name']) == 500


@pytest.mark.parametrize(
    'path', [
        '/etc/passwd', '//etc/passwd', '/../../etc/passwd', '/..%2f..%2fetc%2fpasswd', '/%2e%2e/%2e%2e/etc/passwd',
        '/page.js/../server.py', '/..%5cserver.py', '/server.py', '/page.html', '/answer.py', '/file=/etc/passwd',
        '/gradio_api/file=/etc/passwd', '/static/../../etc/passwd', '/docs', '/openapi.json', '/%00', '/answers',
        '/image', '/uploads'])
def test_nothing_but_the_page_is_served(visitor, path):
  for asked in (path, f'{path}?name=/etc/passwd'):
    status, content, _ = visitor.send('GET', asked)
    assert status == 404 and b'root:' not in content and len(content) < 200


def test_the_page_loads_nothing_from_elsewhere_and_runs_no_text_of_others(visitor):
  # The name of a language of XML.
  assert_loads_nothing_from_elsewhere(visitor, b'http://www.w3.org/2000/svg', (b'localStorage', b'sessionStorage'))


@pytest.mark.parametrize(
    'headers',
    [{'Host': 'evil.example'}, {'Host': ''}, {'Host': '[::1'}, {'Origin': 'null'}, {'Origin': 'http://evil.example'}, {
        'Origin': 'http://127.0.0.1:1'}, {'Origin': 'http://127.0.0.1.evil.example'}])
def test_other_sites_get_no_answer(visitor, stub, headers):
  for method, path in (('GET', '/'), ('GET', '/settings'), ('POST', '/answer'), ('OPTIONS', '/answer')):
    status, content, found = visitor.send(method, path, b'x', IMAGE | headers)
    assert status == 400 and content == b'this page answers only itself'
    assert 'Access-Control-Allow-Origin' not in found
  assert not stub.asked


def test_what_a_site_can_send_without_asking_is_refused(visitor, stub):
  for kind in ('text/plain', 'multipart/form-data; boundary=x', 'application/x-www-form-urlencoded', ''):
    assert visitor.ask(b'x', {'Content-Type': kind})[0] == 415
  assert not stub.asked


def test_this_page_is_answered_under_each_of_its_names(visitor):
  for host in ('127.0.0.1', 'localhost', '[::1]', 'localhost:9000'):
    assert visitor.ask(b'x', IMAGE | {'Host': host, 'Origin': f'http://{host}'})[0] == 200


def test_a_page_for_others_is_answered_by_any_name_but_not_for_other_sites(stub):
  from uniemox_jax.app import server

  with serving(server.trial_page(stub, server.Limits(), host='0.0.0.0')) as port:
    visitor = Visitor(port)
    assert visitor.send('GET', '/', headers={'Host': 'machine.example'})[0] == 200
    foreign = IMAGE | {'Host': 'machine.example', 'Origin': 'http://evil.example'}
    assert visitor.send('POST', '/answer', b'x', foreign)[0] == 400


def until(condition):
  for _ in range(500):
    if condition():
      return
    time.sleep(0.01)
  raise AssertionError('it did not come to pass')


def test_one_is_asked_at_a_time_some_wait_and_more_come_again(visitor, stub):
  stub.open.clear()
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    first = pool.submit(visitor.ask, b'x', name='0')
    until(lambda: stub.asked == ['0'])
    others = [pool.submit(visitor.ask, b'x', name=str(number)) for number in range(1, 6)]
    done, waiting = concurrent.futures.wait(others, timeout=2)
    assert len(waiting) == 2  # So many wait.
    for future in done:
      status, content, headers = future.result()
      assert status == 503 and content == {'error': 'busy: 2 images wait already'} and headers['Retry-After'] == '2'
    assert stub.asked == ['0']
    stub.open.set()
    assert [future.result()[0] for future in (first, *waiting)] == [200] * 3
  assert stub.most_at_once == 1 and visitor.ask(b'x')[0] == 200


def test_who_goes_away_while_waiting_is_not_asked_about_and_leaves_the_queue(visitor, stub):
  stub.open.clear()
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    first = pool.submit(visitor.ask, b'x', name='0')
    until(lambda: stub.asked == ['0'])
    for name in ('whole', 'half'):  # the second one goes while it is still sending
      with socket.create_connection(('127.0.0.1', visitor.port)) as gone:
        length = 1 if name == 'whole' else 50
        gone.sendall(
            f'POST /answer?name={name} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n'
            f'Content-Length: {length}\r\n\r\nx'.encode())
        time.sleep(0.2)
    stub.open.set()
    assert first.result()[0] == 200
  assert visitor.ask(b'x', name='next')[0] == 200 and stub.asked == ['0', 'next']


def test_who_sends_too_slowly_leaves_the_queue(visitor, stub, monkeypatch):
  from uniemox_jax.app import server

  monkeypatch.setattr(server, 'UPLOAD_SECONDS', 0.2)

  def slowly():
    yield b'x'
    time.sleep(0.6)
    yield b'x'

  status, content, _ = visitor.ask(slowly(), IMAGE | {'Content-Length': '2'})
  assert status == 408 and 'not received' in content['error'] and not stub.asked
