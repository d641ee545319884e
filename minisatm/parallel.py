"""The cores. Narrow networks get a process each (on_all); the kernels cut large arrays up for threads (on_cores).

Who computes a part, and who is free to help, never changes what is computed: the same seed gives the same bits on a
machine of so many cores. BLAS keeps to one thread, since the parts fill the cores; products as small as a narrow
network's gain from that most.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import partial, wraps
from itertools import combinations
from queue import SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- processes: the networks of a run do not touch one another ----------------------------------------------------


def on_all(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """[function(item) for item in items]; within in_processes each process does its share, and all hear all results.

    What function changes in its item is changed in one process only: the one that the item's place belongs to.
    """
    items = list(items)
    return [function(item) for item in items] if _crew is None else _crew.share_out(function, items)


def in_processes(work: Callable[[], Result], count: int) -> Result:
    """work() in `count` processes at once, which meet in on_all; what it returns or raises here.

    All run the same program: give it the same data and seeds, and let only the one that leads() write files. There are
    no more processes than cores; one does it all where there is no fork as on Linux.
    """
    global _crew
    count = min(count, cores())
    if count < 2 or _crew is not None or sys.platform != "linux":
        return work()
    context = multiprocessing.get_context("fork")
    wires = {pair: context.Pipe() for pair in combinations(range(count), 2)}
    waiting = mmap.mmap(-1, count)  # shared by all: is this process waiting for the others?
    members = [
        context.Process(target=_member, args=(_Crew(rank, waiting), wires, work), daemon=True)
        for rank in range(1, count)
    ]
    started = []
    finished = False
    try:
        with warnings.catch_warnings():  # Python 3.12 warns of forks beside threads; ours only wait
            warnings.simplefilter("ignore", DeprecationWarning)
            for member in members:
                member.start()
                started.append(member)
        _crew = _Crew(0, waiting)
        _crew.connect(wires)
        with one_blas_thread():
            result = work()
        finished = True
        return result
    finally:
        if _crew is not None:
            _crew.close()
        _crew = None
        for member in started:
            if not finished:
                member.terminate()
            member.join()


def leads() -> bool:
    """Is this the process that writes and prints?"""
    return _crew is None or _crew.rank == 0


def alone() -> bool:
    """Is this the only process at work?"""
    return _crew is None


def _member(crew: _Crew, wires: Any, work: Callable[[], Any]) -> None:
    global _crew
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the leader's affair
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    _crew = crew
    _crew.connect(wires)
    with suppress(BaseException), one_blas_thread():  # the leader has had the same error, or has gone
        work()


def _portable(problem: Exception) -> Exception:
    """The error as it is, or in words where it cannot travel to another process."""
    try:
        pickle.loads(pickle.dumps(problem))
        return problem
    except Exception:
        return RuntimeError(f"{type(problem).__name__}: {problem}")


class _Crew:
    """This process's place among those that run the same work, with a wire to each of the others."""

    def __init__(self, rank: int, waiting: Any) -> None:
        self.rank, self.count, self.waiting = rank, len(waiting), waiting
        self.wires: dict[int, Any] = {}

    def connect(self, wires: Any) -> None:
        for (low, high), (one_end, other_end) in wires.items():
            mine = one_end if self.rank == low else other_end if self.rank == high else None
            for end in (one_end, other_end):
                if end is not mine:
                    end.close()  # or a dead process's wire would stay open here
            if mine is not None:
                self.wires[low + high - self.rank] = mine

    def owner(self, place: int) -> int:
        """Whose an item is: dealt there and back, so that the longest, put first, shares its process with the least."""
        turn, card = divmod(place, self.count)
        return self.count - 1 - card if turn % 2 else card

    def at_work(self) -> int:
        """How many of the processes are not waiting now."""
        return self.count - sum(self.waiting[:])

    def share_out(self, function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        own: dict[int, Any] = {}
        for i in range(len(items)):
            if self.owner(i) != self.rank:
                continue
            try:
                own[i] = True, function(items[i])
            except Exception as problem:
                own[i] = False, _portable(problem)
        found = dict(own)
        self.waiting[self.rank] = 1
        try:
            for other, wire in sorted(self.wires.items()):  # of each pair the lower sends first: nobody waits in a ring
                if self.rank < other:
                    wire.send(own)
                found |= wire.recv()
                if self.rank > other:
                    wire.send(own)
        except (EOFError, OSError):
            raise RuntimeError(
                "one of the processes that train the networks has died (out of memory?): --resume goes on from the "
                "last checkpoint."
            ) from None
        finally:
            self.waiting[self.rank] = 0
        for i in range(len(items)):
            if not found[i][0]:
                raise found[i][1]
        return [found[i][1] for i in range(len(items))]

    def close(self) -> None:
        for wire in self.wires.values():
            wire.close()


_crew: _Crew | None = None


# --- threads: NumPy lets go of the interpreter inside its loops and matrix products -------------------------------


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
    with _one_blas_thread:
        helpers = _team.hire(len(items) - 1)
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
            _team.send(partial(copy_context().run, self.help))
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


class _Team:
    """Threads that help: never more at work than there are other cores."""

    def __init__(self) -> None:
        self.lock, self.busy, self.size = threading.Lock(), 0, 0
        self.errands: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def hire(self, wanted: int) -> int:
        """Take as many helpers as are wanted and free, perhaps none; each goes when it has run one errand."""
        if wanted < 1:
            return 0
        with self.lock:
            taken = 1 if _crew is None else _crew.at_work()  # this thread, and those of other processes
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


def one_blas_thread() -> _OneBlasThread:
    """A block in which BLAS uses one thread. It nests, and may be open in several threads at once."""
    return _one_blas_thread


def with_one_blas_thread(function: Callable[..., Result]) -> Callable[..., Result]:
    """The function in such a block: one product on several BLAS threads, and they stay awake and take a core's time."""

    @wraps(function)
    def call(*args: Any, **settings: Any) -> Result:
        with _one_blas_thread:
            return function(*args, **settings)

    return call


class _OneBlasThread:
    def __init__(self) -> None:
        self.lock, self.open = threading.Lock(), 0
        self.controller: Any = None
        self.limit: Any = None
        self.owner: Any = None

    def __enter__(self) -> None:
        with self.lock:
            self.open += 1
            if self.open == 1:
                if self.controller is None:
                    import threadpoolctl  # type: ignore[import-untyped]

                    self.controller = threadpoolctl.ThreadpoolController()
                    self.owner = threadpoolctl.OpenBLASController
                self._free()
                self.limit = self.controller.limit(limits=1, user_api="blas")

    def __exit__(self, *problem: Any) -> None:
        with self.lock:
            self.open -= 1
            if self.open == 0:
                self._free()
                self.limit.restore_original_limits()

    def _free(self) -> None:
        """Newer threadpoolctl heeds one thread only; here any may be the first in and any other the last out."""
        if hasattr(self.owner, "clear_controlling_thread"):
            self.owner.clear_controlling_thread(force=True)


_team, _one_blas_thread = _Team(), _OneBlasThread()


def _start_afresh() -> None:
    """A forked child has none of its parent's threads."""
    global _team, _one_blas_thread
    _team, _one_blas_thread = _Team(), _OneBlasThread()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
