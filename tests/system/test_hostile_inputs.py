"""Files that are made to do harm: each ends in one line within seconds, and nothing in them is executed."""

from collections.abc import Callable, Iterator
import itertools
import json
import math
import os
from pathlib import Path
import resource
import shutil
import struct
import time
from typing import Any

import numpy as np
import pytest

from data_pipelines import build, storage
from data_pipelines.errors import UserError
from data_pipelines.plain_text import single_line
from data_pipelines.records.reader import open_split
from tests.support.exported import LABELS, TINY, random_params
from uniemox_jax.convert.formats.weight_files import SHARDED, read_weights
from uniemox_jax.convert.import_students import AttentionHeads
from uniemox_jax.import_torch import import_torch
from uniemox_jax.teacher.frozen_clip import load_clip
from uniemox_jax.train.checkpoint import load_checkpoint, save_weights

SECONDS = 5.0
GROWTH = 2 << 30
"""Bytes that a refusal may take: the interpreter grows by itself, too."""
DEEP = 100_000
MARKER = 'executed'
NAN, INFINITE = float('nan'), float('inf')


def refused(read: Callable[[], Any], named: str) -> str:
  """Runs what must end in one line that names `named`, in time and without filling the memory."""
  began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with pytest.raises(UserError) as error:
    read()
  assert time.monotonic() - began < SECONDS
  assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GROWTH
  line = single_line(str(error.value))
  assert named in line
  assert len(line) < 1500
  return line


@pytest.fixture(autouse=True)
def nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
  """Python that writes a marker lies where a careless reader would import it from."""
  home = tmp_path / 'home'
  home.mkdir()
  monkeypatch.chdir(home)
  (home / 'evil.py').write_text(f'open({str(home / MARKER)!r}, "w")\nclass Evil: pass\n')
  monkeypatch.syspath_prepend(str(home))
  yield
  assert not list(tmp_path.rglob(MARKER))


# Teachers: a config.json and a preprocessor_config.json around sound weights.

CLIP_CONFIG, PROCESSOR = 'config.json', 'preprocessor_config.json'


def vision(**values: Any) -> tuple[str, dict[str, Any]]:
  return CLIP_CONFIG, {'vision_config': values}


def text(**values: Any) -> tuple[str, dict[str, Any]]:
  return CLIP_CONFIG, {'text_config': values}


def whole(**values: Any) -> tuple[str, dict[str, Any]]:
  return CLIP_CONFIG, values


def pixels(**values: Any) -> tuple[str, dict[str, Any]]:
  return PROCESSOR, values


TEACHERS: dict[str, tuple[str, dict[str, Any] | str]] = {
    'depth of a billion': vision(num_hidden_layers=10**9), 'depth of a million': vision(num_hidden_layers=2**20),
    'negative depth': vision(num_hidden_layers=-1), 'no depth': vision(num_hidden_layers=0),
    'depth is true': vision(num_hidden_layers=True), 'no heads': vision(num_attention_heads=0),
    'heads that do not divide': vision(num_attention_heads=3), 'width is text': vision(hidden_size='16'),
    'width is a float': vision(hidden_size=16.0), 'width is null': vision(hidden_size=None),
    'width is a list': vision(hidden_size=[16]), 'width of 10**12': vision(hidden_size=10**12), 'MLP of 10**12':
        vision(intermediate_size=10**12), 'no image': vision(image_size=0), 'image is no multiple of the patch':
            vision(image_size=33), 'no patch': vision(patch_size=0), 'patch of a billion': vision(patch_size=10**9),
    'image of 2**20 in patches of 1': vision(image_size=2**20,
                                             patch_size=1), 'vocabulary of 10**12': text(vocab_size=10**12),
    'context of 10**12': text(max_position_embeddings=10**12), 'end of text beyond 64 bits': text(eos_token_id=10**30),
    'negative projection': whole(projection_dim=-1), 'projection is infinite': whole(projection_dim=INFINITE),
    'unknown activation': vision(hidden_act='os.system'
                                ), 'activation is a list': vision(hidden_act=[]
                                                                 ), 'epsilon is text': vision(layer_norm_eps='1e-5'),
    'epsilon is not a number': vision(layer_norm_eps=NAN), 'logit scale is text': whole(logit_scale_init_value='evil'),
    'tower is a list': whole(vision_config=[1]), 'config is a list': (CLIP_CONFIG, '[]'), 'config is nested deeply':
        (CLIP_CONFIG, '{"a":' * DEEP + '1' + '}' * DEEP), 'config has a key twice':
            (CLIP_CONFIG, '{"model_type": "clip", "model_type": "bert"}'), 'config has a number beyond floats':
                (CLIP_CONFIG, '{"model_type": "clip", "projection_dim": 1e999}'), 'config has a number of 5,000 digits':
                    (CLIP_CONFIG, '{"model_type": ' + '9' * 5000 + '}'), 'config has 40 MB':
                        (CLIP_CONFIG, '[' + '[],' * (40 << 20 >> 1) + '0]'
                        ), 'deviation of 0': pixels(image_std=[0.0] * 3
                                                   ), 'deviation is not a number': pixels(image_std=[NAN] * 3),
    'deviation is null': pixels(image_std=None), 'deviation of four channels': pixels(image_std=[0.5] * 4),
    'mean is text': pixels(image_mean='abc'), 'resized to 10**9 pixels': pixels(size={'shortest_edge': 10**9}),
    'size is text': pixels(size='evil'), 'crop is an empty object': pixels(crop_size={})}


def fetched_teacher(clip_folder: Path, tmp_path: Path) -> Path:
  """A copy of a teacher as others publish it: without this package's checksums."""
  return Path(shutil.copytree(clip_folder, tmp_path / 'clip', ignore=shutil.ignore_patterns('checksums.sha256')))


@pytest.mark.parametrize('kind', TEACHERS)
def test_hostile_teacher_is_refused_by_the_name_of_its_file(kind: str, clip_folder: Path, tmp_path: Path) -> None:
  name, change = TEACHERS[kind]
  folder = fetched_teacher(clip_folder, tmp_path)
  content = json.loads((folder / name).read_text())
  if isinstance(change, str):
    (folder / name).write_text(change)
  else:
    nested = {
        key: content[key] | value
        for key, value in change.items()
        if isinstance(value, dict) and key.endswith('_config')}
    (folder / name).write_text(json.dumps(content | change | nested))
  named = name if kind != 'depth of a million' else 'model.safetensors'
  refused(lambda: load_clip(folder), PROCESSOR if kind == 'image of 2**20 in patches of 1' else named)


OPEN_CLIP: dict[str, dict[str, Any]] = {
    'depth of a billion': {'vision_cfg': {'layers': 10**9}}, 'negative depth': {'text_cfg': {'layers': -1}},
    'width is null': {'vision_cfg': {'width': None}}, 'no heads': {'text_cfg': {'heads': 0}},
    'heads wider than the tower': {'vision_cfg': {'head_width': 10**6}},
    'no head width': {'vision_cfg': {'head_width': 0}}, 'MLP ratio is text': {'vision_cfg': {'mlp_ratio': 'x'}},
    'MLP ratio is infinite': {'vision_cfg': {'mlp_ratio': INFINITE}
                             }, 'no patch': {'vision_cfg': {'patch_size': 0}}, 'negative projection': {'embed_dim': -1},
    'tower is text': {'vision_cfg': 'evil'}, 'vocabulary of 10**12': {'text_cfg': {'vocab_size': 10**12}}}


@pytest.mark.parametrize('kind', OPEN_CLIP)
def test_hostile_open_clip_config_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
  names = ['visual.conv1.weight', 'positional_embedding', 'text_projection', 'visual.proj', 'logit_scale']
  written(tmp_path / 'open_clip_model.safetensors', safetensors({name: (2,) for name in names}))
  (tmp_path / 'open_clip_config.json').write_text(json.dumps({'model_cfg': OPEN_CLIP[kind]}))
  refused(lambda: load_clip(tmp_path), 'open_clip_config.json')


# Tokenizers, and Python that a folder names.


@pytest.mark.parametrize(('file', 'content'), [('vocab.json', '[1, 2]'), ('vocab.json', '{"a":' * DEEP),
                                               ('merges.txt', '\0' * 100)],
                         ids=['vocabulary is a list', 'vocabulary is nested deeply', 'merges are zeros'])
def test_hostile_tokenizer_is_refused_by_the_name_of_its_folder(
    file: str, content: str, clip_folder: Path, tmp_path: Path) -> None:
  folder = fetched_teacher(clip_folder, tmp_path)
  (folder / file).write_text(content)
  clip = load_clip(folder)
  refused(lambda: clip.tokenize(['a cat']), str(folder))


def test_tokenizer_of_another_model_is_refused_before_an_id_is_out_of_range(clip_folder: Path, tmp_path: Path) -> None:
  folder = fetched_teacher(clip_folder, tmp_path)
  vocabulary = json.loads((folder / 'vocab.json').read_text())
  (folder / 'vocab.json').write_text(json.dumps(vocabulary | {'cat</w>': 10**6}))
  clip = load_clip(folder)
  refused(lambda: clip.tokenize(['a cat']), str(folder))


def test_python_that_a_teacher_names_is_not_imported(clip_folder: Path, tmp_path: Path) -> None:
  """`nothing_is_executed` has put the module where it would be found; a copy lies in the folder itself."""
  folder = fetched_teacher(clip_folder, tmp_path)
  shutil.copy('evil.py', folder)
  code = {
      'auto_map': {'AutoModel': 'evil.Evil', 'AutoTokenizer': ['evil.Evil', None], 'AutoConfig': 'evil.Evil'},
      'trust_remote_code': True, 'custom_pipelines': {'x': {'impl': 'evil.Evil'}}}
  for file in (CLIP_CONFIG, PROCESSOR, 'tokenizer_config.json'):
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | code))
  assert load_clip(folder).tokenize(['a cat']).shape == (1, 8)


# Weight files; tests/convert/test_bad_weight_files.py has those of PyTorch.


def written(path: Path, content: bytes) -> Path:
  path.write_bytes(content)
  return path


def header(content: bytes | dict[str, Any], data: int = 8, length: int | None = None) -> bytes:
  """A safetensors file with this header and so many zeros."""
  encoded = content if isinstance(content, bytes) else json.dumps(content).encode()
  return struct.pack('<Q', len(encoded) if length is None else length) + encoded + bytes(data)


def entry(shape: list[int], first: int, end: int, dtype: str = 'F32') -> dict[str, Any]:
  return {'dtype': dtype, 'shape': shape, 'data_offsets': [first, end]}


def safetensors(shapes: dict[str, tuple[int, ...]]) -> bytes:
  sizes = [4 * math.prod(shape) for shape in shapes.values()]
  ends = list(itertools.accumulate(sizes))
  content = {name: entry(list(shape), end - size, end) for (name, shape), size, end in zip(shapes.items(), sizes, ends)}
  return header(content, ends[-1])


def mae_with(name: str) -> bytes:
  """An encoder's first tensors, and one more."""
  return safetensors({
      'patch_embed.proj.weight': (16, 3, 2, 2), 'pos_embed': (1, 5, 16), 'cls_token': (1, 1, 16), 'norm.weight': (16,),
      'norm.bias': (16,), name: (16,)})


FILES = {
    '300,000 tensors': lambda: safetensors({f't{i}': (1,) for i in range(300_000)}),
    'header of 2**63 bytes': lambda: header({'a': entry([2], 0, 8)}, length=2**63),
    'header of 99 MB in a small file': lambda: header({'a': entry([2], 0, 8)}, length=99_000_000),
    'header is no JSON': lambda: header(b'{evil}'), 'header is nested deeply': lambda: header(b'{"a":' * DEEP),
    'tensors that overlap': lambda: header({'a': entry([2], 0, 8), 'b': entry([2], 0, 8)}),
    'tensor outside of the file': lambda: header({'a': entry([4], 0, 16)}),
    'negative shape': lambda: header({'a': entry([-2], 0, 8)}),
    'negative offset': lambda: header({'a': entry([2], -8, 0)}),
    'unknown dtype': lambda: header({'a': entry([2], 0, 8, 'EVIL')}),
    'shape whose product overflows': lambda: header({'a': entry([2**32, 2**32, 4], 0, 8)}),
    'promise of 10 GB': lambda: header({'a': entry([2_500_000_000], 0, 10_000_000_000)}),
    'block number of a billion': lambda: mae_with('blocks.999999999.norm1.weight'),
    'block number of a million': lambda: mae_with('blocks.999999.norm1.weight'),
    'block number of 5,000 digits': lambda: mae_with(f'blocks.{"9" * 5000}.norm1.weight')}


@pytest.mark.parametrize('kind', FILES)
def test_hostile_weights_are_refused_by_the_name_of_their_file(kind: str, tmp_path: Path) -> None:
  path = written(tmp_path / 'w.safetensors', FILES[kind]())
  refused(lambda: import_torch(str(path), str(tmp_path / 'out'), heads=AttentionHeads(2)), 'w.safetensors')
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('shard', ['../../etc/passwd', '/etc/passwd', 'missing.safetensors', SHARDED, '..', None])
def test_index_that_leads_elsewhere_is_refused_by_its_name(shard: str | None, tmp_path: Path) -> None:
  (tmp_path / SHARDED).write_text(json.dumps({'weight_map': {'a': shard}}))
  refused(lambda: read_weights(tmp_path), SHARDED)


class Evil:
  """Unpickled by Python, it would write the marker."""

  def __reduce__(self) -> tuple:
    return os.system, (f'touch {MARKER}',)


@pytest.mark.parametrize('name', ['w.npz', 'w.npy'])
def test_pickled_object_in_numpys_files_is_refused(name: str, tmp_path: Path) -> None:
  pytest.importorskip('torch')  # its import would count as reading
  array = np.array([Evil()], dtype=object)
  with (tmp_path / name).open('wb') as file:
    (np.savez if name == 'w.npz' else np.save)(file, array)  # type: ignore[operator]  # both take a file and an array
  refused(lambda: read_weights(tmp_path / name), name)


# Checkpoints whose description is not that of their arrays. Their seal is sound: whoever makes one can seal it.

MODEL = TINY | {'classes': len(LABELS)}
DESCRIPTIONS: dict[str, dict[str, Any]] = {
    'width of a billion': {'model': MODEL | {'width': 10**9}}, 'negative depth': {'model': MODEL | {'depth': -1}},
    'another width': {'model': MODEL | {'width': 2 * MODEL['width']}},
    'width is text': {'model': MODEL | {'width': '16'}}, 'heads that do not divide': {'model': MODEL | {'heads': 3}},
    'image of 2**20': {'model': MODEL | {'image_size': 2**20}
                      }, 'a billion classes': {'model': MODEL | {'classes': 10**9}},
    'an argument that no model has': {'model': MODEL | {'evil': 1}}, 'model is a list': {'model': [1]},
    'model is missing': {'model': None}, 'a million labels': {'labels': [str(number) for number in range(10**6)]
                                                             }, 'labels are numbers': {'labels': [1] * len(LABELS)},
    'label that clears the screen': {'labels': ['\x1b[2J',
                                                *LABELS[1:]]}, 'label on two lines': {'labels': ['a\nb', *LABELS[1:]]},
    'tasks are text': {'tasks': 'evil'}, 'task of an unknown form': {'tasks': [{'evil': 1}]},
    'deviation of 0': {'statistics': {'mean': [0.5] * 3,
                                      'std': [0.0] * 3}}, 'statistics are text': {'statistics': 'evil'}}


@pytest.mark.parametrize('kind', DESCRIPTIONS)
def test_checkpoint_that_describes_another_model_is_not_loaded(kind: str, tmp_path: Path) -> None:
  params = random_params('classifier', MODEL)
  description = {'kind': 'classifier', 'model': MODEL, 'labels': LABELS} | DESCRIPTIONS[kind]
  save_weights(str(tmp_path / 'run'), params, description)
  refused(lambda: load_checkpoint(str(tmp_path / 'run')), str(tmp_path / 'run'))


def test_description_with_ten_million_labels_is_not_parsed(tmp_path: Path) -> None:
  save_weights(str(tmp_path / 'run'), random_params('classifier', MODEL), {'kind': 'classifier', 'model': MODEL})
  path = tmp_path / 'run' / 'checkpoints' / '0' / 'description' / 'metadata'
  path.write_text('{"kind": "classifier", "labels": [' + '"a",' * 10**7 + '"a"]}')
  refused(lambda: load_checkpoint(str(tmp_path / 'run')), str(tmp_path / 'run'))


# Records.


def spoil(data_dir: str, folder: Path, file: str, change: Callable[[Any], Any]) -> str:
  """A copy of Emo8's records with one JSON file changed; its data_dir."""
  target = Path(shutil.copytree(Path(data_dir) / 'emo8', folder / 'emo8'))
  path = next(target.glob(f'*/{file}'))
  changed = change(json.loads(path.read_text()))
  path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
  return str(folder)


def with_field(field: dict[str, Any]) -> Callable[[Any], Any]:

  def change(features: Any) -> Any:
    features['featuresDict']['features']['id'] = field
    return features

  return change


NESTED = json.dumps({'feature': {'type': 'evil.Evil', 'content': {}}})
SEQUENCE = 'tensorflow_datasets.core.features.sequence_feature.Sequence'
FIELDS = {
    'class of a folder': {'pythonClassName': 'evil.Evil',
                          'text': {}}, 'class in the older spelling': {'type': 'evil.Evil', 'content': {}},
    'class in the spelling of protobuf': {'python_class_name': 'evil.Evil', 'text': {}},
    'class in a list': {'pythonClassName': SEQUENCE, 'sequence': [{'feature': {'pythonClassName': 'evil.Evil'}}]
                       }, 'class in a text': {'pythonClassName': SEQUENCE, 'jsonFeature': {'json': NESTED}},
    'class in a text, as protobuf spells it': {'pythonClassName': SEQUENCE, 'json_feature': {'json': NESTED}},
    'class of TFDS that is none': {'pythonClassName': 'tensorflow_datasets.core.features.evil.Evil', 'text': {}},
    'message of another type': {'type': SEQUENCE, 'proto_cls': 'evil.Evil', 'content': '{}'}}


@pytest.mark.parametrize('kind', FIELDS)
def test_python_that_records_name_is_not_imported(kind: str, data_dir: str, tmp_path: Path) -> None:
  folder = spoil(data_dir, tmp_path, 'features.json', with_field(FIELDS[kind]))
  refused(lambda: open_split(folder, 'emo8', 'train'), 'emo8')


def of_train(**values: Any) -> Callable[[Any], Any]:

  def change(info: Any) -> Any:
    train = next(split for split in info['splits'] if split['name'] == 'train')
    train |= values
    return info

  return change


INFOS: dict[str, Callable[[Any], Any]] = {
    'a list': lambda info: [info], 'nested deeply': lambda info: '{"a":' * DEEP,
    'unknown file format': lambda info: info | {'fileFormat': 'evil'},
    'splits are text': lambda info: info | {'splits': 'evil'},
    'negative number of records': of_train(shardLengths=['-40']
                                          ), 'a billion records': of_train(shardLengths=['1000000000']),
    'a number that is text': of_train(shardLengths=['evil']), 'a million shards': of_train(shardLengths=['1'] * 10**6),
    'template that leads elsewhere': of_train(filepathTemplate='../../../etc/passwd-{SHARD_X_OF_Y}'
                                             ), 'template without a shard': of_train(filepathTemplate='{EVIL}')}


@pytest.mark.parametrize('kind', INFOS)
def test_hostile_description_of_records_is_refused(kind: str, data_dir: str, tmp_path: Path) -> None:
  folder = spoil(data_dir, tmp_path, 'dataset_info.json', INFOS[kind])
  refused(lambda: open_split(folder, 'emo8', 'train'), 'emo8')


def test_module_that_a_description_names_is_not_imported(data_dir: str, tmp_path: Path) -> None:
  folder = spoil(data_dir, tmp_path, 'dataset_info.json', lambda info: info | {'moduleName': 'evil'})
  assert open_split(folder, 'emo8', 'train').num_examples == 40


@pytest.mark.parametrize('label', ['\x1b[2Jawe', 'a\u202eb', 'a' * 300], ids=['escape', 'direction', 'length'])
def test_hostile_label_of_records_is_refused(label: str, data_dir: str, tmp_path: Path) -> None:
  target = Path(shutil.copytree(Path(data_dir) / 'emo8', tmp_path / 'emo8'))
  for path in target.glob('*/label*.labels.txt'):
    path.write_text('\n'.join([label, *path.read_text().splitlines()[1:]]))
  refused(lambda: open_split(tmp_path, 'emo8', 'train'), 'emo8')


# Raw folders.


@pytest.mark.parametrize('path', ['../outside.jpg', '/etc/passwd'])
def test_raw_folder_cannot_list_files_outside_of_it(path: str, data_dir: str, tmp_path: Path) -> None:
  source = Path(shutil.copytree(Path(data_dir).parent / 'raw' / 'emoset', tmp_path / 'emoset'))
  listed = storage.read_json(source / 'train.json')
  listed[0][-2] = path
  (source / 'train.json').write_text(json.dumps(listed))
  refused(lambda: build.build('emoset', source, tmp_path / 'data'), path)


def test_annotation_that_is_nested_deeply_is_a_reject(data_dir: str, tmp_path: Path) -> None:
  source = Path(shutil.copytree(Path(data_dir).parent / 'raw' / 'emoset', tmp_path / 'emoset'))
  (source / storage.read_json(source / 'train.json')[0][-1]).write_text('[' * DEEP)
  refused(lambda: build.build('emoset', source, tmp_path / 'data'), 'annotation')
