"""In a real Chromium: from an image to its answer, by mouse, by keys and on a phone, for one visitor and for two."""

import contextlib
import csv
import io
import json
from pathlib import Path
import re

import pytest

from tests.support.servers.browser import NEEDS_CHROMIUM, SECONDS, chromium
from tests.support.servers.served_page import Client, started

pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
pytestmark = NEEDS_CHROMIUM
PHONE = {'width': 360, 'height': 740}


class Visitor:
  """Someone at a browser of their own, and what the browser asked for and complained of."""

  def __init__(self, browser, url, **context):
    self.page = browser.new_context(accept_downloads=True, **context).new_page()
    self.page.set_default_timeout(SECONDS * 1000)
    self.requested, self.complaints = [], []
    self.page.on('request', lambda request: self.requested.append(request.url))
    self.page.on('pageerror', lambda error: self.complaints.append(str(error)))
    self.page.on('console', lambda said: self.complaints.append(said.text) if said.type == 'error' else None)
    self.page.on('dialog', lambda dialog: self.complaints.append('a text was run'))
    self.page.goto(url)
    self.page.wait_for_selector('body[data-ready]')

  def give(self, **files):
    """Images by name, as if chosen; waits until each has its answer."""
    before = self.page.locator('#answers > li').count()
    self.page.set_input_files(
        '#files', [{'name': name, 'mimeType': 'image/png', 'buffer': content} for name, content in files.items()])
    self.answered(before + len(files))

  def answered(self, count):
    self.page.wait_for_function(
        f"() => document.querySelector('#status').textContent.startsWith('{count} of {count} answered')")

  def text(self, place):
    return self.page.inner_text(place)

  def table(self, place=0):
    with self.page.expect_download() as download:
      self.page.locator('.download').nth(place).click()
    return list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding='utf-8'))))

  def assert_accessible(self):
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(self.page).response['violations']
    assert not [(rule['id'], rule['nodes'][0]['html']) for rule in found if rule['impact'] in ('serious', 'critical')]


@pytest.fixture(scope='module')
def browser():
  with chromium() as browser:
    yield browser


@pytest.fixture(scope='module')
def url(checkpoint):
  with serving(f'--checkpoint={checkpoint}', '--max_megabytes=0.5', '--max_files=40') as url:
    yield url


@pytest.fixture(scope='module')
def both_url(person_checkpoint, clip_folder):
  with serving(f'--checkpoint={person_checkpoint}', f'--checkpoint={clip_folder}', '--detector=hog') as url:
    yield url


@contextlib.contextmanager
def serving(*arguments):
  with started('uniemox_jax.app', *arguments) as (_, lines):
    yield re.search(r'http\S+', lines[-1])[0]


def test_an_image_becomes_an_answer_with_bars_maps_and_a_row(browser, url, photo):
  visitor = Visitor(browser, url)
  assert visitor.text('#models') == 'tried' and not visitor.page.is_visible('#results')
  name = '<img src=x onerror=alert(1)>.png'
  visitor.give(**{name: photo(size=(300, 100))})
  card = visitor.page.locator('#answers > li')
  assert card.locator('h3').inner_text() == name
  said = card.locator('.said').inner_text()
  bars = card.locator('.bars tr').all_inner_texts()
  assert len(bars) == 3 and all(re.search(r'\d+\.\d %$', bar) for bar in bars) and bars[0].startswith(
      said.split(',')[0])
  assert card.locator('img').get_attribute('alt') == f'{name}: {said}'
  assert visitor.text('#status') == f'1 of 1 answered. {name}: {said}.'
  assert visitor.page.get_attribute('#status', 'role') == 'status' and not card.locator('canvas').count()
  for method in ('attention', 'relevance to the answer'):
    visitor.page.get_by_label(method).check()
    assert card.locator('canvas').count() == 1 and ': most at the' in card.locator('figcaption').inner_text()
  # The model sees the centre of a wide image: the map covers it, and no more.
  image, canvas = (card.locator(place).bounding_box() for place in ('img', 'canvas'))
  assert canvas['width'] < 0.4 * image['width'] and canvas['height'] < image['height']
  row, = visitor.table()
  assert row['path'] == name and row['label'] == said.split(',')[0] and row['error'] == ''
  assert f"{100 * float(row['probability']):.1f} %" == said.split(', ')[1]
  assert not visitor.complaints and all(
      address.startswith((url, f'blob:{url}', 'data:image')) for address in visitor.requested)


def test_thirty_at_once_a_broken_file_and_one_that_is_too_large(browser, url, photo):
  visitor = Visitor(browser, url)
  files = {f'{number:02d}.png': photo(number) for number in range(30)}
  files |= {'=broken.png': b'nothing', 'large.png': b'x' * 500_001}
  visitor.give(**files)
  rows = visitor.table()
  assert [row['path'] for row in rows] == [name if name[0] != '=' else f"'{name}" for name in files]
  assert [row['error'] for row in rows[-2:]] == ['not an image in a known format', 'larger than 0.5 MB']
  assert all(row['label'] and not row['error'] for row in rows[:30])
  errors = visitor.page.locator('.error').all_inner_texts()
  assert errors == ['No answer: not an image in a known format', 'No answer: larger than 0.5 MB']
  visitor.page.set_input_files(
      '#files', [{'name': f'{number}.png', 'mimeType': 'image/png', 'buffer': photo(0)} for number in range(41)])
  assert visitor.text('#notice') == 'Only the first 40 of 41 images are taken: give the others then.'
  visitor.answered(72)
  visitor.page.get_by_role('button', name='Remove all').click()
  assert not visitor.page.is_visible('#results') and visitor.text('#status') == 'All images are removed.'
  assert visitor.page.evaluate('document.activeElement.id') == 'files'
  refused = [said for said in visitor.complaints if not re.search('4(13|22)', said)]
  assert not refused


def test_a_folder_gives_its_images_and_says_what_it_passes_over(browser, url, photo, tmp_path):
  (tmp_path / 'holiday' / 'beach').mkdir(parents=True)
  for name in ('a.png', 'beach/b.PNG'):
    (tmp_path / 'holiday' / name).write_bytes(photo())
  (tmp_path / 'holiday' / 'notes.txt').write_text('no image')
  visitor = Visitor(browser, url)
  visitor.page.set_input_files('#folder', str(tmp_path / 'holiday'))
  visitor.answered(2)
  assert sorted(visitor.page.locator('h3').all_inner_texts()) == ['holiday/a.png', 'holiday/beach/b.PNG']
  assert visitor.text('#notice') == '1 files passed over that are no images.'


def test_dropped_images_are_answered(browser, url, photo):
  visitor = Visitor(browser, url)
  transfer = visitor.page.evaluate_handle(
      """(bytes) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], 'a.png', {type: 'image/png'}));
        transfer.items.add(new File(['no image'], 'notes.txt', {type: 'text/plain'}));
        return transfer;
      }""", list(photo()))
  for event in ('dragover', 'drop'):
    visitor.page.dispatch_event('h1', event, {'dataTransfer': transfer})
  visitor.answered(1)
  assert visitor.text('#notice') == '1 files passed over that are no images.'


def test_two_models_side_by_side_and_own_words(browser, both_url, photo):
  visitor = Visitor(browser, both_url)
  assert visitor.text('#models') == 'tried_person beside shared_clip'
  visitor.give(**{'black.png': photo(None), 'b.png': photo(1)})
  columns = visitor.page.locator('#answers > li').first.locator('section')
  assert columns.locator('h4').all_inner_texts() == ['tried_person', 'shared_clip']
  left, right = (columns.nth(place).bounding_box() for place in (0, 1))
  assert left['y'] == right['y'] and right['x'] > left['x'] + left['width']
  # Both have valence and arousal: a point on a plane, and in words.
  assert columns.get_by_role('img', name=re.compile('plane of valence and arousal')).count() == 2
  assert 'No person was found' in columns.nth(0).inner_text() and 'Closest words: ' in columns.nth(1).inner_text()
  assert '1 files' not in visitor.text('#notice') and len(visitor.table(0)) == len(visitor.table(1)) == 2
  assert 'person_xmin' in visitor.table(0)[0] and 'p_awe' in visitor.table(1)[0]
  visitor.page.get_by_label('Your own words').fill('calm, lonely')
  visitor.page.get_by_role('button', name='Ask').click()
  visitor.answered(2)
  assert {'p_calm', 'p_lonely'} < visitor.table(1)[0].keys() and 'p_awe' not in visitor.table(1)[0]
  assert visitor.table(0)[0]['label'] in columns.nth(0).inner_text()
  visitor.page.get_by_label('Your own words').fill('calm')
  visitor.page.keyboard.press('Enter')
  visitor.answered(2)
  assert visitor.text('#notice') == (
      "'calm' names 1 class: give two or more with commas, or mikels, ekman, emotic or valence, all joined by +")
  assert visitor.page.locator('.download').first.is_disabled()  # nothing was answered
  visitor.page.get_by_label('Your own words').fill('')
  visitor.page.keyboard.press('Enter')
  visitor.answered(2)
  assert 'p_awe' in visitor.table(1)[0] and visitor.text('#notice') == ''
  assert all('400' in said for said in visitor.complaints)
  visitor.assert_accessible()


def test_a_second_visitor_never_sees_what_the_first_one_sent(browser, url, photo):
  first = Visitor(browser, url)
  first.give(**{'secret.png': photo(7)})
  shown = first.page.locator('img').get_attribute('src')
  second = Visitor(browser, url)
  second.give(**{'mine.png': photo(8)})
  page = second.page.content()
  assert 'secret' not in page and shown not in page
  # Nothing that the server gives out holds it either, whatever was asked for.
  client = Client(int(re.search(r':(\d+)/', url)[1]))
  for address in {*first.requested, *second.requested}:
    if address.startswith(url):
      content = client.send('GET', '/' + address.removeprefix(url))[1]
      assert b'secret' not in content and shown.encode() not in content
  first.page.reload()
  first.page.wait_for_selector('body[data-ready]')
  assert not first.page.is_visible('#results')


def test_axe_finds_nothing_serious_in_light_dark_and_on_a_phone(browser, url, photo):
  for context in ({}, {'color_scheme': 'dark'}, {'viewport': PHONE}):
    visitor = Visitor(browser, url, **context)
    visitor.assert_accessible()
    visitor.give(**{'a.png': photo(), 'broken.png': b'nothing'})
    visitor.page.get_by_label('attention').check()
    visitor.assert_accessible()


@pytest.mark.parametrize('which', ['url', 'both_url'])
def test_a_phone_needs_no_scrolling_sideways(browser, photo, which, request):
  visitor = Visitor(browser, request.getfixturevalue(which), viewport=PHONE)
  visitor.give(**{'a.png': photo(size=(400, 90)), 'tall.png': photo(size=(20, 400)), 'long' * 30 + '.png': b'x'})
  visitor.page.get_by_label('attention').check()
  assert visitor.page.evaluate('document.documentElement.scrollWidth') == PHONE['width']
  for place in ('#files', '#folder', '#clear', '#answers img'):
    box = visitor.page.locator(place).first.bounding_box()
    assert box['x'] >= 0 and box['x'] + box['width'] <= PHONE['width']


def test_all_can_be_done_by_keys(browser, both_url, photo):
  visitor = Visitor(browser, both_url)
  page = visitor.page
  page.on('filechooser', lambda chooser: None)  # From now on the browser hands it over, and shows none itself.

  def tab_to(description):
    for _ in range(20):
      page.keyboard.press('Tab')
      focused = page.evaluate(
          '(() => { const e = document.activeElement; return e.id || e.value || e.textContent; })()')
      if focused == description:
        # Where the focus is can be seen.
        assert page.evaluate('getComputedStyle(document.activeElement).outlineStyle') != 'none'
        return
    raise AssertionError(f'no key leads to {description}')

  tab_to('files')
  with page.expect_file_chooser() as chooser:
    page.keyboard.press('Space')
  chooser.value.set_files([{'name': 'a.png', 'mimeType': 'image/png', 'buffer': photo(None)}])
  visitor.answered(1)
  tab_to('words')
  page.keyboard.type('calm, tense')
  page.keyboard.press('Enter')
  visitor.answered(1)
  page.wait_for_function("() => document.querySelector('#answers').textContent.includes('tense')")
  tab_to('Download the table of shared_clip')
  with page.expect_download():
    page.keyboard.press('Enter')
  tab_to('clear')
  page.keyboard.press('Tab')
  page.keyboard.press('ArrowRight')
  assert page.locator('canvas').count() == 1
  page.keyboard.press('Shift+Tab')
  page.keyboard.press('Enter')
  assert not page.is_visible('#results') and page.evaluate('document.activeElement.id') == 'files'


def test_while_the_server_is_busy_the_page_waits_and_comes_again(browser, url, photo):
  visitor = Visitor(browser, url)
  refusals = []

  def busy_twice(route):
    if len(refusals) == 2:
      route.continue_()
    else:
      refusals.append(route.request.url)
      route.fulfill(status=503, headers={'Retry-After': '1'}, body=json.dumps({'error': 'busy'}))

  visitor.page.route('**/answer*', busy_twice)
  visitor.page.set_input_files('#files', [{'name': 'a.png', 'mimeType': 'image/png', 'buffer': photo()}])
  visitor.page.wait_for_function("() => document.querySelector('#notice').textContent.includes('busy')")
  visitor.answered(1)
  assert len(refusals) == 2 and visitor.text('#notice') == '' and visitor.page.locator('.said').count() == 1


def test_memory_is_flat_over_five_hundred_images(checkpoint, clip_folder, photo):
  images = [photo(seed, (1600, 1200), form) for seed in range(5) for form in ('PNG', 'JPEG')]
  with started('uniemox_jax.app', f'--checkpoint={checkpoint}', f'--checkpoint={clip_folder}') as (process, lines):
    client = Client(int(re.search(r':(\d+)/', lines[-1])[1]))

    def resident_megabytes():
      return int(re.search(r'VmRSS:\s+(\d+) kB', Path(f'/proc/{process.pid}/status').read_text())[1]) / 1000

    used = []
    for count in range(1, 501):
      words = ','.join(f'word {count} {place}' for place in range(2 + count % 9))  # others each time
      status, _, _ = client.send(
          'POST', f'/answer?name={count}&words={words.replace(" ", "%20")}', images[count % len(images)],
          {'Content-Type': 'application/octet-stream'})
      assert status == 200
      if count % 100 == 0:
        used.append(round(resident_megabytes()))
  print('MB after each hundred:', used)
  assert used[-1] < used[0] + 30, used
