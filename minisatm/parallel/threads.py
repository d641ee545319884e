"""Threads for the blocks of a large array: NumPy lets go of the interpreter inside its loops and matrix products.

Which thread computes a block never changes what is computed: the same seed gives the same bits on a machine with this
many cores.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from . import blas

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


processes_at_work: Callable[[], int] = lambda: 1  # processes.py replaces it: each working process needs a core


def shares(parts: Sequence[Item]) -> list[Sequence[Item]]:
    """Cut a list into equal consecutive pieces, one for each core; fewer where the list is shorter."""
    if len(parts) < 2:
        return [parts]
    count = min(cores(), len(parts))
    ends = [len(parts) * i // count for i in range(count + 1)]
    return [parts[a:b] for a, b in zip(ends, ends[1:])]


def on_cores(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """[function(item) for item in items], computed by this thread and by threads on free cores.

    Items must not share anything that function changes. All items are done when this returns or raises the first error.
    """
    items = list(items)
    with blas.one_blas_thread():
        helpers = _helpers.reserve(len(items) - 1)
        if not helpers:
            return [function(item) for item in items]
        return _Job(function, items).run(helpers)


class _Job:
    """One list of items that several threads work through together."""

    def __init__(self, function: Callable[[Any], Any], items: list[Any]) -> None:
        self.function, self.count = function, len(items)
        self.waiting = deque(enumerate(items))
        self.results: dict[int, Any] = {}
        self.problems: dict[int, BaseException] = {}
        self.one_done, self.helper_gone = threading.Semaphore(0), threading.Semaphore(0)

    def run(self, helpers: int) -> list[Any]:
        for _ in range(helpers):  # in a copy of the caller's context variables: NumPy keeps errstate there
            _helpers.send(partial(copy_context().run, self.help))
        try:
            self.work()
            while len(self.results) + len(self.problems) < self.count:
                self.one_done.acquire()
        except BaseException:  # Ctrl-C between two items: no thread may still be at work when the caller sees it
            self.drop()
            for _ in range(helpers):
                self.helper_gone.acquire()
            raise
        if self.problems:
            raise self.problems[min(self.problems)]
        return [self.results[i] for i in range(self.count)]

    def help(self) -> None:
        self.work()
        self.helper_gone.release()

    def work(self) -> None:
        while True:
            try:
                i, item = self.waiting.popleft()
            except IndexError:
                return
            try:
                self.results[i] = self.function(item)
            except BaseException as problem:
                self.problems[i] = problem
                if not isinstance(problem, Exception):
                    self.drop()
            self.one_done.release()

    def drop(self) -> None:
        """Remove the items that no thread has begun."""
        while self.waiting:
            with suppress(IndexError):
                self.waiting.pop()
                self.count -= 1


class _Helpers:
    """Threads that wait for work. Never more of them work than there are other cores."""

    def __init__(self) -> None:
        self.lock, self.busy, self.size = threading.Lock(), 0, 0
        self.tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def reserve(self, wanted: int) -> int:
        """Reserve up to `wanted` free threads, perhaps none; each is free again after one task."""
        if wanted < 1:
            return 0
        with self.lock:
            count = max(0, min(wanted, cores() - processes_at_work() - self.busy))
            self.busy += count
            for _ in range(self.busy - self.size):
                threading.Thread(target=self.serve, name="minisatm-helper", daemon=True).start()
                self.size += 1
        return count

    def send(self, task: Callable[[], None]) -> None:
        self.tasks.put(task)

    def serve(self) -> None:
        while True:
            task = self.tasks.get()
            task()
            del task  # otherwise its arrays would live until the next task
            with self.lock:
                self.busy -= 1


_helpers = _Helpers()


def _start_afresh() -> None:
    """A forked child has none of its parent's threads."""
    global _helpers
    _helpers = _Helpers()
    blas.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
