"""The sections of the training configs: keys that belong together. `train.config` puts them into the verbs' configs."""

from dataclasses import dataclass

from uniemox_jax.train.schema import key, section

OFF = 'none'
"""The value of `init`, `fusion` and `class_weights` that switches them off."""
WITH_HEADS = ('weighted_sum', 'attention', 'glu')
"""The fusions that use heads. `models.fusion` says so too, but loads jax."""


@dataclass(frozen=True, kw_only=True)
class MeshSettings:
  """The device mesh (docs/tpu.md)."""

  data: int = key(-1, 'devices that each hold all parameters and share the batch; -1 takes all that are left', least=-1)
  fsdp: int = key(1, 'devices over which parameters and optimizer are split', least=1)


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
  """The ViT encoder. Its arguments are those of `models.vit.ViT`."""

  image_size: int = key(224, 'side of the views, pixels', least=1)
  patch_size: int = key(16, 'side of a patch, pixels; it divides image_size', least=1)
  width: int = key(1024, 'token width D', least=1)
  depth: int = key(24, 'number of blocks', least=1)
  heads: int = key(16, 'attention heads; they divide width', least=1)
  remat: str = key('dots', 'activations computed again in the backward pass', choices=('none', 'dots', 'full'))
  scan: bool = key(True, 'compile one block and loop over the depth: quicker to compile')
  norm_eps: float = key(1e-6, 'epsilon of LayerNorm; that of the weights to start from', above=0)
  pre_norm: bool = key(False, "LayerNorm before the first block, as in CLIP's image tower")
  activation: str = key('gelu', "quick_gelu as in OpenAI's CLIP", choices=('gelu', 'quick_gelu'))


@dataclass(frozen=True, kw_only=True)
class StudentSettings(EncoderSettings):
  """The encoder with decoder, masking and fusion: `models.uniemox.UniEmoX`."""

  decoder_width: int = key(
      512, "width of decoder and fusion; a linear adapter maps it to the teacher's where that is another", least=1)
  decoder_depth: int = key(8, 'blocks of the decoder', least=1)
  decoder_heads: int = key(16, 'attention heads of the decoder', least=1)
  mask_ratio: float = key(0.9, 'share of the patches that are hidden', above=0, below=1)
  fusion: str = key(
      'additive', 'how scene and person embeddings are joined; none uses the scene alone',
      choices=('additive', 'prior', *WITH_HEADS, OFF))
  fusion_heads: int = key(1, f'heads h of the fusions {", ".join(WITH_HEADS)}', least=1, most=3)
  decode: str = key('scene', 'the streams that are reconstructed', choices=('scene', 'both'))
  embedding: str = key(
      'class_token', 'what of a view enters the fusion: its class token as published, or the mean of its visible '
      'patches', choices=('class_token', 'mean'))


@dataclass(frozen=True, kw_only=True)
class TeacherShape:
  """The teacher's image tower for `plan`, which opens no weights."""

  image_size: int = key(224, 'side of its input, pixels', least=1)
  patch_size: int = key(16, 'side of a patch, pixels', least=1)
  width: int = key(768, 'token width', least=1)
  depth: int = key(12, 'number of blocks', least=1)
  heads: int = key(12, 'attention heads', least=1)
  projection: int = key(512, "width E of its embeddings", least=1)


@dataclass(frozen=True, kw_only=True)
class LossSettings:
  """Pretraining losses (docs/method.md, Losses). A weight of 0 removes a loss from the program."""

  contrastive: float = key(1.0, 'weight of L1, which compares rankings of all texts', least=0)
  similarity: float = key(1.0, "weight of L2, which draws the student to the teacher's image embedding", least=0)
  reconstruction: float = key(1.0, 'weight of L3, the error of the hidden pixels', least=0)
  form: str = key('cosine', 'form of L1: cosine as published, or kl with a temperature', choices=('cosine', 'kl'))
  negatives: str = key('global', "texts of L1: of the global batch, or of groups", choices=('global', 'local'))
  local_batch: int = key(2, 'examples in a group, where negatives is local', least=1)
  equal_texts: str = key(
      'each', 'equal captions of a batch: each counts in L1 as published, or they count once', choices=('each', 'once'))
  teacher_sees: str = key(
      'scene',
      "what the target of L1 and L2 is: the teacher's embedding of the scene as published, or the mean of those "
      'of scene and person', choices=('scene', 'both'))
  norm_pix: bool = key(False, 'normalise the pixels of each target patch')
  distillation: float = key(
      0.0,
      "weight of L4, which draws what the decoder says of the hidden patches to the teacher's tokens of them; 0 as "
      'published', least=0)

  @property
  def semantic(self) -> bool:
    """Whether gamma learns from the teacher, by L1 or L2. Without them, L4 is refused."""
    return bool(self.contrastive or self.similarity)


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
  """AdamW with warm-up and a cosine schedule."""

  base_lr: float = key(1e-3, 'peak learning rate at batch size 256; it scales with the batch size', above=0)
  final_lr: float = key(0.0, 'learning rate at the end', least=0)
  b1: float = key(0.9, 'decay of the first moment', least=0, below=1)
  b2: float = key(0.95, 'decay of the second moment', least=0, below=1)
  weight_decay: float = key(0.05, 'decoupled weight decay; none on biases, norms, tokens and positions', least=0)
  decay_tokens: bool = key(False, "decay class token, mask token and the fusion's last bias too, as in the original")


@dataclass(frozen=True, kw_only=True)
class FinetuneOptimizerSettings(OptimizerSettings):
  """AdamW as for pretraining, with lower learning rates for early layers."""

  layer_decay: float = key(0.75, 'factor of the learning rate from one layer to the one below it', above=0, most=1)


@dataclass(frozen=True, kw_only=True)
class TaskLossSettings:
  """Weights and forms of the fine-tuning losses (docs/tasks.md)."""

  label: float = key(1.0, 'weight of the single label', above=0)
  labels: float = key(1.0, 'weight of several labels', above=0)
  distribution: float = key(1.0, 'weight of the label distribution', above=0)
  vad: float = key(1.0, 'weight of valence, arousal, dominance', above=0)
  labels_form: str = key('bce', 'loss of several labels', choices=('bce', 'weighted_euclidean'))
  class_weights: str = key(
      OFF, 'weights of the classes in the losses of label and labels: from their share of train, or of the batch',
      choices=(OFF, 'static', 'dynamic'))
  vad_form: str = key('l2', 'loss of valence, arousal, dominance', choices=('l2', 'ccc'))


@dataclass(frozen=True, kw_only=True)
class RegularisationSettings:
  """Random regularisation of fine-tuning."""

  drop_path: float = key(0.2, 'rate of stochastic depth in the last block', least=0, below=1)
  mixup: float = key(0.8, 'parameter of the Beta distribution, 0 is off', least=0)
  cutmix: float = key(1.0, 'parameter of the Beta distribution, 0 is off', least=0)
  smoothing: float = key(0.1, 'label smoothing of the single label', least=0, below=1)


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
  """Random augmentation of fine-tuning views, beside crop and flip."""

  randaugment: float = key(9.0, 'magnitude, 0 is off', least=0, most=10)
  erase: float = key(0.25, 'probability of random erasing', least=0, most=1)


@dataclass(frozen=True, kw_only=True)
class TowerSettings:
  """A CLIP tower."""

  width: int = key(768, 'token width', least=1)
  depth: int = key(12, 'number of blocks', least=1)
  heads: int = key(12, 'attention heads', least=1)


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
  """The CLIP that `train_clip` trains."""

  image_size: int = key(224, 'side of the input, pixels', least=1)
  patch_size: int = key(16, 'side of a patch, pixels', least=1)
  projection: int = key(512, 'width of the shared space', least=1)
  context: int = key(77, 'most tokens of a text', least=2)
  vision: TowerSettings = section(TowerSettings)
  text: TowerSettings = section(TowerSettings, width=512, heads=8)
