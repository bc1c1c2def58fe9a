"""Divides a list of files for several runs, whose tables one after the other are the table of one run."""

import dataclasses
import re

from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class FileShard:
  """Part `index` of `count`, counted from 1."""

  index: int
  count: int

  @classmethod
  def parse(cls, text: str) -> 'FileShard':
    """The shard that a text such as '3/16' names. Raises UserError if it names none."""
    match = re.fullmatch(r'(\d{1,9})/(\d{1,9})', text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
      raise UserError(f'--shard={text} is no part: give I/N, such as 3/16 for the third of sixteen')
    return cls(int(match[1]), int(match[2]))

  def __str__(self) -> str:
    return f'{self.index}/{self.count}'

  def part(self, paths: list[str], batch_size: int) -> list[str]:
    """This part of the paths: a range cut between the batches of one run, so an image keeps its place in its batch."""
    batches = -(-len(paths) // batch_size)
    first, last = (batch_size * (number * batches // self.count) for number in (self.index - 1, self.index))
    return paths[first:last]
