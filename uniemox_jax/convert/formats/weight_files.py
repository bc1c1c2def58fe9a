"""Reads weight files of every published form, recognised by their content, as one flat dict of PyTorch names."""

from collections import defaultdict
from collections.abc import Iterator
import json
from pathlib import Path
import re
import stat
from typing import Any, NamedTuple

from flax import serialization, traverse_util
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors.numpy import save_file

from data_pipelines import storage
from data_pipelines.errors import UserError
from uniemox_jax.convert.formats import npz_files, onnx_files, torch_files

SAFETENSORS = 'model.safetensors'
SHARDED = 'model.safetensors.index.json'
MSGPACK = 'flax_model.msgpack'
BIN = 'pytorch_model.bin'
SHARDED_BIN = 'pytorch_model.bin.index.json'
FORMS = (SAFETENSORS, SHARDED, 'open_clip_model.safetensors', MSGPACK, BIN, SHARDED_BIN, 'open_clip_pytorch_model.bin')
"""The files that may hold a folder's weights, the preferred first: those that need no torch."""
INTEGERS = r'(.*\.)?(position_ids|num_batches_tracked|n_averaged|input_resolution|context_length|vocab_size)'
"""A regular expression of buffers that are integers in published files."""
INFINITE = r'(.*\.)?attn_mask'
"""A regular expression of buffers that hold -inf on purpose."""
MAX_HEADER = 100_000_000
"""The most bytes of a header, which is safetensors' own limit."""
MAX_TENSORS = 2**16
MAX_MAPPED = 64 << 20
"""How many bytes of a safetensors file are mapped into memory at the same time, beside one more tensor."""
MAX_GROWTH = 8
"""The most float32 bytes per byte of file: float8 grows four times, and tied weights double."""
NOT_WEIGHTS = {
    rb'\Z': 'is empty: fetch it again',
    rb'\s*<': 'is a web page, not weights: fetch it again, from the address of the file itself',
    rb'\s*\{': 'is JSON, not weights: give the folder it lies in',
    rb'version https://git-lfs': 'is a git-lfs pointer, not the weights it points to: run git lfs pull',
    rb'.{257}ustar': 'is a tar archive: unpack it, and give the file of weights in it',
    rb'\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ': 'is a packed archive: unpack it, and give the file of weights in it',
    rb'\x93NUMPY': 'is a single NumPy array: save weights by name, as .npz or safetensors',
    rb'\x89HDF': 'is HDF5, as Keras saves: ask for safetensors or a PyTorch file',
    rb'GGUF|ggml': 'is a quantised file of llama.cpp: ask for the original weights',
    onnx_files.START:
        'is ONNX, which only predict, app and load_classifier run: ask for the weights that it was made from',}
"""What another kind of file is, by how it starts."""

Tensors = Iterator[tuple[str, str, np.ndarray]]


class Weights(NamedTuple):
  """What a file or folder holds.

  flat: name -> array in PyTorch layout, float32 except for a few integer buffers (`INTEGERS`), all finite, none empty.
    Each has memory of its own (tied ones share): popping a name frees it. Some are read-only.
    Names are the state dict's without what wrapped its modules, see `torch_files.bare_name`. Of a checkpoint of several
    state dicts one is taken, see `torch_files.OWN_NAMES`, and those that are alike are not, such as its averages; the
    key of any other becomes a prefix: {'model': A, 'model_ema': A, 'att_fusion': B, 'optimizer': C, 'epoch': 3}
    gives A's names, and 'att_fusion.' + B's names.
  path: the file that was read; of shards, their index.
  metadata: what is stored beside the tensors. Of PyTorch checkpoints: numbers and strings ('epoch'), one level of them
    ('args', also of a Namespace, as a dict), 'keys', the keys of the state dicts ([] for a bare one), 'chosen', the one
    that was taken, and 'left_out', the names of everything else ('optimizer', 'args.lr_schedule'). Of safetensors: the
    header's `__metadata__`. Of sharded forms: the index's 'metadata'. Of Google's ViT: see `npz_files`. Else {}.
  form: 'safetensors', 'msgpack', 'npz', 'torch' or 'torchscript' (as OpenAI publishes CLIP).
  notes: lines for the user: what was chosen, and what was done to the names.
  """

  flat: dict[str, np.ndarray]
  path: Path
  metadata: dict[str, Any]
  form: str
  notes: list[str]


def read_weights(path: Path, key: str = '') -> Weights:
  """Reads the weights of a file, whatever its name, or of a Hugging Face folder.

  Files may be safetensors, Flax msgpack, NumPy's .npz, `torch.save` and `torch.jit.save`; and the index of shards,
  whose name has to end in .index.json. Nothing in a file is executed. `key` chooses among a checkpoint's state dicts.

  Raises:
    UserError: the file is not found or not readable, is damaged, has another form, needs code to be run, or holds NaN,
      infinity, integers, complex or empty tensors, or two tensors of one name.
  """
  try:
    if path.is_dir():
      found = [path / name for name in FORMS if (path / name).is_file()]
      if not found:
        raise UserError(f'{path} is a folder without weights: looked for {", ".join(FORMS)}')
      path = found[0]
    size, form, metadata, tensors = _read_index(path) if path.name.endswith('.index.json') else _open(path, key)
    notes: list[str] = []
    if form == 'torch' and path.suffix != '.json' and (others := metadata.pop('others')):
      counts = ', '.join(f"{count} under '{name}'" for name, count in others.items())
      notes.append(
          f"{path}: the tensors under '{metadata['chosen']}' are taken, {counts} are not: import_torch "
          f'--key={next(iter(others))} takes those')
    return Weights(_flatten(path, size, tensors, notes), path, metadata, form, notes)
  except OSError as error:
    raise UserError(
        f'{error.filename or path} cannot be read ({error.strerror or error}): check the path and its '
        'permissions') from error


def _open(path: Path, key: str = '') -> tuple[int, str, dict[str, Any], Tensors]:
  """Size in bytes, form, metadata, and the tensors as prefix, name and array."""
  status = path.stat()
  if not stat.S_ISREG(status.st_mode):
    raise UserError(f'{path} is not a file: give a file of weights, or the folder of a model')
  with storage.open_local(path) as file:
    head = file.read(512)
  if int.from_bytes(head[:8], 'little') <= MAX_HEADER and head[8:9] == b'{':
    return status.st_size, 'safetensors', *_read_safetensors(path)
  if head.startswith(torch_files.ZIP) and npz_files.is_npz(path):
    return status.st_size, 'npz', *npz_files.read_npz(path, MAX_GROWTH * status.st_size + (1 << 20))
  if head.startswith(torch_files.ZIP) or head[:1] == b'\x80' and head[1:2] in (b'\2', b'\3', b'\4', b'\5'):
    return status.st_size, *torch_files.read_torch(path, key)
  if re.match(rb'[\x80-\x8f][\xa0-\xdb]|[\xde\xdf]', head):  # a map: of few entries, the first name following; of many
    return status.st_size, 'msgpack', {}, _read_msgpack(path)
  for start, problem in NOT_WEIGHTS.items():
    if re.match(start, head, re.DOTALL):
      raise UserError(f'{path} {problem}')
  raise UserError(
      f'{path} starts with {head[:8]!r}, as neither safetensors, Flax msgpack nor PyTorch files do: fetch it again')


def _flatten(path: Path, size: int, tensors: Tensors, notes: list[str]) -> dict[str, np.ndarray]:
  flat: dict[str, np.ndarray] = {}
  problems, grown, wrappers = defaultdict(list), 0, set()
  for prefix, given, array in tensors:
    name, wrapper = torch_files.bare_name(str(given))
    name = prefix + name
    wrappers |= wrapper
    _check_count(path, len(flat) + 1)
    grown += 4 * array.size
    if grown > MAX_GROWTH * size + (1 << 20):
      raise UserError(f'{path} declares more numbers than its {size} bytes can hold: fetch it again')
    if jnp.issubdtype(array.dtype, jnp.floating):  # bfloat16, too
      with np.errstate(over='ignore'):  # an infinite result is an error below
        array = array.astype(np.float32, copy=False)
    problem = 'named like another once what wraps a module is removed' if name in flat else _tensor_problem(name, array)
    if problem:
      problems[problem].append(name)
    flat[name] = array
  if wrappers:
    notes.append(f"{path}: names are taken without {', '.join(sorted(wrappers))}")
  if problems:
    found = ', '.join(f'{len(names)} {problem} (first: {names[0]})' for problem, names in problems.items())
    raise UserError(f'{path} holds tensors that no weights are: {found}: use another copy')
  return flat


def _check_count(path: Path, tensors: int) -> None:
  if tensors > MAX_TENSORS:
    raise UserError(f'{path} holds more than {MAX_TENSORS:,} tensors, as no model here does: use another file')


def _tensor_problem(name: str, array: np.ndarray) -> str:
  if not array.size:
    return f'of no elements, shape {array.shape}'
  if array.dtype.kind in 'iub' and re.fullmatch(INTEGERS, name):
    return ''
  if array.dtype != np.float32:
    return f'of type {array.dtype} instead of floating point'
  return '' if np.isfinite(array).all() or re.fullmatch(INFINITE, name) else 'with NaN or infinity'


def _read_safetensors(path: Path) -> tuple[dict[str, Any], Tensors]:
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      names = list(file.keys())
      _check_count(path, len(names))
      return file.metadata() or {}, _safetensors(path, names)
  except safetensors.SafetensorError as error:
    raise UserError(_damaged(path, 'safetensors', error)) from error


def _safetensors(path: Path, names: list[str]) -> Tensors:
  left = iter(names)
  while (name := next(left, None)) is not None:
    # Opened again now and then: one mapping would keep every page read so far, a second copy of the file in memory.
    with safetensors.safe_open(path, framework='numpy') as file:
      mapped = 0
      while name is not None:
        try:
          array = file.get_tensor(name)
        except AttributeError as error:
          raise UserError(f'{path}: {name} is of a type that numpy lacks ({error}): save it as float32') from error
        yield '', name, array
        mapped += array.nbytes
        name = next(left, None) if mapped < MAX_MAPPED else None


def _read_index(index: Path) -> tuple[int, str, dict[str, Any], Tensors]:
  try:
    contents = json.loads(index.read_text(encoding='utf-8'))
    names, metadata = dict(contents['weight_map']), dict(contents.get('metadata') or {})
    shards = sorted(set(names.values()))
    missing = [shard for shard in shards if Path(shard).name != shard or not (index.parent / shard).is_file()]
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise UserError(_damaged(index, 'index of shards', error)) from error
  if missing or not shards:
    raise UserError(f'{index} names files that are not beside it: {", ".join(missing) or "none at all"}')
  size = sum((index.parent / shard).stat().st_size for shard in shards)
  return size, 'torch' if '.bin.' in index.name else 'safetensors', metadata, _sharded(index, names, shards)


def _sharded(index: Path, names: dict[str, str], shards: list[str]) -> Tensors:
  for shard in shards:
    absent = {name for name, file in names.items() if file == shard}
    for prefix, name, array in _open(index.parent / shard)[-1]:
      absent.discard(name)
      yield prefix, name, array
    if absent:
      raise UserError(
          f'{index.parent / shard} lacks {len(absent)} tensors that {index.name} says it has '
          f'(first: {min(absent)}): fetch both again')


def _read_msgpack(path: Path) -> Tensors:
  """As transformers 4 wrote it: nested Flax names and layouts -> PyTorch's."""
  try:
    # Mapped, not read: the bytes of all weights would be in memory twice.
    nested = serialization.msgpack_restore(np.memmap(path, np.uint8, 'r'))  # type: ignore[arg-type]  # any buffer
    leaves = [_from_flax(names, np.asarray(leaf)) for names, leaf in traverse_util.flatten_dict(nested).items()]
  except Exception as error:  # on a damaged file msgpack raises a dozen unrelated types
    raise UserError(_damaged(path, 'Flax msgpack', error)) from error
  yield from leaves


def _from_flax(names: tuple[str, ...], array: np.ndarray) -> tuple[str, str, np.ndarray]:
  *scope, leaf = names
  if leaf == 'kernel':  # (in, out) -> (out, in); convolutions HWIO -> OIHW
    array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
  leaf = 'weight' if leaf in ('kernel', 'scale', 'embedding') else leaf
  return '', '.'.join([*scope, leaf]), array


def _damaged(path: Path, kind: str, error: Exception) -> str:
  reason = ' '.join(str(error).split())[:120]
  return f'{path} is not a whole {kind} file ({type(error).__name__}: {reason}): fetch it again'


def write_safetensors(path: Path, flat: dict[str, Any]) -> None:
  """Writes name -> array as safetensors that PyTorch libraries load."""
  # save_file ignores strides: a transposed view would be written scrambled. (ascontiguousarray makes scalars 1-D.)
  save_file({name: np.asarray(array, order='C') for name, array in flat.items()}, path, metadata={'format': 'pt'})
  storage.share(path)  # the library lets nobody else read it
