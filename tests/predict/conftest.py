"""What the tests of `predict` share."""

import pytest

from tests.support.predictions import save_random


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
  """A fine-tuned model of random weights; nothing may write to its folder."""
  return save_random(tmp_path_factory.mktemp('run'))
