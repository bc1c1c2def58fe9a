"""The command: what it prints, how it ends, and mistakes in one line."""

import importlib.util
import re
import signal

import pytest

from tests.support.servers.served_page import Client, started


def test_others_are_let_in_only_with_a_warning_and_ctrl_c_ends_it(checkpoint):
  with started('uniemox_jax.app', f'--checkpoint={checkpoint}', '--host=0.0.0.0') as (process, lines):
    assert re.fullmatch(r'Open http://\S+:\d+/ in a browser; Ctrl-C here ends it\.\n', lines[-1])
    told = next(line for line in lines if line.startswith('Others can reach this page'))
    assert 'whoever reaches 0.0.0.0 can use it' in told and 'not encrypted' in told
    port = int(re.search(r':(\d+)/', lines[-1])[1])
    assert Client(port).send('GET', '/settings')[0] == 200
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
  assert process.returncode == 0 and errors == ''


@pytest.mark.parametrize(('arguments', 'thing', 'remedy'), [
    ([], '--checkpoint is missing', '--checkpoint='), (['--checkpoint={absent}'], 'absent', 'checkpoint'),
    (['--checkpoint={model}'] * 3, '3 checkpoints', 'give --checkpoint once'),
    (['--checkpoint={model}', '--detector=hog'], '--detector', 'leave it out'),
    (['--checkpoint={model}', '--labels=calm,tense'], '--labels', 'leave them out'),
    (['--checkpoint={encoder}'], "kind 'encoder'", 'finetune'),
    (['--checkpoint={model}', '--port=70000'], 'port', '--help'),
    (['--checkpoint={model}', '--max_megabytes=0'], 'max_megabytes', '--help'),
    (['--checkpoint={model}', '--host=no.such.host.example.'], 'no.such.host', 'choose another')])  # fmt: skip
def test_mistake_ends_in_one_line(
    checkpoint, encoder, tmp_path, command, capsys, assert_one_line, arguments, thing, remedy):
  places = {'model': checkpoint, 'absent': tmp_path / 'absent', 'encoder': encoder}
  code = command('uniemox_jax.app', '--port=0', *(argument.format(**places) for argument in arguments))
  assert_one_line(code, capsys.readouterr().err, thing, remedy)


def test_a_port_in_use_is_one_line(checkpoint, command, capsys, assert_one_line):
  from data_pipelines.local_page.page_server import bound_socket

  with bound_socket('127.0.0.1', 0) as taken:
    taken.listen()
    port = taken.getsockname()[1]
    code = command('uniemox_jax.app', f'--checkpoint={checkpoint}', f'--port={port}')
  assert_one_line(code, capsys.readouterr().err, f'port {port}', 'choose another --port')


@pytest.mark.parametrize('library', ['starlette', 'uvicorn'])
def test_without_its_libraries_it_ends_in_a_line_with_the_command_that_helps(
    checkpoint, monkeypatch, command, capsys, assert_one_line, library):
  found = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *rest: None if name == library else found(name, *rest))
  code = command('uniemox_jax.app', f'--checkpoint={checkpoint}')
  assert_one_line(code, capsys.readouterr().err, library, "pip install 'uniemox_jax[app]'")
