"""Builder of Emo8: `{train,val,test}/<class>/*`."""

import pathlib

import tensorflow_datasets as tfds

from data_pipelines import builder, schema
from data_pipelines.errors import UserError

SPLITS = ('train', 'val', 'test')


class Builder(builder.FolderBuilder):
  """Emo8 (Chen et al., UniEmoX, IEEE TIP 2025): pictures of five styles, one of Mikels' eight emotions each."""

  VERSION = tfds.core.Version('1.0.0')
  LABELS = schema.EMOTIONS
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Emo8 holds {train,val,test}/<emotion>/* with the eight emotion folders in each; ask its authors for it, '
    'see https://github.com/chincharles/u-emo'
  )

  def list_pictures(self, source: pathlib.Path) -> dict[str, list[builder.Listed]]:
    """Pictures by split, in the folders' own splits. Raises UserError as the base says."""
    splits = {split: self._list_split(source, split) for split in SPLITS}
    for entry in source.iterdir():
      if entry.is_dir() and entry.name not in SPLITS:
        self.ignore(f'folder {entry.name}/')
    return splits

  def _list_split(self, source: pathlib.Path, split: str) -> list[builder.Listed]:
    folder = source / split
    if not folder.is_dir():
      raise UserError(f'{source} has no folder {split}/. {self.layout}')
    for entry in sorted(folder.iterdir()):
      if not entry.is_dir() or entry.name.startswith('.'):
        self.ignore(f'{split}/{entry.name}')
      elif entry.name not in self.LABELS:
        raise UserError(f"{folder} holds the unknown class '{entry.name}'. {self.layout}")
    pictures = []
    for label in self.LABELS:
      files = self.files(folder / label)
      if not files:
        raise UserError(f'{folder / label} is missing or empty. {self.layout}')
      pictures += [builder.Listed(path.relative_to(source).as_posix(), label) for path in files]
    return pictures
