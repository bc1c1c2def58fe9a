"""Starts and ends the commands of this package: a user's mistake is one line on standard error, with exit code 2."""

from collections.abc import Callable, Iterator
import contextlib
import importlib.util
import math
import sys
from typing import NoReturn

from absl import app, flags

from data_pipelines import storage
from data_pipelines.errors import USAGE_ERROR, UserError
from data_pipelines.plain_text import single_line

flags.disclaim_key_flags()  # `--help` shows a flag that `define_path` declares as the command's own


def fail(message: str) -> NoReturn:
  """Ends the process with the message as one line on standard error, see `single_line`, and exit code 2."""
  print('error: ' + single_line(message), file=sys.stderr)
  sys.exit(USAGE_ERROR)


class _PathParser(flags.ArgumentParser):
  """Checks and expands a path while the command line is read."""

  def __init__(self, name: str, remote: bool, also: str | None):
    super().__init__()
    self._name, self._remote, self._also = name, remote, also

  def parse(self, argument: str) -> str:
    if self._also and argument.startswith(self._also):
      return argument
    try:
      return storage.checked_path(argument, f'--{self._name}', self._remote)
    except UserError as error:  # absl names the flag.
      raise ValueError(str(error).removeprefix(f'--{self._name}={argument}').lstrip(' :')) from error


def define_path(
    name: str, default: str | None, help_text: str, required: bool = False, remote: bool = True,
    also: str | None = None) -> None:
  """Declares a flag that is a path: `~` is expanded, and a bucket is refused unless the command can use one.

  What begins with `also` is left as it is, for the command to read.
  """
  flags.DEFINE(_PathParser(name, remote, also), name, default, help_text, required=required)


def require_flags(*names: str) -> None:
  """Raises UserError with the first of these flags that has no value."""
  for name in names:
    if not flags.FLAGS[name].value:
      raise UserError(f'--{name} is missing (--help lists the options)')


def require_libraries(extra: str, *libraries: str) -> None:
  """Raises UserError, with the command that helps, if one of these is not installed.

  Args:
    extra: the extra of `setup.py`, named after the verb that needs them.
    libraries: the names to import.
  """
  if missing := [name for name in libraries if importlib.util.find_spec(name) is None]:
    raise UserError(f"{extra} needs {' and '.join(missing)}: pip install 'uniemox_jax[{extra}]'")


def check_flags() -> None:
  """Raises UserError if a flag has no value, as from a shell's empty variable, or is NaN or infinite: the bounds of a
  flag let NaN through."""
  for name, value in flags.FLAGS.flag_values_dict().items():
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f'--{name}={value} is no finite number: give another')
    if value == '' and flags.FLAGS[name].present and '.' not in name:  # Keys of a config have their own checks.
      raise UserError(f'--{name} is empty: give a value, or leave it out')


def _parse(argv: list[str]) -> list[str]:
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    raise UserError(f'{error} (--help lists the options)') from error
  check_flags()
  if len(rest) > 1:
    raise UserError(f"unexpected argument '{rest[1]}': options are given as --name=value")
  return rest


@contextlib.contextmanager
def one_line(interrupted: str) -> Iterator[None]:
  """Ends the process with one line and exit code 2 after a mistake of the user, a failure of storage, or Ctrl-C.

  Args:
    interrupted: how to go on after Ctrl-C.
  """
  try:
    yield
  except UserError as error:
    fail(str(error))
  except Exception as error:
    if (message := storage.explain(error)) is None:
      raise
    fail(message)
  except KeyboardInterrupt:
    fail(f'interrupted: {interrupted}')


def run(main: Callable[[], None]) -> None:
  """Parses the command line and runs `main` under absl; exit code 2 after a `UserError` or Ctrl-C."""
  with one_line('run the same command again to start over'):
    app.run(lambda argv: main(), flags_parser=_parse)
