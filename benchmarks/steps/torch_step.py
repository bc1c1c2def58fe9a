"""The original's two-view step written plainly in PyTorch, for `benchmarks.train_step`.

It computes what the original (chincharles/u-emo) computes each step: two encoder passes, two decoder passes of which
the person's is thrown away, CLIP's image tower on the scene and its text tower on the captions. Its mistakes are left
out (docs/method.md, Differences from the original): every patch is predicted, the person is a person. So the losses are
ours, which a test compares, and only the work differs.
"""

import os
from typing import Any

from ml_collections import ConfigDict
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.steps.step_sizes import CONTEXT, VOCABULARY
from tests.support.torch_reference import Additive, Mae, OpenAiClip
from uniemox_jax.models.preprocess import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from uniemox_jax.models.vit import sincos_positions

RATE, WEIGHT_DECAY = 1e-4, 0.05


def normalise(images_BxHxWx3: Tensor, *statistics: tuple[float, ...]) -> Tensor:
  """uint8 pixels to float32 (B, 3, H, W), by mean and standard deviation."""
  mean, deviation = (torch.tensor(values, device=images_BxHxWx3.device) for values in statistics)
  return ((images_BxHxWx3.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)


def patchify(pixels_Bx3xHxW: Tensor, size: int) -> Tensor:
  """(B, L, p p 3), the pixels of a patch by row, column, channel."""
  rows = pixels_Bx3xHxW.unflatten(2, (-1, size)).unflatten(4, (-1, size))
  return rows.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def clip_tower(shape: Any) -> tuple[int, int, int, int]:
  """Width, depth, heads and hidden width, as `OpenAiClip` takes them."""
  return shape.width, shape.depth, shape.heads, 4 * shape.width


class TwoViews(nn.Module):
  """Student, fusion and frozen CLIP on random weights; `forward` gives the three losses by name."""

  def __init__(self, config: ConfigDict):
    super().__init__()
    model, vision = config.model, config.teacher_shape
    side = model.image_size // model.patch_size
    self.patch_size, self.visible = model.patch_size, int(side**2 * (1 - model.mask_ratio))
    self.student = Mae(
        image_size=model.image_size, patch=model.patch_size, width=model.width, depth=model.depth, heads=model.heads,
        decoder_width=model.decoder_width, decoder_depth=model.decoder_depth, decoder_heads=model.decoder_heads)
    self.fusion = Additive(model.decoder_width, 1)
    self.clip = OpenAiClip(
        image_size=vision.image_size, patch=vision.patch_size, vision=clip_tower(vision),
        text=clip_tower(config.text_shape), projection=vision.projection, context=CONTEXT, vocabulary=VOCABULARY)
    for parameter in self.parameters():
      if parameter.ndim > 1:
        nn.init.normal_(parameter, std=0.02)
    self.clip.requires_grad_(False)
    for name, width in (('pos_embed', model.width), ('decoder_pos_embed', model.decoder_width)):
      positions_1xLxD = torch.tensor(sincos_positions(width, side))[None]
      setattr(self.student, name, nn.Parameter(positions_1xLxD, requires_grad=False))

  def forward(self, scene: Tensor, person: Tensor, ids_BxT: Tensor, noise_2xBxL: Tensor) -> dict[str, Tensor]:
    """scene, person: uint8 (B, H, W, 3)."""
    with torch.no_grad():
      embedded = self.clip(normalise(scene, CLIP_MEAN, CLIP_STD), ids_BxT)
      image_BxE, text_BxE = (F.normalize(one.float(), dim=-1) for one in embedded)
    pixels = normalise(scene, IMAGENET_MEAN, IMAGENET_STD)
    scene_BxE, prediction_BxLxP = self.encode_and_decode(pixels, noise_2xBxL[0])
    person_BxE, _ = self.encode_and_decode(normalise(person, IMAGENET_MEAN, IMAGENET_STD), noise_2xBxL[1])
    error_BxL = (prediction_BxLxP.float() - patchify(pixels, self.patch_size)).square().mean(-1)
    hidden_BxL = (noise_2xBxL[0].argsort(1).argsort(1) >= self.visible).float()
    fused_BxE = F.normalize(self.fusion(scene_BxE, person_BxE).float(), dim=-1)
    by_student, by_teacher = (fused_BxE @ text_BxE.T).float(), (image_BxE @ text_BxE.T).float()
    return {
        'contrastive': 1 - F.cosine_similarity(by_student, by_teacher).mean(),
        'similarity': 1 - F.cosine_similarity(fused_BxE, image_BxE).mean(),
        'reconstruction': (error_BxL * hidden_BxL).sum() / hidden_BxL.sum()}

  def encode_and_decode(self, pixels_Bx3xHxW: Tensor, noise_BxL: Tensor) -> tuple[Tensor, Tensor]:
    """The projected CLS token (B, E), and the predicted pixels (B, L, 3 p^2) of all patches."""
    tokens = self.student.projected(pixels_Bx3xHxW, noise_BxL, self.visible)
    return tokens[:, 0], self.student.decode(tokens, noise_BxL, self.visible)


class TorchStep:
  """The step on one device, a GPU where PyTorch sees one; bfloat16 is by autocast.

  Args:
    config: of a pretraining run, see `step_sizes.load`.
    batch: see `step_sizes.random_batch`.
    compiled: by `torch.compile`.
  """

  version = f'torch {torch.__version__}'

  def __init__(self, config: ConfigDict, batch: dict[str, np.ndarray], compiled: bool = False):
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    self.place = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    self.device = torch.cuda.get_device_name() if self.place.type == 'cuda' else 'cpu'
    self.dtype = getattr(torch, config.dtype)
    self.module = TwoViews(config).to(self.place)
    self.losses = torch.compile(self.module) if compiled else self.module
    self.batch = {name: torch.as_tensor(rows, device=self.place) for name, rows in batch.items()}
    self.batch['ids'] = self.batch['ids'].long()
    self.patches = (config.model.image_size // config.model.patch_size)**2
    trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
    matrices, vectors = ([one for one in trained if (one.ndim > 1) == matrix] for matrix in (True, False))
    self.optimizer = torch.optim.AdamW([{'params': matrices}, {'params': vectors, 'weight_decay': 0.0}], lr=RATE,
                                       betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=True)

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

  def product(self, size: int) -> None:
    """Multiplies two square matrices, and waits."""
    matrix = torch.ones(size, size, dtype=self.dtype, device=self.place)
    (matrix @ matrix)[0, 0].item()
