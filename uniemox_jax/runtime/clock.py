"""Counts a run's time: what was training and what was not; and says which steps to trace."""

from collections import defaultdict
from collections.abc import Iterator
import contextlib
import time
from typing import NamedTuple


def duration(seconds: float) -> str:
  """Puts a duration into words for people: 42s, 3m05s, 2h10m."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}h{minutes:02d}m' if hours else f'{minutes}m{seconds:02d}s' if minutes else f'{seconds}s'


class Profile(NamedTuple):
  """The steps to trace: from `first` on, until `last` is done. from_start: whether they are counted from where the run
  starts or resumes."""

  first: int
  last: int
  from_start: bool = False

  def of_run(self, start: int) -> 'Profile':
    """The same steps counted in the whole run, which starts or resumes at `start`."""
    return Profile(self.first + start, self.last + start) if self.from_start else self


class Clock:
  """Counts training from the end of the first step, which compiles, and leaves out what runs `apart`.

  seconds: the seconds by activity; 'train' is one of them.
  """

  def __init__(self) -> None:
    self.seconds: defaultdict[str, float] = defaultdict(float)
    self._training_since: float | None = None
    self._steps, self._seconds_at_lap = 0, 0.0
    self._reported: dict[str, float] = {}

  def start(self) -> None:
    """Begins to count training."""
    self._training_since = time.perf_counter()

  def _stop(self) -> bool:
    """Ends counting training, and says whether it did."""
    if self._training_since is None:
      return False
    self.seconds['train'] += time.perf_counter() - self._training_since
    self._training_since = None
    return True

  @contextlib.contextmanager
  def apart(self, activity: str) -> Iterator[None]:
    """Counts what runs inside under its own name: 'compile', 'evaluate', 'save'."""
    training, began = self._stop(), time.perf_counter()
    try:
      yield
    finally:
      self.seconds[activity] += time.perf_counter() - began
      if training:
        self.start()

  def count_step(self) -> None:
    """Counts a step if training is being counted."""
    self._steps += self._training_since is not None

  def lap(self) -> float | None:
    """The seconds a step since the last lap; None if no step was counted."""
    if self._stop():
      self.start()
    steps, seconds = self._steps, self.seconds['train'] - self._seconds_at_lap
    self._steps, self._seconds_at_lap = 0, self.seconds['train']
    return seconds / steps if steps else None

  def newly_apart(self) -> dict[str, float]:
    """The '{activity}_seconds' of everything but training since the last call."""
    new = {activity: seconds - self._reported.get(activity, 0.0) for activity, seconds in self.seconds.items()}
    self._reported = dict(self.seconds)
    return {f'{activity}_seconds': seconds for activity, seconds in new.items() if seconds > 0 and activity != 'train'}

  def summary(self) -> str:
    """Puts all counts into a line for people."""
    return ', '.join(f'{activity} {duration(seconds)}' for activity, seconds in self.seconds.items())
