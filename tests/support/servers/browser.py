"""A real Chromium for the tests of pages, where one is installed: `make test-app` runs them."""

from collections.abc import Iterator
import contextlib
import shutil
from typing import Any

import pytest

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
NEEDS_CHROMIUM = [
    pytest.mark.slow, pytest.mark.chromium,
    pytest.mark.skipif(CHROMIUM is None, reason='there is no chromium on this machine')]  # fmt: skip
SECONDS = 30


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
  """A browser of playwright's."""
  sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
  with sync_api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
    yield browser
    browser.close()
