"""Folders of random SigLIPs as transformers writes them, with tokenizers that are trained here on a few sentences."""

from collections.abc import Callable
import copy
import io
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SENTENCES = [
    'a photo of a cat', 'a photo of a dog in the park', 'a picture that makes people feel awe', 'two happy children',
    'an image that expresses sadness', 'the mood of this photo is fear', 'a scene full of anger and disgust',
    'a dark forest path under a bright sky', 'amusement, excitement and contentment', 'whoever looks at it feels joy'
] * 5
CONTEXT = 64
SHAPE: dict[str, dict[str, Any]] = dict(
    text_config=dict(
        hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3, vocab_size=400,
        max_position_embeddings=CONTEXT, projection_size=16, bos_token_id=None, eos_token_id=1), vision_config=dict(
            hidden_size=16, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, image_size=32,
            patch_size=8))


def write_pieces(folder: Path) -> None:
  """A tokenizer as of SigLIP: spiece.model, ended and padded by </s>."""
  import sentencepiece
  from transformers import SiglipTokenizer
  content = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(SENTENCES), model_writer=content, vocab_size=120, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
      hard_vocab_limit=False, minloglevel=2)
  (folder / 'spiece.model').write_bytes(content.getvalue())
  SiglipTokenizer(str(folder / 'spiece.model'), model_max_length=CONTEXT).save_pretrained(folder)


def write_gemma(folder: Path) -> None:
  """A tokenizer as of SigLIP 2: Gemma's tokenizer.json, padded on the right, with an end and no start."""
  special = {
      'pad_token': '<pad>', 'eos_token': '<eos>', 'bos_token': '<bos>', 'unk_token': '<unk>', 'mask_token': '<m>'}
  backend: Any = Tokenizer(models.BPE(unk_token='<unk>', fuse_unk=True, byte_fallback=True))
  backend.normalizer = normalizers.Replace(' ', '▁')
  backend.pre_tokenizer = pre_tokenizers.Split(' ', 'merged_with_previous')
  backend.decoder = decoders.Sequence([decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse()])
  first = [*special.values(), *(f'<0x{byte:02X}>' for byte in range(256))]
  trainer = trainers.BpeTrainer(vocab_size=390, special_tokens=first, show_progress=False)
  backend.train_from_iterator(SENTENCES, trainer)
  backend.post_processor = processors.TemplateProcessing(single='$A <eos>', special_tokens=[('<eos>', 1)])
  backend.enable_truncation(CONTEXT)  # some published files bring both
  backend.enable_padding(length=CONTEXT)
  (folder / 'tokenizer.json').write_text(backend.to_str())
  settings = {'add_bos_token': False, 'add_eos_token': True, 'padding_side': 'right', 'model_max_length': CONTEXT}
  (folder / 'tokenizer_config.json').write_text(json.dumps({'tokenizer_class': 'GemmaTokenizer'} | special | settings))


def write_siglip(folder: Path, random_torch: Callable[..., Any], kind: str) -> None:
  """A model of `SHAPE`, with the image processor and tokenizer of 'siglip' or 'siglip2'."""
  from transformers import SiglipConfig, SiglipModel
  from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
  random_torch(SiglipModel, SiglipConfig(**copy.deepcopy(SHAPE))).save_pretrained(folder)
  processor = SiglipImageProcessorPil(
      size={'height': 32, 'width': 32}, resample={'siglip': 3, 'siglip2': 2}[kind])  # as published
  processor.save_pretrained(folder)
  {'siglip': write_pieces, 'siglip2': write_gemma}[kind](folder)
