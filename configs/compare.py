"""Which initialisation is best, on which data, under which protocol: all by one recipe, over seeds.

python -m uniemox_jax.compare --config=configs/compare.py --workdir=runs/compare \
  --config.initialisation.uniemox.init=runs/pretrain_vitl16 --config.initialisation.mae.init=mae_pretrain_vit_large.pth

Chosen among what is defined below: --config.datasets="('emo8','fi')" --config.protocols="('linear',)" --config.seeds=5
Votes or their majority: --config.protocols="('votes','majority')".
Few labels: --config.fractions="(0.01,0.05,0.1,0.25,0.5)". Small data: --config.folds=5. Narrow intervals: --until=0.02
Other data sets: --config.transfers="('fi','emotion6:mikels_to_emotion6')".
Changed test images: --config.test_changes="('blur_3','person_removed')". By kind: --config.group_column=domain
With ViT-B/16 in place of ViT-L/16: --config=configs/compare.py:vitb16
At demo size, after `make demo`: --config=configs/compare.py:demo
Hardware: the demo on two CPU cores (docs/compare.md); published sizes on one TPU or GPU host, job after job.
Time of these: not measured; jobs × the time of one fine-tuning (configs/finetune.py).
"""

from ml_collections import ConfigDict, config_dict

# Percent of the training images, and a batch that fits even Emotion6's 13 images of one percent.
FEW_SHOT_BATCH = {1: 8, 5: 32, 10: 64, 25: 128, 50: 128}

PROTOCOLS = {
    'finetune': {'verb': 'finetune', 'recipe': 'configs/finetune.py:{dataset}', 'change': {}}, 'two_streams': {
        'verb': 'finetune', 'recipe': 'configs/finetune.py:{dataset}', 'change': {'streams': 'scene+person'}
    }, 'linear': {'verb': 'probe', 'recipe': 'configs/probe.py:{dataset}', 'change': {'protocol': 'linear'}},
    'knn': {'verb': 'probe', 'recipe': 'configs/probe.py:{dataset}', 'change': {'protocol': 'knn'}}} | {
        f'few_shot_{percent}': {
            'verb': 'finetune', 'recipe': 'configs/finetune.py:{dataset}', 'change': {
                'fraction': percent / 100, 'batch_size': batch_size}} for percent, batch_size in FEW_SHOT_BATCH.items()}

# What pretraining compares with the teacher, which it alone has.
PROTOCOLS['fused'] = {
    'verb': 'probe', 'recipe': 'configs/probe.py:{dataset}', 'only': ('uniemox', 'uniemox_plus'),
    'change': {'protocol': 'linear', 'features': 'fused'}}
# The same images learned as the votes of their annotators, and as the majority of these.
AMBIGUITY = {'votes': 'distribution', 'majority': 'label'}
PROTOCOLS |= {
    name: {'verb': 'finetune', 'recipe': 'configs/finetune.py:{dataset}', 'change': {'tasks': tasks}}
    for name, tasks in AMBIGUITY.items()}

# A CLIP asked in words, which nothing else can be.
PROTOCOLS['zero_shot'] = {
    'verb': 'zero_shot', 'recipe': 'configs/probe.py:{dataset}', 'only': ('clip', 'teacher'), 'change': {}}

# A probe of a CLIP takes the embedding that it was trained to give, and not the mean over its patches.
EMBEDDING = {'features': 'embedding'}

INITIALISATIONS = {
    'uniemox': {'init': 'runs/pretrain_vitl16',
                'change': {}}, 'uniemox_plus': {'init': 'runs/uniemox_plus_vitl16', 'change': {}},
    'mae': {'init': 'mae_pretrain_vit_large.pth', 'change': {}},
    # The same images without a teacher: pretrained with --config.loss.contrastive=0 --config.loss.similarity=0.
    'mae_only': {'init': 'runs/mae_only_vitl16', 'change': {}},
    # CLIP's tower has another norm, activation and eps; its parameters mean nothing without them.
    'clip': {
        'init': 'openai/clip-vit-large-patch14', 'probe_change': EMBEDDING,
        'change': {'model': {'patch_size': 14, 'pre_norm': True, 'activation': 'quick_gelu', 'norm_eps': 1e-5}}},
    'supervised': {'init': 'google/vit-large-patch16-224',
                   'change': {'model': {'norm_eps': 1e-12}}}, 'scratch': {'init': 'none', 'change': {}}}

DEMO_MODEL = {'image_size': 96, 'patch_size': 16, 'width': 96, 'depth': 4, 'heads': 4, 'remat': 'none', 'scan': False}


def _change(data_dir: str, model: dict) -> ConfigDict:
  """For all jobs; what is empty stays as a recipe has it, until a flag such as --config.change.batch_size=32."""
  empty = {
      'batch_size': config_dict.placeholder(int), 'epochs': config_dict.placeholder(int),
      'tasks': config_dict.placeholder(str), 'test_split': config_dict.placeholder(str)}
  return ConfigDict({'data_dir': data_dir, 'model': model} | empty)


def _published() -> ConfigDict:
  config = ConfigDict()
  config.initialisations = ('uniemox', 'mae', 'clip', 'supervised', 'scratch')
  # Those with one emotion an image.
  config.datasets = ('emo8', 'emoset', 'fi', 'emotion6', 'unbiasedemo', 'caers', 'heco')
  config.protocols = ('finetune', 'linear')
  config.seeds, config.first_seed = 3, 0
  config.folds, config.left_out_domains, config.fractions = 0, (), ()
  config.test_changes, config.transfers, config.group_column, config.groups = (), (), '', ''
  config.reference, config.vad_score, config.detect, config.spread = 'scratch', 'ccc', 0.02, 0.0
  config.initialisation = ConfigDict(INITIALISATIONS)
  config.protocol = ConfigDict(PROTOCOLS)
  config.change = _change('data', {'width': 1024, 'depth': 24, 'heads': 16})
  return config


def _vitb16() -> ConfigDict:
  config = _published()
  for name, init in (('uniemox', 'runs/pretrain_vitb16'), ('uniemox_plus', 'runs/uniemox_plus_vitb16'),
                     ('mae', 'mae_pretrain_vit_base.pth'), ('mae_only', 'runs/mae_only_vitb16'),
                     ('clip', 'openai/clip-vit-base-patch16'), ('supervised', 'google/vit-base-patch16-224')):
    config.initialisation[name].init = init
  config.initialisation.clip.change.model.patch_size = 16
  config.change.model.update(width=768, depth=12, heads=12)
  return config


def _demo() -> ConfigDict:
  config = _published()
  config.initialisations = ('uniemox', 'mae_only', 'scratch')
  config.datasets = ('emo8', 'emoset')
  config.initialisation = ConfigDict({
      'uniemox': {'init': 'runs/demo/uniemox', 'change': {}}, 'mae_only': {'init': 'runs/demo/mae_only', 'change': {}},
      'scratch': {'init': 'none', 'change': {}},
      # The demo's CLIP itself: what serves without any pretraining.
      'teacher': {
          'init': 'runs/demo/clip/teacher', 'probe_change': EMBEDDING,
          'change': {'model': {'depth': 3, 'pre_norm': True, 'activation': 'quick_gelu', 'norm_eps': 1e-5}}}})
  # Shorter than the demo's own fine-tuning: 18 of them are run here.
  shorter = {'verb': 'finetune', 'recipe': 'configs/demo.py:finetune', 'change': {'epochs': 6, 'eval_every_epochs': 3}}
  config.protocol.finetune = ConfigDict(shorter)
  for name, tasks in AMBIGUITY.items():
    config.protocol[name] = ConfigDict(shorter)
    config.protocol[name].change.tasks = tasks
  config.change = _change('runs/demo/data', DEMO_MODEL)
  config.change.dtype = 'float32'
  return config


def get_config(size: str = 'published') -> ConfigDict:
  """The comparison at the 'published' size, ViT-L/16; with 'vitb16'; or that of the 'demo'."""
  return {'published': _published, 'vitb16': _vitb16, 'demo': _demo}[size]()
