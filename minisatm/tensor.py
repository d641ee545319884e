"""Tensor, an array that remembers how it was made, and `op`, which turns a function of arrays into one of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Any, overload

import numpy as np

from . import tape
from .inputs import python_number
from .tape import Array, Recorded, RecordedAux

OPS: dict[str, Callable[..., Any]] = {}  # every op by name, for the tests that check all of them


class Tensor:
    """An array with a place on the tape.

    data: the array (NumPy or CuPy; its dtype is kept). requires_grad: does backward leave a gradient in `.grad`?
    `.grad` is None or an array of data's shape and dtype; read it, but do not write into it (it may be shared).
    Assigning to `.data`, also by `t.data -= step`, makes a new version of a leaf: a backward pass from an earlier
    forward pass then fails. Never change the data of a tensor that an op made.
    """

    __slots__ = ("_data", "requires_grad", "grad", "node", "version", "__weakref__")
    __array_ufunc__ = None  # so that NumPy leaves `array * tensor` to Tensor.__rmul__

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        if isinstance(data, Tensor):
            raise TypeError("Tensor(...) takes an array, not a Tensor; use its .data.")
        # np.generic is what NumPy returns for the sum of an array, in place of a 0-d array
        self._data: Array = data if hasattr(data, "reshape") and not isinstance(data, np.generic) else np.asarray(data)
        if requires_grad and self._data.dtype.kind != "f":
            raise TypeError(f"only floating-point tensors have gradients, this one is {self._data.dtype}.")
        self.requires_grad = requires_grad
        self.grad: Array | None = None
        self.node: tape.Node | None = None
        self.version = 0

    @property
    def data(self) -> Array:
        return self._data

    @data.setter
    def data(self, value: Array) -> None:
        self._data = value
        self.version += 1

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._data.shape)

    @property
    def dtype(self) -> Any:
        return self._data.dtype

    @property
    def ndim(self) -> int:
        return int(self._data.ndim)

    def __repr__(self) -> str:
        return f"Tensor({self._data!r}" + (", requires_grad=True)" if self.requires_grad else ")")

    def backward(self, g: Array | None = None, *, keep: bool = False) -> None:
        """Add d<g, self>/d(leaf) to `.grad` of every leaf that requires it; of a scalar, g is 1 if not given.

        Frees the tape, so a second call is an error; `keep=True` keeps it.
        """
        for leaf, part in _walk(self, g, None, keep).values():
            leaf.grad = part if leaf.grad is None else leaf.grad + part

    # Python calls a.__add__(b) for a + b, and b.__radd__(a) where a is no Tensor.
    # fmt: off
    def __add__(self, other: Any) -> Tensor: return basic.add(self, other)
    def __radd__(self, other: Any) -> Tensor: return basic.add(other, self)
    def __sub__(self, other: Any) -> Tensor: return basic.sub(self, other)
    def __rsub__(self, other: Any) -> Tensor: return basic.sub(other, self)
    def __mul__(self, other: Any) -> Tensor: return basic.mul(self, other)
    def __rmul__(self, other: Any) -> Tensor: return basic.mul(other, self)
    def __truediv__(self, other: Any) -> Tensor: return basic.div(self, other)
    def __rtruediv__(self, other: Any) -> Tensor: return basic.div(other, self)
    def __matmul__(self, other: Any) -> Tensor: return basic.matmul(self, other)
    def __rmatmul__(self, other: Any) -> Tensor: return basic.matmul(other, self)
    def __neg__(self) -> Tensor: return basic.neg(self)
    def __getitem__(self, key: Any) -> Tensor: return basic.slice(self, key=key)
    def transpose(self, *axes: int) -> Tensor: return basic.transpose(self, axes=axes or None)
    def __len__(self) -> int: return len(self._data)
    def __float__(self) -> float: return float(self._data)
    # fmt: on

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return basic.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return basic.mean(self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape: Any) -> Tensor:
        return basic.reshape(self, shape=shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    @property
    def T(self) -> Tensor:
        return basic.transpose(self, axes=None)


@overload
def op(function: Callable[..., Recorded]) -> Callable[..., Tensor]: ...
@overload
def op(function: Callable[..., RecordedAux]) -> Callable[..., tuple[Tensor, Any]]: ...
def op(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a function of arrays that returns (value, vjps) into an op on tensors, and enter it in OPS.

    Positional arguments are arrays that may have a gradient (or None, or scalars); keyword-only ones are settings.
    Settings and scalars beside a tensor become Python numbers, which leave its dtype as it is. `vjps` has an entry for
    each positional argument: a function of the output's gradient, or None for an argument without a gradient. If the
    gradients share work, it is one function (g, wanted) -> all gradients. A third value, `aux`, is returned beside the
    tensor. `op.raw` is the function itself: the mathematics without a tape.
    """
    name = function.__name__
    inputs = [p.name for p in signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]

    @wraps(function)
    def record(*args: Any, **settings: Any) -> Any:
        while len(args) < len(inputs) and inputs[len(args)] in settings:  # conv2d(x, w, b=bias)
            args += (settings.pop(inputs[len(args)]),)
        number = python_number if any(isinstance(a, Tensor) for a in args) else lambda a: a
        arrays = (a._data if isinstance(a, Tensor) else number(a) for a in args)
        value, vjps, *aux = function(*arrays, **{k: python_number(v) for k, v in settings.items()})
        out = Tensor(value)
        parents = tuple(map(_parent, args))
        if any(p is not None for p in parents):
            guards = tuple((a, a.version) for a in args if isinstance(a, Tensor) and a.node is None)
            given = vjps if callable(vjps) else vjps[: len(args)]  # without those of optional arguments left out
            out.node = tape.Node(name, parents, given, out._data, guards)
            out.requires_grad = True
        return (out, *aux) if aux else out

    record.raw = function  # type: ignore[attr-defined]
    OPS[name] = record
    return record


def _parent(arg: Any) -> Any:
    """What gets the gradient to this argument: the node that made it, the leaf itself, or nothing (None)."""
    if not isinstance(arg, Tensor) or not tape.recording():
        return None
    return arg.node or (arg if tape.is_recorded(arg) else None)


def grad(loss: Tensor, inputs: Sequence[Tensor], g: Array | None = None, *, keep: bool = False) -> list[Array]:
    """The gradients d<g, loss>/d(input) as arrays; only paths to the inputs are computed, and no `.grad` changes.

    An input that loss does not depend on gets zeros. Frees the tape unless `keep`.
    """
    parts = _walk(loss, g, inputs, keep)
    keys = [id(t.node or t) for t in inputs]
    return [parts[k][1] if k in parts else np.zeros_like(t._data) for k, t in zip(keys, inputs, strict=True)]


def _walk(loss: Tensor, g: Array | None, inputs: Sequence[Tensor] | None, keep: bool) -> dict[int, tuple[Any, Array]]:
    """tape.gradients from this tensor to the inputs (None: to all leaves), after a check of g."""
    if not loss.requires_grad:
        raise RuntimeError("this tensor depends on nothing that requires a gradient; was it made under no_grad?")
    if g is None:
        if loss._data.size != 1:
            raise RuntimeError(f"backward of a {loss.shape} tensor needs its gradient g: only a scalar has g = 1.")
        g = np.ones_like(loss._data)
    if g.shape != loss._data.shape or g.dtype != loss._data.dtype:
        raise TypeError(f"the gradient is {g.dtype} {g.shape} for a tensor that is {loss.dtype} {loss.shape}.")
    if loss.node is None:
        return {id(loss): (loss, g)}
    parts = tape.gradients(loss.node, g, None if inputs is None else [t.node or t for t in inputs], keep)
    return {key: (leaf, np.asarray(p) if isinstance(p, np.generic) else p) for key, (leaf, p) in parts.items()}


from .ops import basic  # noqa: E402  (last, since ops need `op`, and Tensor's operators need ops)
