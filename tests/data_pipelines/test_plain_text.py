"""Text of unknown origin stays text: in a terminal, in a spreadsheet, in Markdown."""

import csv
import io

import pytest

from data_pipelines import command
from data_pipelines.errors import UserError
from data_pipelines.plain_text import check_labels, csv_cell, csv_text, markdown_code, markdown_text, single_line

FORMULAS = ('=cmd|"/C calc"!A0', '+1+1', '-1-cmd', '@SUM(A1)', '\t=1', '\r=1', '\n=1', '=')
TEXTS = (*FORMULAS, "'=1", "''=1", "'quoted'", "it's", '', 'awe', 'a,"b"\nc', '-0.5', '+1e5', '-inf')


@pytest.mark.parametrize('text', TEXTS)
def test_cell_is_no_formula_and_reads_back_exactly(text: str) -> None:
  file = io.StringIO(newline='')
  csv.writer(file).writerow([csv_cell(text)])
  cell, = next(csv.reader(io.StringIO(file.getvalue(), newline='')))
  assert csv_text(cell) == text
  assert cell[:1] not in ('=', '@', '\t', '\r', '\n')
  if cell[:1] in ('+', '-'):
    float(cell)


@pytest.mark.parametrize('value', [-0.5, 3, None, '-0.5', '+1e5'])
def test_number_stays_a_number(value: object) -> None:
  assert csv_cell(value) == value


def test_cell_that_another_program_wrote_is_read_as_it_is() -> None:
  assert csv_text("'tis.jpg") == "'tis.jpg"


@pytest.mark.parametrize(('text', 'shown'), [('[a](javascript:x)', r'\[a\](javascript:x)'), ('![a](b)', r'!\[a\](b)'),
                                             ('<script>', r'\<script\>'), ('a|b', r'a\|b'), ('`a`', r'\`a\`'),
                                             ('a\n\n# b', 'a # b'), ('https://x', r'https\://x'),
                                             ('www.x.y', r'www\.x.y'), ('&lt;', r'\&lt;'), ('\\', r'\\'),
                                             ('\x1b[31m', r'\\x1b\[31m'), ('facial_expression', 'facial_expression'),
                                             ('**0.5 ± 0.1 (3) †**', '**0.5 ± 0.1 (3) †**')])
def test_markdown_shows_text_as_itself(text: str, shown: str) -> None:
  assert markdown_text(text) == shown
  assert markdown_text(-0.5) == -0.5


def test_code_ends_where_it_should() -> None:
  assert markdown_code('a`<b>\n`c') == "`a'<b> 'c`"


def test_error_is_one_line_that_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
  with pytest.raises(SystemExit) as stopped:
    command.fail('a\x1b[2J\x1b]0;title\x07.jpg\nerror: b\u202ec\x9b1m\ud800')
  assert stopped.value.code == 2
  assert capsys.readouterr().err == 'error: a\\x1b[2J\\x1b]0;title\\x07.jpg error: b\\u202ec\\x9b1m\\ud800\n'
  assert single_line('é 日本 😀') == 'é 日本 😀'


@pytest.mark.parametrize('label', ['a\nb', '\x1b[2J', '', 'a' * 201, 3, None])
def test_label_that_cannot_be_shown_is_refused(label: object) -> None:
  with pytest.raises(UserError, match='labels.json has the label'):
    check_labels(['awe', label], 'labels.json')
  check_labels(['=awe', '<b>', "l'émerveillement", '畏敬'], 'labels.json')
