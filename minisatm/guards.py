"""What the tape checks: what an op's function returned, and whether an array was changed after the forward pass."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .backend import on_gpu, placed

Array = Any
Mark = bytes | int | None  # what shows a change of an array; None: changes are not seen
SMALL = 1024  # entries of an array that is compared as a whole
RIGHT_FORM = (
    "return (value, vjps) or (value, vjps, aux). value is an array; vjps is a tuple with a function of g (or None) for "
    "each input, as in `return out, (lambda g: g * 2,)`, or one function (g, wanted) -> all gradients."
)


class _State(threading.local):
    every_entry: bool = False


_state = _State()


@contextmanager
def checking_every_entry() -> Iterator[None]:
    """Let backward find every change of an array that was recorded in this block: slow, for finding a mistake.

    Without it, backward finds a new version (`t.data = ...`, `t.data -= ...`, an optimiser's step) of a leaf. Changes
    that make no version (`t.data[...] -= s`, `out=t.data`, `t.data.fill(s)`, np.add.at) it finds in arrays of at most
    1,024 entries, leaves and what ops made; and in larger leaves if one of some 64 entries, spread evenly, has changed.
    It finds only with this block: a change of a few other entries of a large leaf, of a large array that an op made,
    and of an array on a GPU. It never sees a change of an array that is no tensor, such as a running mean.
    """
    before, _state.every_entry = _state.every_entry, True
    try:
        yield
    finally:
        _state.every_entry = before


def mark_of(array: Array, every_entry: bool | None = None, leaf: bool = True) -> Mark:
    """The bytes of some entries, or a checksum of all of them (every_entry; None: as the block around it says)."""
    if _state.every_entry if every_entry is None else every_entry:
        return zlib.crc32(np.ascontiguousarray(placed(array, "numpy")).tobytes())
    if not isinstance(array, np.ndarray):  # to see entries on a GPU, the host would have to wait
        return None
    if array.size <= SMALL:
        return array.tobytes()
    if not leaf:  # there are many, and so this would cost more than 1 % of a thin network's step
        return None
    # an odd step, since a step of 64 would see one channel of 64 alone; flat copies nothing of a strided view
    entries: Any = array.reshape(-1) if array.flags.c_contiguous else array.flat
    mark: bytes = entries[:: array.size // 64 | 1].tobytes()
    return mark


def changed(array: Array, mark: Mark) -> bool:
    """Has the array changed since mark_of(array) was this?"""
    return mark is not None and mark_of(array, isinstance(mark, int)) != mark


def check_made(node: Any) -> None:
    """Raise an error if the array that this node's op made was changed since: vjps may read it."""
    value, mark = node.made[0](), node.made[1]
    if value is not None and changed(value, mark):
        raise RuntimeError(
            f"the output of {node.name} (shape {node.shape}) was changed after the forward pass, so gradients would be "
            "wrong; change a copy of its .data instead."
        )


def check_gradients(name: str, parts: Any, wanted: tuple[bool, ...]) -> Sequence[Array | None]:
    """What a shared vjp returned; an error unless it is one gradient for each input."""
    if not isinstance(parts, tuple | list) or len(parts) != len(wanted):
        raise TypeError(
            f"the vjp of {name} must return one gradient (or None) for each of its {len(wanted)} inputs, as a tuple; "
            f"it returned {described(parts)}."
        )
    return parts


def fault(recorded: Any, given: int, inputs: int, numbers: bool) -> str | None:
    """What is wrong with what an op's function returned, given so many of its inputs; None if all is well.

    numbers: its arguments were Python numbers, so the value may be one.
    """
    if not isinstance(recorded, tuple | list) or len(recorded) not in (2, 3):
        return f"returned {described(recorded)}"
    value, vjps = recorded[:2]
    if not (
        isinstance(value, np.ndarray | np.generic) or on_gpu(value) or (numbers and isinstance(value, float | int))
    ):
        return f"returned {described(value)} as its value"
    if getattr(value, "dtype", np.dtype(float)).kind == "O":
        return "returned an array of objects as its value"
    if not isinstance(vjps, tuple | list):
        code = getattr(vjps, "__code__", None)  # (lambda g: g) without its comma is no tuple
        if code is not None and code.co_argcount == 1 and not code.co_flags & 4:  # 4: it takes *arguments
            return "returned one function of g alone, not in a tuple, as its vjps"
        return None if callable(vjps) else f"returned {described(vjps)} as its vjps"
    if len(vjps) not in (given, inputs):
        return f"returned {len(vjps)} vjps for {inputs} inputs"
    wrong = [vjp for vjp in vjps if vjp is not None and not callable(vjp)]
    return f"returned {described(wrong[0])} in place of a vjp" if wrong else None


def described(value: Any) -> str:
    """An object in words, for a message: "float32 (2, 3)", "a list of 3", "None"."""
    if hasattr(value, "dtype"):
        kind = "" if isinstance(value, np.ndarray | np.generic) or on_gpu(value) else f"a {type(value).__name__}, "
        return f"{kind}{value.dtype} {tuple(value.shape)}"
    size = f" of {len(value)}" if isinstance(value, tuple | list | dict) else ""
    return "None" if value is None else f"a {type(value).__name__}{size}"
