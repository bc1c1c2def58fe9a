"""SigLIPs as teachers: texts and images as transformers prepares them, and what is not covered in one line."""

import dataclasses
import io
import json
import os
from pathlib import Path
import shutil
from typing import Any

import jax
import numpy as np
from PIL import Image
import pytest

from data_pipelines.batches import augment
from data_pipelines.errors import UserError
from tests.support import small_runs
from tests.support.siglip_folders import CONTEXT
from uniemox_jax import train_clip
from uniemox_jax.convert.published_views import view_of_processor
from uniemox_jax.export_torch import export_torch
from uniemox_jax.import_torch import import_torch
from uniemox_jax.models.view import BICUBIC, BILINEAR, View
from uniemox_jax.pretrain import pretrain
from uniemox_jax.runtime.run_log import read_metrics
from uniemox_jax.teacher import siglip_tokenizer
from uniemox_jax.teacher.caption_embeddings import embed_captions
from uniemox_jax.teacher.frozen_clip import load_clip
from uniemox_jax.train.config import TrainClipConfig
from uniemox_jax.train.initial_weights import read_source

pytest.importorskip('torch')

TEXTS = [
    'a photo of a cat', 'A Photo, of a CAT!', '  two   spaces\tand a tab ', '', 'naïve — café, 日本語 😀', "it's 12:30",
    'a photo of a dog in the park ' * 20, '</s> <eos> <pad> ▁ &amp; {}']


@pytest.fixture(params=['siglip', 'siglip2'])
def teacher_folder(request: pytest.FixtureRequest) -> Path:
  return request.getfixturevalue(f'{request.param}_folder')


@pytest.fixture
def folder(teacher_folder: Path, tmp_path: Path) -> Path:
  """A copy to write into."""
  return Path(shutil.copytree(teacher_folder, tmp_path / 'siglip'))


def change(path: Path, **values: Any) -> None:
  path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_ids_are_those_of_transformers_padded_to_the_context(teacher_folder: Path) -> None:
  import transformers
  kind = transformers.SiglipTokenizer if (teacher_folder / 'spiece.model').exists() else transformers.Siglip2Tokenizer
  theirs = kind.from_pretrained(teacher_folder)
  options = {'padding': 'max_length', 'truncation': True, 'max_length': CONTEXT}
  clip = load_clip(teacher_folder)
  ids_BxT = clip.tokenize(TEXTS)
  assert ids_BxT.dtype == np.int32 and ids_BxT.shape == (len(TEXTS), CONTEXT)
  assert ids_BxT.tolist() == theirs(TEXTS, **options)['input_ids']
  end, padding = theirs.eos_token_id, theirs.pad_token_id
  assert ids_BxT[6, -1] == end != ids_BxT[6, -2] and ids_BxT[0, -1] == padding
  assert len(clip.tokenizer.encode(TEXTS[6])) > CONTEXT  # so that a long prompt is refused, a long caption shortened
  assert clip.tokenizer.encode(TEXTS[0]) == theirs(TEXTS[0])['input_ids'] and clip.tokenizer.encode('')[-1] == end
  assert clip.tokenize(['\udc80']).shape == (1, CONTEXT) and clip.tokenize([]).shape == (0, CONTEXT)


def test_texts_of_siglip_2_are_lower_case_though_its_folder_names_gemmas_tokenizer(siglip2_folder: Path) -> None:
  import transformers
  gemma = transformers.AutoTokenizer.from_pretrained(siglip2_folder)
  assert type(gemma).__name__ == 'GemmaTokenizer'
  ours = load_clip(siglip2_folder).tokenizer
  assert all(ours.encode(text) == gemma(text.lower())['input_ids'] for text in TEXTS)
  assert ours.encode('A Photo') != gemma('A Photo')['input_ids']


def test_capitals_and_punctuation_change_no_id_of_siglip(siglip_folder: Path) -> None:
  clip = load_clip(siglip_folder)
  np.testing.assert_array_equal(*clip.tokenize(TEXTS[:2]))


@pytest.mark.parametrize('size', [(70, 95), (131, 64), (40, 40), (20, 31), (700, 40)])
def test_jpeg_is_seen_as_siglips_image_processor_shows_it(teacher_folder: Path, size: tuple[int, int]) -> None:
  from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
  coarse = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
  content = io.BytesIO()
  Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(content, 'JPEG', quality=95)
  image, view = Image.open(content), load_clip(teacher_folder).view
  theirs = SiglipImageProcessorPil.from_pretrained(teacher_folder)([image], return_tensors='np')['pixel_values'][0]
  theirs = (theirs.transpose(1, 2, 0) + 1) * 127.5
  pillow = (np.asarray(view(np.asarray(image)[None]))[0] + 1) * 127.5
  tensorflow = augment.centre_view(content.getvalue(), **view.centre).numpy()
  # The largest differences of 255 levels: 0.00002 by Pillow, which is the rounding of floats, and 2 by tensorflow.
  assert np.abs(pillow - theirs).max() < 0.001
  assert np.abs(tensorflow - theirs).max() <= 2


@pytest.mark.parametrize(('settings', 'expected'), [
    ({}, View(32, 32, True, (0.5,) * 3, (0.5,) * 3)),
    ({'size': {'height': 32, 'width': 32}, 'resample': 3, 'image_processor_type': 'SiglipImageProcessor'
     }, View(32, 32, True, (0.5,) * 3, (0.5,) * 3, BICUBIC)),
    ({'resample': 2, 'do_convert_rgb': None, 'image_processor_type': 'SiglipImageProcessorFast'
     }, View(32, 32, True, (0.5,) * 3, (0.5,) * 3, BILINEAR)),
    ({'size': {'height': 40, 'width': 40}, 'do_center_crop': True, 'image_mean': 0.4
     }, View(32, 40, True, (0.4,) * 3, (0.5,) * 3)),
    ({'size': {'shortest_edge': 36}, 'do_center_crop': True}, View(32, 36, False, (0.5,) * 3, (0.5,) * 3)),
    ({'image_processor_type': 'CLIPImageProcessor'}, View(32, 32))])
def test_settings_of_the_pixels_are_followed(settings: dict[str, Any], expected: View) -> None:
  assert view_of_processor(settings, 32, ('SigLIP', 'CLIP')) == expected


def test_filter_changes_pixels_and_digest(teacher_folder: Path) -> None:
  clip = load_clip(teacher_folder)
  other = BILINEAR if clip.view.resample == BICUBIC else BICUBIC
  changed = dataclasses.replace(clip, view=dataclasses.replace(clip.view, resample=other))
  image = np.random.default_rng(0).integers(0, 256, (1, 60, 50, 3), np.uint8)
  assert np.abs(np.asarray(clip.view(image)) - np.asarray(changed.view(image))).max() > 0.05
  assert changed.digest != clip.digest


PROCESSOR, CONFIG = 'preprocessor_config.json', 'config.json'
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    'NaFlex': (CONFIG, {'model_type': 'siglip2'}, 'NaFlex model (model_type siglip2)'),
    'image tower alone': (CONFIG, {'model_type': 'siglip_vision_model'}, 'image tower of a SigLIP alone'),
    'text tower alone': (CONFIG, {'model_type': 'siglip_text_model'}, 'text tower of a SigLIP alone'),
    'another model': (CONFIG, {'model_type': 'clip'}, "model_type 'clip'"),
    'no model type': (CONFIG, {'model_type': None}, 'model_type None'),
    'model type is a list': (CONFIG, {'model_type': []}, 'model_type []'),
    'no head': (CONFIG, {'vision_config': {'vision_use_head': False}}, 'vision_use_head is False'),
    'another activation': (CONFIG, {'vision_config': {'hidden_act': 'silu'}}, "hidden_act 'silu' is not one of"),
    'activation is a list': (CONFIG, {'text_config': {'hidden_act': []}}, 'is not one of'),
    'heads do not divide': (CONFIG, {'text_config': {'num_attention_heads': 5}}, 'not divisible'),
    'depth is text': (CONFIG, {'text_config': {'num_hidden_layers': '3'}}, 'not an integer'),
    'depth of a billion': (CONFIG, {'vision_config': {'num_hidden_layers': 10**9}}, 'not an integer from 1'),
    'another depth': (CONFIG, {'vision_config': {'num_hidden_layers': 3}}, 'does not fit the model'),
    'image is oblong': (CONFIG, {'vision_config': {'image_size': [32, 48]}}, 'image_size is [32, 48]'),
    'image within a patch': (CONFIG, {'vision_config': {'image_size': 4}}, 'smaller than patch_size'),
    'too many patches': (CONFIG, {'vision_config': {'image_size': 2**20, 'patch_size': 1}}, 'patches is'),
    'four channels': (CONFIG, {'vision_config': {'num_channels': 4}}, 'num_channels is 4'),
    'unequal widths': (CONFIG, {'text_config': {'projection_size': 24}}, 'must be equal'),
    'projection is text': (CONFIG, {'text_config': {'projection_size': 'x'}}, 'not an integer'),
    'epsilon of 0': (CONFIG, {'text_config': {'layer_norm_eps': 0.0}}, 'not between 0 and 1'),
    'tower is a list': (CONFIG, {'vision_config': [1]}, CONFIG),
    "NaFlex's processor": (PROCESSOR, {'image_processor_type': 'Siglip2ImageProcessor'}, 'of a Siglip2ImageProcessor'),
    'another size': (PROCESSOR, {'size': {'height': 48, 'width': 48}}, 'do not give 32 pixels'),
    'oblong images': (PROCESSOR, {'size': {'shortest_edge': 32}}, 'do not give 32 pixels'),
    'Lanczos': (PROCESSOR, {'resample': 1}, 'resample 1'),
    'not scaled': (PROCESSOR, {'do_rescale': False}, 'do not scale pixels'),
    'deviation of 0': (PROCESSOR, {'image_std': 0}, 'not three numbers')}  # yapf: disable


@pytest.mark.parametrize('kind', REFUSED)
def test_what_is_not_covered_is_one_line_that_names_the_file(kind: str, siglip_folder: Path, tmp_path: Path) -> None:
  name, values, cause = REFUSED[kind]
  folder = Path(shutil.copytree(siglip_folder, tmp_path / 'siglip'))
  content = json.loads((folder / name).read_text())
  nested = {
      key: content[key] | value for key, value in values.items() if key.endswith('_config') and type(value) is dict}
  change(folder / name, **values | nested)
  with pytest.raises(UserError) as error:
    load_clip(folder)
  line = str(error.value)
  assert cause in line and '\n' not in line and len(line) < 1000
  assert (name if kind != 'another depth' else 'model.safetensors') in line


def test_tokenizer_that_is_missing_damaged_or_huge_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
  vocabulary = next(folder / name for name in ('spiece.model', 'tokenizer.json') if (folder / name).exists())
  with monkeypatch.context() as patch:
    patch.setattr(siglip_tokenizer, 'MAX_VOCABULARY', 100)
    with pytest.raises(UserError, match=f'{vocabulary.name} is too large'):
      load_clip(folder).tokenize(['a cat'])
  vocabulary.write_bytes(vocabulary.read_bytes()[:100])
  with pytest.raises(UserError, match=vocabulary.name) as error:
    load_clip(folder).tokenize(['a cat'])
  assert '\n' not in str(error.value)
  vocabulary.unlink()
  clip = load_clip(folder)
  with pytest.raises(UserError, match=r"has no tokenizer: put its spiece\.model, or SigLIP 2's tokenizer\.json"):
    clip.tokenize(['a cat'])
  assert clip.encode_text(np.zeros((1, CONTEXT), np.int32)).shape == (1, 16)


def test_python_that_a_folder_names_is_not_imported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
  code = f'open({str(tmp_path / "executed")!r}, "w")\nclass Evil: pass\n'
  (folder / 'evil.py').write_text(code)
  monkeypatch.syspath_prepend(str(folder))
  for name in (CONFIG, PROCESSOR, 'tokenizer_config.json'):
    change(folder / name, auto_map={'AutoTokenizer': ['evil.Evil', None]}, trust_remote_code=True)
  assert load_clip(folder).tokenize(['a cat']).shape == (1, CONTEXT)
  assert not (tmp_path / 'executed').exists()


def test_another_tokenizer_has_another_digest(folder: Path) -> None:
  before = load_clip(folder).tokenizer_digest
  vocabulary = next(folder / name for name in ('spiece.model', 'tokenizer.json') if (folder / name).exists())
  vocabulary.write_bytes(vocabulary.read_bytes() + b' ')
  assert load_clip(folder).tokenizer_digest != before


def test_verbs_for_a_clip_alone_say_so(teacher_folder: Path, tmp_path: Path) -> None:
  with pytest.raises(UserError, match="holds a SigLIP in transformers' form, not a student: it can be a teacher"):
    import_torch(str(teacher_folder), str(tmp_path / 'out'))
  with pytest.raises(UserError, match="holds a SigLIP .*: --activation and --image_tower are for a CLIP"):
    import_torch(str(teacher_folder), str(tmp_path / 'out'), image_tower=True)
  for attempt in (
      lambda: read_source(str(teacher_folder), small_runs.ENCODER, decoder=False),
      lambda: export_torch(str(teacher_folder), 'clip', str(tmp_path / 'out')),
      lambda: train_clip._starting_clip(dataclasses.replace(TrainClipConfig(), init=str(teacher_folder)), 'unused')):
    with pytest.raises(UserError, match='holds a SigLIP, which can be a teacher'):
      attempt()
  assert not (tmp_path / 'out').exists()


def test_caption_cache_holds_what_the_text_tower_gives(teacher_folder: Path, tmp_path: Path) -> None:
  clip, captions = load_clip(teacher_folder), [*TEXTS[:3], 'a dog', 'a dog']
  for _ in range(2):
    found = embed_captions(clip, captions, tmp_path, 'captions', len(captions), batch_size=8)
    np.testing.assert_allclose(found.at(np.arange(5)), clip.encode_text(captions), atol=1e-6)
  assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.usefixtures('one_device')
def test_pretraining_with_a_siglip_has_finite_losses(teacher_folder: Path, data_dir: str, tmp_path: Path) -> None:
  config = small_runs.pretrain_config(data_dir, teacher_folder, epochs=1)
  config.model.decoder_width, config.images_every = 16, 0
  pretrain(config, str(tmp_path / 'run'))
  steps = [row for row in read_metrics(os.fspath(tmp_path / 'run')) if 'contrastive' in row]
  assert len(steps) >= 5
  assert np.isfinite([[row[name] for name in ('loss', 'contrastive', 'similarity')] for row in steps]).all()


def test_scale_is_the_exponential_of_the_files(teacher_folder: Path) -> None:
  from safetensors.numpy import load_file
  clip = load_clip(teacher_folder)
  assert clip.scale == pytest.approx(np.exp(load_file(teacher_folder / 'model.safetensors')['logit_scale'][0]))
  assert {leaf.dtype for leaf in jax.tree.leaves(clip.params)} == {np.dtype(np.float32)}
