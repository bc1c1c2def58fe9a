"""The command `python -m uniemox_jax.plan`: its flags."""

import os
import time

from absl import flags
from ml_collections import config_flags

from data_pipelines.errors import UserError
from data_pipelines.storage import write_json
from uniemox_jax.plan.gpu_cards import cards
from uniemox_jax.plan.planning import DOCUMENT, GPU_COMPILER, format_plan, plan, plan_all, search_batch
from uniemox_jax.runtime import cli
from uniemox_jax.runtime.hardware import CHIPS


def main() -> None:
  """Entry point after flags are parsed."""
  args = flags.FLAGS
  if args.all:
    if args.workdir is None:
      raise UserError('--workdir is missing: --all keeps its plans there and resumes from them')
    plan_all(args.workdir)
    return
  for name in ('config', 'topology'):
    if getattr(args, name) is None:
      raise UserError(f'--{name} is missing: add --{name}=VALUE, or --all for every shipped config')
  print(f'compiling for {args.topology} (a large model takes minutes) …', flush=True)
  started = time.perf_counter()
  result = (search_batch if args.search_batch else plan)(args.config, args.topology, args.gpu_compiler)
  print(f'compiled in {time.perf_counter() - started:.0f} s\n{format_plan(result)}', flush=True)
  if args.workdir is not None:
    write_json(os.path.join(args.workdir, 'plan.json'), result)


if __name__ == '__main__':
  config_flags.DEFINE_config_file(
      'config', None,
      'An ml_collections file, FILE or FILE:ARGUMENT, of pretrain or finetune; --config.key=value overrides a key.')
  flags.DEFINE_string(
      'topology', None,
      f"A TPU slice, such as v5e:4x4 ({', '.join(CHIPS)}), or GPUs, such as h100:8 ({', '.join(cards())}).")
  flags.DEFINE_string('gpu_compiler', GPU_COMPILER, 'The Python that compiles for GPUs (docs/gpu.md).')
  flags.DEFINE_bool('search_batch', False, 'Find the largest batch per device that fits.')
  flags.DEFINE_bool('all', False, f'Plan every shipped config and write the table into {DOCUMENT}.')
  cli.define_path('workdir', None, 'Folder for plan.json; with --all, for all plans.')
  cli.run(main)
