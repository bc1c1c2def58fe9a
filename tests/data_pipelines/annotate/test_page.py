"""Over HTTP: the images of the list and nothing else, answers that were offered and nothing else, and no other site."""

import io
import json
import os
import threading

import numpy as np
from PIL import Image
import pytest

from data_pipelines.annotate import image_list, session
from data_pipelines.annotate.questions import Questions
from data_pipelines.annotate.votes import VoteLog
from data_pipelines.errors import UserError
from tests.support.servers.served_page import Client, assert_loads_nothing_from_elsewhere, serving

pytest.importorskip('uvicorn')
ASKED = Questions(('awe', '<b>fear</b>'), ratings=('valence', 'arousal'))
ANSWER = {'label': 'awe', 'valence': 1, 'arousal': 9}
JSON = {'Content-Type': 'application/json'}


class PostingClient(Client):

  def post(self, path, value):
    status, content, _ = self.send('POST', path, json.dumps(value), JSON)
    return status, json.loads(content)


@pytest.fixture
def opened(source, tmp_path):
  (tmp_path / 'secret.png').write_bytes((source / 'awe' / '00.png').read_bytes())
  (source / 'broken.jpg').write_text('no image')
  said = []
  with session.begun(str(source), str(tmp_path / 'out'), ASKED, said.append) as opened:
    assert said == ['1 images cannot be read and are left out:\nbroken.jpg: not an image in a known format']
    yield opened


@pytest.fixture
def client(opened):
  from data_pipelines.annotate.page import make_app

  with serving(make_app(opened)) as port:
    yield PostingClient(port)


@pytest.mark.parametrize(
    'path', [
        '/etc/passwd', '//etc/passwd', '/../../etc/passwd', '/..%2f..%2fetc%2fpasswd', '/%2e%2e/%2e%2e/etc/passwd',
        '/image/../../../etc/passwd', '/image/..%2f..%2f..%2fetc%2fpasswd', '/image//etc/passwd',
        '/image/%2fetc%2fpasswd', '/image/..%5c..%5csecret.png', '/image/awe%2f00.png', '/image/awe/00.png',
        '/image/../secret.png', '/image/..%2fsecret.png', '/image/broken.jpg', '/image/{broken}', '/image/',
        '/image/%00', '/page.py', '/votes.jsonl', '/out/votes.jsonl', '/gradio_api/file=/etc/passwd',
        '/file=/etc/passwd', '/static/../../etc/passwd', '/docs', '/openapi.json'])
def test_nothing_but_the_page_and_the_images_of_the_list_is_served(client, path):
  status, content, _ = client.send('GET', path.format(broken=image_list.image_key('broken.jpg')))
  assert status == 404 and b'root:' not in content and b'\x89PNG' not in content and len(content) < 200


def test_all_images_of_the_list_are_served_without_their_names_and_metadata(client, source):
  Image.new('RGB', (3000, 10)).save(source / 'awe' / '00.png')
  turned = Image.Exif()
  turned[0x112] = 6
  Image.new('RGB', (30, 20)).save(source / 'awe' / '01.png', exif=turned)
  status, begun = client.post('/begin', {'annotator': 'Ann'})
  assert status == 200 and len(begun['images']) == 50 and 'png' not in json.dumps(begun)
  sizes = []
  for key in begun['images']:
    status, content, headers = client.send('GET', f'/image/{key}')
    assert status == 200 and headers['Content-Type'] == 'image/jpeg' and headers['Cache-Control'] == 'no-store'
    with Image.open(io.BytesIO(content)) as image:
      sizes.append(image.size)
      assert not image.getexif()
  assert sorted(sizes) == sorted([(1024, 3), (20, 30), *((number + 40, 40) for number in range(2, 50))])


def test_an_image_that_has_gone_since_the_start_is_an_error_of_one_line(client, source):
  (source / 'awe' / '07.png').unlink()
  status, content, _ = client.send('GET', f"/image/{image_list.image_key('awe/07.png')}")
  assert status == 404 and json.loads(content) == {'error': 'cannot be read: No such file or directory'}


def test_the_page_loads_nothing_from_elsewhere_and_holds_no_text_of_others(client):
  assert_loads_nothing_from_elsewhere(client)


def test_other_sites_get_no_answer(client):
  body = json.dumps({'annotator': 'Ann'})
  for headers in ({}, {'Content-Type': 'text/plain'}, {'Content-Type': 'application/x-www-form-urlencoded'}):
    assert client.send('POST', '/begin', body, headers)[0] == 400
  status, content, _ = client.send('GET', '/', headers={'Host': 'evil.example'})
  assert status == 400 and b'<html' not in content
  for method in ('OPTIONS', 'POST', 'GET'):
    assert client.send(method, '/act', body, JSON | {'Origin': 'http://evil.example'})[0] == 400


@pytest.mark.parametrize(
    'change',
    [{'annotator': ''}, {'annotator': None}, {'annotator': 'a\x00'}, {'kind': 'steal'}, {'kind': None}, {'key': ''}, {
        'key': 'k' * 65}, {'key': 5}, {'image': 'awe/00.png'}, {'image': '../secret.png'}, {'image': None}, {
            'answer': {}}, {'answer': ANSWER | {'label': 'joy'}}, {'answer': ANSWER | {'valence': 10}}, {
                'answer': ANSWER | {'dominance': 5}}, {'kind': 'undo'}])  # fmt: skip
def test_what_was_not_offered_is_refused_and_leaves_no_line(client, opened, tmp_path, change):
  good = {'annotator': 'Ann', 'key': 'k', 'kind': 'vote', 'image': image_list.image_key('awe/00.png'), 'answer': ANSWER}
  status, value = client.post('/act', good | change)
  assert status == 400 and '\n' not in value['error']
  assert (tmp_path / 'out' / 'votes.jsonl').read_bytes() == b''
  assert client.post('/act', good)[0] == 200


@pytest.mark.parametrize('body', [b'', b'[]', b'{', b'[' * 60_000, b'"x"', b'{"annotator": "' + b'a' * 70_000 + b'"}'])
def test_a_body_that_is_no_request_is_refused(client, body):
  assert client.send('POST', '/act', body, JSON)[0] == 400


def test_the_disk_being_full_is_told_and_the_vote_not_acknowledged(client, opened, monkeypatch):

  def fail(self, line):
    raise OSError(28, 'No space left on device', 'votes.jsonl')

  sent = {'annotator': 'Ann', 'key': 'k', 'kind': 'vote', 'image': image_list.image_key('awe/00.png'), 'answer': ANSWER}
  with monkeypatch.context() as patch:
    patch.setattr(VoteLog, '_append', fail)
    status, value = client.post('/act', sent)
  assert status == 507 and value['error'].startswith('not saved: votes.jsonl: No space left on device')
  assert client.post('/act', sent)[0] == 200


def test_many_at_once_lose_no_vote(client, opened, tmp_path):

  def label(name):
    for key in client.post('/begin', {'annotator': name})[1]['images']:
      action = {'annotator': name, 'key': f'{name} {key}', 'kind': 'vote', 'image': key, 'answer': ANSWER}
      assert client.post('/act', action)[0] == 200

  threads = [threading.Thread(target=label, args=(f'person {number}',)) for number in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  said = '200 votes by 4 annotators, on 50 of 50 images'
  assert client.post('/finish', {}) == (200, {'said': said})
  assert len((tmp_path / 'out' / 'votes.csv').read_text().splitlines()) == 201


def test_the_order_is_each_annotators_own_and_stays(opened):
  ann, again, bob = (opened.begin(name)['images'] for name in ('Ann', 'Ann', 'Bob'))
  assert ann == again and sorted(ann) == sorted(bob) and ann != bob
  names = [f'{number}.png' for number in range(50)]
  longer = image_list.order_for('Ann', [*names, 'new.png'])
  assert [name for name in longer if name != 'new.png'] == image_list.order_for('Ann', names)
  places = np.array([image_list.order_for(f'p{person}', names).index('0.png') for person in range(400)])
  assert abs(places.mean() - 24.5) < 4 * 14.4 / 20  # uniform over 50 places, four standard errors


def test_other_questions_or_another_source_for_the_same_votes_are_refused(source, tmp_path):
  out = str(tmp_path / 'out')
  with session.begun(str(source), out, ASKED, print):
    pass
  with pytest.raises(UserError, match='other questions'), session.begun(str(source), out, Questions(('a', 'b')), print):
    pass
  with pytest.raises(UserError, match='choose another --out'), session.begun(str(source / 'awe'), out, ASKED, print):
    pass


def test_images_of_a_table_are_those_of_its_column_and_of_no_other_folder(source, capsys):
  table = source / 'table.csv'
  table.write_text('n;image\n1;awe\\01.png\n2;awe/00.PNG\n3;../../secret.png\n4;/etc/passwd\n')
  assert image_list.list_images(table).names == ['awe/00.png', 'awe/01.png']
  assert '2 of its 4 names are of no image here: ../../secret.png, /etc/passwd' in capsys.readouterr().err


def test_an_image_that_has_not_changed_is_not_opened_again(source, monkeypatch):
  found = image_list.list_images(source)
  checked = image_list.check_images(found, {})
  monkeypatch.setattr(image_list.images, 'open_image', None)
  assert image_list.check_images(found, checked) == checked


def test_votes_on_an_image_that_has_gone_stay_and_are_said(source, tmp_path):
  with session.begun(str(source), str(tmp_path / 'out'), ASKED, print) as opened:
    opened.log.add('1', 'Ann', 'vote', 'awe/00.png', ANSWER)
  (source / 'awe' / '00.png').unlink()
  said = []
  with session.begun(str(source), str(tmp_path / 'out'), ASKED, said.append) as opened:
    assert opened.write_tables() == '1 votes by 1 annotators, on 0 of 49 images'
  assert said == [
      '1 images with votes are gone, or cannot be read any more, awe/00.png first: their votes are kept, and stand in '
      'votes.csv alone']
  assert 'awe/00.png,Ann,awe,,1,9,' in (tmp_path / 'out' / 'votes.csv').read_text()


def test_names_that_are_not_utf8_or_hold_control_characters_are_text(source, tmp_path):
  image = (source / 'awe' / '00.png').read_bytes()
  for name in (b'a\xff.png', b'a\x1b[2J.png', b'=1.png', b'b.\xff'):
    (source / os.fsdecode(name)).write_bytes(image if name.endswith(b'png') else b'')
  said = []
  with session.begun(str(source), str(tmp_path / 'out'), ASKED, said.append) as opened:
    opened.log.add('1', '=Ann', 'vote', 'a\x1b[2J.png', ANSWER)
    opened.write_tables()
  assert len(opened.images) == 52 and '\x1b' not in ''.join(said)
  assert r'a\xff.png: the file name is not UTF-8' in said[1]
  assert "'=1.png,,0,0,0,," in (tmp_path / 'out' / 'table.csv').read_text()
  assert "'=Ann,awe" in (tmp_path / 'out' / 'votes.csv').read_text()
