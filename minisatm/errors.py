"""The one exception for a user's own mistake: commands print it as one sentence and exit with status 2."""

import sys


class InputError(ValueError):
    """What was wrong with the value given, and what to do about it, in one sentence."""


MISTAKES = (InputError, OSError, MemoryError)  # what a command answers with tell()


def tell(problem: BaseException, place: object = None, memory: str = "not enough memory.") -> int:
    """Print a mistake as one sentence and return the exit status, 2.

    place: what a system error is about where it does not say so itself. memory: the words for too little of it.
    """
    if isinstance(problem, OSError):
        problem = InputError(f"{problem.filename or place}: {problem.strerror or problem}.")
    print(f"error: {memory if isinstance(problem, MemoryError) else problem}", file=sys.stderr)
    return 2
