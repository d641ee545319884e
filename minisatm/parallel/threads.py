"""Threads for the blocks of a large array: NumPy lets go of the interpreter inside its loops and matrix products.

Which thread computes a block never changes what is computed: the same seed gives the same bits on a machine with this
many cores.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

from .blas import one_blas_thread

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


processes_at_work: Callable[[], int] = lambda: 1  # processes.py replaces it: each working process needs a core


def shares(parts: Sequence[Item]) -> list[Sequence[Item]]:
    """Cut a list into equal consecutive pieces, one for each core; fewer where the list is shorter."""
    count = max(1, min(cores(), len(parts)))
    ends = [len(parts) * i // count for i in range(count + 1)]
    return [parts[a:b] for a, b in zip(ends, ends[1:])]


def on_cores(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """[function(item) for item in items], computed by this thread and by threads on free cores.

    Items must not share anything that function changes. All items are done when this returns or raises the first error.
    """
    items = list(items)
    with one_blas_thread:
        helpers = _helpers.reserve(len(items) - 1)
        if not helpers:
            return [function(item) for item in items]
        left, results, problems = deque(enumerate(items)), dict[int, Result](), dict[int, BaseException]()

        def work() -> None:
            with suppress(IndexError):  # nothing is left
                while True:
                    i, item = left.popleft()
                    try:
                        results[i] = function(item)
                    except BaseException as problem:
                        problems[i] = problem
                        if not isinstance(problem, Exception):
                            left.clear()  # Ctrl-C: begin nothing more

        # Each in a copy of the caller's context variables: NumPy keeps errstate there.
        futures = [_helpers.pool.submit(copy_context().run, work) for _ in range(helpers)]
        try:
            work()
            wait(futures)
        except BaseException:  # Ctrl-C between two items: no thread may still be at work when the caller sees it
            left.clear()
            wait(futures)
            raise
        finally:
            _helpers.release(helpers)
        if problems:
            raise problems[min(problems)]
        return [results[i] for i in range(len(items))]


class _Helpers:
    """Threads that wait for work. Never more of them work than there are other cores."""

    def __init__(self) -> None:
        self.start_afresh()

    def start_afresh(self) -> None:
        self.lock, self.busy = threading.Lock(), 0
        self.pool = ThreadPoolExecutor(1024, "minisatm-helper")  # it starts a thread only when none is free

    def reserve(self, wanted: int) -> int:
        """Reserve up to `wanted` free cores, perhaps none."""
        with self.lock:
            count = max(0, min(wanted, cores() - processes_at_work() - self.busy))
            self.busy += count
        return count

    def release(self, count: int) -> None:
        with self.lock:
            self.busy -= count


_helpers = _Helpers()


if hasattr(os, "register_at_fork"):  # a forked child has none of its parent's threads
    os.register_at_fork(after_in_child=_helpers.start_afresh)
    os.register_at_fork(after_in_child=one_blas_thread.start_afresh)
