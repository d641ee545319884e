"""The team that trains the networks of a run: one process for all of them, or several processes of one machine.

Networks do not touch one another within a step, so each process can train its own. All processes run the same program
on the same data and seeds; they meet in `map`, `train` and `fetch`. Which process computes an item never changes the
result. A new kind of team (on several machines) needs the methods of `Team`, and nothing outside this folder changes.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import combinations
from typing import Any, Protocol, TypeVar

from . import threads
from .blas import one_blas_thread

Item = TypeVar("Item")
Result = TypeVar("Result")


class Member(Protocol):
    """A network in training, as the team sees it: its name, its network, and all the arrays that it carries."""

    name: str
    network: Any

    def state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...


M = TypeVar("M", bound=Member)


class Team:
    """A team of one process, which does everything itself. Processes has the same methods for several."""

    rank, size = 0, 1

    @property
    def leads(self) -> bool:
        """Is this the process that writes files and prints?"""
        return self.rank == 0

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """[function(item) for item in items]. Every process gets all results; function must not change its item."""
        return [function(item) for item in items]

    def train(self, function: Callable[[M], Result], members: Sequence[M]) -> dict[str, Result]:
        """{name: function(member)} for a function that changes the weights of its member; see `fetch`."""
        return {member.name: function(member) for member in members}

    def fetch(self, members: Sequence[M]) -> None:
        """Bring the weights of these members, which other processes have trained, to every process."""


ALONE = Team()
_leads_a_team = False  # is this the first of several processes? (the others are daemons)


class Elsewhere:
    """Stands in the place of a network that another process trains: using it before `fetch` is an error."""

    def __init__(self, name: str, network: Any, rank: int) -> None:
        self._name, self._network, self._rank = name, network, rank

    def __getattr__(self, attribute: str) -> Any:
        raise RuntimeError(
            f"process {self._rank} has trained {self._name}, its weights here are old: call team.fetch first."
        )

    def __call__(self, *args: Any) -> Any:
        return self.__getattr__("__call__")


class Processes(Team):
    """One of several processes that run the same program, with a pipe to each of the others."""

    def __init__(self, rank: int, waiting: Any) -> None:
        self.rank, self.size, self.waiting = rank, len(waiting), waiting
        self.pipes: dict[int, Any] = {}  # by the rank of the process at the other end
        self.owners: dict[str, int] = {}  # the rank of the process that trains the member of this name

    @contextmanager
    def connected(self, pipes: Any) -> Iterator[None]:
        """A block in which the processes can send results to one another."""
        for pair, ends in pipes.items():
            for rank, other, end in zip(pair, pair[::-1], ends):
                if rank == self.rank:
                    self.pipes[other] = end
                else:
                    end.close()  # otherwise a dead process's pipe would stay open here
        threads.processes_at_work = lambda: self.size - int(sum(self.waiting[:]))
        try:
            yield
        finally:
            threads.processes_at_work = lambda: 1
            for pipe in self.pipes.values():
                pipe.close()

    def owner(self, item: Any, place: int) -> int:
        """The rank that trains the item; else, by place, 0 1 1 0 0 1 ...: a long first item gets a short second one."""
        row, column = divmod(place, self.size)
        return self.owners.get(getattr(item, "name", ""), self.size - 1 - column if row % 2 else column)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        items, mine = list(items), dict[int, tuple[Any, Exception | None]]()
        for i, item in enumerate(items):
            if self.owner(item, i) == self.rank:
                try:
                    mine[i] = function(item), None
                except Exception as problem:
                    mine[i] = None, _portable(problem)
        outcomes = sorted((mine | self._exchange(mine)).items())
        for _, (_, error) in outcomes:
            if error is not None:
                raise error
        return [result for _, (result, _) in outcomes]

    def train(self, function: Callable[[M], Result], members: Sequence[M]) -> dict[str, Result]:
        for i, member in enumerate(members):
            self.owners.setdefault(member.name, self.owner(None, i))
        results = {member.name: result for member, result in zip(members, self.map(function, members))}
        for member in members:
            rank = self.owners[member.name]
            if rank != self.rank and not isinstance(member.network, Elsewhere):
                member.network = Elsewhere(member.name, member.network, rank)
        return results

    def fetch(self, members: Sequence[M]) -> None:
        old = [member for member in members if member.name in self.owners]
        for member, state in zip(old, self.map(lambda member: member.state(), old)):
            if isinstance(member.network, Elsewhere):
                member.network = member.network._network
                member.set_state(state)

    def _exchange(self, mine: dict[int, Any]) -> dict[int, Any]:
        """Send this process's results to every other one, and receive theirs."""
        others: dict[int, Any] = {}
        self.waiting[self.rank] = 1
        try:
            for other, pipe in sorted(self.pipes.items()):  # of each pair the lower rank sends first: no deadlock
                if self.rank < other:
                    pipe.send(mine)
                others |= pipe.recv()
                if self.rank > other:
                    pipe.send(mine)
        except (EOFError, OSError):
            raise RuntimeError(
                "one of the processes that train the networks has died (out of memory?): --resume goes on from the "
                "last checkpoint."
            ) from None
        finally:
            self.waiting[self.rank] = 0
        return others


def in_processes(work: Callable[[Team], Result], count: int) -> Result:
    """Run work(team) in `count` processes at once; returns or raises here what it does in the first of them.

    There are no more processes than cores. One process does everything where there is no fork as on Linux, and where
    this process belongs to a team or to a multiprocessing pool already.
    """
    global _leads_a_team
    count = min(count, threads.cores())
    if count < 2 or _leads_a_team or multiprocessing.current_process().daemon or sys.platform != "linux":
        return work(ALONE)
    context = multiprocessing.get_context("fork")
    pipes = {pair: context.Pipe() for pair in combinations(range(count), 2)}
    waiting = mmap.mmap(-1, count)  # shared by all: is this process waiting for the others?
    teams = [Processes(rank, waiting) for rank in range(count)]
    others = [context.Process(target=_work_along, args=(team, pipes, work), daemon=True) for team in teams[1:]]
    finished = False
    try:
        with warnings.catch_warnings():  # Python 3.12 warns of a fork beside threads; ours only wait
            warnings.simplefilter("ignore", DeprecationWarning)
            for process in others:
                process.start()
        _leads_a_team = True
        with teams[0].connected(pipes), one_blas_thread:
            result = work(teams[0])
        finished = True
        return result
    finally:
        _leads_a_team = False
        for process in others:
            if process.pid is not None:  # it was started
                if not finished:
                    process.terminate()
                process.join()


def _work_along(team: Processes, pipes: Any, work: Callable[[Team], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process answers Ctrl-C
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    # an error is one that the first process has as well, or the first process has gone
    with suppress(BaseException), team.connected(pipes), one_blas_thread:
        work(team)


def _portable(problem: Exception) -> Exception:
    """The error as it is, or in words where it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(problem))
        return problem
    except Exception:
        return RuntimeError(f"{type(problem).__name__}: {problem}")
