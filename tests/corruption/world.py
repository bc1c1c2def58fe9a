"""What small real runs leave behind, made once and only where it is asked for: everything that a verb may read."""

import contextlib
import functools
import io
import json
from pathlib import Path
from typing import Any

from flax import serialization, traverse_util
from ml_collections import ConfigDict
import numpy as np

from data_pipelines import build
from data_pipelines.synthetic import datasets
from tests.support import small_runs
from tests.support.exported import LABELS, TINY, TINY_DECODER, saved
from uniemox_jax.convert.formats.weight_files import read_weights
from uniemox_jax.export_torch import export_torch
from uniemox_jax.import_torch import import_torch
from uniemox_jax.teacher.frozen_clip import load_clip

RAW = {'emoset': {'train': 16, 'val': 8, 'test': 8}, 'emo8': {'train': 16, 'val': 8, 'test': 8},
       'emotic': {'train': 24, 'val': 16, 'test': 16}, 'emotion6': {'train': 96}}  # yapf: disable


class World:
  """Folders below `folder`; each property makes its own on first use. `seed` 1 makes a second one of the same kinds."""

  def __init__(self, folder: Path, seed: int = 0):
    self.folder, self.seed = folder, seed

  def new_folder(self, name: str) -> Path:
    """An empty folder."""
    path = self.folder / name
    path.mkdir(parents=True)
    return path

  def raw(self, dataset: str) -> Path:
    """A raw folder in the dataset's layout."""
    path = self.folder / 'raw' / dataset
    if not path.exists():
      plans = datasets.plan_images(dataset, RAW[dataset], seed=self.seed)
      datasets.write_dataset(path, dataset, plans, {'synthetic': True, 'seed': self.seed})
    return path

  def records(self, dataset: str) -> Path:
    """The folder of a build."""
    path = self.folder / 'data' / dataset / '1.0.0'
    if not path.exists():
      build.build(dataset, self.raw(dataset), self.folder / 'data')
    return path

  @functools.cached_property
  def data_dir(self) -> str:
    """Of EmoSet-like and Emo8-like records, large enough to train on."""
    return small_runs.write_records(self.folder / 'trained_on', self.seed)

  @functools.cached_property
  def teacher(self) -> Path:
    """A CLIP as train_clip and import_torch write it."""
    return small_runs.write_teacher(self.folder / 'teacher')

  @functools.cached_property
  def clip(self) -> Any:
    """The same, loaded."""
    return load_clip(self.teacher)

  @functools.cached_property
  def pretrained(self) -> Path:
    """A run of pretrain."""
    from uniemox_jax.pretrain import pretrain
    config = small_runs.pretrain_config(self.data_dir, self.teacher, epochs=1)
    config.seed = self.seed
    pretrain(config, str(self.folder / 'pretrained'))
    return self.folder / 'pretrained'

  @functools.cached_property
  def finetuned(self) -> Path:
    """A run of finetune."""
    from uniemox_jax.finetune import finetune
    finetune(self.finetune_config, str(self.folder / 'finetuned'))
    return self.folder / 'finetuned'

  @property
  def finetune_config(self) -> ConfigDict:
    """Its config."""
    config = small_runs.finetune_config(self.data_dir)
    config.seed = self.seed
    return config

  @functools.cached_property
  def classifier(self) -> Path:
    """Random weights of a classifier, as import_torch leaves them."""
    saved(self.folder / 'classifier', 'classifier', **TINY, classes=len(LABELS))
    return self.folder / 'classifier'

  @functools.cached_property
  def exports(self) -> dict[str, Path]:
    """The folders that export_torch writes, by target."""
    saved(self.folder / 'encoder', 'uniemox', **TINY, **TINY_DECODER, fusion='none', semantic=False)
    sources = {
        'timm': self.classifier, 'mae': self.classifier, 'vit-mae': self.folder / 'encoder', 'clip': self.teacher,
        'uniemox': self.classifier}
    for target, source in sources.items():
      export_torch(str(source), target, str(self.folder / 'exports' / target))
    return {target: self.folder / 'exports' / target for target in sources}

  @functools.cached_property
  def imported(self) -> Path:
    """What import_torch makes of the timm export."""
    import_torch(str(self.exports['timm']), str(self.folder / 'imported'), dataset='emo8')
    return self.folder / 'imported'

  @functools.cached_property
  def foreign(self) -> dict[str, Path]:
    """Weight files of other libraries, without checksums of ours, by form."""
    import torch
    folder, flat = self.folder / 'foreign', read_weights(self.teacher).flat
    few = {name: array for name, array in list(flat.items())[-12:]}
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in few.items()}
    forms = ('w.safetensors', 'w.pth', 'old.pth', 'w.msgpack', 'w.npz', 'script.pt', 'sharded')
    made = {name: folder / name for name in forms}
    (folder / 'sharded').mkdir(parents=True)
    from safetensors.numpy import save_file
    save_file(few, made['w.safetensors'])
    torch.save({'model': tensors, 'epoch': 3}, made['w.pth'])
    torch.save(tensors, made['old.pth'], _use_new_zipfile_serialization=False)
    nested = traverse_util.unflatten_dict({
        (f'layer{number}', 'bias'): array for number, array in enumerate(few.values())})
    made['w.msgpack'].write_bytes(serialization.msgpack_serialize(nested))
    np.savez(made['w.npz'], **few)
    torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), made['script.pt'])
    halves = [dict(list(few.items())[:6]), dict(list(few.items())[6:])]
    for number, half in enumerate(halves):
      save_file(half, folder / 'sharded' / f'model-{number}.safetensors')
    index = {
        'metadata': {},
        'weight_map': {name: f'model-{n}.safetensors' for n, half in enumerate(halves) for name in half}}
    (folder / 'sharded' / 'model.safetensors.index.json').write_text(json.dumps(index))
    return made


@contextlib.contextmanager
def quiet() -> Any:
  """Keeps what is printed, and gives it."""
  said = io.StringIO()
  with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    yield said
