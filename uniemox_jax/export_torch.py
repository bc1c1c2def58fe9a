"""Exports a checkpoint to a folder that PyTorch, timm, transformers, TensorFlow or onnxruntime loads, with a card.

python -m uniemox_jax.export_torch --checkpoint=runs/emo8 --to=timm --out=export/emo8
python -m uniemox_jax.export_torch --checkpoint=runs/b16 --to=vit-mae --out=export/b16 --push_to_hub=me/uniemox-b16
python -m uniemox_jax.export_torch --checkpoint=runs/emo8 --to=onnx --out=export/onnx --quantize=int8 --calibration=DIR

Which checkpoint becomes what, and how closely the numbers agree: docs/weights.md.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from etils import epath

from data_pipelines import checksums
from data_pipelines.errors import UserError
from data_pipelines.host_copies import host_copy
from data_pipelines.storage import absolute, whole_folder, write_json
from uniemox_jax import __version__
from uniemox_jax.convert import export_students
from uniemox_jax.convert.export_students import ExportedStudent
from uniemox_jax.convert.formats.onnx_files import check_onnx_installed
from uniemox_jax.convert.published_views import processor_of_view
from uniemox_jax.convert.saved_model import write_saved_model
from uniemox_jax.convert.shared_model import write_shared
from uniemox_jax.models.siglip import SiglipConfig
from uniemox_jax.models.view import View
from uniemox_jax.objectives.tasks import is_single_label, tasks_of
from uniemox_jax.onnx_export import float_export, int8
from uniemox_jax.recognition.recogniser import of_checkpoint, view_of
from uniemox_jax.report.model_card import public_name, training_record, write_card
from uniemox_jax.runtime import cli
from uniemox_jax.teacher.frozen_clip import Clip, load_clip, save_clip
from uniemox_jax.train.checkpoint import FOLDER, Checkpoint
from uniemox_jax.train.open_model import open_model
from uniemox_jax.train.run_folder import TEACHER_FOLDER, predicts_normalised_patches, read_run_config, run_folder

STUDENTS: dict[str, Callable[[Path, ExportedStudent], list[str]]] = {
    'timm': export_students.write_timm, 'vit-mae': export_students.write_vit_mae, 'mae': export_students.write_mae,
    'saved_model': write_saved_model}
TARGETS = ('uniemox', *STUDENTS, 'clip', 'onnx')


class OnnxOptions(NamedTuple):
  """Options of the target 'onnx' alone.

  calibration: images for a second file in 8 bits, as `find_images.find` takes them; None for no such file. labels,
  prompts, texts: words for a CLIP, see `words.read_words`.
  """

  calibration: str | None = None
  labels: str | None = None
  prompts: str | None = None
  texts: Sequence[str] = ()


NO_OPTIONS = OnnxOptions()


def export_torch(checkpoint: str, target: str, out: str, options: OnnxOptions = NO_OPTIONS) -> None:
  """Writes `out`, whole or not at all, and prints what was left behind.

  Args:
    checkpoint: a checkpoint PATH of a student; for 'clip' a `train_clip` run, or what `load_clip` takes; for 'onnx'
      any model.
    target: one of `TARGETS`.
    out: a folder, absent or empty.
    options: the options of the target 'onnx'.

  Raises:
    UserError: `out` exists, there is no such checkpoint, the target has no form for it, or options are given for
      another target.
  """
  if target != 'onnx' and options != NO_OPTIONS:
    raise UserError(f'--quantize, --calibration, --labels, --prompts and --texts are for --to=onnx, not --to={target}')
  folder = absolute(out)
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise UserError(f'{out} exists and is not an empty folder: choose another --out, or remove it')
  if target == 'onnx':
    messages = _export_onnx(checkpoint, folder, options)
  else:
    messages = _export_clip(checkpoint, folder) if target == 'clip' else _export_student(checkpoint, target, folder)
  print('\n'.join([*messages, f'saved: {out}']), flush=True)


def _export_student(checkpoint: str, target: str, folder: epath.Path) -> list[str]:
  loaded = open_model(checkpoint)
  if isinstance(loaded, Clip) or loaded.description['kind'] == 'clip':
    kind, choice = 'CLIP', '--to=clip, or --to=onnx with --labels'
    if isinstance(loaded, Clip) and isinstance(loaded.config, SiglipConfig):
      kind, choice = 'SigLIP', '--to=onnx with --labels'
    raise UserError(
        f"'{checkpoint}' holds a {kind}, and --to={target} is for a pretrained or fine-tuned student: choose {choice}")
  description = loaded.description
  view = view_of(description)
  with whole_folder(folder) as partial:
    if target == 'uniemox':
      messages: list[str] = []
      labels = description.get('labels')
      write_shared(partial, loaded.params, _shared_description(loaded), __version__)
    else:
      messages, labels = _write_for_others(partial, target, checkpoint, loaded, view)
    checksums.write_checksums(partial / checksums.FOLDER, sorted(file for file in partial.iterdir() if file.is_file()))
    facts = {
        'sees_person': description['model'].get('streams', 'scene') != 'scene', 'labels': labels, 'view': view,
        'notes': messages, 'source': description.get('source'),
        'tasks': tasks_of(description) if description['kind'] == 'classifier' else ()}
    write_card(partial, target=target, kind=description['kind'], training=_training(loaded), facts=facts)
  return messages


def _shared_description(loaded: Checkpoint) -> dict[str, Any]:
  """Collects all that another machine needs of a run: its description, and what lies beside the checkpoint."""
  description = dict(loaded.description)
  if description['kind'] == 'classifier':
    description['thresholds'] = of_checkpoint(loaded).thresholds
  if predicts_normalised_patches(loaded.path, description):
    description['norm_pix'] = True
  if 'source' in description:
    description['source'] = public_name(description['source'])
  view = view_of(description)
  return description | {'view': view.geometry, 'statistics': view.statistics, 'training': _training(loaded)}


def _training(loaded: Checkpoint) -> dict[str, Any]:
  """Where weights come from, for the card: by the run, or by what a shared model kept of it."""
  return loaded.description.get('training') or training_record(run_folder(loaded.path), loaded.step)


def _write_for_others(folder: Path, target: str, checkpoint: str, loaded: Checkpoint,
                      view: View) -> tuple[list[str], list[str] | None]:
  """Writes the form of another library; returns lines for the user, and the classes in the order of its head."""
  description = loaded.description
  kind = description['kind']
  if kind == 'classifier' and not is_single_label(tasks := tasks_of(description)):
    raise UserError(
        f"'{checkpoint}' predicts {', '.join(task.name for task in tasks)}, and the classifiers of other "
        'libraries a single label: choose --to=uniemox, fine-tune with --config.tasks=label, or export what it '
        'started from')
  if kind == 'classifier' and description['model'].get('streams', 'scene') != 'scene':
    raise UserError(
        f"'{checkpoint}' is a classifier of scene and person, for which no other library has a form: choose "
        '--to=uniemox, fine-tune with --config.streams=scene, or export the encoder that it started from')
  student = ExportedStudent(
      kind, export_students.MODEL_DEFAULTS[kind] | description['model'], loaded.params, description.get('labels'), view,
      predicts_normalised_patches(loaded.path, description))
  if target == 'mae':
    student = export_students.by_folder_names(student)
  messages = STUDENTS[target](folder, student)
  if target != 'timm':  # whose own processor reads `pretrained_cfg`
    write_json(str(folder / 'preprocessor_config.json'), processor_of_view(view))
  if target in ('mae', 'saved_model'):
    write_json(str(folder / 'config.json'), {'kind': kind, 'model': student.model, 'labels': student.labels})
  return messages, student.labels


def _export_clip(checkpoint: str, folder: epath.Path) -> list[str]:
  path = absolute(checkpoint)
  source = path / TEACHER_FOLDER if (path / TEACHER_FOLDER).is_dir() else path
  run = source.parent if source.name == TEACHER_FOLDER else source
  if source == run and (run_folder(str(run)) / FOLDER).is_dir():
    raise UserError(
        f"'{checkpoint}' holds no CLIP: give the --workdir of a train_clip run, or what load_clip takes "
        f'(for a student --to={", ".join(STUDENTS)})')
  clip = load_clip(source)
  config = clip.clip_config
  with whole_folder(folder) as partial:
    save_clip(partial, config, clip.params, clip.folder, clip.view)
    origin = None if read_run_config(run) else str(source)
    facts: dict[str, Any] = {'labels': None, 'view': clip.view, 'notes': [], 'source': origin}
    write_card(partial, target='clip', kind='clip', training=training_record(run, None), facts=facts)
  return []


def _export_onnx(checkpoint: str, folder: epath.Path, options: OnnxOptions) -> list[str]:
  check_onnx_installed('--to=onnx')
  loaded = open_model(checkpoint)
  words = options.labels, options.prompts, options.texts
  card: dict[str, Any]
  source: str | None
  if isinstance(loaded, Clip):
    export = float_export.of_words(checkpoint, loaded, *words)
    card = {'kind': 'classifier', 'training': training_record(run_folder(checkpoint), None)}
    source = checkpoint
  else:
    if any(words):
      raise UserError(f"'{checkpoint}' holds no CLIP, which --labels, --prompts and --texts are for: leave them out")
    export = float_export.of_student(loaded)
    card = {'kind': loaded.description['kind'], 'training': _training(loaded)}
    source = loaded.description.get('source')
  if options.calibration and export.recogniser is None:
    raise UserError(f"'{checkpoint}' names no emotions, by which 8 bits are judged: leave --quantize out")
  with whole_folder(folder) as partial:
    messages = [float_export.write_model(partial, export)]
    if options.calibration:
      messages += int8.write_int8(partial, export, options.calibration)
    checksums.write_checksums(partial / checksums.FOLDER, sorted(file for file in partial.iterdir() if file.is_file()))
    shapes = [', '.join(map(str, ('B', *shape))) for shape in (export.views, export.outputs)]
    tasks = export.recogniser.tasks if export.recogniser else ()
    facts = {
        'sees_person': bool(export.recogniser and
                            export.recogniser.sees_person), 'labels': [name for task in tasks for name in task.outputs],
        'view': export.view, 'notes': messages, 'source': source, 'onnx_shapes': shapes, 'tasks': tasks}
    write_card(partial, target='onnx', facts=facts, **card)
  return messages


def push(folder: str, repo_id: str) -> None:
  """Uploads an export to a new, private repository of the Hugging Face hub, or to one of the user's.

  Raises:
    UserError: the hub refuses.
  """
  import huggingface_hub
  hub = huggingface_hub.HfApi()
  try:
    hub.create_repo(repo_id, private=True, exist_ok=True)
    hub.upload_folder(repo_id=repo_id, folder_path=folder)
  except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
    raise UserError(
        f'{folder} is written, but was not pushed to {repo_id} ({type(error).__name__}: '
        f'{str(error).splitlines()[0]}): check the name, the token and the connection') from error
  print(f'pushed: https://huggingface.co/{repo_id}', flush=True)


def main() -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  if values.push_to_hub:
    import huggingface_hub
    if not huggingface_hub.get_token():  # before the work
      raise UserError('--push_to_hub needs a token, and none is found: run `hf auth login`, or set HF_TOKEN')
  if bool(values.quantize) != bool(values.calibration):
    raise UserError(
        '--quantize=int8 and --calibration=FOLDER go together: 8 bits need some hundred images, like those that are '
        'to be predicted')
  options = OnnxOptions(values.calibration, values.labels, values.prompts, tuple(values.texts))
  export_torch(values.checkpoint, values.to, values.out, options)
  if values.push_to_hub:
    push(str(host_copy(values.out)), values.push_to_hub)


if __name__ == '__main__':
  cli.define_path(
      'checkpoint', None, 'A checkpoint PATH; of a CLIP: a train_clip run, or what load_clip takes.', required=True)
  flags.DEFINE_enum('to', None, TARGETS, 'Which library is to read it.', required=True)
  cli.define_path('out', None, 'Folder to write; absent or empty.', required=True)
  flags.DEFINE_enum('quantize', None, ['int8'], 'Write a file in 8 bits beside that of --to=onnx.')
  cli.define_path('calibration', None, 'Images for --quantize: a folder, glob or text list.', remote=False)
  flags.DEFINE_string('labels', None, 'What a CLIP is asked, as in predict; for --to=onnx.')
  cli.define_path('prompts', None, 'Templates for a CLIP, as in predict; for --to=onnx.', remote=False)
  flags.DEFINE_multi_string('texts', [], 'A text whose similarity a CLIP gives, as in predict; for --to=onnx.')
  flags.DEFINE_string('push_to_hub', None, 'Repository of the Hugging Face hub to upload it to as well.')
  cli.run(main)
