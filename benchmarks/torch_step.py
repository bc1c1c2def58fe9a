"""The original's two-view step written plainly in PyTorch, for `benchmarks.train_step`.

What it computes each step, and how often, is what the original (chincharles/u-emo) computes: two encoder passes, two
decoder passes of which the person's is thrown away, CLIP's image tower on the scene and its text tower on the captions.
Its mistakes are left out (README, "Differences from the original"): every patch is predicted, the person is a person.
So the losses are ours, which a test compares, and only the work differs.
"""

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uniemox_jax.models.vit import sincos_positions

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def quick_gelu(x: Tensor) -> Tensor:
  """CLIP's activation."""
  return x * torch.sigmoid(1.702 * x)


def normalise(images_BxHxWx3: Tensor, statistics: tuple[tuple[float, ...], ...]) -> Tensor:
  """uint8 pixels to float32 (B, 3, H, W)."""
  mean, deviation = (torch.tensor(values, device=images_BxHxWx3.device) for values in statistics)
  return ((images_BxHxWx3.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)


class Block(nn.Module):
  """Pre-LayerNorm attention and MLP."""

  def __init__(self, width: int, heads: int, eps: float, activation: Any = F.gelu, causal: bool = False):
    super().__init__()
    self.heads, self.activation, self.causal = heads, activation, causal
    self.norm1, self.qkv, self.out = nn.LayerNorm(width, eps), nn.Linear(width, 3 * width), nn.Linear(width, width)
    self.norm2, self.up, self.down = nn.LayerNorm(width, eps), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

  def forward(self, x: Tensor) -> Tensor:
    """Tokens (B, L, D) to the same."""
    query, key, value = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
    x = x + self.out(mixed.transpose(1, 2).flatten(2))
    return x + self.down(self.activation(self.up(self.norm2(x))))


def patch_embedding(patch: int, width: int, bias: bool = True) -> nn.Conv2d:
  """Every patch of (B, 3, H, W) to a token, as (B, D, rows, columns)."""
  return nn.Conv2d(3, width, patch, patch, bias=bias)


def take(tokens_BxLxD: Tensor, ids_BxK: Tensor) -> Tensor:
  """The tokens of each row at its own places."""
  return tokens_BxLxD.gather(1, ids_BxK[..., None].expand(-1, -1, tokens_BxLxD.shape[-1]))


class MaskedAutoencoder(nn.Module):
  """MAE (He et al. 2022). Arguments are those of `UniEmoX`."""

  def __init__(
      self, *, image_size: int, patch_size: int, width: int, depth: int, heads: int, decoder_width: int,
      decoder_depth: int, decoder_heads: int, mask_ratio: float, norm_eps: float = 1e-6):
    super().__init__()
    side = image_size // patch_size
    self.patch_size, self.visible = patch_size, int(side**2 * (1 - mask_ratio))
    self.patch_embed = patch_embedding(patch_size, width)
    self.cls_token = nn.Parameter(torch.randn(1, width) * 0.02)
    self.register_buffer('positions', torch.tensor(sincos_positions(width, side)))
    self.blocks = nn.Sequential(*(Block(width, heads, norm_eps) for _ in range(depth)))
    self.norm = nn.LayerNorm(width, norm_eps)
    self.project = nn.Linear(width, decoder_width)
    self.mask_token = nn.Parameter(torch.randn(1, decoder_width) * 0.02)
    self.register_buffer('decoder_positions', torch.tensor(sincos_positions(decoder_width, side)))
    self.decoder_blocks = nn.Sequential(*(Block(decoder_width, decoder_heads, norm_eps) for _ in range(decoder_depth)))
    self.decoder_norm = nn.LayerNorm(decoder_width, norm_eps)
    self.predict = nn.Linear(decoder_width, 3 * patch_size**2)

  def forward(self, images_Bx3xHxW: Tensor, noise_BxL: Tensor) -> tuple[Tensor, Tensor]:
    """The projected CLS token (B, E), and the mean squared error of the hidden patches."""
    shuffle_BxL = noise_BxL.argsort(1)
    restore_BxL = shuffle_BxL.argsort(1)
    tokens = self.encode(images_Bx3xHxW, shuffle_BxL[:, :self.visible])
    prediction_BxLxP = self.decode(tokens, restore_BxL)
    error_BxL = (prediction_BxLxP.float() - self.patchify(images_Bx3xHxW)).square().mean(-1)
    hidden_BxL = (restore_BxL >= self.visible).float()
    return tokens[:, 0], (error_BxL * hidden_BxL).sum() / hidden_BxL.sum()

  def encode(self, images_Bx3xHxW: Tensor, keep_BxK: Tensor) -> Tensor:
    """(B, 1 + K, E): every patch is embedded, the visible ones go on."""
    tokens = take(self.patch_embed(images_Bx3xHxW).flatten(2).transpose(1, 2) + self.positions[1:], keep_BxK)
    cls = (self.cls_token + self.positions[:1]).expand(len(tokens), -1, -1)
    return self.project(self.norm(self.blocks(torch.cat([cls, tokens], 1))))

  def decode(self, tokens: Tensor, restore_BxL: Tensor) -> Tensor:
    """Predicted pixels (B, L, 3 p^2) of all patches."""
    hidden = self.mask_token.to(tokens.dtype).expand(len(tokens), restore_BxL.shape[1] - self.visible, -1)
    patches = take(torch.cat([tokens[:, 1:], hidden], 1), restore_BxL)
    tokens = torch.cat([tokens[:, :1], patches], 1) + self.decoder_positions
    return self.predict(self.decoder_norm(self.decoder_blocks(tokens)))[:, 1:]

  def patchify(self, images_Bx3xHxW: Tensor) -> Tensor:
    """(B, L, p p 3), the pixels of a patch by row, column, channel."""
    rows = images_Bx3xHxW.unflatten(2, (-1, self.patch_size)).unflatten(4, (-1, self.patch_size))
    return rows.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


class Fusion(nn.Module):
  """ELU(W (LN(scene) + LN(person)) + b)."""

  def __init__(self, width: int):
    super().__init__()
    self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

  def forward(self, scene_BxE: Tensor, person_BxE: Tensor) -> Tensor:
    """(B, E), not normalised."""
    return F.elu(self.linear(self.norm(scene_BxE) + self.norm(person_BxE)))


class ImageTower(nn.Module):
  """CLIP's vision transformer."""

  def __init__(self, *, image_size: int, patch_size: int, width: int, depth: int, heads: int, projection: int):
    super().__init__()
    self.patch_embed = patch_embedding(patch_size, width, bias=False)
    self.class_embedding = nn.Parameter(torch.randn(width) * 0.02)
    self.positions = nn.Parameter(torch.randn(1 + (image_size // patch_size)**2, width) * 0.01)
    self.pre_norm, self.post_norm = nn.LayerNorm(width), nn.LayerNorm(width)
    self.blocks = nn.Sequential(*(Block(width, heads, 1e-5, quick_gelu) for _ in range(depth)))
    self.project = nn.Linear(width, projection, bias=False)

  def forward(self, images_Bx3xHxW: Tensor) -> Tensor:
    """Unit-norm (B, E)."""
    patches = self.patch_embed(images_Bx3xHxW).flatten(2).transpose(1, 2)
    tokens = torch.cat([self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1), patches], 1)
    tokens = self.blocks(self.pre_norm(tokens + self.positions))
    return F.normalize(self.project(self.post_norm(tokens[:, 0])).float(), dim=-1)


class TextTower(nn.Module):
  """CLIP's causal text transformer, pooled at the end-of-text token, the largest id."""

  def __init__(self, *, vocabulary: int, context: int, width: int, depth: int, heads: int, projection: int):
    super().__init__()
    self.token_embedding = nn.Embedding(vocabulary, width)
    self.positions = nn.Parameter(torch.randn(context, width) * 0.01)
    self.blocks = nn.Sequential(*(Block(width, heads, 1e-5, quick_gelu, causal=True) for _ in range(depth)))
    self.norm, self.project = nn.LayerNorm(width), nn.Linear(width, projection, bias=False)

  def forward(self, ids_BxT: Tensor) -> Tensor:
    """Unit-norm (B, E)."""
    tokens = self.norm(self.blocks(self.token_embedding(ids_BxT) + self.positions))
    pooled = tokens[torch.arange(len(tokens), device=tokens.device), ids_BxT.argmax(1)]
    return F.normalize(self.project(pooled).float(), dim=-1)


class TwoViews(nn.Module):
  """Student, fusion and frozen CLIP; `forward` gives the three losses by name."""

  def __init__(self, model: dict[str, Any], vision: dict[str, Any], text: dict[str, Any]):
    super().__init__()
    self.student, self.fusion = MaskedAutoencoder(**model), Fusion(model['decoder_width'])
    self.vision = ImageTower(**vision).requires_grad_(False)
    self.language = TextTower(**text).requires_grad_(False)

  def forward(self, scene: Tensor, person: Tensor, ids_BxT: Tensor, noise_2xBxL: Tensor) -> dict[str, Tensor]:
    """scene, person: uint8 (B, H, W, 3)."""
    with torch.no_grad():
      image_BxE, text_BxE = self.vision(normalise(scene, CLIP)), self.language(ids_BxT)
    scene_BxE, reconstruction = self.student(normalise(scene, IMAGENET), noise_2xBxL[0])
    person_BxE, _ = self.student(normalise(person, IMAGENET), noise_2xBxL[1])
    fused_BxE = F.normalize(self.fusion(scene_BxE, person_BxE).float(), dim=-1)
    by_student, by_teacher = (fused_BxE @ text_BxE.T).float(), (image_BxE @ text_BxE.T).float()
    return {
        'contrastive': 1 - F.cosine_similarity(by_student, by_teacher).mean(),
        'similarity': 1 - F.cosine_similarity(fused_BxE, image_BxE).mean(), 'reconstruction': reconstruction}


class TorchStep:
  """The step on one device, on random weights.

  Args:
    model, vision, text: arguments of `MaskedAutoencoder`, `ImageTower` and `TextTower`.
    batch: 'scene' and 'person', uint8 (B, H, W, 3); 'ids' int32 (B, 77).
    dtype: 'float32', or 'bfloat16' under autocast.
    compiled: by `torch.compile`.
    rate, weight_decay: of AdamW.
  """

  version = f'torch {torch.__version__}'

  def __init__(
      self, model: dict[str, Any], vision: dict[str, Any], text: dict[str, Any], batch: dict[str, np.ndarray], *,
      dtype: str = 'float32', compiled: bool = False, rate: float = 1e-4, weight_decay: float = 0.05):
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    self.place = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    self.device = torch.cuda.get_device_name() if self.place.type == 'cuda' else 'cpu'
    self.dtype = getattr(torch, dtype)
    self.module = TwoViews(model, vision, text).to(self.place)
    self.losses = torch.compile(self.module) if compiled else self.module
    self.batch = {name: torch.as_tensor(rows, device=self.place) for name, rows in batch.items()}
    self.batch['ids'] = self.batch['ids'].long()
    self.patches = (model['image_size'] // model['patch_size'])**2
    trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
    matrices, vectors = ([one for one in trained if (one.ndim > 1) == matrix] for matrix in (True, False))
    self.optimizer = torch.optim.AdamW([{'params': matrices}, {'params': vectors, 'weight_decay': 0.0}], lr=rate,
                                       betas=(0.9, 0.95), weight_decay=weight_decay, fused=True)

  def run(self, steps: int) -> float:
    """Takes so many steps, waits for the last and gives its loss."""
    for _ in range(steps):
      noise = torch.rand(2, len(self.batch['scene']), self.patches, device=self.place)
      with torch.autocast(self.place.type, self.dtype, enabled=self.dtype != torch.float32):
        loss = sum(self.losses(self.batch['scene'], self.batch['person'], self.batch['ids'], noise).values())
      self.optimizer.zero_grad()
      loss.backward()
      self.optimizer.step()
    return loss.item()

  def product(self, size: int, times: int) -> None:
    """Multiplies two square matrices so many times, and waits."""
    matrix = torch.ones(size, size, dtype=self.dtype, device=self.place)
    for _ in range(times):
      product = matrix @ matrix
    product[0, 0].item()
