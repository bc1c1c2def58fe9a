"""UniEmoX: one encoder over scene and person, a fusion, a pixel decoder (docs/method.md, One pretraining step)."""

from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from uniemox_jax.models import layers
from uniemox_jax.models.decoder import Decoder
from uniemox_jax.models.fusion import make_fusion
from uniemox_jax.models.masking import Masking, random_masking, visible_patches
from uniemox_jax.models.vit import ViT


class Outputs(NamedTuple):
  """What the student gives in pretraining.

  fused_BxE: gamma, float32, not normalised; None if no loss needs it. It has passed the adapter, if there is one: E is
    the teacher's width.
  prediction_BxUxLxP: the predicted pixels of each decoded view (U = 1, the scene, or 2); None without reconstruction.
  mask_BxUxL: which of their patches were hidden; None without a decoder.
  teacher_tokens_BxLxD: the predicted teacher's tokens of the scene's patches; None without distillation.
  """

  fused_BxE: jax.Array | None
  prediction_BxUxLxP: jax.Array | None
  mask_BxUxL: jax.Array | None
  teacher_tokens_BxLxD: jax.Array | None = None


class UniEmoX(nnx.Module):
  """The student.

  Args:
    image_size, patch_size, width, depth, heads: the encoder, see `vit.ViT`.
    decoder_width, decoder_depth, decoder_heads: the decoder; its width is also that of the fusion.
    mask_ratio: the share of patches that are hidden, 0.9 in the published recipe.
    fusion, fusion_heads: see `fusion.make_fusion`.
    decode: 'scene' decodes the scene stream, 'both' also the person's.
    embedding: what of a view enters the fusion: its 'class_token', or the 'mean' of its visible patches.
    teacher_width: the width of the embeddings that gamma is compared with; 0 is decoder_width. If it differs from that,
      a linear adapter maps gamma to it.
    teacher_token_width: the width of the teacher's patch tokens, which the decoder predicts; 0 if it does not.
    semantic: whether L1 or L2 is trained, so that fusion and person view are needed.
    reconstruct: whether L3 is trained, so that the decoder predicts pixels.
    norm_eps, remat, scan, dtype: see `vit.ViT`.
    pre_norm, activation: options of the encoder alone, see `vit.ViT`.

  Raises:
    ValueError: an option is none of its choices, or there is nothing to train.
  """

  def __init__(
      self, *, image_size: int, patch_size: int, width: int, depth: int, heads: int, decoder_width: int,
      decoder_depth: int, decoder_heads: int, mask_ratio: float = 0.9, fusion: str = 'additive', fusion_heads: int = 1,
      decode: str = 'scene', embedding: str = 'class_token', teacher_width: int = 0, teacher_token_width: int = 0,
      semantic: bool = True, reconstruct: bool = True, norm_eps: float = 1e-6, pre_norm: bool = False,
      activation: str = 'gelu', remat: str = 'none', scan: bool = False, dtype: Any = jnp.float32, rngs: nnx.Rngs):
    if decode not in ('scene', 'both'):
      raise ValueError(f"decode '{decode}' is not one of scene, both")
    if embedding not in ('class_token', 'mean'):
      raise ValueError(f"embedding '{embedding}' is not one of class_token, mean")
    if not (semantic or reconstruct or teacher_token_width):
      raise ValueError('every loss weight is zero: nothing to train')
    blocks = dict(norm_eps=norm_eps, remat=remat, scan=scan, dtype=dtype, rngs=rngs)
    self.encoder = ViT(
        image_size=image_size, patch_size=patch_size, width=width, depth=depth, heads=heads, pre_norm=pre_norm,
        activation=activation, **blocks)
    self.project = layers.linear(width, decoder_width, dtype=dtype, rngs=rngs)
    self.visible = visible_patches(self.encoder.patches, mask_ratio)
    if not 0 < self.visible < self.encoder.patches:
      raise ValueError(f'mask_ratio {mask_ratio} leaves {self.visible} of {self.encoder.patches} patches visible')
    self.semantic, self.embedding = semantic, embedding
    self.fusion = make_fusion(fusion, decoder_width, fusion_heads, dtype=dtype, rngs=rngs) if semantic else None
    self.decoder = Decoder(
        patches=self.encoder.patches, patch_size=patch_size if reconstruct else 0, width=decoder_width,
        depth=decoder_depth, heads=decoder_heads, teacher_token_width=teacher_token_width, **
        blocks) if reconstruct or teacher_token_width else None
    # Drawn last: all else starts as it does without it.
    adapts = semantic and teacher_width not in (0, decoder_width)
    if adapts:
      layers.check_sizes(teacher_width=teacher_width)
    self.adapter = layers.linear(decoder_width, teacher_width, dtype=dtype, rngs=rngs) if adapts else None
    self.decoded_streams = (2 if decode == 'both' else 1) if self.decoder is not None else 0
    self.view_count = 2 if self.fusion is not None or self.decoded_streams == 2 else 1

  def __call__(self, views_BxVxHxWx3: jax.Array, noise_BxVxL: jax.Array) -> Outputs:
    """Masks, encodes all views in one call, decodes and fuses.

    Args:
      views_BxVxHxWx3: normalised float images; view 0 is the scene, view 1 the person. V = `view_count`. The view axis
        follows the batch axis so that a batch sharded over devices stays where it is.
      noise_BxVxL: uniform noise; its lowest K entries per view stay visible.
    """
    masking = random_masking(noise_BxVxL.reshape(-1, noise_BxVxL.shape[-1]), self.visible)
    tokens_BxVxKxE = self._encoded(views_BxVxHxWx3, masking.ids_keep_BxK)
    decoded = (None, None, None) if self.decoder is None else self._decoded(tokens_BxVxKxE, masking)
    return Outputs(self._fused(tokens_BxVxKxE) if self.semantic else None, *decoded)

  @jax.named_scope('encoder')
  def _encoded(self, views_BxVxHxWx3: jax.Array, ids_keep_NxK: jax.Array | None = None) -> jax.Array:
    """The projected tokens (B, V, 1 + K, E) of all views; K is L where nothing is hidden."""
    batch, views = views_BxVxHxWx3.shape[:2]
    tokens_NxKxD = self.encoder(views_BxVxHxWx3.reshape(batch * views, *views_BxVxHxWx3.shape[2:]), ids_keep_NxK)
    return self.project(tokens_NxKxD).reshape(batch, views, tokens_NxKxD.shape[1], -1)

  @jax.named_scope('decoder')
  def _decoded(self, tokens_BxVxKxE: jax.Array,
               masking: Masking) -> tuple[jax.Array | None, jax.Array, jax.Array | None]:
    """What the decoder predicts and what was hidden, as `Outputs` holds them."""
    assert self.decoder is not None  # the caller has asked
    batch, views = tokens_BxVxKxE.shape[:2]
    decoded = self.decoded_streams
    tokens_BxUxKxE = tokens_BxVxKxE[:, :decoded]
    ids_restore_BxUxL = masking.ids_restore_BxL.reshape(batch, views, -1)[:, :decoded]
    prediction, tokens_NxLxD = self.decoder(
        tokens_BxUxKxE.reshape(batch * decoded, *tokens_BxUxKxE.shape[2:]),
        ids_restore_BxUxL.reshape(batch * decoded, -1))
    if prediction is not None:
      prediction = prediction.reshape(batch, decoded, *prediction.shape[1:])
    mask_BxUxL = masking.mask_BxL.reshape(batch, views, -1)[:, :decoded]
    return prediction, mask_BxUxL, None if tokens_NxLxD is None else tokens_NxLxD[::decoded]

  @jax.named_scope('fusion')
  def _fused(self, tokens_BxVxKxE: jax.Array) -> jax.Array:
    """Gamma of the projected tokens, through the adapter if there is one."""
    is_mean = self.embedding == 'mean'
    views_BxVxE = tokens_BxVxKxE[:, :, 1:].mean(axis=2) if is_mean else tokens_BxVxKxE[:, :, 0]
    scene_BxE = views_BxVxE[:, 0]
    fused_BxE = scene_BxE if self.fusion is None else self.fusion(scene_BxE, views_BxVxE[:, 1])
    if self.adapter is not None:
      fused_BxE = self.adapter(fused_BxE)
    return fused_BxE.astype(jnp.float32)

  def features(self, views_BxVxHxWx3: jax.Array) -> jax.Array:
    """Gamma (B, E) of whole views, in which no patch is hidden; for a model that is `semantic`."""
    return self._fused(self._encoded(views_BxVxHxWx3))
