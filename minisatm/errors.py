"""The one exception for a user's own mistake: commands print it as one sentence and exit with status 2."""


class InputError(ValueError):
    """What was wrong with the value given, and what to do about it, in one sentence."""
