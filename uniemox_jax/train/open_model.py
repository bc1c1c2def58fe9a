"""Opens any model: a run, a folder that `export_torch --to=uniemox` wrote, or weights of another library."""

from collections.abc import Sequence
import dataclasses
from pathlib import Path
import re
from typing import Any

from data_pipelines.errors import UserError
from data_pipelines.storage import absolute, exists, read_json_object
from uniemox_jax.convert import import_students, shared_model, weight_families
from uniemox_jax.convert.formats import hub, onnx_files, weight_files
from uniemox_jax.convert.import_students import UNKNOWN_HEADS, AttentionHeads, ImportedStudent
from uniemox_jax.convert.label_order import name_head
from uniemox_jax.models.registry import MODULES
from uniemox_jax.models.siglip import SiglipConfig
from uniemox_jax.objectives.tasks import untrained_task
from uniemox_jax.teacher.frozen_clip import Clip, read_clip
from uniemox_jax.teacher.siglip_tokenizer import PIECES
from uniemox_jax.teacher.tokenizer import TOKENIZER_FILES
from uniemox_jax.teacher.weight_folder import CONFIG_FILES, OPEN_CLIP_CONFIG
from uniemox_jax.train.checkpoint import Checkpoint, load_checkpoint
from uniemox_jax.train.run_folder import TEACHER_FOLDER

FILES = (*CONFIG_FILES, OPEN_CLIP_CONFIG, *TOKENIZER_FILES, PIECES, shared_model.CHECKSUMS)
"""The files that are fetched from the hub beside the weights."""
REGISTRY = Path(__file__).parents[1] / 'assets' / 'models.json'
"""The file of short names of published models: {NAME: {"repository": hub id, "sha256": its model.safetensors'}}."""


def open_model(
    source: str, *, heads: AttentionHeads = UNKNOWN_HEADS, decoder: bool = True,
    head: bool = True) -> Checkpoint | Clip:
  """Reads a model, whatever wrote it, and prints what was found in the files of another library.

  Args:
    source: a checkpoint PATH of a run; a file, folder or hub id of weights; or a name in `REGISTRY`.
    heads, decoder, head: see `import_student`.

  Returns:
    A CLIP or SigLIP as it is, and any other model as a checkpoint; the step is 0 if no run saved it.

  Raises:
    UserError: there is nothing, or nothing that can be read.
  """
  if exists(own := absolute(source) / TEACHER_FOLDER):  # a run of train_clip
    source = str(own)
  if not _holds_weights(source):
    if graph := onnx_files.find_onnx(source):
      raise UserError(f'{graph} {weight_files.NOT_WEIGHTS[onnx_files.START]}')
    return _as_wanted(load_checkpoint(source), head)
  path, digest = _published(source)
  located = hub.locate(path, FILES)
  if located.name == weight_files.SAFETENSORS and shared_model.is_shared(located.parent):
    located = located.parent
  if shared_model.is_shared(located):
    return _as_wanted(Checkpoint(source, 0, *shared_model.read_shared(located, digest)), head)
  weights = weight_files.read_weights(located)
  if weight_families.recognise(weights) in weight_families.ZERO_SHOT:
    return read_clip(weights, located)
  imported = import_students.import_student(weights, located, heads, decoder=decoder, head=head)
  print('\n'.join(imported.messages), flush=True)
  return Checkpoint(source, 0, imported.params, describe_import(imported, source))


def _as_wanted(checkpoint: Checkpoint, head: bool) -> Checkpoint:
  """Makes an encoder of a classifier without head that pools after the last LayerNorm, see `import_student`."""
  path, step, params, description = checkpoint
  if head or description['model'].get('pooling', 'mean') == 'mean':
    return checkpoint
  kept = {key: value for key, value in description.items() if key in ('source', 'statistics')}
  model = {key: value for key, value in description['model'].items() if key not in ('classes', 'pooling', 'streams')}
  encoder = {'encoder': params['encoder'] | {'norm': params['fc_norm']}}
  return Checkpoint(path, step, encoder, kept | {'kind': 'encoder', 'model': model})


def open_student(
    source: str, *, heads: AttentionHeads = UNKNOWN_HEADS, decoder: bool = True, head: bool = True) -> Checkpoint:
  """Opens a model as `open_model` does, but takes only the image tower of a CLIP, as an encoder.

  Raises:
    UserError: as for `open_model`, or the model has no encoder of this method.
  """
  return _student_of(open_model(source, heads=heads, decoder=decoder, head=head), source)


def open_encoder(source: str) -> Checkpoint | Clip:
  """Opens a student without decoder and head. A SigLIP, whose image tower is no student, comes back as it is."""
  model = open_model(source, decoder=False, head=False)
  if isinstance(model, Clip) and isinstance(model.config, SiglipConfig):
    return model
  return _student_of(model, source)


def _student_of(model: Checkpoint | Clip, source: str) -> Checkpoint:
  if isinstance(model, Clip):
    tower = import_students.student_of_clip(model.clip_config, model.params, model.view.statistics, source)
    print('\n'.join(tower.messages), flush=True)
    return Checkpoint(source, 0, tower.params, describe_import(tower, source))
  if model.description['kind'] not in MODULES:
    raise UserError(
        f"{source} holds a {model.description['kind']}, not a student: give what pretrain, finetune or import wrote")
  return model


def describe_import(imported: ImportedStudent, source: str, table: Sequence[str] | None = None) -> dict[str, Any]:
  """Describes an imported student as a checkpoint does. It names the classes, and prints how they were found.

  `table` is the label table of the dataset that the student was trained on. Its head is put in that order, see
  `name_head`.
  """
  description: dict[str, Any] = {'kind': imported.kind, 'model': imported.model, 'source': source}
  if imported.kind == 'classifier':
    named = name_head(imported.params['head'], imported.labels, table, source)
    imported.params['head'], description['labels'], message = named
    # The softmax of a single class would be 1 for every image; transformers takes its sigmoid, too.
    task = 'labels' if imported.task == 'label' and len(description['labels']) == 1 else imported.task
    if task != 'label':
      description['tasks'] = [dataclasses.asdict(untrained_task(task, description['labels']))]
      message += {'labels': '; each by itself, by a sigmoid', 'vad': '; they are dimensions, not classes'}[task]
    print(message, flush=True)
  optional = {'statistics': imported.statistics, 'view': imported.view, 'norm_pix': imported.norm_pix}
  return description | {name: value for name, value in optional.items() if value}


def _holds_weights(source: str) -> bool:
  """Whether it is not a run: a file, a folder with a file of weights, or what looks like a name on the hub."""
  folder = absolute(source)
  if exists(folder):
    if not folder.is_dir() or set(weight_files.FORMS) & {path.name for path in folder.iterdir()}:
      return True
    return exists(folder / shared_model.CONFIG) and shared_model.is_shared(folder)
  # A path whose folder is here is a mistake in its last part, and nothing that the hub should be asked for.
  is_path = '/' in source and exists(folder.parent)
  return source in read_json_object(REGISTRY) or not is_path and bool(re.fullmatch(hub.ID, source))


def _published(source: str) -> tuple[str, str | None]:
  """The hub id and the hash of weights that a short name stands for; anything else as it is."""
  entry = read_json_object(REGISTRY).get(source)
  if entry is None or exists(absolute(source)):
    return source, None
  return entry['repository'], entry['sha256']
