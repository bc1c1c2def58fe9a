"""Stands in for `gcloud`, on a pod whose workers are folders of this machine; whatever is run there, runs for real.

$FAKE_CLOUD holds `calls.jsonl` (each argv), `states.json` (the states that the queued resource goes through, one a
look; the last one stays) and `workers/NAME-w-0`, …: the home folders, wiped when the pod is made anew.
"""

import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

CLOUD = Path(os.environ['FAKE_CLOUD'])
WORKERS = 2


def set_states(*states: str) -> None:
  (CLOUD / 'states.json').write_text(json.dumps(states))


def _look() -> str:
  states = json.loads((CLOUD / 'states.json').read_text())
  if len(states) > 1:
    set_states(*states[1:])
  return states[0]


def _tool(path: Path, text: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f'#!/bin/sh\n{text}\n')
  path.chmod(0o755)


def _create(name: str) -> None:
  shutil.rmtree(CLOUD / 'workers', ignore_errors=True)
  for index in range(WORKERS):
    home = CLOUD / 'workers' / f'{name}-w-{index}'
    _tool(home / 'bin/hostname', f"echo 't1v-w-{index}'")
    # `uv venv` makes an environment; the rest of the installation is only noted.
    _tool(
        home / 'bin/python3', f'''echo "$*" >> "$HOME/installed"
case "$*" in *"uv venv"*) for folder; do :; done
mkdir -p "$folder/bin" && ln -sf '{sys.executable}' "$folder/bin/python";; esac''')
    _tool(home / 'bin/gcloud', 'echo "gcloud $*" >> "$HOME/installed"')
  set_states('WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE')


def _ssh(worker: str, command: str) -> int:
  if json.loads((CLOUD / 'states.json').read_text())[0] != 'ACTIVE':
    print('ERROR: cannot be reached', file=sys.stderr)
    return 255
  homes = sorted((CLOUD / 'workers').iterdir())
  running = [
      subprocess.Popen(['bash', '-c', command], cwd=home, stdin=subprocess.DEVNULL,
                       env=os.environ | {'HOME': str(home), 'PATH': f'{home}/bin:{os.environ["PATH"]}'})
      for home in (homes if worker == 'all' else [homes[int(worker)]])]
  return next((code for code in [process.wait() for process in running] if code), 0)


def main(argv: list[str]) -> int:
  with (CLOUD / 'calls.jsonl').open('a') as calls:
    calls.write(json.dumps(argv) + '\n')
  flags = dict(word[2:].split('=', 1) for word in argv if word.startswith('--') and '=' in word)
  match argv:
    case ['compute', 'tpus', 'queued-resources', 'describe', *_]:
      state = _look()
      if state == 'NOT_FOUND':
        print('ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource was not found', file=sys.stderr)
        return 1
      print(state)
    case ['compute', 'tpus', 'queued-resources', 'create', name, *_]:
      _create(name)
    case ['compute', 'tpus', 'queued-resources', 'delete', *_]:
      set_states('NOT_FOUND')
    case ['compute', 'tpus', 'tpu-vm', 'describe', *_]:
      print('READY')
    case ['compute', 'tpus', 'tpu-vm', 'scp', source, target, *_]:
      for home in (CLOUD / 'workers').iterdir():
        shutil.copy(source, home / target.partition(':')[2])
    case ['compute', 'tpus', 'tpu-vm', 'ssh', *_]:
      return _ssh(flags['worker'], flags['command'])
    case _:
      raise ValueError(f'no such command: {argv}')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
