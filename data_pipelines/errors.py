"""The one exception for a user's own mistake; the commands turn it into one line and exit code 2."""


class UserError(ValueError):
  """Something the user can mend. The message is one line: what is wrong, then how to mend it."""
