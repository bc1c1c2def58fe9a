"""How the commands of this package start and fail: a user's mistake is one line on standard error, exit code 2."""

from collections.abc import Callable
import sys
from typing import NoReturn

from absl import app, flags

from data_pipelines.errors import UserError

USAGE_ERROR = 2


def fail(message: str) -> NoReturn:
  """Ends the process with the message as one line on standard error and exit code 2."""
  print('error: ' + ' '.join(message.split()), file=sys.stderr)
  sys.exit(USAGE_ERROR)


def require_flags(*names: str) -> None:
  """Raises UserError with the first of these flags that has no value."""
  for name in names:
    if not flags.FLAGS[name].value:
      raise UserError(f'--{name} is missing (--help lists the options)')


def _parse(argv: list[str]) -> list[str]:
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    raise UserError(f'{error} (--help lists the options)') from error
  if len(rest) > 1:
    raise UserError(f"unexpected argument '{rest[1]}': options are given as --name=value")
  return rest


def run(main: Callable[[list[str]], None]) -> None:
  """Parses the command line and runs `main` under absl; exit code 2 after a `UserError` or Ctrl-C."""
  try:
    app.run(main, flags_parser=_parse)
  except UserError as error:
    fail(str(error))
  except KeyboardInterrupt:
    print('interrupted: run the same command again to start over', file=sys.stderr)
    sys.exit(USAGE_ERROR)
