"""Renders templates of HTML pages and Markdown, in which every value is escaped; and puts files inside of pages."""

import base64
from collections.abc import Callable, Mapping
import hashlib
import io
import os
from typing import Any

import jinja2
from markupsafe import Markup

from data_pipelines import storage
from data_pipelines.errors import UserError
from data_pipelines.image_bytes.png import is_whole_png
from data_pipelines.plain_text import markdown_code, markdown_text


def _as_text(value: Any) -> Any:
  return value if isinstance(value, Markup) else markdown_text(value)


def render_template(
    path: str | os.PathLike, facts: Mapping[str, Any], filters: Mapping[str, Callable[..., str]] | None = None) -> str:
  """Renders a `*.html.j2` or `*.md.j2`, which may import others of its folder; a name that `facts` lacks is an error.
  """
  folder, template = os.path.split(path)
  is_page = template.endswith('.html.j2')
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(folder), autoescape=is_page, trim_blocks=True, lstrip_blocks=True,
      keep_trailing_newline=not is_page, undefined=jinja2.StrictUndefined, finalize=None if is_page else _as_text)
  environment.filters['code'] = lambda text: Markup(markdown_code(text))
  environment.filters.update(filters or {})
  return environment.get_template(template).render(facts)


def data_uri(content: bytes, kind: str) -> str:
  """Makes of a file an address that contains it; kind is its media type."""
  return f'data:{kind};base64,{base64.b64encode(content).decode()}'


def png_uri(path: str | os.PathLike, sha256: str | None = None) -> str:
  """Makes `data_uri` of a PNG that this package drew.

  Args:
    path: the file.
    sha256: the SHA-256 that it must have, 64 hexadecimal digits; None if only the PNG's own checksums count.

  Raises:
    UserError: it is not what was drawn.
  """
  content = storage.read_bytes(path)
  if not is_whole_png(content) or sha256 not in (None, hashlib.sha256(content).hexdigest()):
    raise UserError(f'{os.fspath(path)} is not what was drawn: delete it, and the page goes without it')
  return data_uri(content, 'image/png')


def svg_chart(draw: Callable[[Any], None], width: float, height: float, style: Mapping[Any, Any]) -> str:
  """Draws a chart as a data URI, the same bytes for the same numbers.

  Args:
    draw: a function that is called with matplotlib's axes.
    width, height: inches.
    style: matplotlib's style, with its `svg.hashsalt`.
  """
  import matplotlib  # Slower than all else here, and not every page has charts.
  from matplotlib.figure import Figure

  with matplotlib.rc_context(dict(style)):
    figure = Figure(figsize=(width, height), layout='constrained')
    draw(figure.subplots())
    buffer = io.BytesIO()
    figure.savefig(buffer, format='svg', metadata={'Date': None})
  return data_uri(buffer.getvalue(), 'image/svg+xml')
