"""A config key has one home: a dataclass field that holds its name, type, default, check and meaning.

A config file gives `config_dict(CLASS)` with other values, flags override its keys, and `parse` checks it and returns
the dataclass, which is what the code reads. docs/config.md is generated from the same fields.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import math
from typing import Any, TypeVar, get_args, get_type_hints

from ml_collections import ConfigDict

from data_pipelines import storage
from data_pipelines.errors import UserError

T = TypeVar('T')


def key(
    default: Any, meaning: str, *, choices: tuple[str, ...] = (), least: float = -math.inf, most: float = math.inf,
    above: float = -math.inf, below: float = math.inf, path: bool = False) -> Any:
  """A config key: its default, what it means, and the values that it may have; `above` and `below` are exclusive.

  `path` says that the value may be a path, local or in a bucket.
  """
  limits = {'choices': choices, 'least': least, 'most': most, 'above': above, 'below': below}
  return dataclasses.field(default=default, metadata={'meaning': meaning, 'path': path, 'limits': limits})


def key_of(kind: type, name: str, default: Any = dataclasses.MISSING) -> Any:
  """Repeats the key of another class, with its check and meaning, and with another default if one is given."""
  field = _fields(kind)[name]
  return dataclasses.field(
      default=field.default if default is dataclasses.MISSING else default, metadata=field.metadata)


def section(kind: type, **defaults: Any) -> Any:
  """A section: a dataclass of keys, with some other defaults."""
  return dataclasses.field(default_factory=lambda: kind(**defaults))


def config_dict(kind: type) -> ConfigDict:
  """A config with every key of `kind` at its default, for a config file to change."""
  return ConfigDict(dataclasses.asdict(kind()))


def parse(kind: type[T], config: ConfigDict, prefix: str = '') -> T:
  """Checks a config, or a section whose keys have a `prefix`, and returns its values.

  A key that is left out has its default; a section that may be None (`X | None`) is None.

  Raises:
    UserError: a key that is unknown, has another type, or is out of range; or keys that do not go together.
  """
  parsed = _parse(kind(), config, prefix)
  if hasattr(parsed, 'check'):
    parsed.check()
  return parsed


def _parse(default: T, config: Any, prefix: str) -> T:
  kind = type(default)
  if not isinstance(config, ConfigDict):
    raise UserError(f"config key '{prefix[:-1]}' is {config!r}: it must be a section with the keys {_known(kind)}")
  fields, types = _fields(kind), get_type_hints(kind)
  values: dict[str, Any] = {
      name: None for name, wanted in types.items() if name not in config and type(None) in get_args(wanted)}
  for name in config:
    if name not in fields:
      raise UserError(
          f"config key '{prefix}{name}' is unknown and would do nothing: remove it; known here: {_known(kind)}")
    old = getattr(default, name)
    if dataclasses.is_dataclass(old):
      values[name] = _parse(old, config[name], f'{prefix}{name}.')
    else:
      values[name] = _value(prefix + name, config[name], types[name], fields[name].metadata)
  return dataclasses.replace(default, **values)  # type: ignore[type-var]


def _value(name: str, value: Any, wanted: type, metadata: Mapping[str, Any]) -> Any:
  if wanted is float and type(value) is int:
    value = float(value)
  if type(value) is not wanted:
    raise UserError(f"config key '{name}' is {value!r}: it must be of type {wanted.__name__}")
  if metadata.get('path'):
    value = storage.checked_path(str(value), f'--config.{name}')
  if metadata and (problem := _problem(value, **metadata['limits'])):
    shown = f"'{value}'" if wanted is str else value
    raise UserError(f"config key '{name}' is {shown}: {problem}")
  return value


def _problem(value: Any, choices: tuple[str, ...], least: float, most: float, above: float, below: float) -> str:
  """What to choose instead of a value that is not allowed, else an empty text."""
  if choices:
    return '' if value in choices else f'choose {" or ".join(choices)}'
  if not isinstance(value, int | float) or (least <= value <= most and above < value < below):
    return ''
  return f'it must be {range_text(least, most, above, below)}'


def range_text(least: float, most: float, above: float, below: float) -> str:
  """Puts a range into words: 'at least 1 and below 2'."""
  limits = (('at least', least), ('above', above), ('at most', most), ('below', below))
  return ' and '.join(f'{word} {limit:g}' for word, limit in limits if math.isfinite(limit)) or 'a finite number'


def _fields(kind: type) -> dict[str, dataclasses.Field]:
  return {field.name: field for field in dataclasses.fields(kind)}


def _known(kind: type) -> str:
  return ', '.join(sorted(_fields(kind)))


def refuse_unused(config: Any, names: tuple[str, ...], reason: str) -> None:
  """Raises UserError if a dotted key that the run does not read has another value than its default."""
  for name in names:
    *sections, last = name.split('.')
    holder, default = config, type(config)()
    for part in sections:
      holder, default = getattr(holder, part), getattr(default, part)
    if getattr(holder, last) != getattr(default, last):
      raise UserError(
          f"config key '{name}' is {getattr(holder, last)} and would do nothing, since {reason}: "
          f'leave it at {getattr(default, last)}')


def key_rows(kind: type, prefix: str = '', default: Any = None) -> Iterator[tuple[str, str, str, str]]:
  """Yields the dotted name, default, values and meaning of every key, for docs/config.md."""
  default, types = default or kind(), get_type_hints(kind)
  for name, field in _fields(kind).items():
    value = getattr(default, name)
    if dataclasses.is_dataclass(value):
      yield from key_rows(type(value), f'{prefix}{name}.', value)
    elif meaning := field.metadata.get('meaning', ''):
      choices, *limits = field.metadata['limits'].values()
      values = ', '.join(choices) or ('' if types[name] in (bool, str, tuple) else range_text(*limits))
      yield prefix + name, f'{value}', f'{types[name].__name__}{": " if values else ""}{values}', meaning
