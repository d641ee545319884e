"""One network a core: the networks of a run do not touch one another, so each can have a thread of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_pool: ThreadPoolExecutor | None = None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def workers(networks: int) -> Iterator[int]:
    """Within this block on_all runs up to one network a core, and BLAS keeps to the cores that are left to each.

    NumPy lets go of the interpreter inside its loops and matrix products, so threads are enough. Yields their number.
    """
    from threadpoolctl import threadpool_limits

    global _pool
    count = max(1, min(networks, cores()))
    with threadpool_limits(max(1, cores() // count)), ThreadPoolExecutor(count) as pool:
        before, _pool = _pool, pool if count > 1 else None
        try:
            yield count
        finally:
            _pool = before


def on_all(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """[function(item) for item in items], at the same time where workers() are at hand; the results keep their order.

    All items have finished when it returns or raises. Items must not share anything that function changes.
    """
    if _pool is None:
        return [function(item) for item in items]
    futures = [_pool.submit(function, item) for item in items]
    problems: list[Any] = [future.exception() for future in futures]
    for problem in problems:
        if problem is not None:
            raise problem
    return [future.result() for future in futures]
