"""Small outputs, written whole or not at all."""

from collections.abc import Iterator
import contextlib
import json
import os
from pathlib import Path
import tempfile
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


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
  """A new folder that becomes `folder`, absent or empty until then, at the end, or vanishes with an error."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f'.{folder.name}.') as scratch:
    partial = Path(scratch) / 'new'
    partial.mkdir()
    yield partial
    os.rename(partial, folder)
