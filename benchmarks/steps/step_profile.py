"""Where a compiled step's time goes on a CPU, by kind of operation: a trace of the run, read with the program's text.

XLA fuses operations, and the trace names fusions. The program's text says what each consists of, and which Python
function asked for every part. A fusion counts as the first kind in `KINDS` that any part of it is.
"""

import collections
from collections.abc import Callable
import functools
import glob
import re
import tempfile

import jax

PRODUCT, OPTIMIZER, LAYOUT, REST = 'dense layers: matrix product', 'optimizer', 'copies and gathers', 'rest'
KINDS = (PRODUCT, 'attention: matrix product', 'attention: softmax', 'GELU', 'LayerNorm', OPTIMIZER, LAYOUT, REST)
_MOVES = ('transpose', 'copy', 'gather', 'scatter', 'concatenate', 'pad', 'dynamic-slice', 'dynamic-update-slice')


class Program:
  """What each instruction of a compiled program's text is for."""

  def __init__(self, text: str):
    functions = dict(re.findall(r'^(\d+) "(.*)"$', _table(text, 'FunctionNames'), re.M))
    places = re.findall(r'^(\d+) \{.*?function_name_id=(\d+)', _table(text, 'FileLocations'), re.M)
    function_at = {place: functions[name] for place, name in places}
    frames = re.findall(r'^(\d+) \{file_location_id=(\d+) parent_frame_id=(\d+)', _table(text, 'StackFrames'), re.M)
    self._frames = {frame: (function_at[place], str(int(parent) - 1)) for frame, place, parent in frames}
    self._bodies: dict[str, list[str]] = {}
    self._lines: dict[str, str] = {}
    body: list[str] = []
    for line in text.splitlines():
      if opened := re.match(r'(?:ENTRY )?%([\w.-]+) \(.*\{$', line):
        body = self._bodies.setdefault(opened[1], [])
      elif named := re.match(r'  (?:ROOT )?%([\w.-]+) = ', line):
        self._lines[named[1]] = line
        body.append(line)

  def kind(self, name: str) -> str | None:
    """One of `KINDS`; None for what is no instruction of the program, or only calls others."""
    line = self._lines.get(name)
    if line is None or _operation(line) in ('while', 'call', 'conditional'):
      return None
    called = re.search(r'calls=%([\w.-]+)', line)
    parts = [part for part in self._bodies.get(called[1], []) if _operation(part) != 'parameter'] if called else []
    kinds = {self._kind_of_line(part) for part in parts or [line]}
    return next(kind for kind in KINDS if kind in kinds)

  def _kind_of_line(self, line: str) -> str:
    operation, functions = _operation(line), self._stack(line)
    attends = 'Attention.__call__' in functions and 'Linear.__call__' not in functions
    if operation in ('dot', 'custom-call'):
      return KINDS[1] if attends else PRODUCT
    if attends and operation in ('exponential', 'reduce', 'divide', 'subtract', 'multiply'):
      return KINDS[2]
    if functions & {'gelu', 'quick_gelu'}:
      return KINDS[3]
    if any('LayerNorm' in function or 'layer_norm' in function for function in functions):
      return KINDS[4]
    if any(function.startswith(('scale_by', 'add_decayed', 'apply_updates', 'chain')) for function in functions):
      return OPTIMIZER
    return LAYOUT if operation in _MOVES else REST

  def _stack(self, line: str) -> set[str]:
    """Names of the Python functions that were active when the instruction was traced."""
    found = re.search(r'stack_frame_id=(\d+)', line)
    frame, functions = found[1] if found else '0', set()
    while frame in self._frames:
      function, frame = self._frames[frame]
      functions.add(function)
    return functions


def _table(text: str, title: str) -> str:
  return text.partition(f'\n{title}\n')[2].partition('\n\n')[0]


def _operation(line: str) -> str:
  """The operation of an instruction's line: after its name and shape comes `operation(`."""
  found = re.search(r' = (?:\(.*?\)|\S+) ([\w-]+)\(', line)
  return found[1] if found else ''


def costs(text: str, run: Callable[[], None]) -> list[dict[str, object]]:
  """Runs under the profiler; for each kind its share of the time of all, costliest first, and its longest operations.

  Args:
    text: of the compiled program.
    run: runs it some times and waits for the end.
  """
  kind_of = functools.cache(Program(text).kind)
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      run()
    path, = glob.glob(f'{folder}/**/*.xplane.pb', recursive=True)
    planes = jax.profiler.ProfileData.from_file(path).planes
    by_kind: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for event in (event for plane in planes for line in plane.lines for event in line.events):
      if kind := kind_of(event.name):
        by_kind[kind][event.name] += event.duration_ns
  total = sum(names.total() for names in by_kind.values())
  rows = []
  for kind, names in by_kind.items():
    longest = [name for name, _ in names.most_common(3)]
    rows.append({'kind': kind, 'share': names.total() / total, 'longest': longest})
  return sorted(rows, key=lambda row: -row['share'])
