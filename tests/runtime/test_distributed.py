"""Processes that never come: the others say where they waited, and end."""

import sys

from tests.support import small_runs


def test_a_process_whose_peer_never_comes_says_where_it_waited_and_asks_to_be_run_again(tmp_path):
  command = [
      'uniemox_jax.pretrain', f'--config={small_runs.ROOT}/configs/demo.py:pretrain', f'--workdir={tmp_path}',
      '--connect_timeout=2']
  for rank in (0, 1):
    alone = small_runs.start([sys.executable, '-m', *command],
                             JAX_COORDINATOR_ADDRESS=f'127.0.0.1:{small_runs.free_port()}', JAX_NUM_PROCESSES='2',
                             JAX_PROCESS_ID=str(rank))
    told = alone.communicate(timeout=60)[0]
    errors = [line for line in told.splitlines() if line.startswith('error: ')]
    assert alone.returncode == 75 and len(errors) == 1, told
    assert f'process {rank} of 2 waited 2 s at 127.0.0.1:' in errors[0] and 'Check failure' not in told
