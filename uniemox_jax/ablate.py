"""Which part does what: python -m uniemox_jax.ablate --config=configs/demo.py --workdir=runs/ablation

Every row is one way to pretrain, or none, repeated over seeds; all rows are fine-tuned by one recipe and compared on
the Emo8-like test split. Records and teacher come from the demo's folder and are made there if missing. A cell (row,
seed) is a run of its own (see `cells`): a finished one is never run again, an interrupted one resumes; ablation.md and
ablation.json are rewritten after each. The row without the emotion word has a teacher of its own, whose captions did
not name the emotion either.
"""

from collections.abc import Sequence
import os
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from data_pipelines.errors import UserError
from uniemox_jax.compare import subprocess_runs, summary_statistics
from uniemox_jax.demo import Stages, check_sections, place, prepare
from uniemox_jax.finetune import finetune
from uniemox_jax.pretrain import pretrain
from uniemox_jax.runtime import cli
from uniemox_jax.runtime.files import read_json, write_json, write_text
from uniemox_jax.train_clip import TEACHER_FOLDER, train_clip


class Row(NamedTuple):
  """One way to pretrain. labels: where its pretraining meets the EmoSet-like labels; change: of the demo's pretraining
  config, by dotted key; None for a row that does not pretrain by that verb."""

  labels: str
  change: dict[str, Any] | None


_CAPTIONS = 'in captions'
ROWS = {
    'full': Row(_CAPTIONS, {}),
    'no_emotion_word': Row('none', {'emotion_in_caption': False}),
    'no_contrastive': Row('through the teacher', {'loss.contrastive': 0.0}),
    'no_similarity': Row(_CAPTIONS, {'loss.similarity': 0.0}),
    'no_reconstruction': Row(_CAPTIONS, {'loss.reconstruction': 0.0}),
    'contrastive_kl': Row(_CAPTIONS, {'loss.form': 'kl'}),
    'local_negatives': Row(_CAPTIONS, {'loss.negatives': 'local'}),
    'no_fusion': Row(_CAPTIONS, {'model.fusion': 'none'}),
    'fusion_prior': Row(_CAPTIONS, {'model.fusion': 'prior'}),
    'fusion_weighted_sum': Row(_CAPTIONS, {'model.fusion': 'weighted_sum'}),
    'fusion_attention': Row(_CAPTIONS, {'model.fusion': 'attention'}),
    'fusion_glu': Row(_CAPTIONS, {'model.fusion': 'glu'}),
    'whole_image': Row(_CAPTIONS, {'person_view': 'scene'}),
    'decode_both': Row(_CAPTIONS, {'model.decode': 'both'}),
    'mask_50': Row(_CAPTIONS, {'model.mask_ratio': 0.5}),
    'mask_90': Row(_CAPTIONS, {'model.mask_ratio': 0.9}),
    'teacher_imagenet_statistics': Row(_CAPTIONS, {'teacher_statistics': 'imagenet'}),
    'mae_only': Row('none', {'loss.contrastive': 0.0, 'loss.similarity': 0.0}),
    'supervised': Row('as targets', None),
    'scratch': Row('-', None),}
"""`full` is the demo's pretraining: all three losses, additive fusion, person crops, 75 % hidden, the scene decoded,
texts from the global batch, CLIP's own pixel statistics. Every other row changes what its name says."""

PREPARATION = 'prepare'
"""The first cell, which makes records and teachers: like all others in a process of its own, see `cells`."""


def pretrain_config(row: str, config: ConfigDict, teachers: dict[bool, str]) -> ConfigDict:
  """The pretraining of a row: the demo's, with one thing changed.

  Args:
    row: a key of `ROWS` but for supervised and scratch.
    config: the demo's sections.
    teachers: folder of the teacher whose captions held the emotion word (True), or did not (False).
  """
  section = config.pretrain.copy_and_resolve_references()
  section.teacher = teachers[row != 'no_emotion_word']
  section.update_from_flattened_dict(ROWS[row].change)
  return section


def supervised_config(config: ConfigDict) -> ConfigDict:
  """Classification of the EmoSet-like labels as pretraining: the pretraining's epochs, batch and rate."""
  section = config.finetune.copy_and_resolve_references()
  for key in ('dataset', 'batch_size', 'epochs', 'warmup_epochs'):
    section[key] = config.pretrain[key]
  section.optimizer.base_lr = config.pretrain.optimizer.base_lr
  section.optimizer.layer_decay = 1.0
  section.eval_every_epochs = config.pretrain.epochs
  return section


def sections_of(row: str, seed: int, config: ConfigDict, teachers: dict[bool, str],
                folder: str) -> dict[str, ConfigDict]:
  """The configs of a cell's runs, in their order, by the name of their folders: 'pretrain' or none, and 'finetune'."""
  sections = {}
  if row == 'supervised':
    sections['pretrain'] = supervised_config(config)
  elif row != 'scratch':
    sections['pretrain'] = pretrain_config(row, config, teachers)
  sections['finetune'] = config.finetune.copy_and_resolve_references()
  sections['finetune'].init = os.path.join(folder, 'pretrain') if 'pretrain' in sections else 'none'
  for section in sections.values():
    section.seed = seed
  return sections


def pretrain_and_finetune(sections: dict[str, ConfigDict], folder: str) -> None:
  """Pretrains and fine-tunes one cell, from where an earlier try was stopped."""
  for name, section in sections.items():
    verb = pretrain if 'loss' in section else finetune
    verb(section, os.path.join(folder, name))


def write_table(scores: dict[str, dict[int, float]], workdir: str, cells_asked: Sequence[str] = ()) -> None:
  """ablation.json, and ablation.md: mean, spread, and differences from scratch and from the full method by seed; and
  which of the cells asked for have no score."""
  rows: list[dict[str, Any]] = []
  for row, by_seed in scores.items():
    rows.append({
        'row': row, 'labels_in_pretraining': ROWS[row].labels, 'top1_by_seed': by_seed,
        **summary_statistics.summarise(list(by_seed.values()))._asdict()})
    for other in ('scratch', 'full'):
      pair = summary_statistics.paired(by_seed, scores.get(other, {})) if row != other else None
      rows[-1] |= {f'over_{other}': pair and pair.difference, f'p_{other}': pair and pair.p}
  for other in ('scratch', 'full'):
    for line, p in zip(rows, summary_statistics.holm([line[f'p_{other}'] for line in rows])):
      line[f'p_holm_{other}'] = p
  header = [
      'pretraining', 'labels in pretraining', 'top-1, mean', 'spread', 'over scratch', "p, Holm's", 'over full',
      "p, Holm's", 'runs']
  keys = ('mean', 'spread', 'over_scratch', 'p_holm_scratch', 'over_full', 'p_holm_full')
  forms = ('.4f', '.4f', '+.4f', '.3g', '+.4f', '.3g')
  lines = [[
      row['row'], row['labels_in_pretraining'],
      *('-' if row[key] is None else format(row[key], form) for key, form in zip(keys, forms)),
      str(row['runs'])] for row in rows]
  write_json(os.path.join(workdir, 'ablation.json'), {'rows': rows})
  missing = [cell for cell in cells_asked if not _is_in(scores, cell)]
  failed = {cell: said for cell in missing if (said := subprocess_runs.why_failed(cell_folder(workdir, cell)))}
  said = summary_statistics.unfinished(len(missing), failed)
  write_text(os.path.join(workdir, 'ablation.md'), summary_statistics.markdown(header, lines) + (said and f'\n{said}'))


def _is_in(scores: dict[str, dict[int, float]], cell: str) -> bool:
  row, seed = cell.split(':')
  return int(seed) in scores.get(row, {})


def train_teacher_without_emotion_word(config: ConfigDict, teacher: str) -> None:
  """A teacher whose captions never named the emotion, so that its row sees no label at all; made once."""
  if not os.path.isdir(teacher):
    section = config.clip.copy_and_resolve_references()
    section.emotion_in_caption = False
    train_clip(section, os.path.dirname(teacher))


def cell_folder(workdir: str, cell: str) -> str:
  """Where the runs and the log.txt of the cell ROW:SEED lie."""
  return os.path.join(workdir, *cell.replace(':', '/seed').split('/'))


def read_scores(workdir: str, cell_sections: dict[str, dict[str, ConfigDict]]) -> dict[str, dict[int, float]]:
  """Top-1 on test of every finished cell, by row and seed, in the rows' order.

  Args:
    workdir: of the ablation.
    cell_sections: by cell ROW:SEED, its configs, see `sections_of`.

  Raises:
    UserError: a cell was run, or begun, with other values than its config has now.
  """
  scores: dict[str, dict[int, float]] = {row: {} for row in ROWS}
  for cell, sections in cell_sections.items():
    for name, section in sections.items():
      # It starts from the cell's own pretraining, wherever the workdir lies by now.
      subprocess_runs.check_same(os.path.join(cell_folder(workdir, cell), name), section, start=False)
    path = os.path.join(cell_folder(workdir, cell), 'finetune', 'result.json')
    if os.path.exists(path):
      row, seed = cell.split(':')
      scores[row][int(seed)] = read_json(path)['top1']
  return {row: by_seed for row, by_seed in scores.items() if by_seed}


def ablate(workdir: str, cell_sections: dict[str, dict[str, ConfigDict]]) -> None:
  """Runs all cells that are not finished, in their order, and keeps the table up to date.

  Raises:
    UserError: see `read_scores`; or some cells failed: they are named, all others are finished.
    Preempted: SIGTERM came, and all cells have saved.
  """

  def after(cell: str) -> str | None:
    row, seed = cell.split(':')
    scores = read_scores(workdir, cell_sections)
    write_table(scores, workdir, list(cell_sections))
    top1 = scores.get(row, {}).get(int(seed))
    return None if top1 is None else f'top-1 {top1:.4f}'

  done = read_scores(workdir, cell_sections)
  write_table(done, workdir, list(cell_sections))
  todo = [cell for cell in cell_sections if not _is_in(done, cell)]
  print(f'{len(cell_sections)} cells, {len(cell_sections) - len(todo)} of them finished before', flush=True)
  try:
    subprocess_runs.run_cells('uniemox_jax.ablate', todo, lambda cell: cell_folder(workdir, cell), after)
  finally:
    with open(os.path.join(workdir, 'ablation.md'), encoding='utf-8') as table:
      print(table.read(), flush=True)


def check_rows(rows: Sequence[str]) -> None:
  """Raises UserError for a row that there is not, or is asked for twice."""
  for row in rows:
    if row not in ROWS:
      raise UserError(f"--rows: there is no row '{row}': choose from {', '.join(ROWS)}")
    if rows.count(row) > 1:
      raise UserError(f"--rows: '{row}' stands there twice: give it once")


def prepare_all(config: ConfigDict, demo_workdir: str, rows: Sequence[str], teacher: str) -> None:
  """Records and teachers; `teacher` is that of the row without the emotion word."""
  prepare(config, demo_workdir, Stages(demo_workdir))
  if 'no_emotion_word' in rows:
    train_teacher_without_emotion_word(config, teacher)


def main() -> None:
  """Entry point after flags are parsed."""
  values = flags.FLAGS
  check_sections(values.config)
  check_rows(values.rows)
  subprocess_runs.check_workdir(values.workdir)
  config = place(values.config, values.demo_workdir)
  teachers = {
      True: config.pretrain.teacher, False: os.path.join(values.workdir, 'clip_no_emotion_word', TEACHER_FOLDER)}
  names = {f'{row}:{seed}': (row, seed) for seed in range(values.seeds) for row in values.rows}
  cell_sections = {
      name: sections_of(*cell, config, teachers, cell_folder(values.workdir, name)) for name, cell in names.items()}
  preparation = os.path.join(values.workdir, PREPARATION)
  if values.cell == PREPARATION:
    # Its lock guards the demo's folder, which several ablations may share.
    subprocess_runs.run_here(
        values.demo_workdir, lambda: prepare_all(config, values.demo_workdir, values.rows, teachers[False]))
  elif values.cell:
    if values.cell not in cell_sections:
      raise UserError(f"--cell='{values.cell}' is no cell: give ROW:SEED with one of --rows and less than --seeds")
    folder = cell_folder(values.workdir, values.cell)
    subprocess_runs.run_here(folder, lambda: pretrain_and_finetune(cell_sections[values.cell], folder))
  else:
    print(f'records and teachers, unless they are there: {preparation}/log.txt tells', flush=True)
    subprocess_runs.run_cells('uniemox_jax.ablate', [PREPARATION], lambda cell: preparation, lambda cell: 'done')
    ablate(values.workdir, cell_sections)


if __name__ == '__main__':
  cli.define_config()
  cli.define_workdir(default='runs/ablation')
  flags.DEFINE_string('demo_workdir', 'runs/demo', "The demo's folder, whose records and teacher are used.")
  flags.DEFINE_integer('seeds', 3, 'Repetitions of every row.', lower_bound=1)
  flags.DEFINE_list('rows', list(ROWS), 'Rows to run; of the others nothing is shown.')
  subprocess_runs.define_flags(jobs=2)
  cli.run(main)
