"""The exception for a user's mistake: commands print it as one sentence and exit with status 2."""

from __future__ import annotations

import sys


class InputError(ValueError):
    """What was wrong with the user's value, and what to do about it, in one sentence."""


MISTAKES = (InputError, OSError, MemoryError)  # errors that a command reports with tell()


def tell(problem: BaseException, place: object = None, memory: str = "not enough memory.") -> int:
    """Print a mistake as one sentence; return the exit status, 2.

    place: the file or folder to name where a system error names none. memory: what to say if memory runs out.
    """
    if isinstance(problem, OSError):
        problem = InputError(f"{problem.filename or place}: {problem.strerror or problem}.")
    print(f"error: {memory if isinstance(problem, MemoryError) else problem}", file=sys.stderr)
    return 2
