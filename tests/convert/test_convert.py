"""Weight conversion: the same bits there and back, strict about names and shapes, and every file form."""

import json

from flax import serialization, traverse_util
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from data_pipelines.errors import UserError
from uniemox_jax.convert import clip_weights, name_table
from uniemox_jax.convert.formats import weight_files
from uniemox_jax.teacher.frozen_clip import load_clip


@pytest.fixture(scope='module')
def flat(clip_params):
  return {
      name: np.asarray(array, order='C')
      for name, array in name_table.export_params(clip_weights.RULES, clip_params).items()}


def import_clip(flat, clip_params, source):
  return name_table.import_params(clip_weights.RULES, flat, clip_params, source=source, ignored=clip_weights.IGNORED)


def copy_folder(clip_folder, tmp_path):
  """The CLIP folder without its weights."""
  (tmp_path / 'config.json').write_text((clip_folder / 'config.json').read_text())
  return tmp_path


def assert_equal_trees(ours, theirs):
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_import_of_export_is_bit_equal(clip_params, flat):
  assert_equal_trees(import_clip(dict(flat), clip_params, 'file'), clip_params)
  again = name_table.export_params(clip_weights.RULES, import_clip(dict(flat), clip_params, 'file'))
  assert_equal_trees(dict(sorted(again.items())), dict(sorted(flat.items())))


def test_missing_extra_and_misshapen_names_are_reported_together(clip_params, flat):
  broken = dict(flat) | {'surplus.weight': np.zeros(3), 'visual_projection.weight': np.zeros((5, 7))}
  del broken['text_model.encoder.layers.1.mlp.fc1.bias']
  with pytest.raises(UserError) as error:
    import_clip(broken, clip_params, 'model.safetensors')
  message = str(error.value)
  assert message.startswith('model.safetensors ')
  assert '1 missing: text_model.encoder.layers.1.mlp.fc1.bias' in message
  assert '1 unexpected: surplus.weight' in message
  assert 'visual_projection.weight (5, 7) instead of (12, 16)' in message
  assert '\n' not in message


def test_a_long_list_of_names_is_cut(clip_params):
  with pytest.raises(UserError, match=r'86 more$') as error:
    import_clip({}, clip_params, 'file')
  assert len(str(error.value)) < 800


def test_layers_are_never_dropped(clip_params, flat):
  deeper = dict(flat)
  deeper |= {
      name.replace('layers.2.', 'layers.3.'): array
      for name, array in flat.items()
      if name.startswith('text_model.encoder.layers.2.')}
  with pytest.raises(UserError, match='16 unexpected'):
    import_clip(deeper, clip_params, 'file')


def test_position_ids_of_older_files_are_ignored(clip_params, flat):
  older = flat | {
      'text_model.embeddings.position_ids': np.arange(77)[None], 'vision_model.embeddings.position_ids':
          np.arange(17)[None]}
  assert_equal_trees(import_clip(older, clip_params, 'file'), clip_params)


def test_written_file_holds_views_and_scalars_as_they_are(tmp_path):
  matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
  weight_files.write_safetensors(tmp_path / 'a.safetensors', {'transposed': matrix.T, 'scalar': np.float32(3)})
  read = load_file(tmp_path / 'a.safetensors')
  np.testing.assert_array_equal(read['transposed'], matrix.T)
  assert read['scalar'].shape == ()
  assert [path.name for path in tmp_path.iterdir()] == ['a.safetensors']


def test_sharded_safetensors_equal_the_whole(clip_folder, clip_params, flat, tmp_path):
  folder = copy_folder(clip_folder, tmp_path)
  weight_map = {}
  for shard in range(3):
    name = f'model-{shard + 1:05d}-of-00003.safetensors'
    part = dict(list(flat.items())[shard::3])
    save_file(part, folder / name)
    weight_map |= dict.fromkeys(part, name)
  (folder / weight_files.SHARDED).write_text(json.dumps({'metadata': {}, 'weight_map': weight_map}))
  assert_equal_trees(load_clip(folder).params, clip_params)
  (folder / 'model-00002-of-00003.safetensors').unlink()
  with pytest.raises(UserError, match='model-00002-of-00003'):
    load_clip(folder)


def flax_form(flat):
  """The nested dict that transformers 4's FlaxCLIPModel saved, from PyTorch's tensors."""
  nested = {}
  for name, array in flat.items():
    *scope, leaf = name.split('.')
    if leaf == 'weight' and 'norm' in scope[-1]:
      leaf = 'scale'
    elif leaf == 'weight' and scope[-1] in ('token_embedding', 'position_embedding'):
      leaf = 'embedding'
    elif leaf == 'weight':
      leaf, array = 'kernel', array.T if array.ndim == 2 else np.moveaxis(array, (0, 1), (3, 2))
    nested[*scope, leaf] = array
  return traverse_util.unflatten_dict(nested)


def test_flax_msgpack_equals_safetensors(clip_folder, clip_params, flat, tmp_path):
  folder = copy_folder(clip_folder, tmp_path)
  nested = flax_form(flat)
  vision = nested['vision_model']
  assert vision['embeddings']['patch_embedding']['kernel'].shape == (8, 8, 3, 16)
  assert set(vision['pre_layrnorm']) == {'scale', 'bias'}
  (folder / weight_files.MSGPACK).write_bytes(serialization.msgpack_serialize(nested))
  assert_equal_trees(load_clip(folder).params, clip_params)


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_come_in_as_float32(dtype, clip_folder, clip_params, flat, tmp_path):
  folder = copy_folder(clip_folder, tmp_path)
  save_file({name: array.astype(dtype) for name, array in flat.items()}, folder / weight_files.SAFETENSORS)
  expected = jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), clip_params)
  assert_equal_trees(load_clip(folder).params, expected)


@pytest.mark.parametrize('name', [weight_files.SAFETENSORS, weight_files.SHARDED, weight_files.MSGPACK])
@pytest.mark.parametrize('kind', ['html', 'truncated', 'empty'])
def test_damaged_file_is_named_in_one_line(name, kind, clip_folder, flat, tmp_path):
  folder = copy_folder(clip_folder, tmp_path)
  good = {
      weight_files.SAFETENSORS: (clip_folder / weight_files.SAFETENSORS).read_bytes(),
      weight_files.SHARDED: b'{"weight_map": {"a": ',
      weight_files.MSGPACK: serialization.msgpack_serialize(flax_form(flat))}[name]
  contents = {
      'html': b'<!DOCTYPE html><html><body>Not found</body></html>', 'truncated': good[:len(good) // 2], 'empty': b''}
  (folder / name).write_bytes(contents[kind])
  with pytest.raises(UserError) as error:
    load_clip(folder)
  assert name in str(error.value)
  assert '\n' not in str(error.value)


def test_folder_without_weights_says_what_was_looked_for(clip_folder, tmp_path):
  folder = copy_folder(clip_folder, tmp_path)
  with pytest.raises(UserError) as error:
    load_clip(folder)
  assert all(
      name in str(error.value) for name in (weight_files.SAFETENSORS, weight_files.SHARDED, weight_files.MSGPACK))


def test_index_cannot_name_files_elsewhere(clip_folder, flat, tmp_path):
  folder = copy_folder(clip_folder, tmp_path)
  save_file(flat, folder.parent / 'outside.safetensors')
  (folder / weight_files.SHARDED).write_text(json.dumps({'weight_map': dict.fromkeys(flat, '../outside.safetensors')}))
  with pytest.raises(UserError, match='not beside it'):
    load_clip(folder)
