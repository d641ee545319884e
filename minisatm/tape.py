"""The tape: each recorded op leaves one Node behind, and gradients walk the nodes backwards.

A node knows its parents (nodes, or leaf tensors) and one vector-Jacobian product (vjp) per input. It never knows its
own output, and vjps close over arrays, not tensors: there is no reference cycle, so memory goes without the collector.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from .backend import kernels

Array = Any  # numpy.ndarray or cupy.ndarray
Recorded = tuple[Any, ...]  # what an op's function returns: (value, vjps), or (value, vjps, aux)
Vjp = Callable[[Array], Array]
SharedVjp = Callable[[Array, tuple[bool, ...]], Sequence[Array | None]]


class Leaf(Protocol):
    """What the tape needs to know of a tensor that no op made."""

    data: Array
    version: int
    requires_grad: bool


class _State(threading.local):
    recording: bool = True
    only: tuple[int, ...] | None = None  # ids of the leaves that are recorded; None: all that require a gradient


_state = _State()


@contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing in this block: values only. Each thread has its own switch."""
    before, _state.recording = _state.recording, False
    try:
        yield
    finally:
        _state.recording = before


@contextmanager
def only(*leaves: Leaf) -> Iterator[None]:
    """Record in this block only what depends on these leaves, as if all others were constants.

    An attack asks for the gradient to its image alone: nothing that a weight's gradient would read is kept.
    """
    before, _state.only = _state.only, tuple(id(leaf) for leaf in leaves)
    try:
        yield
    finally:
        _state.only = before


def is_recorded(leaf: Leaf) -> bool:
    """Would an op on this leaf be recorded now?"""
    return leaf.requires_grad and (_state.only is None or id(leaf) in _state.only)


def recording() -> bool:
    return _state.recording


class Node:
    """One recorded op: where its gradient goes (`parents`, None for a constant) and how it gets there (`vjps`)."""

    __slots__ = ("name", "parents", "vjps", "shape", "dtype", "guards")

    def __init__(
        self,
        name: str,
        parents: tuple[Node | Leaf | None, ...],
        vjps: tuple[Vjp | None, ...] | SharedVjp,
        value: Array,
        guards: tuple[tuple[Leaf, int], ...],
    ) -> None:
        self.name, self.parents = name, parents
        # What no parent needs is dropped here, and with it every array that only its closure holds.
        self.vjps: tuple[Vjp | None, ...] | SharedVjp | None = (
            vjps if callable(vjps) else tuple(v if p is not None else None for v, p in zip(vjps, parents, strict=True))
        )
        self.shape, self.dtype = value.shape, value.dtype
        self.guards = guards

    def pull(self, g: Array, wanted: tuple[bool, ...]) -> Sequence[Array | None]:
        """The gradient of each wanted input from the gradient g of the output."""
        for leaf, version in self.guards:
            if leaf.version != version:
                raise RuntimeError(
                    f"{self.name}: one of its inputs (shape {leaf.data.shape}) was changed after the forward pass, so "
                    "its gradient would be wrong; run the forward pass again before backward."
                )
        if self.vjps is None:
            raise RuntimeError(
                f"backward has already passed {self.name} and freed it; run the forward pass again, or pass keep=True "
                "to the first backward."
            )
        if callable(self.vjps):
            return self.vjps(g, wanted)
        return [vjp(g) if vjp is not None and want else None for vjp, want in zip(self.vjps, wanted, strict=True)]

    def free(self) -> None:
        self.vjps, self.parents, self.guards = None, (), ()


def gradients(root: Node, g: Array, targets: Iterable[Node | Leaf] | None, keep: bool) -> dict[int, tuple[Any, Array]]:
    """Gradients of <g, root> for the targets (None: for every leaf), as {id(target): (target, gradient)}.

    Walks the nodes in reverse topological order; a node is visited once, however many paths lead to it. Only vjps on a
    path to a target run. Each node is freed as the walk passes, unless `keep`.
    """
    order = topological(root)
    aims = None if targets is None else {id(target) for target in targets}
    towards = None if aims is None else _towards(order, aims)
    pending: dict[int, tuple[Array, bool]] = {id(root): (g, False)}  # node or leaf -> gradient so far, is it ours?
    found: dict[int, tuple[Any, Array]] = {}

    for node in reversed(order):
        arrived, _ = pending.pop(id(node), (None, False))
        if arrived is not None:
            if aims is not None and id(node) in aims:
                found[id(node)] = (node, arrived)
            wanted = tuple(p is not None and (towards is None or id(p) in towards) for p in node.parents)
            if node.vjps is None or any(wanted):
                for parent, want, part in zip(node.parents, wanted, node.pull(arrived, wanted), strict=True):
                    if parent is not None and want and part is not None:
                        _check(node, parent, part)
                        _add(pending, parent, part)
                        if not isinstance(parent, Node):
                            found[id(parent)] = (parent, pending[id(parent)][0])
        if not keep:
            node.free()
    return found


def topological(root: Node) -> list[Node]:
    """Every node that root depends on, inputs before outputs; iterative, since a tape can be thousands of ops deep."""
    order: list[Node] = []
    seen: set[int] = set()
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, inputs_done = stack.pop()
        if inputs_done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((p, False) for p in node.parents if isinstance(p, Node) and id(p) not in seen)
    return order


def _towards(order: list[Node], aims: set[int]) -> set[int]:
    """Ids of the targets and of every node that depends on one of them."""
    towards = set(aims)
    for node in order:
        if any(p is not None and id(p) in towards for p in node.parents):
            towards.add(id(node))
    return towards


def _add(pending: dict[int, tuple[Array, bool]], parent: Node | Leaf, part: Array) -> None:
    """Add one more gradient. A vjp may have returned g itself or a view, so only a sum we made is added to in place."""
    have, ours = pending.get(id(parent), (None, False))
    if have is None:
        pending[id(parent)] = (part, False)
    elif ours and have.ndim:
        have += part
    else:
        pending[id(parent)] = (kernels(have).add(have, part), True)


def _check(node: Node, parent: Node | Leaf, part: Array) -> None:
    shape, dtype = (parent.shape, parent.dtype) if isinstance(parent, Node) else (parent.data.shape, parent.data.dtype)
    if part.shape != shape or part.dtype != dtype:
        raise TypeError(
            f"the vjp of {node.name} returned {part.dtype} {part.shape} for an input that is {dtype} {shape}; "
            "return a gradient of the input's own shape and dtype."
        )
