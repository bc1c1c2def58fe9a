"""The files of a raw folder, without those of file managers and editors."""

from collections.abc import Callable
import pathlib

_JUNK = ('thumbs.db', 'desktop.ini')


def list_files(folder: pathlib.Path, ignore: Callable[[str], None]) -> list[pathlib.Path]:
  """All files under a folder, sorted.

  Args:
    folder: searched with all folders in it.
    ignore: called with the kind of each file that is left out: hidden ones (`.*`, or inside such a folder), backups
      (`*~`), Thumbs.db and desktop.ini.
  """
  kept = []
  for path in sorted(folder.rglob('*')):
    if path.is_dir():
      continue
    if any(part.startswith('.') for part in path.relative_to(folder).parts):
      ignore('.*')
    elif path.name.endswith('~'):
      ignore('*~')
    elif path.name.lower() in _JUNK:
      ignore(path.name)
    else:
      kept.append(path)
  return kept
