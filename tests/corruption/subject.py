"""A kind of file, and the function by which a verb reads it."""

from collections.abc import Callable
import dataclasses
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Subject:
  """A kind of file.

  folder: restored after each damage. files: those that are damaged. read: gives what a verb would use.
  owned: whether the files are the user's own, or another library's, with no checksum of this package. twin: a folder
  with other files of the same kinds. optional: names of files that may be absent, and so are not deleted.
  """

  folder: Path
  files: list[Path]
  read: Callable[[], Any]
  owned: bool = False
  twin: Path | None = None
  optional: tuple[str, ...] = ()

  def other(self, path: Path) -> Path | None:
    """Another file of the kind of `path`."""
    twin = self.twin and self.twin / path.relative_to(self.folder)
    if twin and twin.is_file():
      return twin
    same = [file for file in self.files if file != path and file.suffix == path.suffix and file.is_file()]
    return same[0] if same else None


def list_files(folder: Path, *patterns: str) -> list[Path]:
  found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
  return sorted(found)
