"""`--sort` and `--contact_sheet`: made from all rows of a finished table."""

from pathlib import Path

import numpy as np
from PIL import Image
import pytest

from data_pipelines.drawing import sheet_text
from tests.support.predictions import LABELS, animate, assert_refused, draw, pack, rows_of
from uniemox_jax.predict import ranking as rankings
from uniemox_jax.predict.prediction import predict_images
from uniemox_jax.predict.ranking import Ranking, check_ranking
from uniemox_jax.predict.shards import FileShard


@pytest.mark.parametrize('ending', ['csv', 'jsonl'])
@pytest.mark.parametrize(('asked', 'column'), [('awe', 'p_awe'), ('p_sadness', 'p_sadness'),
                                               ('probability', 'probability')])
def test_sorted_rows_are_those_of_the_table_after_append_too(checkpoint, tmp_path, ending, asked, column):
  first, second = draw(tmp_path / 'a', 9), draw(tmp_path / 'b', 9, seed=1)
  (tmp_path / 'broken.png').write_bytes(b'')
  out, ranked = tmp_path / f'out.{ending}', tmp_path / f'out.sorted_by_{asked}.{ending}'
  predict_images(checkpoint, [str(tmp_path / 'broken.png'), *first], str(out), ranking=Ranking(asked))
  assert len(ranked.read_bytes().splitlines()) == 10 + (ending == 'csv')
  before = out.read_bytes()
  predict_images(checkpoint, second, str(out), append=True, ranking=Ranking(asked))
  assert out.read_bytes().startswith(before)
  lines, in_order = out.read_bytes().splitlines(), ranked.read_bytes().splitlines()
  assert sorted(lines) == sorted(in_order)
  if ending == 'csv':
    assert lines[0] == in_order[0]
    rows = rows_of(ranked)
    values = [float(row[column]) for row in rows[:-1]]
    assert values == sorted(values, reverse=True) and len(set(values)) > 10
    assert rows[-1]['error'] and rows[-1]['path'].endswith('broken.png')


def _best(rows: list[dict[str, str]], column: str, count: int) -> list[tuple[float, str]]:
  readable = [(float(row[column]), row['path']) for row in rows if row[column]]
  return sorted(readable, key=lambda row: -row[0])[:count]


def test_page_has_the_highest_of_every_class(checkpoint, tmp_path):
  """Of images, frames and members of archives, and of rows that an earlier run wrote."""
  draw(tmp_path / 'a', 6)
  (tmp_path / 'a' / 'z.png').write_bytes(b'')
  packed = pack(tmp_path / 'a.zip', {f'<i>{name.name}': name.read_bytes() for name in (tmp_path / 'a').iterdir()})
  moving = animate(tmp_path / 'moving.gif', [1000, 1000, 1000])
  out, page = tmp_path / 'out.csv', tmp_path / 'sheet.html'
  predict_images(checkpoint, [str(tmp_path / 'a'), str(packed)], str(out))
  predict_images(checkpoint, [str(moving)], str(out), append=True, ranking=Ranking(sheet=str(page), top=12))
  rows, text = rows_of(out), page.read_text()
  assert '<i>0' not in text and '&lt;i&gt;0' in text
  for label in LABELS:
    section = text[text.index(f'<h2>{label}</h2>'):].partition('</section>')[0]
    shown = [part.partition('</figcaption>')[0] for part in section.split('<figcaption>')[1:]]
    best = _best(rows, f'p_{label}', 12)
    assert [part.split('</b> ')[1] for part in shown] == [path.replace('<i>', '&lt;i&gt;') for _, path in best]
    assert [part[3:8] for part in shown] == [f'{value:.3f}' for value, _ in best]
    assert section.count('data:image/jpeg;base64,') == 12


@pytest.mark.parametrize('ending', ['jpg', 'png'])
def test_sheet_shows_the_images_themselves_in_order(checkpoint, tmp_path, monkeypatch, ending):
  drawn = []
  monkeypatch.setattr(
      sheet_text, 'contact_sheet', lambda tiles, title, columns: drawn.append(
          (tiles, title)) or Image.new('RGB', (64, 64)))
  for level in range(20, 120, 20):
    Image.fromarray(np.full((40, 48, 3), level, np.uint8)).save(tmp_path / f'{level}.png')
  out, sheet = tmp_path / 'out.csv', tmp_path / f'sheet.{ending}'
  predict_images(checkpoint, [str(tmp_path)], str(out), ranking=Ranking(sheet=str(sheet), top=3))
  assert [title for _, title in drawn] == LABELS
  for (tiles, _), label in zip(drawn, LABELS):
    best = _best(rows_of(out), f'p_{label}', 3)
    assert [text for _, text in tiles] == [f'{value:.3f}\n{Path(path).name}' for value, path in best]
    assert [int(np.asarray(image).mean()) for (image,), _ in tiles] == [int(Path(path).stem) for _, path in best]
  assert Image.open(sheet).size == (64, 3 * 64)


def test_drawn_sheet_is_an_image(checkpoint, tmp_path):
  draw(tmp_path / 'a', 9)
  predict_images(
      checkpoint, [str(tmp_path / 'a')], str(tmp_path / 'out.csv'), ranking=Ranking(sheet=str(tmp_path / 'a.jpg')))
  sheet = Image.open(tmp_path / 'a.jpg')
  assert sheet.format == 'JPEG' and sheet.width > 8 * rankings.SIDE and sheet.height > 3 * rankings.SIDE


def test_images_that_are_gone_are_counted(checkpoint, tmp_path, capsys):
  paths = draw(tmp_path / 'a', 4)
  predict_images(checkpoint, paths[:2], str(tmp_path / 'out.csv'))
  Path(paths[0]).unlink()
  predict_images(
      checkpoint, paths[2:], str(tmp_path / 'out.csv'), append=True, ranking=Ranking(sheet=str(tmp_path / 'a.png')))
  assert 'a.png: 3 images, 1 more are not there any more' in capsys.readouterr().err


def test_image_whose_name_is_no_text_is_on_the_sheet(checkpoint, tmp_path, capsys):
  draw(tmp_path / 'a', 2)
  (tmp_path / 'a' / '0000.png').rename(tmp_path / 'a' / 'two\nlines.png')
  ranking = Ranking(sheet=str(tmp_path / 'sheet.png'))
  predict_images(checkpoint, [str(tmp_path / 'a')], str(tmp_path / 'out.csv'), ranking=ranking)
  assert capsys.readouterr().err.endswith('sheet.png: 2 images\n')


def test_a_name_of_two_columns_is_not_called_absent():
  columns = ['label', 'probability', 'p_calm', 'p_sad', 'similarity_calm', 'error']
  assert_refused(lambda: check_ranking(Ranking('calm'), 'out.csv', columns, None, []), 'any of p_calm, similarity_calm')
  check_ranking(Ranking('p_calm'), 'out.csv', columns, None, [])


def test_letters_that_a_drawn_sheet_lacks_are_named(checkpoint, tmp_path, capsys):
  draw(tmp_path / 'a', 1)
  (tmp_path / 'a' / '0000.png').rename(tmp_path / 'a' / 'é日本.png')
  for name, said in (('a.png', True), ('a.html', False)):
    ranking = Ranking(sheet=str(tmp_path / name))
    predict_images(checkpoint, [str(tmp_path / 'a')], str(tmp_path / 'out.csv'), append=True, ranking=ranking)
    assert ('lacks 日, 本: a .html shows them' in capsys.readouterr().err) == said


def test_a_sheet_that_no_jpeg_can_be_is_refused_before_anything_is_predicted():
  columns, paths = [f'p_{index}' for index in range(8)], [f'{index}.jpg' for index in range(999)]
  assert_refused(
      lambda: check_ranking(Ranking(None, 'a.jpg', 500), 'o.csv', columns, None, paths), 'too high for a JPEG')
  check_ranking(Ranking(None, 'a.png', 500), 'o.csv', columns, None, paths)
  check_ranking(Ranking(None, 'a.jpg', 500), 'o.csv', columns, None, paths[:8])


@pytest.mark.parametrize(('ranking', 'out', 'match'), [
    (Ranking(sheet='{tmp}/a/../a/0000.png'), 'out.csv', 'is the table or one of the images'),
    (Ranking(sheet='{tmp}/out.jpg'), 'out.jpg', 'is the table or one'),
    (Ranking('awe'), None, '--sort is made from a finished table.*--out=FILE'),
    (Ranking(sheet='{tmp}/a.png'), None, '--contact_sheet is made from'),
    (Ranking('joy'), 'out.csv', '--sort=joy is no class and no column of numbers: one of probability, p_amusement'),
    (Ranking('label'), 'out.csv', '--sort=label is no class'),
    (Ranking(sheet='{tmp}/a.pdf'), 'out.csv', 'ends in .jpg'),
    (Ranking(sheet='{tmp}/no/a.png'), 'out.csv', 'its folder is not there'),])
def test_mistake_is_a_line_before_anything_is_predicted(checkpoint, tmp_path, ranking, out, match):
  draw(tmp_path / 'a', 1)
  ranking = ranking._replace(sheet=ranking.sheet and ranking.sheet.format(tmp=tmp_path))
  table = out and str(tmp_path / out)
  assert_refused(
      lambda: predict_images(checkpoint, [str(tmp_path / 'a')], table, file_format='csv', ranking=ranking), match)
  assert_refused(
      lambda: predict_images(
          checkpoint, [str(tmp_path / 'a')], str(tmp_path / 'x.csv'), shard=FileShard(1, 2), ranking=Ranking('awe')),
      'leave it out of a --shard')
  assert [path.name for path in tmp_path.iterdir()] == ['a']
