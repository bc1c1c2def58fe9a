"""What all commands share: flags, config files, and one line in place of a traceback."""

from collections.abc import Callable
import importlib.util
import logging as std_logging
import os
from pathlib import Path
import re
import runpy
import sys
from typing import Any

from absl import app, flags, logging
import jax
from ml_collections import ConfigDict, config_flags

from data_pipelines import command, ownership, storage
from data_pipelines.command import define_path, fail
from data_pipelines.errors import UserError
from uniemox_jax.runtime import distributed, preemption
from uniemox_jax.runtime.clock import Profile

flags.disclaim_key_flags()  # `VERB --help` shows flags that are defined here as the verb's own


def define_config(default: str | None = None) -> None:
  """Declares `--config=FILE[:ARG]`, with `--config.key=value` overrides; required unless there is a default."""
  help_text = 'Python that is run: an ml_collections FILE or FILE:ARGUMENT; --config.key=value overrides a key.'
  config_flags.DEFINE_config_file('config', default and find_config(default), help_text)
  if default is None:
    flags.mark_flag_as_required('config')


def define_workdir(default: str | None = None, remote: bool = True) -> None:
  """Declares `--workdir`, the folder of a run, perhaps in a bucket; required unless there is a default."""
  define_path('workdir', default, 'Folder of the run; the same command again resumes it.', default is None, remote)


def define_multihost() -> None:
  """Declares `--multihost`; `run` then joins the other processes before the command's own work."""
  flags.DEFINE_bool('multihost', False, 'Join the other hosts of a TPU slice, or of a GKE, Slurm or Open MPI job.')
  flags.DEFINE_integer('connect_timeout', 120, 'Seconds to wait for the other processes.', 1)


def define_training(train: Callable[[ConfigDict, str, Profile | None], Any]) -> Callable[[], None]:
  """Declares `--config`, `--workdir`, `--multihost` and `--profile`, and returns the `main` that calls `train`."""
  define_config()
  define_workdir()
  define_multihost()
  flags.DEFINE_bool('steal', False, 'Take --workdir from its owner: only after that process has died.')
  flags.DEFINE_string('profile', None, 'Steps to trace into WORKDIR/profile: FIRST:LAST, or N for N after compilation.')
  values = flags.FLAGS
  return lambda: train(values.config, values.workdir, _profile_steps(values.profile))


def _profile_steps(value: str | None) -> Profile | None:
  if value is None:
    return None
  match = re.fullmatch(r'(?:(\d+):)?(\d+)', value)
  if match is None or int(match[2]) < int(match[1] or 1):
    raise UserError(f"--profile is '{value}': give FIRST:LAST, such as 10:15, or how many steps, such as 5")
  return Profile(int(match[1] or 1), int(match[2]), from_start=not match[1])


def find_config(value: str) -> str:
  """Finds the file of a `--config` value FILE or FILE:ARG: as given, or in the installed `configs` package.

  Raises:
    UserError: neither exists. ml_collections itself would continue without an error.
  """
  path, colon, argument = value.partition(':')
  if Path(path).is_file():
    return value
  spec = importlib.util.find_spec('configs')
  for folder in spec and spec.submodule_search_locations or ():
    installed = os.path.join(folder, os.path.basename(path))
    if os.path.dirname(path) in ('', 'configs') and Path(installed).is_file():
      return installed + colon + argument
  raise UserError(f"config file '{path}' does not exist: give a path to a file, or one of the shipped configs/*.py")


def load_config(value: str) -> ConfigDict:
  """Loads the config that a config file gives; `value` is as for `find_config`.

  Raises:
    UserError: there is no such file, or the file or its argument is at fault.
  """
  path, colon, argument = find_config(value).partition(':')
  try:
    config = runpy.run_path(path)['get_config'](*([argument] if colon else []))
    if not isinstance(config, ConfigDict):
      raise TypeError('get_config returns no ConfigDict')
    return config
  except Exception as error:  # whatever the file's own code raises
    raise UserError(
        f'{value} gives no config ({" ".join(str(error).split())}): correct the file or its argument') from error


def _arguments(argv: list[str]) -> list[str]:
  """argv with each `--config FILE` resolved by `find_config`."""
  resolved = list(argv)
  for index, argument in enumerate(argv):
    if argument.startswith(('--config=', '-config=')):
      resolved[index] = '--config=' + find_config(argument.partition('=')[2])
    elif argument in ('--config', '-config') and index + 1 < len(argv):
      resolved[index + 1] = find_config(argv[index + 1])
  return resolved


def _explain(message: str) -> str:
  """absl's message about a flag, shortened."""
  missing = re.match(r'flag --(\w+)=None', message)
  if missing:
    return f'--{missing[1]} is missing: add --{missing[1]}=VALUE (--help lists the options)'
  if 'parsing config file' in message:  # ml_collections puts the whole traceback into the message
    return f'{message.partition(": ")[0]}: {message.strip().splitlines()[-1]}: correct the config file or its argument'
  return f'{message} (--help lists the options)'


def _explain_config(argv: list[str], error: Exception) -> str:
  """A message for what ml_collections raises as bare exceptions: an unknown key, or argument after FILE's colon."""
  inner = error.args[0] if error.args and isinstance(error.args[0], KeyError) else error
  said = inner.args[0] if isinstance(inner, KeyError) else inner
  overrides = [argument for argument in argv if argument.startswith('--config.')]
  asked = ' '.join(overrides or [argument for argument in argv if argument.startswith('--config')])
  return f'{asked} does not fit this config ({said}): correct the name; the config file shows what there is'


def _check_workdir(workdir: str | None) -> None:
  """Fails if a file has the name of the folder or of one above it."""
  if workdir and storage.is_remote(workdir):
    return
  place = storage.absolute(workdir or '.')
  while not place.exists():
    place = place.parent
  if not place.is_dir():
    fail(f'--workdir={workdir}: {place} is a file: name a folder, or choose another --workdir')


def _report_unless_loop_closed(unraisable: Any) -> None:
  if str(unraisable.exc_value) != 'Event loop is closed':
    sys.__unraisablehook__(unraisable)


def run(main: Callable[..., Any], *operands: str) -> None:
  """Parses the command line and runs `main`; a user's mistake ends in one line on standard error and exit code 2.

  Args:
    main: the function that receives what the command line gives for the operands.
    operands: the names of what is given without `--`, such as 'SRC'. If the last ends in '...', it stands for one or
      more.
  """
  app.define_help_flags()
  try:
    rest = flags.FLAGS(_arguments(sys.argv))
    command.check_flags()
    many = operands and operands[-1].endswith('...')
    if len(rest) - 1 > len(operands) and not many:
      fail(f"unexpected argument '{rest[1 + len(operands)]}': options are given as --name=value")
    if len(rest) - 1 < len(operands):
      fail(f'{operands[len(rest) - 1]} is missing: give it without --, see --help')
  except UserError as error:
    fail(str(error))
  except flags.Error as error:
    fail(_explain(str(error)))
  except (AttributeError, KeyError, TypeError, ValueError, SyntaxError) as error:
    fail(_explain_config(sys.argv, error))
  # Reads and writes of a checkpoint that fail raise an error here. They are reported besides: by Orbax's threads, by
  # asyncio at exit, and by those that come after the one that failed.
  logging.set_verbosity(logging.FATAL)
  std_logging.getLogger('asyncio').setLevel(std_logging.CRITICAL)
  sys.unraisablehook = _report_unless_loop_closed
  with command.one_line('run the same command again to resume'):
    try:
      if 'multihost' in flags.FLAGS:
        distributed.join(flags.FLAGS.multihost, flags.FLAGS.connect_timeout)
      if 'workdir' in flags.FLAGS:
        _check_workdir(flags.FLAGS.workdir)
        preemption.watch()
      if 'steal' in flags.FLAGS and flags.FLAGS.steal and distributed.is_primary():
        ownership.disown(flags.FLAGS.workdir)
      main(*rest[1:])
      preemption.end_together()
    except preemption.Preempted as reason:
      preemption.leave(reason)
    except jax.errors.JaxRuntimeError:
      distributed.wait_for_news_of_death()
      raise
