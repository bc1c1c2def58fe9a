"""Imports weights of other libraries as a checkpoint that every verb reads, or a CLIP as a folder for a teacher.

python -m uniemox_jax.import_torch mae_pretrain_vit_large.pth --out=runs/mae
python -m uniemox_jax.import_torch checkpoint-max.pth --out=runs/theirs --dataset=emo8
python -m uniemox_jax.import_torch ViT-B-16.pt --out=runs/clip
python -m uniemox_jax.import_torch ViT-B-16.pt --image_tower --out=runs/clip_tower

SRC is a file, a folder or a hub id: a CLIP of transformers, OpenAI or open_clip; MAE; timm's or transformers' ViT; or
what the original saves. It is recognised by its content.
"""

from collections.abc import Sequence

from absl import flags

from data_pipelines.errors import UserError
from data_pipelines.storage import absolute, whole_folder, write_sealed
from uniemox_jax.convert import import_students, weight_families
from uniemox_jax.convert.formats import hub, weight_files
from uniemox_jax.convert.import_students import UNKNOWN_HEADS, AttentionHeads, ImportedStudent
from uniemox_jax.runtime import cli
from uniemox_jax.teacher.frozen_clip import read_clip, save_clip
from uniemox_jax.teacher.tokenizer import TOKENIZER_FILES
from uniemox_jax.teacher.weight_folder import CONFIG_FILES, OPEN_CLIP_CONFIG
from uniemox_jax.train.checkpoint import save_weights
from uniemox_jax.train.open_model import describe_import

BATCH_SIZE = 64


def import_torch(
    source: str, out: str, *, dataset: str | None = None, heads: AttentionHeads = UNKNOWN_HEADS,
    activation: str | None = None, image_tower: bool = False, key: str = '') -> None:
  """Writes `out`, whole or not at all, and prints what was found.

  Args:
    source: a file, a folder or a hub id.
    out: a folder that does not exist yet. A student becomes a checkpoint; a classifier of a known dataset can be given
      to `evaluate --workdir`; a CLIP becomes a folder in transformers' form.
    dataset: the dataset whose label table orders a classifier's head; files of the original number sorted folder names.
    heads: the numbers of attention heads, for files that do not have them.
    activation: 'gelu' or 'quick_gelu', for a CLIP that does not name it.
    image_tower: whether to make a student's encoder of a CLIP's image tower, and leave the rest behind.
    key: the key of the state dict to take, or a prefix of names, if a file holds several models.

  Raises:
    UserError: the file does not exist, cannot be read, is of no known family or not whole, or contradicts itself or the
      flags.
  """
  target = absolute(out)
  if target.exists():
    raise UserError(f'{out} exists: choose another --out, or remove it')
  path = hub.locate(source, [*CONFIG_FILES, OPEN_CLIP_CONFIG, *TOKENIZER_FILES])
  weights = weight_files.read_weights(path, key)
  family = weight_families.recognise(weights, key)
  is_clip = family in weight_families.CLIPS
  if is_clip and (dataset or heads != UNKNOWN_HEADS) or (activation or image_tower) and not is_clip:
    raise UserError(
        f'{weights.path} holds {weight_families.TITLES[family]}: --activation and --image_tower are '
        'for a CLIP, --dataset, --heads and --decoder_heads are for a student')
  clip = read_clip(weights, path, activation=activation) if is_clip else None
  if clip and not image_tower:
    save_clip(target, clip.clip_config, clip.params, clip.folder, clip.view)
    print(
        f'{weights.path}: a CLIP at {clip.config.image_size} pixels, {clip.config.projection_dim} wide, '
        f'{clip.config.text.activation}\nsaved: {out}', flush=True)
    return
  if clip:
    imported = import_students.student_of_clip(clip.clip_config, clip.params, clip.view.statistics, str(weights.path))
  else:
    imported = import_students.import_student(weights, path, heads)
  print('\n'.join(imported.messages), flush=True)
  table = _label_table(imported, dataset)
  with whole_folder(target) as partial:
    description = describe_import(imported, str(source), table) | ({'dataset': dataset} if dataset else {})
    save_weights(str(partial), imported.params, description)
    if dataset:
      # The part of a run's config that `evaluate` reads.
      config = {
          'init': str(source), 'dataset': dataset, 'data_dir': 'data', 'batch_size': BATCH_SIZE,
          'mesh': {'data': -1, 'fsdp': 1}, 'model': imported.model}
      write_sealed(str(partial / 'config.json'), config)
  print(f'saved: {out}', flush=True)


def _label_table(imported: ImportedStudent, dataset: str | None) -> Sequence[str] | None:
  """The classes of the dataset that a head was trained on, None if the user names none."""
  if not dataset:
    return None
  if imported.kind != 'classifier':
    raise UserError(f'--dataset={dataset} names the classes of a head, and none was imported: leave it out')
  from data_pipelines.build import builder_class
  if not (table := builder_class(dataset).LABELS):
    raise UserError(f"dataset '{dataset}' has no label table of its own: leave --dataset out")
  return table


def main(source: str) -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  import_torch(
      source, values.out, dataset=values.dataset, heads=AttentionHeads(values.heads, values.decoder_heads),
      activation=values.activation, image_tower=values.image_tower, key=values.key)


if __name__ == '__main__':
  cli.define_path('out', None, 'Folder to write; it must not exist.', required=True, remote=False)
  flags.DEFINE_string('dataset', None, "Dataset whose label table a classifier's head gets: emo8, fi, heco, ...")
  flags.DEFINE_integer('heads', None, 'Attention heads of the encoder, if the file does not say.', lower_bound=1)
  flags.DEFINE_integer(
      'decoder_heads', None, 'Attention heads of the decoder, if the file does not say.', lower_bound=1)
  flags.DEFINE_enum('activation', None, ['gelu', 'quick_gelu'], 'Of a CLIP, if the file does not say.')
  flags.DEFINE_bool('image_tower', False, "Make a student's encoder of a CLIP's image tower.")
  flags.DEFINE_string('key', '', 'State dict to take where SRC holds several, such as model_ema; or a prefix of names.')
  cli.run(main, 'SRC')
