"""What `look` left, as a page that needs no network, and as part of the demo's report."""

import os
from typing import Any

from etils import epath
import jinja2

from uniemox_jax.report.figures import data_uri
from uniemox_jax.runtime.files import exists, read_json, write_text

SUMMARY, PAGE = 'look.json', 'look.html'


def read_look(folder: str) -> dict[str, Any] | None:
  """look.json and 'images', the pictures that lie beside it as data URIs by name; None where there is no look.json."""
  path = os.path.join(folder, SUMMARY)
  if not exists(path):
    return None
  look = read_json(path)
  files = {name: epath.Path(folder, picture['file']) for name, picture in look['pictures'].items()}
  return look | {
      'images': {name: data_uri(file.read_bytes(), 'image/png') for name, file in files.items() if file.exists()}
  }


def write_page(folder: str) -> None:
  """Writes look.html from look.json and the pictures beside it."""
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(os.path.dirname(__file__)), autoescape=True, trim_blocks=True, lstrip_blocks=True,
      undefined=jinja2.StrictUndefined)
  write_text(os.path.join(folder, PAGE), environment.get_template('look_page.html.j2').render(look=read_look(folder)))
