"""Reads and writes all files of this project, on a disk or in a Google Cloud Storage bucket (gs://).

A file appears whole or not at all. On a disk it is written under another name, flushed to the device, and renamed; in a
bucket an object appears whole by itself, and cannot be appended to.
"""

from collections.abc import Iterator
import contextlib
import errno
import functools
import importlib.util
import json
import os
from pathlib import Path
import re
import struct
import tempfile
import time
from typing import IO, Any

from etils import epath
import google_crc32c

from data_pipelines.errors import UserError, first_line
from data_pipelines.plain_text import decode_text, first_double
from data_pipelines.seals import add_seal, take_seal

BUCKET = 'gs://'
CHECKSUM = struct.Struct('<I')
_READ_TOGETHER = 2**24  # bytes
MAX_JSON = 32 << 20
"""The most bytes of JSON. The largest that is read is the index of a huge model's shards, some MB."""
_REWRITE_SECONDS = 60.0
_FAILURES = ('tensorflow.', 'google.', 'requests.', 'urllib3.')
"""Modules whose exceptions mean that a bucket could not be reached or refused."""
_REMEDIES = {
    os.strerror(number): remedy
    for numbers, remedy in (((errno.ENOSPC, errno.EDQUOT), 'make room and run the same command again'),
                            ((errno.EFBIG,), 'raise the limit of file sizes, such as by `ulimit -f unlimited`'),
                            ((errno.EROFS, errno.EACCES, errno.EPERM),
                             'choose another place, or change its permissions'),
                            ((errno.EMFILE, errno.ENFILE),
                             'raise the limit of open files, such as by `ulimit -n 4096`'),
                            ((errno.EIO, errno.ESTALE), 'check the disk, and run the same command again'))
    for number in numbers}
"""The remedies of the system's errors, by their text."""
_OTHER_PATH = 'correct the path, or choose another'


def is_remote(path: str | os.PathLike) -> bool:
  """Whether `path` lies in a bucket."""
  return '://' in os.fspath(path)


def checked_path(path: str, name: str, remote: bool = True) -> str:
  """Checks a path that a user gave, and expands `~`.

  Args:
    path: a local path, or one in a bucket.
    name: the flag or config key that it came from, for messages.
    remote: whether it may be in a bucket.

  Raises:
    UserError: it may not be in a bucket, or the kind of storage is not supported, or its library is not installed.
  """
  if not is_remote(path):
    return os.path.expanduser(path)
  if not remote:
    raise UserError(f'{name}={path} must be a local path: copy it with gcloud storage cp --recursive')
  if not path.startswith(BUCKET):
    raise UserError(f'{name}={path}: only a local path or {BUCKET}BUCKET/PATH can be used')
  if not _has_bucket_library():
    raise UserError(f"{name}={path} needs google-cloud-storage: pip install 'uniemox_jax[gcs]'")
  return path.rstrip('/')


def _has_bucket_library() -> bool:
  """Whether the library is installed that Orbax needs for gs://."""
  return importlib.util.find_spec('google.cloud') is not None and importlib.util.find_spec(
      'google.cloud.storage') is not None


def absolute(path: str | os.PathLike) -> epath.Path:
  """Expands `~` in `path`, and makes it absolute if it is on a disk.

  Raises:
    UserError: it is in a kind of storage that is not supported.
  """
  if is_remote(path) and not os.fspath(path).startswith(BUCKET):
    raise UserError(f'{os.fspath(path)}: only a local path or {BUCKET}BUCKET/PATH can be used')
  return epath.Path(path if is_remote(path) else os.path.abspath(os.path.expanduser(path)))


def exists(path: str | os.PathLike) -> bool:
  """Whether there is a file or folder. It raises what the storage raises, for which epath's own `exists` says no."""
  try:
    epath.Path(path).stat()
  except (FileNotFoundError, NotADirectoryError):
    return False
  return True


def size(path: str | os.PathLike) -> int:
  """The size of a file in bytes."""
  return epath.Path(path).stat().length


def read_bytes(path: str | os.PathLike) -> bytes:
  """Reads the whole file."""
  return epath.Path(path).read_bytes()


@contextlib.contextmanager
def parsing(path: str | os.PathLike, remedy: str = 'restore it, or delete it') -> Iterator[None]:
  """Surrounds the parsing of a file, and nothing else: parsers raise nearly anything at a file that is not theirs.

  Raises:
    UserError: in place of any other exception; the message names the file.
  """
  try:
    yield
  except UserError as error:
    if os.path.basename(path) in str(error):
      raise
    raise UserError(f'{os.fspath(path)}: {error}') from error
  except Exception as error:
    if is_remote(path) and explain(error):
      raise
    kinds = {KeyError: 'it lacks ', json.JSONDecodeError: 'it is not JSON: '}
    what = kinds.get(type(error), f'{type(error).__name__}: ') + first_line(error)
    raise UserError(f'{os.fspath(path)} is damaged, or missing ({what}): {remedy}') from error


def parse_json(path: str | os.PathLike) -> Any:
  """Parses the value in a JSON file.

  Raises:
    ValueError: it is not JSON, is too large, or has a key twice.
  """
  if (length := size(path)) > MAX_JSON:  # parsed, it would take some forty times as much memory
    raise ValueError(f'no JSON file here has {length:,} bytes')
  return json.loads(decode_text(read_bytes(path)), object_pairs_hook=_without_doubles)


def read_json(path: str | os.PathLike) -> Any:
  """Reads a file by `parse_json`, and takes off the seal of what this package wrote.

  Raises:
    UserError: it cannot be parsed, or does not agree with its seal; the message names the file.
  """
  with parsing(path):
    return take_seal(parse_json(path))


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """An object. Of a doubled key one program takes the first value, another the last: it is an error."""
  found = dict(pairs)
  if len(found) < len(pairs):
    raise ValueError(f'two values for the key {str(first_double(name for name, _ in pairs))[:80]!r}')
  return found


def read_json_object(path: str | os.PathLike) -> dict[str, Any]:
  """Reads a file by `read_json` that must hold an object.

  Raises:
    UserError: it does not; the message names the file.
  """
  value = read_json(path)
  if not isinstance(value, dict):
    raise UserError(f'{os.fspath(path)} is damaged, it holds no JSON object: restore it, or delete it')
  return value


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[IO[bytes]]:
  """Opens a file to write, which becomes `path` at the end, whole, or nothing after an error. Makes its folder.

  Several processes may write the same one.

  Raises:
    OSError: it cannot be written.
  """
  if is_remote(path):
    with tempfile.NamedTemporaryFile() as file:
      yield file
      file.flush()
      epath.Path(file.name).copy(path, overwrite=True)
    return
  folder, name = os.path.split(os.fspath(path))
  os.makedirs(folder or '.', exist_ok=True)
  with _naming(path):
    handle, temporary = tempfile.mkstemp(dir=folder or '.', prefix=f'.{name}.')
    try:
      with open(handle, 'wb') as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      share(temporary)
      os.replace(temporary, path)
    except BaseException:
      Path(temporary).unlink(missing_ok=True)
      raise


def share(path: str | os.PathLike) -> None:
  """Gives a file on a disk the permissions of any new one, by the umask."""
  os.chmod(path, 0o666 & ~_umask())


@contextlib.contextmanager
def _naming(path: str | os.PathLike) -> Iterator[None]:
  """Adds the file's name to errors of the system that have none, or that of a temporary."""
  try:
    yield
  except OSError as error:
    error.filename = os.fspath(path)
    raise


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
  """Writes a `new_file` with this content."""
  if is_remote(path):
    epath.Path(path).write_bytes(content)
    return
  with new_file(path) as file:
    file.write(content)


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a text in UTF-8 by `write_bytes`."""
  write_bytes(path, text.encode())


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes a value as indented JSON by `write_text`."""
  write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + '\n')


def remove(path: str | os.PathLike) -> None:
  """Removes a file if it exists."""
  epath.Path(path).unlink(missing_ok=True)


def remove_folder(path: str | os.PathLike) -> None:
  """Removes a folder with all in it, if it exists."""
  epath.Path(path).rmtree(missing_ok=True)


def open_local(path: str | os.PathLike, mode: str = 'rb', **text: Any) -> Any:
  """Opens a file on a disk by Python's `open`: one that only grows, or that another library reads in parts."""
  with _naming(path):
    return open(path, mode, **text)


def write_sealed(path: str | os.PathLike, value: dict[str, Any]) -> None:
  """Writes an object that this package reads again by `write_json`, with its seal."""
  write_json(path, add_seal(value))


def checksum_at_end(file: IO[bytes]) -> int | None:
  """The `CHECKSUM` at the end of a file, if it is the CRC-32C of all before; few bytes are in memory at a time."""
  crc, pending = 0, b''
  for part in iter(lambda: file.read(_READ_TOGETHER), b''):
    pending += part
    crc, pending = google_crc32c.extend(crc, pending[:-CHECKSUM.size]), pending[-CHECKSUM.size:]
  return crc if pending == CHECKSUM.pack(crc) else None


def temporary_folder() -> tempfile.TemporaryDirectory:
  """Makes a local folder, which its `cleanup` or the end of its context removes."""
  return tempfile.TemporaryDirectory()


class GrowingFile:
  """A text file to which lines are added. A bucket cannot append, so there the file is written now and then."""

  def __init__(self, path: str, text: str):
    """Writes the file with its first lines."""
    self._path, self._text, self._written = path, text, time.monotonic()
    write_text(path, text)

  def add(self, text: str) -> None:
    """Appends text; in a bucket a minute later at the latest, if more comes."""
    if is_remote(self._path):
      self._text += text
      if time.monotonic() - self._written > _REWRITE_SECONDS:
        self.flush()
      return
    with _naming(self._path), open(self._path, 'a', encoding='utf-8') as file:
      file.write(text)

  def flush(self) -> None:
    """Writes what is not in the bucket yet."""
    if is_remote(self._path):
      write_text(self._path, self._text)
      self._written = time.monotonic()


@functools.cache
def _umask() -> int:
  """The permissions that new files lack; the system can only be asked by setting it."""
  mask = os.umask(0)
  os.umask(mask)
  return mask


@contextlib.contextmanager
def whole_folder(folder: str | os.PathLike) -> Iterator[Path]:
  """Makes a local temporary folder that becomes `folder`, absent or empty until then, at the end, or nothing after an
  error.

  In a bucket its files are copied one by one, in the order of their names; a kill in between leaves some of them.
  """
  if is_remote(folder):
    with tempfile.TemporaryDirectory() as scratch:
      partial = Path(scratch) / 'new'
      partial.mkdir()
      yield partial
      _upload(partial, epath.Path(folder))
    return
  target = Path(folder)
  target.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=target.parent, prefix=f'.{target.name}.') as scratch:
    partial = Path(scratch) / 'new'
    partial.mkdir()
    yield partial
    os.rename(partial, target)


def _upload(source: Path, target: epath.Path) -> None:
  for path in sorted(source.rglob('*')):
    if path.is_file():
      (target / path.relative_to(source).as_posix()).write_bytes(path.read_bytes())


def explain(error: BaseException) -> str | None:
  """Explains in one line a failure of storage that some library raised; None for any other error.

  Libraries pack the system's error into their own, so causes and texts are searched too.
  """
  cause: BaseException | None = error
  while cause is not None:
    if f'{type(cause).__module__}.'.startswith(_FAILURES) and not any(text in str(cause) for text in _REMEDIES):
      said = first_line(Exception(str(cause)))
      return (
          f'storage failed ({type(cause).__name__}: {said}): check the bucket, the network and '
          '`gcloud auth application-default login`, and run the same command again')
    if isinstance(cause, OSError) and cause.errno is not None:
      said = f"{cause.filename or 'a file'}: {cause.strerror}"
      return f'{said}: {_REMEDIES.get(str(cause.strerror), _OTHER_PATH)}'
    if number := re.search(r'\(os error (\d+)\)', str(cause)):  # As libraries in Rust write it.
      return f'{first_line(Exception(str(cause)))}: {_REMEDIES.get(os.strerror(int(number[1])), _OTHER_PATH)}'
    if found := [text for text in _REMEDIES if text in str(cause)]:
      return f'{first_line(Exception(str(cause)))} ({found[0]}): {_REMEDIES[found[0]]}'
    cause = cause.__cause__ or cause.__context__
  return None
