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


processes_at_work: Callable[[], int] = lambda: 1  # processes.py counts them: each needs a core of its own


def shares(parts: Sequence[Item]) -> list[Sequence[Item]]:
    """Cut a list into as many equal runs as there are cores; fewer where there are fewer parts."""
    if len(parts) < 2:
        return [parts]
    count = min(cores(), len(parts))
    ends = [len(parts) * i // count for i in range(count + 1)]
    return [parts[a:b] for a, b in zip(ends, ends[1:])]


def on_cores(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """[function(item) for item in items], by this thread and by threads on cores that are free.

    Items must not share anything that function changes. All have finished when it returns or raises the first error.
    """
    items = list(items)
    with blas.one_blas_thread():
        helpers = _helpers.hire(len(items) - 1)
        if not helpers:
            return [function(item) for item in items]
        return _Shared(function, items).run(helpers)


class _Shared:
    """One list of items that several threads work through."""

    def __init__(self, function: Callable[[Any], Any], items: list[Any]) -> None:
        self.function, self.count = function, len(items)
        self.waiting = deque(enumerate(items))
        self.results: dict[int, Any] = {}
        self.problems: dict[int, BaseException] = {}
        self.one_done, self.helper_gone = threading.Semaphore(0), threading.Semaphore(0)

    def run(self, helpers: int) -> list[Any]:
        for _ in range(helpers):  # each sees the caller's context variables (NumPy keeps errstate there)
            _helpers.send(partial(copy_context().run, self.help))
        try:
            self.work()
            while len(self.results) + len(self.problems) < self.count:
                self.one_done.acquire()
        except BaseException:  # Ctrl-C between two items: nobody may be at work when the caller hears of it
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
        """Leave undone what nobody has begun."""
        while self.waiting:
            with suppress(IndexError):
                self.waiting.pop()
                self.count -= 1


class _Helpers:
    """Threads that help: never more at work than there are other cores."""

    def __init__(self) -> None:
        self.lock, self.busy, self.size = threading.Lock(), 0, 0
        self.errands: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def hire(self, wanted: int) -> int:
        """Take as many helpers as are wanted and free, perhaps none; each goes when it has run one errand."""
        if wanted < 1:
            return 0
        with self.lock:
            taken = processes_at_work()  # one thread each
            count = max(0, min(wanted, cores() - taken - self.busy))
            self.busy += count
            for _ in range(self.busy - self.size):
                threading.Thread(target=self.serve, name="minisatm-helper", daemon=True).start()
                self.size += 1
        return count

    def send(self, errand: Callable[[], None]) -> None:
        self.errands.put(errand)

    def serve(self) -> None:
        while True:
            errand = self.errands.get()
            errand()
            del errand  # or its arrays would live until the next one
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
