"""PyTorch models with the names and computations of code that is no library installed here: for tests and benchmarks.

`Mae`, `FineTuned`: facebookresearch/mae models_mae.py and models_vit.py, which the original (chincharles/u-emo) copies
and timm's VisionTransformer shares. Fusions: the original's models/attention_fusion.py. `OpenAiClip`: openai/CLIP
clip/model.py; with `nn.GELU`, what open_clip makes of it. The classes are ours; the submodules' names are theirs.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):

  def __init__(self, width, heads):
    super().__init__()
    self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

  def forward(self, x):
    query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
    return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Mlp(nn.Module):

  def __init__(self, width):
    super().__init__()
    self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

  def forward(self, x):
    return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):

  def __init__(self, width, heads):
    super().__init__()
    self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
    self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width)

  def forward(self, x):
    x = x + self.attn(self.norm1(x))
    return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):

  def __init__(self, patch, width):
    super().__init__()
    self.proj = nn.Conv2d(3, width, patch, patch)

  def forward(self, x):
    return self.proj(x).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
  """MAE's encoder as its published files hold it. `tokens` of pixels (B, 3, H, W) are after the final norm."""

  def __init__(self, *, image_size, patch, width, depth, heads):
    super().__init__()
    self.patches = (image_size // patch)**2
    self.patch_embed = PatchEmbed(patch, width)
    self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
    self.pos_embed = nn.Parameter(torch.zeros(1, self.patches + 1, width))
    self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
    self.norm = nn.LayerNorm(width, eps=1e-6)

  def blocks_of(self, pixels, keep=None):
    x = self.patch_embed(pixels) + self.pos_embed[:, 1:]
    if keep is not None:
      x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[-1]))
    x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x], 1)
    for block in self.blocks:
      x = block(x)
    return x

  def tokens(self, pixels, keep=None):
    return self.norm(self.blocks_of(pixels, keep))


class Mae(Encoder):
  """With a decoder: masks by the given noise and predicts every patch."""

  def __init__(self, *, decoder_width, decoder_depth, decoder_heads, patch, width, **encoder):
    super().__init__(patch=patch, width=width, **encoder)
    self.decoder_embed = nn.Linear(width, decoder_width)
    self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
    self.decoder_pos_embed = nn.Parameter(torch.zeros(1, self.patches + 1, decoder_width))
    self.decoder_blocks = nn.ModuleList(Block(decoder_width, decoder_heads) for _ in range(decoder_depth))
    self.decoder_norm = nn.LayerNorm(decoder_width, eps=1e-6)
    self.decoder_pred = nn.Linear(decoder_width, 3 * patch**2)

  def projected(self, pixels, noise, visible):
    return self.decoder_embed(self.tokens(pixels, noise.argsort(1)[:, :visible]))

  def decode(self, x, noise, visible):
    hidden = self.mask_token.expand(len(x), self.patches - visible, -1)
    restore = noise.argsort(1).argsort(1)[..., None].expand(-1, -1, x.shape[-1])
    x = torch.cat([x[:, :1], torch.cat([x[:, 1:], hidden], 1).gather(1, restore)], 1) + self.decoder_pos_embed
    for block in self.decoder_blocks:
      x = block(x)
    return self.decoder_pred(self.decoder_norm(x))[:, 1:]

  def forward(self, pixels, noise, visible):
    return self.decode(self.projected(pixels, noise, visible), noise, visible)


class FineTuned(Encoder):
  """The original's classifier: `norm` stays in the file though nothing reads it; MAE's own has deleted it."""

  def __init__(self, *, classes, width, **encoder):
    super().__init__(width=width, **encoder)
    self.fc_norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, classes)

  def features(self, pixels):
    return self.fc_norm(self.blocks_of(pixels)[:, 1:].mean(1))

  def forward(self, pixels):
    return self.head(self.features(pixels))


class Additive(nn.Module):

  def __init__(self, width, heads):
    super().__init__()
    self.linear, self.bn = nn.Linear(width, width), nn.LayerNorm(width)

  def forward(self, scene, person):
    return F.elu(self.linear(self.bn(scene) + self.bn(person)))


class WeightedSum(nn.Module):

  def __init__(self, width, heads):
    super().__init__()
    self.alpha, self.beta = (nn.Parameter(torch.randn(heads, 1, width)) for _ in range(2))
    self.layer_norm, self.bias = nn.LayerNorm(width), nn.Parameter(torch.zeros(1, width))

  def forward(self, scene, person):
    return self.layer_norm((self.alpha * scene + self.beta * person).sum(0)) + self.bias


class StreamAttention(nn.Module):
  """The method's: the original's own softmax, over the score's axis of size 1, is constant."""

  def __init__(self, width, heads):
    super().__init__()
    self.W_a, self.W_b = (nn.ModuleList(nn.Linear(width, 1) for _ in range(heads)) for _ in range(2))
    self.bias = nn.Parameter(torch.zeros(1, width))

  def forward(self, scene, person):
    scores = (torch.cat([a(scene), b(person)], 1).softmax(1) for a, b in zip(self.W_a, self.W_b))
    weights = sum(scores)
    return F.silu(weights[:, :1] * scene + weights[:, 1:] * person) + self.bias


class Glu(nn.Module):

  def __init__(self, width, heads):
    super().__init__()
    self.W_a, self.W_b = (nn.ModuleList(nn.Linear(width, width) for _ in range(heads)) for _ in range(2))
    self.mlp = nn.Sequential(nn.Linear(width * heads, width), nn.ReLU(), nn.Linear(width, width))
    self.gate, self.bias = nn.Linear(width, width), nn.Parameter(torch.zeros(1, width))

  def forward(self, scene, person):
    attended = [a(scene).softmax(1) * scene + b(person).softmax(1) * person for a, b in zip(self.W_a, self.W_b)]
    mixed = self.mlp(torch.cat(attended, 1))
    return F.relu(mixed * self.gate(mixed).sigmoid()) + self.bias


FUSIONS = {'additive': Additive, 'weighted_sum': WeightedSum, 'attention': StreamAttention, 'glu': Glu}


class QuickGelu(nn.Module):

  def forward(self, x):
    return x * torch.sigmoid(1.702 * x)


class ClipBlock(nn.Module):

  def __init__(self, width, heads, hidden, activation):
    super().__init__()
    self.attn = nn.MultiheadAttention(width, heads)
    self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
    self.mlp = nn.Sequential()
    self.mlp.add_module('c_fc', nn.Linear(width, hidden))
    self.mlp.add_module('gelu', activation())
    self.mlp.add_module('c_proj', nn.Linear(hidden, width))

  def forward(self, x, mask):
    normed = self.ln_1(x)
    x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
    return x + self.mlp(self.ln_2(x))


class ClipTransformer(nn.Module):

  def __init__(self, width, depth, heads, hidden, activation):
    super().__init__()
    self.resblocks = nn.ModuleList(ClipBlock(width, heads, hidden, activation) for _ in range(depth))

  def forward(self, x, mask=None):
    x = x.transpose(0, 1)
    for block in self.resblocks:
      x = block(x, mask)
    return x.transpose(0, 1)


class ClipVision(nn.Module):

  def __init__(self, image_size, patch, width, depth, heads, hidden, projection, activation):
    super().__init__()
    self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
    self.class_embedding = nn.Parameter(torch.zeros(width))
    self.positional_embedding = nn.Parameter(torch.zeros((image_size // patch)**2 + 1, width))
    self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
    self.transformer = ClipTransformer(width, depth, heads, hidden, activation)
    self.proj = nn.Parameter(torch.zeros(width, projection))

  def forward(self, pixels):
    x = self.conv1(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
    return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class OpenAiClip(nn.Module):
  """`archive`: with the three integers that OpenAI's own TorchScript archives carry."""

  def __init__(
      self, *, image_size, patch, vision, text, projection, context, vocabulary, activation=QuickGelu, archive=False):
    super().__init__()
    self.visual = ClipVision(image_size, patch, *vision, projection, activation)
    self.transformer = ClipTransformer(*text, activation)
    self.token_embedding = nn.Embedding(vocabulary, text[0])
    self.positional_embedding = nn.Parameter(torch.zeros(context, text[0]))
    self.ln_final = nn.LayerNorm(text[0])
    self.text_projection = nn.Parameter(torch.zeros(text[0], projection))
    self.logit_scale = nn.Parameter(torch.ones([]))
    if archive:
      for name, value in (('input_resolution', image_size), ('context_length', context), ('vocab_size', vocabulary)):
        self.register_buffer(name, torch.tensor(value))

  def encode_text(self, ids):
    x = self.token_embedding(ids) + self.positional_embedding[:ids.shape[1]]
    causal = torch.full((ids.shape[1], ids.shape[1]), -math.inf, device=x.device).triu(1)
    x = self.ln_final(self.transformer(x, causal))
    return x[torch.arange(len(x)), ids.argmax(-1)] @ self.text_projection

  def forward(self, pixels, ids):
    return self.visual(pixels), self.encode_text(ids)
