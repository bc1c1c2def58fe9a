"""The one exception for a user's own mistake; the commands turn it into one line and exit code 2."""


class UserError(ValueError):
  """A mistake that the user can correct. The message is one line: what is wrong, then the remedy."""
