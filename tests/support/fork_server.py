"""Commands in processes of their own, forked from one that has imported everything: that spares each its five seconds.

Tests start a `ForkedProcess`; what it asks is `python -m tests.support.fork_server`, one for every pytest process.
"""

import atexit
from collections.abc import Sequence
import functools
import gc
import importlib
import json
import os
from pathlib import Path
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading

ROOT = Path(__file__).parents[2]
VERBS = ('pretrain', 'finetune', 'evaluate')


class ForkedProcess:
  """`-m MODULE ARGUMENT...`, `-c PROGRAM ARGUMENT...` or `FILE ARGUMENT...`, with the methods of `subprocess.Popen`.

  It leads a process group, and its errors are in its output.
  """

  def __init__(self, arguments: Sequence[object], environment: dict[str, str], cwd: Path = ROOT):
    self._connection, theirs = socket.socketpair()
    reading, writing = os.pipe()
    socket.send_fds(_server(), [b'.'], [theirs.fileno(), writing])
    theirs.close()
    os.close(writing)
    self.stdout, self._answers = os.fdopen(reading, encoding='utf-8'), self._connection.makefile('rw')
    print(json.dumps([list(map(str, arguments)), environment, str(cwd)]), file=self._answers, flush=True)
    self.pid, self.returncode = int(self._answers.readline()), None

  def poll(self) -> int | None:
    if select.select([self._connection], [], [], 0)[0]:
      self.wait()
    return self.returncode

  def wait(self, timeout: float | None = None) -> int:
    if self.returncode is None:
      if not select.select([self._connection], [], [], timeout)[0]:
        raise subprocess.TimeoutExpired(str(self.pid), timeout)
      self.returncode = int(self._answers.readline())
    return self.returncode

  def communicate(self, timeout: float | None = None) -> tuple[str, None]:
    said = []
    reader = threading.Thread(target=lambda: said.append(self.stdout.read()), daemon=True)
    reader.start()
    reader.join(timeout)
    if not said:
      raise subprocess.TimeoutExpired(str(self.pid), timeout)
    self.wait()
    return said[0], None

  def send_signal(self, number: int) -> None:
    if self.poll() is None:
      os.kill(self.pid, number)

  def kill(self) -> None:
    self.send_signal(signal.SIGKILL)


@functools.cache
def _server() -> socket.socket:
  """The server of this process, which ends with it."""
  ours, theirs = socket.socketpair()
  with theirs:
    server = subprocess.Popen(
        [sys.executable, '-u', '-m', __name__, str(theirs.fileno())], cwd=ROOT, pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL)
  atexit.register(server.wait)
  atexit.register(ours.close)
  return ours


def _next_request(control: socket.socket) -> list[int]:
  """Its file descriptors, in a new process; the server itself goes on here, until nobody can ask."""
  while True:
    byte, fds, *_ = socket.recv_fds(control, 1, 2)
    if not byte:
      os._exit(0)
    if os.fork() == 0:
      control.close()
      return fds
    for fd in fds:
      os.close(fd)
    os.waitpid(-1, os.WNOHANG)


def _become(connection: int, output: int) -> list[str]:
  """What to run, in a new process made as was asked; the one that was there says its id, and how it ended."""
  with socket.socket(fileno=connection) as link, link.makefile('rw') as asked:
    arguments, environment, cwd = json.loads(asked.readline())
    if pid := os.fork():
      os.close(output)
      os.setpgid(pid, pid)
      print(pid, file=asked, flush=True)
      print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=asked, flush=True)
      os._exit(0)
  os.setpgid(0, 0)
  for stream in (1, 2):
    os.dup2(output, stream)
  os.close(output)
  os.chdir(cwd)
  os.environ.clear()
  os.environ.update(environment)
  tempfile.tempdir = None  # or it stays that of the environment before
  return arguments


def main() -> None:
  """Imports what verbs import, and becomes what is asked for; runpy finds the verbs themselves unimported."""
  for verb in VERBS:
    importlib.import_module(f'uniemox_jax.{verb}')
    del sys.modules[f'uniemox_jax.{verb}']
  gc.freeze()
  kind, what, *arguments = _become(*_next_request(socket.socket(fileno=int(sys.argv[1]))))
  sys.argv[:] = [what, *arguments]
  if kind == '-m':
    runpy.run_module(what, run_name='__main__', alter_sys=True)
  elif kind == '-c':
    exec(compile(what, '<string>', 'exec'), {'__name__': '__main__'})
  else:
    os.execv(kind, [kind, what, *arguments])


if __name__ == '__main__':
  main()
