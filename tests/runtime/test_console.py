"""The command `uniemox`: every verb, quickly listed; each runs as by `python -m`; shells complete its words."""

import ast
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

import pytest

from uniemox_jax import __main__ as console

ROOT = Path(__file__).parents[2]
VERB_FILES = [
    path.relative_to(ROOT)
    for package in ('uniemox_jax', 'data_pipelines')
    for pattern in ('*.py', '*/__main__.py')
    for path in (ROOT / package).glob(pattern)
    if "if __name__ == '__main__':" in path.read_text()]
BASH_CASES = [('pretr', ['pretrain']), ('co', ['compare', 'completion']), ('pretrain --wo', ['--workdir=']),
              ('predict --fo', ['--format=']),
              ('predict --b', ['--batch_size=', '--beam_options=', '--beam_runner=', '--boxes=']),
              ('predict --checkpoint = ru', []), ('demo ru', [])]  # fmt: skip


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_every_command_is_a_verb() -> None:
  modules = {'.'.join(path.with_suffix('').parts).removesuffix('.__main__') for path in VERB_FILES} - {'uniemox_jax'}
  assert {module for module, _ in console.VERBS.values()} == modules
  assert all(module.endswith(f'.{verb}') for verb, (module, _) in console.VERBS.items())


def test_help_has_a_line_for_every_verb() -> None:
  done = run('-m', 'uniemox_jax')
  assert done.returncode == 0 and done.stdout == run('-m', 'uniemox_jax', '--help').stdout
  for verb, (_, line) in console.VERBS.items():
    assert re.search(rf'^  {verb} +{re.escape(line)}$', done.stdout, re.MULTILINE)
    assert not set(line) & set(''':'"''') and len(line) < 80  # which shells would read otherwise
  assert max(map(len, done.stdout.splitlines())) <= 100


def test_help_needs_less_than_300_ms_of_a_processor_and_no_library() -> None:
  seconds = []
  for _ in range(3):
    before = os.times()
    run('-m', 'uniemox_jax', '--help')
    after = os.times()
    seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
  assert min(seconds) < 0.3
  code = 'import sys; from uniemox_jax import __main__ as m; m.completion("bash"); print(sorted(sys.modules))'
  assert not {'absl', 'jax', 'numpy', 'tensorflow', 'flax'} & set(ast.literal_eval(run('-c', code).stdout))


@pytest.mark.parametrize(('arguments', 'message'), [
    (['pretran'], "error: 'pretran' is no verb: did you mean pretrain? (uniemox --help lists them)\n"),
    (['xyzzy'], "error: 'xyzzy' is no verb: (uniemox --help lists them)\n"),
    (['completion', 'csh'], 'error: completion of which shell: uniemox completion bash, zsh or fish\n')])
def test_mistake_is_one_line(arguments: list[str], message: str) -> None:
  done = run('-m', 'uniemox_jax', *arguments)
  assert (done.returncode, done.stdout, done.stderr) == (2, '', message)


def test_a_verb_ends_as_by_python_m() -> None:
  arguments = ['predict', '--checkpoint=nowhere', 'nothing.png']
  ours, theirs = run('-m', 'uniemox_jax', *arguments), run('-m', 'uniemox_jax.predict', *arguments[1:])
  assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
  assert ours.returncode == 2 and ours.stderr.startswith('error: ')


def check_help(verb: str) -> None:
  """A verb's --help is that of `python -m`, and shows the flags that completion offers, no others."""
  ours, theirs = run('-m', 'uniemox_jax', verb, '--help'), run('-m', console.VERBS[verb][0], '--help')
  assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)
  flags = re.findall(r'^  --(\[no\])?(\w+):', ours.stdout, re.MULTILINE)
  shown = {f'--{name}' + ('' if switch else '=') for switch, name in flags}
  assert shown - console.INTERNAL_FLAGS == console.flags_of(console.VERBS[verb][0])


def test_help_of_a_verb_shows_its_flags() -> None:
  check_help('predict')


@pytest.mark.slow
@pytest.mark.parametrize('verb', [verb for verb in console.VERBS if verb != 'predict'])
def test_help_of_every_verb_shows_its_flags(verb: str) -> None:
  check_help(verb)


@pytest.mark.parametrize(('line', 'expected'), BASH_CASES, ids=[line for line, _ in BASH_CASES])
def test_bash_completes_verbs_flags_and_files(line: str, expected: list[str]) -> None:
  """No words for what is neither verb nor flag: `-o default` then makes bash complete files."""
  words = ' '.join(f"'{word}'" for word in ['uniemox', *line.split()])
  script = (
      f'{console.completion("bash")}\nCOMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n'
      'compopt() { :; }; _uniemox; printf "%s\\n" "${COMPREPLY[@]}"; complete -p uniemox')
  done = subprocess.run(['bash', '-c', script], capture_output=True, text=True, check=True)
  *words, complete = done.stdout.splitlines()
  assert [word for word in words if word] == expected and done.stderr == ''
  assert complete == 'complete -o default -F _uniemox uniemox'


@pytest.mark.parametrize('shell', ['zsh', 'fish'])
def test_other_shells_get_every_verb_and_flag(shell: str) -> None:
  script = console.completion(shell)
  for verb, (module, _) in console.VERBS.items():
    assert verb in script and all(flag.strip('-=') in script for flag in console.flags_of(module))
  if shutil.which(shell):
    subprocess.run([shell, '-n'], input=script, text=True, check=True)
