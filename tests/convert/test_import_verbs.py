"""Imported weights in the verbs: positions of another size, heads in our label order, runs that start from them."""

from pathlib import Path
import subprocess
import sys
import textwrap

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import demo
from data_pipelines import build
from data_pipelines.errors import UserError
from data_pipelines.storage import read_json
from data_pipelines.synthetic import datasets
import uniemox_jax
from uniemox_jax.convert.import_students import AttentionHeads
from uniemox_jax.convert.label_order import sort_classes
from uniemox_jax.convert.position_embeddings import resize_positions
from uniemox_jax.eval.run_evaluation import evaluate
from uniemox_jax.finetune import finetune
from uniemox_jax.import_torch import import_torch
from uniemox_jax.models.vit import sincos_positions
from uniemox_jax.pretrain import pretrain
from uniemox_jax.train import checkpoint
from uniemox_jax.train.config import FinetuneConfig
from uniemox_jax.train.initial_weights import initial_weights, read_source, transfer

torch = pytest.importorskip('torch')
from tests.support import torch_reference as reference  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_device')
ROOT = Path(__file__).parents[2]
SHAPE = dict(image_size=32, patch=8, width=16, depth=2, heads=2)
SMALL = {'image_size': 32, 'patch_size': 8, 'width': 16, 'depth': 2, 'heads': 2}
HEADS = AttentionHeads(2, 2)


def saved(module, path, **beside):
  torch.manual_seed(0)
  with torch.no_grad():
    for parameter in module.parameters():
      parameter.add_(torch.randn_like(parameter) * 0.1)
  torch.save({'model': module.state_dict(), **beside}, path)
  return str(path)


@pytest.fixture
def encoder_file(tmp_path):
  return saved(reference.Encoder(**SHAPE), tmp_path / 'mae_pretrain.pth')


@pytest.mark.parametrize(('old', 'new'), [(14, 24), (14, 7), (4, 6), (6, 4), (4, 1), (1, 3)])
def test_positions_are_resized_as_torch_interpolates(old, new, assert_parity):
  positions = np.random.default_rng(0).standard_normal((old * old + 1, 12)).astype(np.float32)
  ours = resize_positions(positions, new * new + 1, 'file')
  grid = torch.tensor(positions[1:]).reshape(1, old, old, 12).permute(0, 3, 1, 2)
  theirs = torch.nn.functional.interpolate(grid, size=(new, new), mode='bicubic', align_corners=False)
  assert_parity(ours[1:], theirs.permute(0, 2, 3, 1).reshape(-1, 12))
  np.testing.assert_array_equal(ours[0], positions[0])
  assert ours.dtype == np.float32


def test_sine_cosine_positions_are_made_anew():
  noise = np.random.default_rng(0).uniform(-5e-7, 5e-7, (17, 16)).astype(np.float32)
  np.testing.assert_array_equal(resize_positions(sincos_positions(16, 4) + noise, 37, 'file'), sincos_positions(16, 6))
  assert not np.allclose(
      resize_positions(sincos_positions(16, 4) + 10 * noise, 37, 'file'), sincos_positions(16, 6), atol=1e-3)


@pytest.mark.parametrize('fixed', [True, False])
def test_transfer_says_how_positions_were_resized(fixed):
  source = {'encoder': {'positions': sincos_positions(16, 4) + (0 if fixed else np.float32(0.1))}}
  template = {'encoder': {'positions': jax.ShapeDtypeStruct((37, 16), np.float32)}}
  taken, said = transfer(source, template, new=(), left=(), origin='file')
  assert f'encoder/positions 4² → 6² ({"sine-cosine, made anew" if fixed else "bicubic"})' in said
  assert taken['encoder']['positions'].shape == (37, 16)


def test_positions_that_form_no_square_are_refused():
  with pytest.raises(UserError, match='a square of patches'):
    resize_positions(np.zeros((12, 8), np.float32), 17, 'file')


@pytest.mark.parametrize(('dataset', 'folders'), [
    ('emo8', ['amusement', 'anger', 'awe', 'contentment', 'disgust', 'excitement', 'fear', 'sadness']),
    ('fi', ['amusement', 'anger', 'awe', 'contentment', 'disgust', 'excitement', 'fear', 'sadness']),
    ('heco', ['Anger', 'Disgust', 'Excitement', 'Fear', 'Happiness', 'Peace', 'Sadness', 'Surprise'])])
def test_head_of_the_original_is_put_into_our_label_order(dataset, folders, tmp_path, capsys):
  theirs = reference.FineTuned(**SHAPE, classes=8)
  path = saved(theirs, tmp_path / 'checkpoint-max.pth')
  import_torch(path, str(tmp_path / 'out'), dataset=dataset, heads=HEADS)
  assert 'from sorted folder names' in capsys.readouterr().out
  loaded = checkpoint.load_checkpoint(str(tmp_path / 'out'))
  labels = loaded.description['labels']
  assert labels != folders and sorted(labels) == folders
  bias = dict(zip(folders, theirs.head.bias.tolist()))
  assert loaded.params['head']['bias'].tolist() == [bias[label] for label in labels]
  back = sort_classes(loaded.params['head'], labels)
  np.testing.assert_array_equal(back['kernel'].T, theirs.head.weight.detach())
  images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
  with torch.no_grad():
    expected = theirs.eval()(torch.tensor(images).permute(0, 3, 1, 2)).softmax(-1).numpy()
  classifier = uniemox_jax.load_classifier(str(tmp_path / 'out'))
  ours = classifier.predict_proba(images)[:, [classifier.labels.index(folder) for folder in folders]]
  np.testing.assert_allclose(ours, expected, rtol=1e-4)


@pytest.mark.parametrize(('dataset', 'match'), [('emotion6', '8 classes, the dataset has 6'),
                                                ('nope', 'unknown dataset'), ('folder', 'no label table')])
def test_dataset_that_does_not_fit_the_head_is_refused(dataset, match, tmp_path):
  path = saved(reference.FineTuned(**SHAPE, classes=8), tmp_path / 'max.pth')
  with pytest.raises(UserError, match=match):
    import_torch(path, str(tmp_path / 'out'), dataset=dataset, heads=HEADS)
  assert not (tmp_path / 'out').exists()


def test_output_is_whole_or_not_there(encoder_file, tmp_path, monkeypatch):

  def fail(*_):
    raise OSError('disk full')

  monkeypatch.setattr('uniemox_jax.import_torch.save_weights', fail)
  with pytest.raises(OSError, match='disk full'):
    import_torch(encoder_file, str(tmp_path / 'out'), heads=HEADS)
  assert [path.name for path in tmp_path.iterdir()] == ['mae_pretrain.pth']
  (tmp_path / 'out').mkdir()
  with pytest.raises(UserError, match='exists: choose another --out'):
    import_torch(encoder_file, str(tmp_path / 'out'), heads=HEADS)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory) -> str:
  raw, data = (tmp_path_factory.mktemp(name) for name in ('raw', 'data'))
  for dataset in ('emoset', 'emo8'):
    datasets.write_dataset(
        raw / dataset, dataset, datasets.plan_images(dataset, {'train': 16, 'val': 8, 'test': 8}, seed=0), {})
    build.build(dataset, raw / dataset, data)
  return str(data)


@pytest.fixture
def finetune_config(data_dir) -> ConfigDict:
  config = demo.get_config('finetune')
  config.data_dir, config.batch_size, config.epochs, config.eval_every_epochs = data_dir, 8, 1, 1
  config.model.update(SMALL)
  return config


def test_finetuning_starts_from_a_mae_pth_at_another_size(encoder_file, finetune_config, tmp_path, capsys):
  finetune_config.init, finetune_config.model.image_size = encoder_file, 48
  assert finetune(finetune_config, str(tmp_path / 'run'))['examples'] == 8
  said = capsys.readouterr().out
  assert 'ViT/8 at 32 pixels' in said and '4² → 6² (bicubic)' in said


def test_import_of_the_originals_classifier_is_evaluated_and_fine_tuned(finetune_config, data_dir, tmp_path):
  path = saved(reference.FineTuned(**SHAPE, classes=8), tmp_path / 'checkpoint-max.pth')
  import_torch(path, str(tmp_path / 'out'), dataset='emo8', heads=HEADS)
  result = evaluate(str(tmp_path / 'out'), data_dir=data_dir)
  assert (result['dataset'], result['examples'], result['checkpoint_step']) == ('emo8', 8, 0)
  template = checkpoint.load_checkpoint(str(tmp_path / 'out')).params
  taken = initial_weights(read_source(str(tmp_path / 'out'), SMALL, decoder=False), template, classifier=True)
  assert 'fc_norm' in taken and 'head' not in taken


def test_pretraining_runs_with_an_imported_clip_and_an_imported_mae(data_dir, tmp_path, capsys):
  clip = reference.OpenAiClip(
      image_size=32, patch=16, vision=(64, 1, 1, 128), text=(64, 1, 1, 128), projection=12, context=77,
      vocabulary=49408, archive=True)
  saved(clip, tmp_path / 'ViT-B-16.pt')
  import_torch(str(tmp_path / 'ViT-B-16.pt'), str(tmp_path / 'clip'))
  mae = reference.Mae(**SHAPE, decoder_width=12, decoder_depth=1, decoder_heads=2)
  fusion = reference.FUSIONS['additive'](12, 1)
  config = demo.get_config('pretrain')
  config.init = saved(mae, tmp_path / 'checkpoint.pth', att_fusion=fusion.state_dict())
  config.data_dir, config.teacher = data_dir, str(tmp_path / 'clip')
  config.batch_size, config.epochs, config.images_every = 8, 1, 0
  config.model.update(SMALL | {'decoder_width': 12, 'decoder_depth': 1, 'decoder_heads': 2})
  pretrain(config, str(tmp_path / 'run'))
  assert 'taken: decoder, encoder, fusion, project' in capsys.readouterr().out
  assert checkpoint.load_checkpoint(str(tmp_path / 'run')).step == 3


FREE = ('image_size', 'patch_size', 'width', 'depth', 'heads')


def test_architecture_comes_from_what_a_run_starts_from(encoder_file, finetune_config, tmp_path, capsys):
  import_torch(encoder_file, str(tmp_path / 'out'), heads=HEADS)
  default = FinetuneConfig().model
  finetune_config.model.update({name: getattr(default, name) for name in FREE})
  finetune_config.init = str(tmp_path / 'out')
  assert finetune(finetune_config, str(tmp_path / 'run'))['examples'] == 8
  assert f"config.model as in {tmp_path / 'out'}: depth 2, heads 2, image_size 32, patch_size 8, width 16" in (
      capsys.readouterr().out)
  kept = read_json(str(tmp_path / 'run' / 'config.json'))['model']
  assert {name: kept[name] for name in FREE} == {name: SMALL[name] for name in FREE}
  finetune(finetune_config, str(tmp_path / 'run'))  # resumes, the architecture left out again
  assert 'finetune resumes at step' in capsys.readouterr().out


@pytest.mark.slow
def test_a_size_that_is_given_is_kept_and_the_rest_comes_from_what_a_run_starts_from(
    encoder_file, finetune_config, tmp_path, capsys):
  import_torch(encoder_file, str(tmp_path / 'out'), heads=HEADS)
  finetune_config.model.update({name: getattr(FinetuneConfig().model, name) for name in FREE})
  finetune_config.init, finetune_config.model.image_size = str(tmp_path / 'out'), 48
  finetune(finetune_config, str(tmp_path / 'run'))
  assert '4² → 6²' in capsys.readouterr().out


def test_a_comparison_keeps_the_architecture_of_its_config(encoder_file, finetune_config, tmp_path):
  finetune_config.init = encoder_file
  finetune_config.model.width = FinetuneConfig().model.width
  with pytest.raises(UserError, match=r'config\.model\.width is 1024'):
    finetune(finetune_config, str(tmp_path / 'run'), adopt=False)


def test_all_keys_that_contradict_are_named_at_once(encoder_file, finetune_config, tmp_path):
  finetune_config.init = encoder_file
  finetune_config.model.update(width=24, depth=3, heads=4, patch_size=4)
  with pytest.raises(UserError) as error:
    finetune(finetune_config, str(tmp_path / 'run'))
  assert 'set --config.model.patch_size=8 --config.model.width=16 --config.model.depth=2' in str(error.value)


@pytest.mark.filterwarnings("ignore:'uniemox_jax:RuntimeWarning")
def test_a_flag_counts_as_given_even_where_it_is_the_default(
    encoder_file, data_dir, tmp_path, capsys, command, assert_one_line):
  import_torch(encoder_file, str(tmp_path / 'out'), heads=HEADS)
  arguments = '--config=configs/finetune.py:emo8', f'--config.data_dir={data_dir}', f"--config.init={tmp_path / 'out'}"
  code = command(
      'uniemox_jax.finetune', *arguments, '--config.model.width=1024', f"--workdir={tmp_path / 'run'}",
      '--config.batch_size=8')
  assert_one_line(code, capsys.readouterr().err, 'config.model.width is 1024', 'set --config.model.width=16')


@pytest.mark.parametrize(('change', 'match'), [
    ({'norm_eps': 1e-12}, r'norm_eps 1e-06, config\.model\.norm_eps is 1e-12: set --config\.model\.norm_eps=1e-06'),
    ({'heads': 4}, r'heads 2, config\.model\.heads is 4'),
    ({'depth': 3}, r'depth 2, config\.model\.depth is 3'),])
def test_what_shapes_do_not_show_must_agree(change, match, encoder_file, finetune_config, tmp_path):
  import_torch(encoder_file, str(tmp_path / 'out'), heads=HEADS)
  finetune_config.init = str(tmp_path / 'out')
  with finetune_config.unlocked():
    finetune_config.model.update(change)
  with pytest.raises(UserError, match=match):
    finetune(finetune_config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


@pytest.mark.filterwarnings("ignore:'uniemox_jax:RuntimeWarning")  # runpy, of a module that another test imported
@pytest.mark.parametrize(('arguments', 'thing', 'remedy'), [
    ([], 'SRC is missing', '--help'), (['{file}', 'stray'], "'stray'", '--name=value'),
    (['{folder}/nowhere.pth'], 'nowhere.pth', 'give a weight file'), (['{file}'], '16 wide', 'give --heads=N'),
    (['{file}', '--heads=2', '--dataset=emo8'], '--dataset=emo8', 'leave it out'),
    (['{file}', '--heads=0'], 'heads', '--help'),
    (['{file}', '--heads=2', '--activation=gelu'], 'holds a ViT', '--activation and --image_tower are for a CLIP')])
def test_mistake_at_the_command_is_one_line(
    arguments, thing, remedy, encoder_file, tmp_path, capsys, command, assert_one_line):
  filled = [argument.format(file=encoder_file, folder=tmp_path) for argument in arguments]
  code = command('uniemox_jax.import_torch', *filled, f'--out={tmp_path}/out')
  assert_one_line(code, capsys.readouterr().err, thing, remedy)
  assert [path.name for path in Path(tmp_path).iterdir()] == ['mae_pretrain.pth']


@pytest.mark.slow
def test_vit_l_is_imported_within_a_minute_and_twice_its_size(tmp_path):
  encoder = reference.Encoder(image_size=224, patch=16, width=1024, depth=24, heads=16)
  torch.save({'model': encoder.state_dict()}, tmp_path / 'mae_pretrain_vit_large.pth')
  program = textwrap.dedent(
      """
      import resource, sys, time
      import torch
      from uniemox_jax.import_torch import import_torch
      before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
      import_torch(sys.argv[1], sys.argv[2])
      grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
      print(time.monotonic() - start, grown * 1024)
  """)
  file = tmp_path / 'mae_pretrain_vit_large.pth'
  done = subprocess.run([sys.executable, '-c', program, file, tmp_path / 'out'], cwd=ROOT, capture_output=True,
                        text=True, check=True)
  seconds, grown = map(float, done.stdout.split()[-2:])
  assert seconds < 60
  assert grown < 2 * file.stat().st_size
