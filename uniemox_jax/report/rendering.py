"""Renders the templates of this folder: HTML pages and Markdown, in which every value is escaped."""

from collections.abc import Callable, Mapping
import os
from typing import Any

from data_pipelines.drawing.page_rendering import render_template


def render(template: str, facts: Mapping[str, Any], filters: Mapping[str, Callable[..., str]] | None = None) -> str:
  """Renders a template of this folder by `render_template`."""
  return render_template(os.path.join(os.path.dirname(__file__), template), facts, filters)
