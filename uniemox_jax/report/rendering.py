"""The templates of this folder, rendered: HTML pages, which are escaped, and Markdown, which is not."""

from collections.abc import Callable, Mapping
import os
from typing import Any

import jinja2


def render(template: str, facts: Mapping[str, Any], filters: Mapping[str, Callable[..., str]] | None = None) -> str:
  """The text of a `*.html.j2` or `*.md.j2`; a name that `facts` lacks is an error."""
  is_page = template.endswith('.html.j2')
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(os.path.dirname(__file__)), autoescape=is_page, trim_blocks=True,
      lstrip_blocks=True, keep_trailing_newline=not is_page, undefined=jinja2.StrictUndefined)
  environment.filters.update(filters or {})
  return environment.get_template(template).render(facts)
