"""The one exception for a user's own mistake, and pieces of its one-line messages."""

from collections.abc import Sequence

USAGE_ERROR = 2
"""The exit code after a `UserError`."""
MAX_NAMES = 8
"""How many names are printed before `and N more`."""


class UserError(ValueError):
  """A mistake that the user can correct. Commands print the message, what is wrong and the remedy, and exit with 2."""


def join_names(names: Sequence[str]) -> str:
  """Joins the first names, and says how many more there are."""
  more = f' and {len(names) - MAX_NAMES} more' if len(names) > MAX_NAMES else ''
  return ', '.join(names[:MAX_NAMES]) + more


def first_line(error: Exception) -> str:
  """The first line of another library's error, or its type if it has no text."""
  return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
