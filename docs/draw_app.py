"""Draws the images of docs/app.md from what `make demo` left: python -m docs.draw_app --demo=runs/demo.

Writes app.jpg, two models on a wide screen, and app_phone.jpg, to docs/images. Chromium must be installed.
"""

import argparse
from pathlib import Path
import re
import shutil
import subprocess
import sys

from playwright.sync_api import sync_playwright

OUT = Path(__file__).parent / 'images'
# Name, width and height in pixels, checkpoints of the demo, and what is scrolled to.
SHOTS = [('app.jpg', 1180, 1060, ('finetune_uniemox', 'clip/teacher'), '#answers > li'),
         ('app_phone.jpg', 360, 1000, ('finetune_uniemox',), '#results')]  # fmt: skip


def draw_page(name: str, width: int, height: int, checkpoints: list[Path], images: list[Path], place: str) -> None:
  """What a visitor sees who has given these images, from `place` on, with the map of attention."""
  command = [sys.executable, '-m', 'uniemox_jax.app', '--port=0', *(f'--checkpoint={path}' for path in checkpoints)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
    assert server.stdout
    address = next(match[0] for line in server.stdout if (match := re.search(r'http://127\S+', line)))
    browser = playwright.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox'])
    page = browser.new_page(viewport={'width': width, 'height': height})
    page.goto(address)
    page.wait_for_selector('body[data-ready]')
    page.set_input_files('#files', images)
    page.wait_for_function(
        f"() => document.querySelector('#status').textContent.startsWith('{len(images)} of {len(images)} answered')")
    page.get_by_label('attention').check()
    page.locator(place).first.evaluate('element => element.scrollIntoView()')
    page.screenshot(path=OUT / name, quality=80)
    browser.close()
    server.terminate()


def main() -> None:
  """Draws both."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--demo', type=Path, required=True)
  demo = parser.parse_args().demo
  images = [sorted((demo / 'raw' / 'emo8' / 'test' / label).glob('natural*'))[0] for label in ('awe', 'sadness')]
  for name, width, height, checkpoints, place in SHOTS:
    draw_page(name, width, height, [demo / path for path in checkpoints], images, place)


if __name__ == '__main__':
  main()
