"""Every config key of the training verbs (docs/config.md lists them). Config files import it, so it is quick to load.

The defaults are the published recipe (docs/method.md, Recipes). A key that is left out has its default.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from data_pipelines.errors import UserError
from uniemox_jax.train.schema import key, key_of, parse, refuse_unused, section
from uniemox_jax.train.settings import (
    OFF,
    WITH_HEADS,
    AugmentSettings,
    ClipSettings,
    EncoderSettings,
    FinetuneOptimizerSettings,
    LossSettings,
    MeshSettings,
    OptimizerSettings,
    RegularisationSettings,
    StudentSettings,
    TaskLossSettings,
    TeacherShape,
)

DTYPES = ('float32', 'bfloat16')
"""The dtypes that a run may compute in."""
AUTO = 'auto'
"""The value of `dtype` that stands until the devices are known."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
  """Keys of every verb that trains or probes."""

  seed: int = key(0, 'of every random draw', least=0)
  data_dir: str = key('data', 'folder of the records, or a bucket', path=True)
  dataset: str = key('emoset', 'name of the dataset, as built')
  batch_size: int = key(4096, 'global batch size', least=1)
  dtype: str = key(
      'bfloat16', 'of the computation; parameters are float32; auto takes what the devices compute well (docs/runs.md)',
      choices=(*DTYPES, AUTO))
  mesh: MeshSettings = section(MeshSettings)
  init: str = key(OFF, 'checkpoint, file, folder or hub id to start from; none is a random initialisation', path=True)

  def check(self) -> None:
    """Raises UserError if keys do not go together, or if this run would not read one that was changed."""
    model = getattr(self, 'model', None)
    if isinstance(model, EncoderSettings) and self.init == OFF and model.width % model.heads:  # else of its weights
      raise UserError(f'model.width {model.width} is not divisible by {model.heads} heads: set --config.model.heads')


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataConfig):
  """Keys of every verb that trains."""

  epochs: int = key(800, 'passes over the training split', least=1)
  warmup_epochs: int = key(40, 'epochs in which the learning rate rises', least=0)
  min_crop_area: float = key(0.2, 'least share of the image that the random crop takes', above=0, most=1)
  attention: str = key(
      'xla', 'what computes it in the step; kernel is for TPUs, on which it was compiled and never run '
      '(docs/performance.md)', choices=('xla', 'kernel'))
  max_gradient_norm: float = key(1e3, 'a step whose gradient is longer is skipped, and counted', above=0)
  max_skipped_steps: int = key(10, 'skipped steps in a row after which the run stops', least=1)
  log_every: int = key(20, 'steps between two lines of metrics.jsonl', least=1)
  optimizer: OptimizerSettings = section(OptimizerSettings)


@dataclass(frozen=True, kw_only=True)
class CaptionedConfig(TrainConfig):
  """Keys of the verbs that learn from captions."""

  split: str = key('train+val', 'splits of the dataset, joined by +')
  emotion_in_caption: bool = key(True, 'name the emotion in the captions, which makes pretraining label-supervised')
  caption_style: str = key(
      'natural', "one sentence, or the sentences of the original's code (docs/method.md, Captions)",
      choices=('natural', 'original'))
  save_every: int = key(500, 'steps between two checkpoints', least=1)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(CaptionedConfig):
  """Keys of `pretrain`."""

  accum_steps: int = key(1, 'micro-batches that a batch is divided into; the result is the same', least=1)
  crop_canvas: int = key(
      0, 'side in pixels of the square in which crops go to the devices, which resize and augment them; 0 does it on '
      'the host (docs/input.md)', least=0)
  person_jitter: float = key(
      0.0, 'how far each edge of the person crop may move inwards, share of its side', least=0, below=0.5)
  person_view: str = key(
      'crop', 'the person crop, or the scene a second time as in the original', choices=('crop', 'scene'))
  teacher: str = key(
      'openai/clip-vit-base-patch16', 'folder or hub id of the CLIP or SigLIP; of several, with commas between, each '
      'loss is the mean', path=True)
  teacher_statistics: str = key(
      'clip', "mean and deviation of the teacher's pixels; imagenet as in the original", choices=('clip', 'imagenet'))
  teacher_views: int = key(
      0, 'crops and flips a scene, whose teacher embeddings are computed once and read from then on; 0 draws new ones '
      'every epoch, as published', least=0)
  teacher_views_seed: int = key(
      -1, "of these crops and flips; -1 is the run's seed. Runs that agree in it share the embeddings", least=-1)
  teacher_sharded: bool = key(False, 'split the teacher over mesh.fsdp, too')
  teacher_shape: TeacherShape | None = section(TeacherShape)
  model: StudentSettings = section(StudentSettings)
  loss: LossSettings = section(LossSettings)
  ema_decay: float = key(0.0, 'decay of averaged weights, 0 is off (docs/runs.md)', least=0, below=1)
  images_every: int = key(2000, 'steps between two sheets of reconstructions; 0 draws the last alone', least=0)

  def check(self) -> None:
    """See `DataConfig.check`."""
    super().check()
    _check_canvas(self)
    loss, model = self.loss, self.model
    if loss.negatives == 'local' and self.batch_size % loss.local_batch:
      raise UserError(f'batch_size {self.batch_size} is not divisible by loss.local_batch {loss.local_batch}')
    if loss.distillation and not loss.semantic:
      raise UserError(
          'loss.distillation needs the teacher, and loss.contrastive and loss.similarity are 0: give one of them a '
          'weight')
    if not loss.semantic and not loss.reconstruction:
      raise UserError(
          'every loss weight is zero: nothing to train; set one of --config.loss.contrastive, similarity, '
          'reconstruction')
    if not loss.contrastive:
      refuse_unused(
          self, ('loss.form', 'loss.negatives', 'loss.local_batch', 'loss.equal_texts'), 'loss.contrastive is 0')
    if loss.negatives == 'global':
      refuse_unused(self, ('loss.local_batch',), 'loss.negatives is global')
    if not loss.semantic:
      refuse_unused(
          self, (
              'model.fusion', 'model.fusion_heads', 'model.embedding', 'teacher_statistics', 'teacher_sharded',
              'loss.teacher_sees'), 'loss.contrastive and loss.similarity are 0')
    if model.fusion == OFF and model.decode == 'scene':
      refuse_unused(self, ('loss.teacher_sees',), 'model.fusion is none, and there is no person view')
    if self.teacher_views and loss.distillation:
      raise UserError(
          'teacher_views keeps embeddings of whole scenes, and loss.distillation needs those of their patches: set '
          '--config.teacher_views=0 or --config.loss.distillation=0')
    if self.teacher_views and loss.teacher_sees == 'both':
      raise UserError(
          'teacher_views keeps embeddings of scenes alone, and loss.teacher_sees is both: set --config.teacher_views=0 '
          'or --config.loss.teacher_sees=scene')
    if not self.teacher_views:
      refuse_unused(self, ('teacher_views_seed',), 'teacher_views is 0')
    if model.fusion not in WITH_HEADS:
      refuse_unused(self, ('model.fusion_heads',), f'model.fusion is {model.fusion}')
    if not loss.reconstruction:
      refuse_unused(self, ('loss.norm_pix', 'model.decode'), 'loss.reconstruction is 0')
    if self.person_view == 'scene':
      refuse_unused(self, ('person_jitter', 'loss.teacher_sees'), 'person_view is scene')


@dataclass(frozen=True, kw_only=True)
class MeasuredConfig(DataConfig):
  """Keys of the verbs that learn from some images and are measured on others (docs/protocols.md)."""

  fraction: float = key(1.0, 'share of every class that is trained on', above=0, most=1)
  test_split: str = key(
      'test', 'split of the result; val, on which choices are made too, where there is no test',
      choices=('test', 'val'))
  left_out_domain: str = key('', 'train and choose without the images of this domain, and test on them alone')
  folds: int = key(
      0, 'parts that all labelled images, of every split, are dealt to, of which one is tested; 0 takes the splits as '
      'they are', least=0)
  fold: int = key(0, 'which part is tested, from 0', least=0)
  fold_seed: int = key(0, 'of the deal', least=0)
  test_changes: str = key('', 'changes of the test images to measure under, too, joined by + (docs/protocols.md)')
  transfers: str = key(
      '', 'other datasets to measure on, too, such as fi+emotion6:mikels_to_emotion6, each with a label map where its '
      'classes differ (docs/protocols.md)')

  def check(self) -> None:
    """See `DataConfig.check`."""
    super().check()
    if not self.folds:
      refuse_unused(self, ('fold', 'fold_seed'), 'folds is 0')
      return
    if self.folds < 2 or self.fold >= self.folds:
      raise UserError(f'folds is {self.folds} and fold {self.fold}: choose 2 folds or more, and one of them from 0 on')
    refuse_unused(self, ('test_split',), 'a fold is tested')


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainConfig, MeasuredConfig):
  """Keys of `finetune`."""

  dataset: str = key_of(DataConfig, 'dataset', 'emo8')
  batch_size: int = key_of(DataConfig, 'batch_size', 128)
  epochs: int = key_of(TrainConfig, 'epochs', 100)
  warmup_epochs: int = key_of(TrainConfig, 'warmup_epochs', 5)
  accum_steps: int = key_of(PretrainConfig, 'accum_steps')
  crop_canvas: int = key_of(PretrainConfig, 'crop_canvas')
  min_crop_area: float = key_of(TrainConfig, 'min_crop_area', 0.08)
  sampling: str = key(
      'uniform', 'every training image once an epoch, or as many of every class (docs/tasks.md)',
      choices=('uniform', 'balanced'))
  streams: str = key('scene', 'what the model sees (docs/two_streams.md)', choices=('scene', 'scene+person'))
  model: EncoderSettings = section(EncoderSettings)
  optimizer: FinetuneOptimizerSettings = section(FinetuneOptimizerSettings, final_lr=1e-6, b2=0.999)
  regularisation: RegularisationSettings = section(RegularisationSettings)
  augment: AugmentSettings = section(AugmentSettings)
  ema_decay: float = key_of(PretrainConfig, 'ema_decay')
  tasks: str = key('label', 'what is learned, joined by +; auto is all that the records have (docs/tasks.md)')
  task_loss: TaskLossSettings = section(TaskLossSettings)
  eval_every_epochs: int = key(1, 'epochs between two evaluations on val', least=1)

  def check(self) -> None:
    """See `DataConfig.check`."""
    super().check()
    _check_canvas(self)


def _check_canvas(config: PretrainConfig | FinetuneConfig) -> None:
  """Raises UserError if a view does not fit the canvas; where the size comes from weights, the loader asks later."""
  if config.init == OFF and 0 < config.crop_canvas < config.model.image_size:
    raise UserError(
        f'crop_canvas {config.crop_canvas} is less than model.image_size {config.model.image_size}: make it larger, or '
        '0, which resizes on the host')


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(MeasuredConfig):
  """Keys of `probe`."""

  dataset: str = key_of(DataConfig, 'dataset', 'emo8')
  batch_size: int = key_of(DataConfig, 'batch_size', 256)
  dtype: str = key_of(DataConfig, 'dtype', 'float32')
  protocol: str = key('linear', 'a linear classifier, or nearest neighbours', choices=('linear', 'knn'))
  tasks: str = key(
      'auto',
      'the single label, or ratings of valence, arousal and dominance, by ridge regression; auto takes the label '
      'where there is one', choices=('auto', 'label', 'vad'))
  features: str = key(
      'patches',
      "what is probed: the mean over the scene's patch tokens; gamma, which pretraining fuses of scene and person; or "
      'the embedding that a CLIP or SigLIP itself gives an image, in its own view, for which the section model is not '
      'read', choices=('patches', 'fused', 'embedding'))
  features_dir: str = key('', 'where features are kept; the workdir if empty', path=True)
  model: EncoderSettings = section(EncoderSettings, remat='none')


@dataclass(frozen=True, kw_only=True)
class TrainClipConfig(CaptionedConfig):
  """Keys of `train_clip`."""

  batch_size: int = key_of(DataConfig, 'batch_size', 1024)
  epochs: int = key_of(TrainConfig, 'epochs', 32)
  warmup_epochs: int = key_of(TrainConfig, 'warmup_epochs', 1)
  equal_texts: str = key(
      'each', 'an equal caption of another image is a negative, as in CLIP; with once it is none',
      choices=('each', 'once'))
  model: ClipSettings = section(ClipSettings)
  optimizer: OptimizerSettings = section(OptimizerSettings, b2=0.98, weight_decay=0.1)


CONFIGS: dict[str, type[DataConfig]] = {
    'train_clip': TrainClipConfig, 'pretrain': PretrainConfig, 'finetune': FinetuneConfig, 'probe': ProbeConfig}
"""The class of each verb's config."""


def config_class(config: Mapping[str, Any]) -> type[DataConfig]:
  """Recognises the class of a config, or of a run's config.json, by the sections that only one verb has."""
  verbs = {'loss': 'pretrain', 'regularisation': 'finetune', 'protocol': 'probe'}
  return CONFIGS[next((verb for name, verb in verbs.items() if name in config), 'train_clip')]


def parse_trainable(config: ConfigDict) -> PretrainConfig | FinetuneConfig:
  """The checked values of a config of `pretrain` or `finetune`.

  Raises:
    UserError: another verb's config; and see `schema.parse`.
  """
  if 'loss' not in config and 'regularisation' not in config:
    raise UserError(
        'a plan needs a config of pretrain or finetune, with a section loss or regularisation: '
        'configs/demo.py, for one, wants :pretrain or :finetune after its name')
  return parse(PretrainConfig, config) if 'loss' in config else parse(FinetuneConfig, config)
