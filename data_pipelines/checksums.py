"""Keeps checksums of files in a file beside them, in the form of `sha256sum`."""

from collections.abc import Iterable
import hashlib
from pathlib import Path

from data_pipelines import storage
from data_pipelines.errors import UserError

ENDING = '.sha256'
FOLDER = 'checksums' + ENDING
"""The file of the checksums of all files that this package wrote into a folder."""


def write_checksums(path: Path, files: Iterable[Path]) -> None:
  """Writes the SHA-256 of files in the folder of `path`, a line each."""
  storage.write_text(path, ''.join(f'{sha256_of(file)}  {file.name}\n' for file in files))


def compare_checksums(path: Path) -> None:
  """Compares the files that `path` lists with their checksums; without that file, as beside a user's own, it does
  nothing.

  Raises:
    UserError: a file is missing, or is not the one that was written; the message names it.
  """
  if not path.exists():
    return
  with storage.parsing(path):
    listed = [line.split('  ', maxsplit=1) for line in path.read_text(encoding='utf-8').splitlines()]
    files = {path.with_name(name): digest for digest, name in listed}
  for file, digest in files.items():
    if not file.is_file() or sha256_of(file) != digest:
      raise UserError(
          f'{file} is missing, or is not what was written: restore it; if you changed it on purpose, delete {path}')


def sha256_of(file: Path) -> str:
  """The SHA-256 of a file's content, 64 hex digits."""
  with storage.open_local(file) as content:
    return hashlib.file_digest(content, 'sha256').hexdigest()
