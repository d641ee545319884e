"""The tape: each recorded op leaves one Node, and `gradients` walks the nodes backwards.

A node knows its parents (nodes, or leaf tensors) and one vector-Jacobian product (vjp) per input. It does not know its
output (but for a weak reference), and vjps hold arrays, not tensors: so there are no reference cycles, and memory is
freed without the garbage collector.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from . import guards
from .backend import kernels

Array = Any  # numpy.ndarray or cupy.ndarray
Vjp = Callable[[Array], Array]  # the gradient of an output -> the gradient of one input
SharedVjp = Callable[[Array, tuple[bool, ...]], Sequence[Array | None]]  # (gradient, which inputs need one) -> all
Recorded = tuple[Array, Any]  # what an op's function returns: (value, vjps)
RecordedAux = tuple[Array, Any, Any]  # ... or (value, vjps, aux)


class Leaf(Protocol):
    """What the tape needs to know about a leaf: a tensor that no op made."""

    data: Array
    version: int
    requires_grad: bool


class _State(threading.local):
    recording: bool = True
    only: tuple[int, ...] | None = None  # ids of the leaves to record; None: all that require a gradient


_state = _State()


@contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing in this block, compute only values. Each thread has its own switch."""
    before, _state.recording = _state.recording, False
    try:
        yield
    finally:
        _state.recording = before


@contextmanager
def only(*leaves: Leaf) -> Iterator[None]:
    """Record in this block only what depends on these leaves; all other leaves are constants.

    An attack needs the gradient to its image alone: arrays that only the gradients of weights need are not kept.
    """
    before, _state.only = _state.only, tuple(id(leaf) for leaf in leaves)
    try:
        yield
    finally:
        _state.only = before


def is_recorded(leaf: Leaf) -> bool:
    """Does an op on this leaf have to be recorded now?"""
    return leaf.requires_grad and (_state.only is None or id(leaf) in _state.only)


def recording() -> bool:
    """False under no_grad."""
    return _state.recording


class Node:
    """One recorded op: `parents` get a gradient each (None: a constant input), which `vjps` compute.

    `guards` are the leaves among the inputs, each with its version and mark at the forward pass (see guards.py); `made`
    is a weak reference to the value, with its mark.
    """

    __slots__ = ("name", "parents", "vjps", "shape", "dtype", "guards", "made")

    def __init__(
        self, name: str, parents: tuple[Node | Leaf | None, ...], vjps: tuple[Vjp | None, ...] | SharedVjp,
        value: Array, leaves: Iterable[Leaf],
    ) -> None:  # fmt: skip
        self.name, self.parents = name, parents
        self.guards = tuple((leaf, leaf.version, guards.mark_of(leaf.data)) for leaf in leaves)
        self.made = weakref.ref(value), guards.mark_of(value, leaf=False)
        if not callable(vjps):  # drop the vjps of constant inputs, and so the arrays that only these vjps hold
            vjps = tuple(v if p is not None else None for v, p in zip(vjps, parents, strict=True))
        self.vjps: tuple[Vjp | None, ...] | SharedVjp | None = vjps
        self.shape, self.dtype = value.shape, value.dtype

    def pull(self, g: Array, wanted: tuple[bool, ...]) -> Sequence[Array | None]:
        """The gradients of the wanted inputs, from the gradient g of the output."""
        for leaf, version, mark in self.guards:
            if leaf.version != version or guards.changed(leaf.data, mark):
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
            return guards.check_gradients(self.name, self.vjps(g, wanted), wanted)
        parts = [vjp(g) if vjp is not None and want else None for vjp, want in zip(self.vjps, wanted, strict=True)]
        if any(part is None and want and vjp is not None for part, want, vjp in zip(parts, wanted, self.vjps)):
            raise TypeError(f"a vjp of {self.name} returned None: return the gradient to the input.")
        return parts


def gradients(root: Node, g: Array, targets: Iterable[Node | Leaf] | None, keep: bool) -> dict[int, tuple[Any, Array]]:
    """The gradients of <g, root> to the targets (None: to every leaf), as {id(target): (target, gradient)}.

    Visits each node once, in reverse topological order: by then all the gradients that it gets have been summed. Only
    vjps on a path to a target are called. Each node is freed after its visit, unless `keep`.
    """
    order = topological(root)
    for node in order:
        guards.check_made(node)
    target_ids = None if targets is None else {id(target) for target in targets}
    on_path = None if target_ids is None else _on_path(order, target_ids)
    sums: dict[int, tuple[Array, bool]] = {id(root): (g, False)}  # node or leaf -> (gradient so far, did we make it?)
    results: dict[int, tuple[Any, Array]] = {}

    for node in reversed(order):
        total, _ = sums.pop(id(node), (None, False))
        if total is not None:
            if target_ids is not None and id(node) in target_ids:
                results[id(node)] = (node, total)
            wanted = tuple(p is not None and (on_path is None or id(p) in on_path) for p in node.parents)
            if any(wanted) or node.vjps is None:  # a freed node has no parents left: pull raises the error
                for parent, want, part in zip(node.parents, wanted, node.pull(total, wanted), strict=True):
                    if parent is not None and want and part is not None:
                        _check_part(node, parent, part)
                        _add(sums, parent, part)
                        if not isinstance(parent, Node):
                            results[id(parent)] = (parent, sums[id(parent)][0])
        if not keep:  # forget everything, so that the arrays of the forward pass are freed
            node.vjps, node.parents, node.guards = None, (), ()
    return results


def topological(root: Node) -> list[Node]:
    """Every node that root depends on, inputs before outputs. Not recursive: a tape can be thousands of ops deep."""
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


def _on_path(order: list[Node], target_ids: set[int]) -> set[int]:
    """The ids of the targets and of every node that depends on one of them."""
    on_path = set(target_ids)
    for node in order:
        if any(p is not None and id(p) in on_path for p in node.parents):
            on_path.add(id(node))
    return on_path


def _add(sums: dict[int, tuple[Array, bool]], parent: Node | Leaf, part: Array) -> None:
    """Add one more gradient to the parent's sum.

    A vjp may return g itself or a view, which others still read: we add in place only to an array that we made.
    """
    total, ours = sums.get(id(parent), (None, False))
    if total is None:
        sums[id(parent)] = (part, False)
    elif ours and total.ndim:  # NumPy's sum of two 0-d arrays is a scalar, which cannot change in place
        total += part
    else:
        sums[id(parent)] = (kernels(total).add(total, part), True)


def _check_part(node: Node, parent: Node | Leaf, part: Array) -> None:
    shape, dtype = (parent.shape, parent.dtype) if isinstance(parent, Node) else (parent.data.shape, parent.data.dtype)
    if getattr(part, "shape", None) != shape or part.dtype != dtype:
        raise TypeError(
            f"the vjp of {node.name} returned {guards.described(part)} for an input that is {dtype} {shape}; "
            "return a gradient with the shape and dtype of the input."
        )
