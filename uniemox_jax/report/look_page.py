"""Shows the figures of `look` on a page that needs no network, and in the demo's report."""

import os
from typing import Any

from etils import epath

from data_pipelines.drawing.page_rendering import png_uri
from data_pipelines.storage import exists, parsing, read_json_object, write_text
from uniemox_jax.report.rendering import render

SUMMARY, PAGE = 'look.json', 'look.html'


def read_look(folder: str) -> dict[str, Any] | None:
  """Reads look.json and 'images', the figures beside it as data URIs by name; None if there is no look.json.

  Raises:
    UserError: one of the files is not what was written.
  """
  path = os.path.join(folder, SUMMARY)
  if not exists(path):
    return None
  look = read_json_object(path)
  with parsing(path):
    files = {
        name: (epath.Path(folder, figure['file']), figure.get('sha256')) for name, figure in look['pictures'].items()}
  images = {name: png_uri(file, sha256) for name, (file, sha256) in files.items() if file.exists()}
  return look | {'images': images}


def write_page(folder: str) -> None:
  """Writes look.html from look.json and the figures beside it."""
  write_text(os.path.join(folder, PAGE), render('look_page.html.j2', {'look': read_look(folder)}))
