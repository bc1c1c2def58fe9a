r"""What pretraining is worth on the harder drawn world, over seeds of pretraining and fine-tuning alike.

python -m data_pipelines.synthetic --world=hard --out=runs/hard/raw --train=2000 --val=2000
for name in unlabelled labelled; do
  python -m data_pipelines.build --dataset=table --source=runs/hard/raw/$name --data_dir=runs/hard/data \
    --name=hard_$name
done
python -m uniemox_jax.train_clip --config=configs/hard_world.py:clip --workdir=runs/hard/clip
python -m uniemox_jax.compare --config=configs/hard_world.py --workdir=runs/hard/compare --jobs=2

Few labels: --config.fractions="(0.025,0.1,0.5)". Styles that no label shows: --config.left_out_domains="('cartoon',)"
Other candidates, such as rows of ablate: --config.initialisations="('uniemox','mae_only','distillation')"
Hardware: two CPU cores. Time: docs/uniemox_plus.md.
"""

from ml_collections import ConfigDict

from configs import compare, demo, uniemox_plus_vitb16
from uniemox_jax.compare.ablation_rows import OWN_TEACHER, ROWS

ROOT = 'runs/hard'
TEACHER = f'{ROOT}/clip/teacher'
CANDIDATES = {row: variant.change for row, variant in ROWS.items() if variant.change and row not in OWN_TEACHER}
PLUS = CANDIDATES['mean_embedding']
CANDIDATES |= {
    'uniemox': {}, 'plus_distillation': PLUS | CANDIDATES['distillation'],
    'plus_kl': PLUS | CANDIDATES['contrastive_kl'], 'plus_once': PLUS | CANDIDATES['equal_texts_once'],
    'plus_features': {**PLUS, 'loss': {'distillation': 1.0, 'reconstruction': 0.0}},
    'plus_averaged': PLUS | CANDIDATES['averaged_weights'], 'plus_no_pixels': PLUS | CANDIDATES['no_reconstruction'],
    'plus_mask_50': {'model': {'embedding': 'mean',
                               'mask_ratio': 0.5}}, 'kl_once': {'loss': {'form': 'kl', 'equal_texts': 'once'}}}
CANDIDATES |= {'long': {'epochs': 15}, 'plus_long': PLUS | {'epochs': 15}}
CANDIDATES |= {f'views_{count}': {'teacher_views': count} for count in (1, 2)}
"""What each changes of the published recipe at this size; the rows of `ablate` are among them."""


def _section(name: str) -> ConfigDict:
  config = demo.get_config(name)
  config.data_dir, config.dataset = f'{ROOT}/data', 'hard_labelled' if name == 'finetune' else 'hard_unlabelled'
  return config


def _clip() -> ConfigDict:
  config = _section('clip')
  config.save_every = 1000
  return config


def _pretrain() -> ConfigDict:
  config = _section('pretrain')
  config.update(teacher=TEACHER, epochs=5, save_every=1000, images_every=0)
  return config


def _plus() -> ConfigDict:
  return uniemox_plus_vitb16.add_plus(_pretrain())


def _finetune() -> ConfigDict:
  config = _section('finetune')
  config.update(tasks='label', eval_every_epochs=5)
  return config


def _compare() -> ConfigDict:
  config = compare.get_config('demo')
  config.datasets, config.protocols, config.seeds = ('hard_labelled',), ('finetune', 'linear'), 5
  config.initialisations = ('uniemox_plus', 'uniemox', 'scratch', 'teacher')
  config.reference = 'uniemox'
  made = {
      name: {'pretrain': {'recipe': 'configs/hard_world.py:pretrain', 'change': change}, 'change': {}}
      for name, change in CANDIDATES.items()}
  made['uniemox_plus'] = {'pretrain': {'recipe': 'configs/hard_world.py:plus', 'change': {}}, 'change': {}}
  ready = {name: config.initialisation[name].to_dict() for name in ('scratch', 'teacher')}
  ready['teacher']['init'] = TEACHER
  config.initialisation = ConfigDict(made | ready)
  changes = {
      'finetune': {}, 'two_streams': {'streams': 'scene+person'}, 'votes': {'tasks': 'distribution'},
      'majority': {'tasks': 'label'}}
  for name, change in changes.items():
    config.protocol[name] = ConfigDict({
        'verb': 'finetune', 'recipe': 'configs/hard_world.py:finetune', 'change': change})
  for name in ('linear', 'knn', 'fused'):
    config.protocol[name].recipe = 'configs/probe.py:emo8'
  config.change.data_dir = f'{ROOT}/data'
  return config


def get_config(section: str = 'compare') -> ConfigDict:
  """One section: clip, pretrain, plus, finetune, or the comparison of them."""
  sections = {'clip': _clip, 'pretrain': _pretrain, 'plus': _plus, 'finetune': _finetune, 'compare': _compare}
  return sections[section]()
