"""Reads and writes ONNX files of this package: a graph whose metadata hold, as JSON, all that is needed to use it.

onnxruntime runs the graph. A file is opened only if it is what was written: nothing in it may name code, numbers of
another file than its own `.data`, or an operator that no export here has.
"""

from collections.abc import Mapping
import hashlib
import json
from pathlib import Path
import re
import reprlib
from typing import Any, NamedTuple

from data_pipelines import checksums, storage
from data_pipelines.errors import UserError, first_line, join_names
from data_pipelines.host_copies import host_copy
from data_pipelines.seals import add_seal, take_seal

ENDING = '.onnx'
DATA = '.data'
"""What is appended to the file's name to name the file beside it that holds the weights of a large model."""
MAX_INLINE = 1_900_000_000
"""The most bytes of a graph with its weights in it; a protobuf message has at most 2 GiB."""
FORMAT = 1
"""The format of the JSON. Readers take no other."""
KEY = 'uniemox_jax'
"""The key of the metadata."""
OPERATORS = {
    'Add', 'Concat', 'DequantizeLinear', 'Div', 'Gather', 'Gelu', 'Gemm', 'Identity', 'LayerNormalization', 'MatMul',
    'Mul', 'Pad', 'QuantizeLinear', 'ReduceMean', 'ReduceSumSquare', 'Reshape', 'Sigmoid', 'Slice', 'Softmax', 'Sqrt',
    'Tanh', 'Transpose'}
"""The standard's operators that exports have. None runs a graph within the graph, or code of its own."""
START = rb'\x08[\x01-\x0d][\x12\x1a:B](?!.{5}\{)'
"""How a file starts: with the version, and then any field. That is not the length of a safetensors header."""
_AGAIN = 'fetch it, or export it, again'
_REMEDY = 'make one with: uniemox export_torch --checkpoint=RUN --to=onnx --out=FOLDER'


class OnnxFile(NamedTuple):
  """An opened file.

  session: onnxruntime's, on the CPU. description: the one that `write_onnx` was given. sha256: the file's, 64 hex
  digits.
  """

  session: Any
  description: dict[str, Any]
  sha256: str


def check_onnx_installed(source: str) -> None:
  """Raises UserError about `source` unless the packages for ONNX are installed."""
  try:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
  except ImportError as error:
    raise UserError(f"{source} needs onnx and onnxruntime: pip install 'uniemox_jax[onnx]'") from error


def find_onnx(source: str) -> Path | None:
  """Finds the ONNX file that a user named, by its name, by how it starts, or as the only one of an export's folder.

  Of one in a bucket it is the host's copy, with its `.data` beside it; None if there is none.

  Raises:
    UserError: a file of such a name is not there, or the folder has several.
  """
  path = storage.absolute(source)
  if source.lower().endswith(ENDING):
    if not storage.exists(path):
      raise UserError(f"'{source}' does not exist: correct the path, or {_REMEDY}")
    return host_copy(str(path), path.name + DATA)
  if path.is_dir() and not (path / 'config.json').exists():
    found = sorted(child.name for child in path.iterdir() if child.suffix == ENDING)
    if len(found) > 1:
      raise UserError(f'{source} holds {join_names(found)}: give one of them, such as {path / found[0]}')
    return host_copy(str(path / found[0]), found[0] + DATA) if found else None
  if storage.is_remote(source) or not path.is_file():
    return None
  with storage.open_local(path) as file:
    return Path(path) if re.match(START, file.read(9), re.DOTALL) else None


def write_onnx(path: Path, model: Any, description: Mapping[str, Any]) -> None:
  """Writes a graph and its description; weights that do not fit into the file go beside it, into `path` + `DATA`.

  Args:
    path: the destination, in a folder that exists.
    model: an `onnx.ModelProto` of the operators in `OPERATORS`. Its large weights are taken out of it.
    description: plain values for JSON; its 'version' is that of this package.
  """
  import onnx
  data = path.with_name(path.name + DATA)
  weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
  if weights > MAX_INLINE:
    onnx.save_model(model, str(path), save_as_external_data=True, location=data.name)
  else:
    storage.write_bytes(path, model.SerializeToString())
  digests = {'graph_sha256': checksums.sha256_of(path)}
  if data.exists():
    digests['data_sha256'] = checksums.sha256_of(data)
  entry = add_seal({'format': FORMAT, **digests, **description})
  tail = onnx.ModelProto()
  tail.metadata_props.add(key=KEY, value=json.dumps(entry, ensure_ascii=False))
  # Messages that follow each other are one, so the metadata can hold the checksum of all before it.
  with storage.open_local(path, 'ab') as file:
    file.write(tail.SerializeToString())


def read_onnx(path: Path) -> OnnxFile:
  """Opens a file that `write_onnx` wrote.

  Raises:
    UserError: onnxruntime is missing; the file is damaged, of another maker or another version; or it has an operator
      or refers to a file that no export has.
  """
  check_onnx_installed(str(path))
  import onnx
  content = storage.read_bytes(path)
  if not content:
    raise UserError(f'{path} is empty: {_AGAIN}')
  try:
    model = onnx.ModelProto.FromString(content)
  except Exception as error:  # protobuf's errors share no base of their own
    raise UserError(f'{path} is not a whole ONNX file ({first_line(error)}): {_AGAIN}') from error
  description = _read_description(path, model)
  tail = onnx.ModelProto()
  tail.metadata_props.extend(model.metadata_props)
  _check_content(path, content, tail.SerializeToString(), description)
  _check_graph(path, model, description)
  digest = hashlib.sha256(content).hexdigest()
  del content, model  # onnxruntime reads the file itself
  return OnnxFile(open_session(path), description, digest)


def open_session(path: Path) -> Any:
  """Opens onnxruntime's session of a file, on the CPU.

  Raises:
    UserError: onnxruntime refuses it.
  """
  import onnxruntime
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3  # errors
  # Threads that wait would keep the cores from those that read images.
  options.add_session_config_entry('session.intra_op.allow_spinning', '0')
  try:
    return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
  except Exception as error:  # onnxruntime's errors share no other base
    raise UserError(f'{path} is refused by onnxruntime ({first_line(error)}): {_AGAIN}') from error


def _read_description(path: Path, model: Any) -> dict[str, Any]:
  entries = [entry.value for entry in model.metadata_props if entry.key == KEY]
  if not entries:
    raise UserError(f'{path} is ONNX from elsewhere, which does not say its classes and how it wants images: {_REMEDY}')
  with storage.parsing(path, _AGAIN):
    if len(entries) > 1 or not isinstance(description := take_seal(json.loads(entries[0])), dict):
      raise ValueError('its metadata is not one JSON object')
    found = description['format']
  if found != FORMAT:
    newer = type(found) is int and found > FORMAT
    raise UserError(
        f'{path} has the format {reprlib.repr(found)} of uniemox_jax {reprlib.repr(description.get("version"))}, this '
        f'version reads {FORMAT}: {"pip install --upgrade uniemox_jax" if newer else "export it again"}')
  return description


def _check_content(path: Path, content: bytes, tail: bytes, description: Mapping[str, Any]) -> None:
  """Raises UserError unless graph and weights are those that were written."""
  graph = memoryview(content)[:-len(tail)]
  if not content.endswith(tail) or hashlib.sha256(graph).hexdigest() != description.get('graph_sha256'):
    raise UserError(f'{path} is not what was written, it was damaged or changed: {_AGAIN}')
  data = path.with_name(path.name + DATA)
  if 'data_sha256' in description and (not data.is_file() or checksums.sha256_of(data) != description['data_sha256']):
    raise UserError(f'{data} is missing, or is not what was written with {path.name}: {_AGAIN}')


def _check_graph(path: Path, model: Any, description: Mapping[str, Any]) -> None:
  """Raises UserError for what no export has: other operators, functions, or weights in other files."""
  strange = {node.op_type for node in model.graph.node if node.domain or node.op_type not in OPERATORS}
  strange |= {function.name for function in model.functions}
  if strange:
    raise UserError(f'{path} has operators that no export has ({reprlib.repr(min(strange))}): {_REMEDY}')
  sparse = model.graph.sparse_initializer
  tensors = [*model.graph.initializer, *(part for weight in sparse for part in (weight.values, weight.indices))]
  places = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == 'location'}
  if others := places - ({path.name + DATA} if 'data_sha256' in description else set()):
    raise UserError(f'{path} takes weights from {reprlib.repr(min(others))}, which is not its own: {_REMEDY}')
