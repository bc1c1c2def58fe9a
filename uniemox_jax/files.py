"""Small outputs, written whole or not at all."""

import json
import os
from typing import Any


def write_text(path: str, text: str) -> None:
  """Writes `path` under a temporary name beside it, then renames: a reader never sees half a file."""
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  temporary = f'{path}.writing'
  with open(temporary, 'w', encoding='utf-8') as file:
    file.write(text)
  os.replace(temporary, path)


def write_json(path: str, value: Any) -> None:
  """`write_text` of indented JSON."""
  write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + '\n')


def read_json(path: str) -> Any:
  """The value in a JSON file."""
  with open(path, encoding='utf-8') as file:
    return json.load(file)
