"""Reads how a run on Apache Beam is set up, and checks it before anything is made."""

from collections.abc import Sequence
import contextlib
import io
from typing import Any

from data_pipelines.errors import UserError


def read_beam_options(runner: str | None, options: Sequence[str]) -> Any:
  """Makes Beam's `PipelineOptions`.

  Args:
    runner: the name of a Beam runner, such as 'DirectRunner'; None if `options` name it.
    options: options such as 'direct_num_workers=4'.

  Raises:
    UserError: Beam is not installed, or knows no such runner, option or value.
  """
  try:
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners import runner as runners
  except ImportError as error:
    raise UserError("Apache Beam is not installed: pip install 'uniemox_jax[beam]'") from error
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said):  # Beam's parser prints all its options.
      found = PipelineOptions([f'--{option}' for option in options])
      every = found.get_all_options(retain_unknown_options=True)
      known = PipelineOptions([]).get_all_options()
  except SystemExit as error:
    raise UserError(f'--beam_options: {said.getvalue().rpartition("error: ")[2].strip()}') from error
  if unknown := sorted(every.keys() - known.keys()):
    raise UserError(f'--beam_options: Beam has no option {unknown[0]}: correct it, or leave it out')
  if name := runner or every.get('runner'):
    try:
      runners.create_runner(name)
    except (ValueError, ImportError, AttributeError) as error:
      raise UserError(f'--beam_runner={name}: {str(error).splitlines()[0]}') from error
  return found
