"""Small outputs, written whole or not at all, on a disk or in a bucket (gs://)."""

from collections.abc import Iterator
import contextlib
import json
import os
from pathlib import Path
import tempfile
from typing import Any

from etils import epath


def is_remote(path: str) -> bool:
  """Whether `path` lies in a bucket, where an object appears whole and cannot be appended to."""
  return '://' in path


def absolute(path: str) -> epath.Path:
  """`path`, absolute where it is on a disk."""
  return epath.Path(path if is_remote(path) else os.path.abspath(path))


def exists(path: str) -> bool:
  """Whether there is a file or folder."""
  return epath.Path(path).exists()


def write_bytes(path: str, content: bytes) -> None:
  """Writes `path` under a temporary name beside it, then renames: a reader never sees half a file."""
  if is_remote(path):
    epath.Path(path).write_bytes(content)
    return
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  temporary = f'{path}.writing'
  with open(temporary, 'wb') as file:
    file.write(content)
  os.replace(temporary, path)


def write_shared(path: str, content: bytes) -> None:
  """`write_bytes` of a file that several processes may write at once: each has a temporary file of its own."""
  if is_remote(path):
    epath.Path(path).write_bytes(content)
    return
  folder, name = os.path.split(path)
  os.makedirs(folder or '.', exist_ok=True)
  with tempfile.NamedTemporaryFile(dir=folder or '.', prefix=f'.{name}.', delete=False) as file:
    file.write(content)
  os.replace(file.name, path)


def write_text(path: str, text: str) -> None:
  """`write_bytes` of UTF-8."""
  write_bytes(path, text.encode())


def write_json(path: str, value: Any) -> None:
  """`write_text` of indented JSON."""
  write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + '\n')


def read_json(path: str) -> Any:
  """The value in a JSON file."""
  return json.loads(epath.Path(path).read_text())


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
  """A temporary folder, renamed to `folder` (absent or empty until then) at the end, or removed after an error."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f'.{folder.name}.') as scratch:
    partial = Path(scratch) / 'new'
    partial.mkdir()
    yield partial
    os.rename(partial, folder)
