"""The teacher's Python API: folders, images, texts, and caption embeddings that are computed once."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.records.reader import open_split
from uniemox_jax import train_clip
from uniemox_jax.convert import published_views
from uniemox_jax.models.clip import CLIPConfig, Tower
from uniemox_jax.models.preprocess import CLIP_MEAN, CLIP_STD, resize_and_normalise
from uniemox_jax.models.view import View
from uniemox_jax.teacher import caption_embeddings, frozen_clip
from uniemox_jax.train.config import TrainClipConfig
from uniemox_jax.train.settings import TowerSettings

CAT = [49406, 320, 1125, 539, 320, 2368, 49407]


@pytest.fixture(scope='module')
def clip(clip_folder):
  return frozen_clip.load_clip(clip_folder)


def random_images(*shape):
  """Smooth noise as uint8, so that resizing has something to keep."""
  coarse = np.random.default_rng(0).integers(0, 256, (shape[0], -(-shape[1] // 8), -(-shape[2] // 8), 3), np.uint8)
  return coarse.repeat(8, 1).repeat(8, 2)[:, :shape[1], :shape[2]]


def test_openai_vocabulary_reads_as_clip_does(clip):
  assert clip.tokenize(['a photo of a cat'])[0, :7].tolist() == CAT
  assert len(clip.tokenizer) == 49408


def test_long_text_is_cut_and_still_ends(clip):
  ids = clip.tokenize(['cat ' * 200, 'a'])
  assert ids.shape == (2, 77)
  assert ids.dtype == np.int32
  assert ids[0, -1] == 49407
  assert np.isfinite(clip.encode_text(['cat ' * 200])).all()


def test_padding_does_not_change_a_text(clip):
  short = clip.encode_text(np.array([CAT], np.int32))
  padded = clip.encode_text(np.array([CAT + [49407] * 70], np.int32))
  np.testing.assert_allclose(short, padded, atol=1e-6)
  np.testing.assert_allclose(short, clip.encode_text(['a photo of a cat']), atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize('shape', [(2, 75, 100, 3), (1, 61, 40, 3), (1, 32, 32, 3), (1, 20, 31, 3)])
def test_uint8_images_are_seen_as_transformers_shows_them(shape, clip, clip_folder):
  from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
  images = random_images(*shape)
  expected = CLIPImageProcessorPil.from_pretrained(clip_folder)(list(images), return_tensors='np')['pixel_values']
  ours = np.asarray(clip.view(images)).transpose(0, 3, 1, 2)
  assert ours.shape == expected.shape
  levels = np.abs(ours - expected) * 255 * np.array(CLIP_STD)[:, None, None]
  # PIL's weights are fixed-point numbers: here and there a pixel rounds the other way.
  assert levels.max() < 1.01
  assert levels.mean() < 0.02


def test_float_images_are_taken_as_normalised(clip):
  images = random_images(2, 50, 70, 3)
  np.testing.assert_allclose(clip.encode_image(np.asarray(clip.view(images))), clip.encode_image(images), atol=1e-6)


@pytest.mark.parametrize(
    'images', [
        np.full((2, 33, 33, 3), 9.5, np.float32),
        np.zeros((32, 32, 2), np.uint8),
        np.zeros((1, 5, 32, 32), np.uint8),
        np.full((1, 32, 32, 3), 300.0)])
def test_other_images_are_refused_with_what_was_given_and_wanted(images, clip):
  with pytest.raises(ValueError, match=r'wanted') as error:
    clip.encode_image(images)
  assert str(images.shape) in str(error.value)


@pytest.mark.parametrize(
    'texts', [
        'one string',
        np.zeros((2, 78), np.int32),
        np.zeros((2, 5), np.float32),
        np.zeros(5, np.int32),
        np.full((1, 4), 49408),
        np.full((1, 4), -1), [1, 'a']])
def test_other_texts_are_refused(texts, clip):
  with pytest.raises(ValueError, match='wanted'):
    clip.encode_text(texts)


def copy_without_tokenizer(clip_folder, folder):
  for name in ('config.json', 'model.safetensors', 'tokenizer_config.json'):
    shutil.copy(clip_folder / name, folder)
  return frozen_clip.load_clip(folder)


def test_folder_without_tokenizer_has_openais_where_the_sizes_agree(clip, clip_folder, tmp_path, capsys):
  bare = copy_without_tokenizer(clip_folder, tmp_path)
  assert "no tokenizer files: texts are read with OpenAI's vocabulary" in capsys.readouterr().out
  np.testing.assert_array_equal(bare.encode_text(['a cat']), clip.encode_text(['a cat']))
  frozen_clip.save_clip(tmp_path / 'saved', bare.config, bare.params, bare.folder)
  assert frozen_clip.load_clip(tmp_path / 'saved').tokenize(['a photo of a cat'])[0, :7].tolist() == CAT


def test_folder_without_tokenizer_still_encodes_images_and_ids(clip, clip_folder, tmp_path, monkeypatch):
  monkeypatch.setattr(frozen_clip.vocabulary, 'SIZE', 50000)
  bare = copy_without_tokenizer(clip_folder, tmp_path)
  images, ids = random_images(2, 40, 40, 3), np.array([CAT], np.int32)
  np.testing.assert_array_equal(bare.encode_image(images), clip.encode_image(images))
  np.testing.assert_array_equal(bare.encode_text(ids), clip.encode_text(ids))
  with pytest.raises(UserError, match=r'vocab\.json and merges\.txt'):
    bare.encode_text(['a cat'])


def test_resize_and_normalise_uses_the_other_models_statistics_and_size():
  images = np.full((2, 48, 48, 3), 128, np.uint8)
  expected = (128 / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
  normalised = np.asarray(resize_and_normalise(images, 32, CLIP_MEAN, CLIP_STD))
  assert normalised.shape == (2, 32, 32, 3)
  np.testing.assert_allclose(normalised, np.broadcast_to(expected, normalised.shape), rtol=1e-5)


def test_saved_clip_is_what_transformers_reads(clip, clip_folder, assert_parity):
  torch, transformers = pytest.importorskip('torch'), pytest.importorskip('transformers')
  model, report = transformers.CLIPModel.from_pretrained(clip_folder, output_loading_info=True)
  assert not report['missing_keys']
  assert not report['unexpected_keys']
  tokens = transformers.CLIPTokenizer.from_pretrained(clip_folder)(['a photo of a cat'], return_tensors='pt')
  assert tokens['input_ids'][0].tolist() == CAT
  pixels = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype(np.float32)
  with torch.no_grad():
    theirs = model(**tokens, pixel_values=torch.tensor(pixels).permute(0, 3, 1, 2))
  assert_parity(clip.encode_image(pixels), theirs.image_embeds)
  assert_parity(clip.encode_text(['a photo of a cat']), theirs.text_embeds)


def test_save_is_whole_or_not_at_all(clip, tmp_path, monkeypatch):
  target = tmp_path / 'model'
  frozen_clip.save_clip(target, clip.config, clip.params)
  before = sorted(target.iterdir())
  frozen_clip.save_clip(target, clip.config, clip.params)
  assert sorted(target.iterdir()) == before

  def fail(*_):
    raise OSError('disk full')

  monkeypatch.setattr(frozen_clip.weight_files, 'write_safetensors', fail)
  for folder in (target, tmp_path / 'new'):
    with pytest.raises(OSError, match='disk full'):
      frozen_clip.save_clip(folder, clip.config, clip.params)
  assert [path.name for path in tmp_path.iterdir()] == ['model']
  assert sorted(target.iterdir()) == before


def test_save_never_replaces_other_files(clip, tmp_path):
  (tmp_path / 'thesis.txt').write_text('mine')
  with pytest.raises(UserError, match='choose another folder'):
    frozen_clip.save_clip(tmp_path, clip.config, clip.params)


def test_vocabulary_can_come_from_another_folder(clip, clip_folder, tmp_path):
  frozen_clip.save_clip(tmp_path / 'copy', clip.config, clip.params, clip_folder)
  assert frozen_clip.load_clip(tmp_path / 'copy').tokenize(['a photo of a cat'])[0, :7].tolist() == CAT


@pytest.mark.parametrize(
    'change',
    [{'model_type': 'siglip'}, {'text_config': {'hidden_act': 'gelu_new'}}, {'vision_config': {'image_size': 30}}, {
        'vision_config': {'patch_size': [8, 8]}}, {'vision_config': {'num_attention_heads': 5}}])
def test_unsupported_config_is_refused_in_one_line(change, clip_folder):
  hub = json.loads((clip_folder / 'config.json').read_text())
  for key, value in change.items():
    hub[key] = hub[key] | value if isinstance(value, dict) else value
  with pytest.raises(ValueError) as error:
    CLIPConfig.from_dict(hub)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'hub', [{'model_type': 'clip'}, {
        'model_type': 'clip', 'projection_dim': 768, 'text_config': {'hidden_size': 768, 'num_attention_heads': 12}}, {
            'model_type': 'clip', 'text_config': {'eos_token_id': 2, 'hidden_size': 64}, 'text_config_dict': None}, {
                'model_type': 'clip', 'text_config': {'eos_token_id': 2, 'num_hidden_layers': 3}, 'text_config_dict': {
                    'hidden_size': 64}, 'vision_config_dict': {'patch_size': 14}}])
def test_config_means_what_transformers_takes_it_for(hub):
  transformers = pytest.importorskip('transformers')
  theirs = transformers.CLIPConfig.from_dict(json.loads(json.dumps(hub))).to_dict()
  assert CLIPConfig.from_dict(hub) == CLIPConfig.from_dict(theirs)
  assert CLIPConfig.from_dict(CLIPConfig.from_dict(hub).to_dict()) == CLIPConfig.from_dict(hub)


@pytest.mark.parametrize(
    'hub', [{'resample': 1}, {'crop_size': 30}, {'size': 16, 'crop_size': 32}, {
        'size': {'height': 48, 'width': 48}, 'do_center_crop': False}])
def test_preprocessing_that_does_not_fit_is_refused(hub):
  with pytest.raises(UserError, match='by bicubic .* resizing'):
    published_views.view_of_processor(hub, 32)


def test_missing_folder_and_unreachable_hub_are_one_line(monkeypatch):
  import huggingface_hub

  def offline(*_, **__):
    raise huggingface_hub.errors.LocalEntryNotFoundError('no connection\nat all')

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', offline)
  for name in ('/no/such/folder', './clip', 'openai/clip-vit-base-patch16'):
    with pytest.raises(UserError) as error:
      frozen_clip.load_clip(name)
    assert name in str(error.value)
    assert '\n' not in str(error.value)


def test_hub_id_loads_what_the_hub_delivers(clip, clip_folder, monkeypatch):
  import huggingface_hub
  monkeypatch.setattr(huggingface_hub, 'snapshot_download', lambda name, allow_patterns: str(clip_folder))
  assert frozen_clip.load_clip('someone/clip').digest == clip.digest


def test_a_clip_to_adapt_gives_its_shape_but_for_keys_that_were_given(clip, clip_folder):
  config = dataclasses.replace(TrainClipConfig(), init=str(clip_folder))
  loaded, taken = train_clip._starting_clip(config, 'unused')
  assert loaded.digest == clip.digest
  assert (taken.model.image_size, taken.model.projection) == (clip.config.image_size, clip.config.projection_dim)
  assert taken.model.text.width == clip.config.text.width != config.model.text.width
  model = dataclasses.replace(config.model, image_size=64, vision=TowerSettings(width=24, depth=5, heads=3))
  with pytest.raises(UserError,
                     match=r'set --config\.model\.image_size=32 --config\.model\.vision\.width=\d+ .*or leave'):
    train_clip._starting_clip(dataclasses.replace(config, model=model), 'unused')


def test_digest_is_that_of_earlier_versions_which_name_caches_and_runs_by_it():
  config = CLIPConfig(Tower(8, 1, 2, 16), Tower(8, 1, 2, 16), 16, 8, 4, 6, 20, 19)
  params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), frozen_clip.abstract_clip(config)[1])
  views = View(16, 16), View(16, 20, True, (0.5,) * 3, (0.25,) * 3)
  assert [frozen_clip.Clip(config, params, one, None).digest for one in views] == [
      '535561488138774d9695fa2dfe3a2c97acbf2deaa5c1b4469bc965be86777624',
      '0bdb7d501646623e88be3005f5bae150e80fbdc8cd06ffd975d2187f23180df8']


def embedded(clip, captions, cache_dir, **options):
  """float32 (N, E) of these captions."""
  found = caption_embeddings.embed_captions(clip, captions, cache_dir, 'captions', len(captions), **options)
  return found.at(np.arange(len(captions)))


def test_each_distinct_caption_is_embedded_once_and_kept(clip, tmp_path, monkeypatch):
  captions = ['a dog', 'a cat', 'a dog', 'two happy children in a park, an alarm clock and a kite', 'a cat']
  counts = []
  original = caption_embeddings._embed_ids
  monkeypatch.setattr(
      caption_embeddings, '_embed_ids', lambda clip, ids, batch: counts.append(len(ids)) or original(clip, ids, batch))
  first = embedded(clip, captions, tmp_path, batch_size=2)
  np.testing.assert_allclose(first, clip.encode_text(captions), atol=1e-6)
  np.testing.assert_array_equal(embedded(clip, captions, tmp_path), first)
  assert counts == [3]
  assert len(list(tmp_path.iterdir())) == 1
  embedded(clip, [*captions, 'a bird'], tmp_path)
  assert counts == [3, 4]


def test_captions_of_many_chunks_are_those_of_one(clip, tmp_path, monkeypatch):
  captions = [f'{i % 7} cats' for i in range(50)]
  whole = embedded(clip, captions, tmp_path / 'whole', batch_size=8)
  monkeypatch.setattr(caption_embeddings, '_TOGETHER', 16)
  np.testing.assert_allclose(embedded(clip, captions, tmp_path / 'parts', batch_size=8), whole, atol=1e-6)


def test_token_ids_of_many_chunks_are_kept_once_and_those_of_all_captions_together(
    clip, data_dir, tmp_path, monkeypatch):
  split = open_split(data_dir, 'emoset', 'train')
  ids_NxT = clip.tokenize(list(caption_embeddings.split_captions(split, clip, True, 'natural')))
  monkeypatch.setattr(caption_embeddings, '_TOGETHER', 4)
  for _ in range(2):
    kept = caption_embeddings.tokenized_captions(clip, split, True, 'natural', tmp_path)
    found_NxT = kept.at(np.arange(split.num_examples))
    np.testing.assert_array_equal(found_NxT, ids_NxT, strict=True)
    assert kept.largest_share() == np.unique(ids_NxT, axis=0, return_counts=True)[1].max() / len(ids_NxT)
    monkeypatch.delattr(caption_embeddings, '_write', raising=False)  # the second time, it reads the first one's file


def test_captions_that_cleaning_changes_are_counted_after_the_first_thousand_too(clip, tmp_path):
  captions = ['a dog'] * 1100 + ['a “quoted” dog', 'cats &amp; dogs', 'a cat']
  cached = [caption_embeddings.embed_captions(clip, captions, tmp_path, 'captions', len(captions)) for _ in range(2)]
  assert [one.cleaned for one in cached] == [2, 2]
  np.testing.assert_allclose(cached[1].at(np.arange(1100, 1103)), clip.encode_text(captions[1100:]), atol=1e-6)


def test_embeddings_from_before_texts_were_cleaned_are_never_found(clip, tmp_path):
  captions = ['a dog', 'a cat']
  old = hashlib.sha256(f'{clip.digest} captions 2 '.encode() + clip.tokenize(captions).tobytes()).hexdigest()
  (tmp_path / f'captions-{old}.f32').write_bytes(b'stale')
  np.testing.assert_allclose(embedded(clip, captions, tmp_path), clip.encode_text(captions), atol=1e-6)


def test_another_teacher_never_finds_the_cached_embeddings(clip, clip_config, clip_params, tmp_path):
  shifted = clip_params | {'logit_scale': clip_params['logit_scale'] + np.float32(1)}
  frozen_clip.save_clip(tmp_path / 'other', clip_config, shifted)
  for one in (clip, frozen_clip.load_clip(tmp_path / 'other')):
    embedded(one, ['a dog'], tmp_path / 'cache')
  assert len(list((tmp_path / 'cache').iterdir())) == 2


def test_damaged_cache_is_named(clip, tmp_path):
  embedded(clip, ['a dog'], tmp_path)
  path = next(tmp_path.iterdir())
  path.write_bytes(path.read_bytes()[:-8])
  with pytest.raises(UserError, match=r'captions-.*delete the file'):
    embedded(clip, ['a dog'], tmp_path)


def test_captions_on_four_devices_equal_one_and_no_torch_is_imported_before_texts(clip, clip_folder, tmp_path):
  program = textwrap.dedent(
      """
      import sys
      import jax
      import numpy as np
      jax.config.update('jax_num_cpu_devices', 4)
      from uniemox_jax.convert import published_views
      from uniemox_jax.teacher import caption_embeddings, frozen_clip
      clip = frozen_clip.load_clip(sys.argv[1])
      assert not {'torch', 'tensorflow', 'transformers'} & set(sys.modules)
      assert len(jax.devices()) == 4
      captions = [f'{i} cats' for i in range(11)]
      found = caption_embeddings.embed_captions(clip, captions, sys.argv[2], '', 11, batch_size=6)
      np.save(sys.argv[2] + '/found.npy', found.at(np.arange(11)))
  """)
  subprocess.run([sys.executable, '-c', program, clip_folder, tmp_path], check=True)
  expected = clip.encode_text([f'{i} cats' for i in range(11)])
  np.testing.assert_allclose(np.load(tmp_path / 'found.npy'), expected, atol=1e-6)
