"""Zero-shot CLIP and SigLIP: equal to transformers with the same prompts, under the model's own view of the records."""

from collections.abc import Callable
import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
import pytest
from sklearn import metrics as reference

from data_pipelines.batches import augment, pipeline
from data_pipelines.errors import UserError
from data_pipelines.records import reader
from data_pipelines.storage import read_json
from uniemox_jax.convert.published_views import processor_of_view
from uniemox_jax.models.view import View
from uniemox_jax.teacher import prompts
from uniemox_jax.teacher.frozen_clip import load_clip
from uniemox_jax.zero_shot import class_embeddings, image_embeddings, zero_shot

LABELS = ('amusement', 'awe', 'contentment', 'excitement', 'anger', 'disgust', 'fear', 'sadness')


def their_logits(folder: Path, view: View, images_NxSxSx3: np.ndarray, templates: tuple[str, ...]) -> np.ndarray:
  """By transformers alone, from pixels on: its tokens, its towers. A SigLIP's bias is left out."""
  import torch
  from transformers import AutoModel, AutoTokenizer
  model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
  padded: dict[str, Any] = {'padding': True}
  if model.config.model_type == 'siglip':
    padded = {'padding': 'max_length', 'max_length': 64, 'return_attention_mask': False}
  normalised = (images_NxSxSx3 / np.float32(255) - np.array(view.mean, np.float32)) / np.array(view.std, np.float32)
  with torch.no_grad():
    pixels = torch.from_numpy(normalised.transpose(0, 3, 1, 2).astype(np.float32))
    embedded = []
    for template in templates:
      tokens = tokenizer([template.replace('{}', word) for word in LABELS], return_tensors='pt', **padded)
      found = model(pixel_values=pixels, **tokens)
      embedded.append(found.text_embeds)
    text = torch.stack(embedded).mean(0)
    return (model.logit_scale.exp() * found.image_embeds @ (text / text.norm(dim=-1, keepdim=True)).T).numpy()


def log_loss(logits_NxC: np.ndarray, label_N: np.ndarray) -> float:
  probability_NxC = np.exp(logits_NxC - logits_NxC.max(1, keepdims=True).astype(np.float64))
  return reference.log_loss(label_N, probability_NxC / probability_NxC.sum(1, keepdims=True), labels=range(8))


@pytest.fixture(params=['clip', 'siglip', 'siglip2'])
def teacher_folder(request: pytest.FixtureRequest) -> Path:
  return request.getfixturevalue(f'{request.param}_folder')


def test_result_is_that_of_transformers(data_dir, teacher_folder, tmp_path):
  result = zero_shot(str(teacher_folder), data_dir, 'emo8', str(tmp_path), batch_size=10)
  clip, split = load_clip(teacher_folder), reader.open_split(data_dir, 'emo8', 'test')
  view = functools.partial(
      augment.centre_view, size=32, short_side=32, squash=teacher_folder.name != 'shared_clip',
      resample=2 if teacher_folder.name == 'shared_siglip2' else 3)
  batch = next(pipeline.eval_batches(split, batch_size=24, image_size=32, view=view))
  image_NxE, label_N = image_embeddings(clip, split, 10)
  for templates, measured in ((prompts.TEMPLATES, result), ((prompts.PLAIN,), result['plain'])):
    logits_NxC = their_logits(teacher_folder, clip.view, batch['image'], templates)
    ours_NxC = clip.scale * image_NxE @ class_embeddings(clip, LABELS, templates).T
    np.testing.assert_allclose(ours_NxC, logits_NxC, atol=1e-4)
    assert measured['loss'] == pytest.approx(log_loss(logits_NxC, batch['label']), abs=1e-4)
    assert measured['top1'] == np.mean(logits_NxC.argmax(1) == batch['label'])
  np.testing.assert_array_equal(label_N, batch['label'])
  assert result['loss'] != result['plain']['loss']
  assert read_json(tmp_path / 'result.json') == result


@pytest.mark.parametrize('shape', [(70, 95), (131, 64), (40, 40)])
@pytest.mark.parametrize('squash', [False, True])
def test_view_is_that_of_clips_image_processor(shape, squash):
  from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
  rng, view = np.random.default_rng(0), View(32, 36, squash)
  image = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8)).resize(shape, Image.Resampling.BICUBIC)
  content = io.BytesIO()
  image.save(content, 'JPEG', quality=95)
  ours = augment.centre_view(content.getvalue(), 32, 36, squash).numpy()
  processor = CLIPImageProcessorPil(
      **{
          name: value
          for name, value in processor_of_view(view).items()
          if name not in ('image_processor_type', 'do_normalize')}, do_normalize=False)
  theirs = processor([Image.open(content)], return_tensors='np')['pixel_values'][0].transpose(1, 2, 0) * 255
  assert np.abs(ours - theirs).max() <= 2 and np.abs(ours - theirs).mean() < 0.5


def test_split_names_the_file(data_dir, clip_folder, tmp_path):
  assert zero_shot(str(clip_folder), data_dir, 'emo8', str(tmp_path), 'val')['examples'] == 16
  assert [path.name for path in tmp_path.iterdir()] == ['result_val.json']


def test_result_of_another_run_is_not_replaced(data_dir, clip_folder, tmp_path):
  (tmp_path / 'result.json').write_text('{"config_hash": "of a fine-tuning"}')
  with pytest.raises(UserError, match='choose another --workdir'):
    zero_shot(str(clip_folder), data_dir, 'emo8', str(tmp_path))
  assert (tmp_path / 'result.json').read_text() == '{"config_hash": "of a fine-tuning"}'


def test_shipped_templates_are_distinct_and_hold_a_class():
  assert 10 <= len(set(prompts.TEMPLATES)) == len(prompts.TEMPLATES) <= 20
  assert prompts.PLAIN in prompts.TEMPLATES and all(template.count('{}') == 1 for template in prompts.TEMPLATES)


@pytest.mark.parametrize(
    'label, word', [('awe', 'awe'), ('Happy', 'happiness'), ('Sad', 'sadness'), ('deep_calm', 'deep calm'),
                    ('Neutral', 'neutrality')])
def test_class_is_named_as_a_noun(label, word):
  assert prompts.fill('people feel {}.', [label]) == [f'people feel {word}.']


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le'])
def test_prompts_of_a_file_replace_the_shipped_ones(encoding, tmp_path):
  (tmp_path / 'prompts.txt').write_text('a photo of {}\n\n  {} everywhere \n', encoding=encoding)
  assert prompts.read_templates(str(tmp_path / 'prompts.txt')) == ('a photo of {}', '{} everywhere')


@pytest.mark.filterwarnings("ignore:'uniemox_jax:RuntimeWarning")  # runpy, of a module that another test imported
@pytest.mark.parametrize(
    'content, arguments, thing, remedy', [
        ('a photo of {}.\na photo.\n', [], "line 2, 'a photo.'", 'has no {} where the class goes'),
        ('\n', [], 'prompts.txt', 'write one a line'),
        (None, [], 'prompts.txt', 'one template a line'),
        ('{}' + ' very' * 90, [], '93 tokens', 'shorten it'),
        ('{}', ['--dataset=nothing'], "'nothing'", 'build them'),
        ('{}', ['--teacher=nowhere'], 'nowhere', 'give'),],
    ids=['no braces', 'empty', 'missing', 'too long', 'no records', 'no teacher'])
def test_mistake_is_one_line(
    command: Callable[..., int], assert_one_line: Callable[..., None], capsys, data_dir, clip_folder, tmp_path, content,
    arguments, thing, remedy):
  if content is not None:
    (tmp_path / 'prompts.txt').write_text(content)
  code = command(
      'uniemox_jax.zero_shot', f'--workdir={tmp_path / "run"}', f'--data_dir={data_dir}', '--dataset=emo8',
      f'--teacher={clip_folder}', f'--prompts={tmp_path / "prompts.txt"}', *arguments)
  assert_one_line(code, capsys.readouterr().err, thing, remedy)
  assert not (tmp_path / 'run').exists()


def test_dataset_without_a_single_label_is_one_line(data_dir, clip_folder, tmp_path, monkeypatch):
  monkeypatch.setattr(reader.Split, 'label_array', lambda split: np.array([-1]))
  with pytest.raises(UserError, match='no image of split .test. of emo8 has a single label'):
    zero_shot(str(clip_folder), data_dir, 'emo8', str(tmp_path / 'run'))
