"""The files of a raw folder, without those of file managers and editors."""

from collections.abc import Callable
import pathlib

_JUNK = ('thumbs.db', 'desktop.ini')


def list_files(
    folder: pathlib.Path, ignore: Callable[[str], None],
    wanted: Callable[[pathlib.Path], bool] = lambda path: True) -> list[pathlib.Path]:
  """All wanted files in a folder and the folders in it, sorted.

  `ignore` is called with the kind of each file that is left out: hidden ones (`.*`, or inside such a folder), backups
  (`*~`), Thumbs.db and desktop.ini; and those that are not wanted, by their suffix, or by their name if they have none.
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
    elif wanted(path):
      kept.append(path)
    else:
      ignore(f'*{path.suffix}' if path.suffix else path.name)
  return kept
