"""The command `python -m uniemox_jax.compare`: its flags."""

from absl import flags

from uniemox_jax.compare import subprocess_runs
from uniemox_jax.compare.comparison import compare, run_job
from uniemox_jax.runtime import cli


def main() -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  if values.cell:
    run_job(values.config, values.workdir, values.cell)
    return
  compare(values.config, values.workdir)


if __name__ == '__main__':
  cli.define_config()
  cli.define_workdir(default='runs/compare', remote=False)
  subprocess_runs.define_flags(jobs=1)
  cli.run(main)
