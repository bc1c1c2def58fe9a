"""The soak in small: see tests/system/soak.py."""

from pathlib import Path

import pytest

from tests.system import soak


@pytest.mark.slow
def test_runs_that_are_killed_five_times_end_as_ones_that_nobody_killed(tmp_path: Path) -> None:
  assert soak.soak(5, 0, tmp_path).total() == 5
