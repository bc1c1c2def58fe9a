"""The command `python -m uniemox_jax.compare`: its flags."""

from absl import flags

from uniemox_jax.compare import subprocess_runs
from uniemox_jax.compare.comparison import Until, compare, run_job
from uniemox_jax.runtime import cli


def main() -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  until = None if values.until is None else Until(values.until, values.most_seeds, values.hours)
  if values.cell:
    run_job(values.config, values.workdir, values.cell, until)
    return
  compare(values.config, values.workdir, until)


if __name__ == '__main__':
  cli.define_config()
  cli.define_workdir(default='runs/compare', remote=False)
  flags.DEFINE_float(
      'until', None, 'Add seeds until no 95 % interval of a difference from the reference is wider than to each side.',
      lower_bound=0)
  flags.DEFINE_integer('most_seeds', 20, 'With --until: the most seeds.', lower_bound=2)
  flags.DEFINE_float(
      'hours', None, 'With --until: after so many hours of this command, no seed is added.', lower_bound=0)
  subprocess_runs.define_flags(jobs=1)
  cli.run(main)
