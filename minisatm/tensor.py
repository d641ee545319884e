"""Tensor, an array that remembers how it was made; `op`, which makes functions of arrays into functions of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Any

import numpy as np

from . import tape
from .tape import Array

OPS: dict[str, Callable[..., Any]] = {}  # every op by name: the gradient and mutant tests walk this registry


class Tensor:
    """An array with a place on the tape.

    data: the array (NumPy or CuPy; its dtype is kept). requires_grad: should backward leave a gradient in `.grad`?
    `.grad` is None or an array of data's shape and dtype; read it, do not write into it (it may be shared).
    Assigning to `.data`, also by `t.data -= step`, counts as a new version of a leaf: a backward pass through the old
    one fails. The data of a tensor that an op made is not to be changed at all.
    """

    __slots__ = ("_data", "requires_grad", "grad", "node", "version", "__weakref__")
    __array_ufunc__ = None  # so that `array * tensor` comes to Tensor.__rmul__

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        if isinstance(data, Tensor):
            raise TypeError("Tensor(...) takes an array, not a Tensor; use its .data.")
        self._data: Array = data if hasattr(data, "dtype") and hasattr(data, "reshape") else np.asarray(data)
        if isinstance(self._data, np.generic):
            self._data = np.asarray(self._data)
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

    def __len__(self) -> int:
        return len(self._data)

    def __float__(self) -> float:
        return float(self._data)

    def __repr__(self) -> str:
        return f"Tensor({self._data!r}" + (", requires_grad=True)" if self.requires_grad else ")")

    def backward(self, g: Array | None = None, *, keep: bool = False) -> None:
        """Add d<g, self>/d(leaf) to `.grad` of every leaf that requires it; g is 1 for a scalar.

        Frees the tape as it passes, so a second call is an error; `keep=True` leaves it in place.
        """
        for leaf, part in _walk(self, g, None, keep).values():
            leaf.grad = part if leaf.grad is None else leaf.grad + part

    def __add__(self, other: Any) -> Tensor:
        return basic.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return basic.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return basic.sub(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return basic.sub(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return basic.mul(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return basic.mul(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return basic.div(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return basic.div(other, self)

    def __neg__(self) -> Tensor:
        return basic.neg(self)

    def __matmul__(self, other: Any) -> Tensor:
        return basic.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return basic.matmul(other, self)

    def __getitem__(self, key: Any) -> Tensor:
        return basic.slice(self, key=key)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return basic.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return basic.mean(self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape: Any) -> Tensor:
        return basic.reshape(self, shape=shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def transpose(self, *axes: int) -> Tensor:
        return basic.transpose(self, axes=axes or None)

    @property
    def T(self) -> Tensor:
        return basic.transpose(self, axes=None)


def op(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of arrays that returns (value, vjps) into an op on tensors, and enter it in OPS.

    Positional arguments are arrays that may be differentiated (or None, or Python scalars); keyword-only ones are
    settings. `vjps` has one entry per positional argument: a function of the output's gradient, or None for an argument
    that has no derivative; or it is one function (g, wanted) -> gradients, where they share work. A third value, `aux`,
    is handed through as it is. `op.raw` is the bare function: mathematics without a tape.
    """
    name = function.__name__
    inputs = [p.name for p in signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]

    @wraps(function)
    def record(*args: Any, **settings: Any) -> Any:
        while len(args) < len(inputs) and inputs[len(args)] in settings:  # conv2d(x, w, b=bias)
            args += (settings.pop(inputs[len(args)]),)
        value, vjps, *aux = function(*(a._data if isinstance(a, Tensor) else a for a in args), **settings)
        out = Tensor(value)
        if tape.recording():
            parents = tuple(_parent(a) for a in args)
            if any(p is not None for p in parents):
                guards = tuple((a, a.version) for a in args if isinstance(a, Tensor) and a.node is None)
                rules = vjps if callable(vjps) else vjps[: len(args)]  # an optional argument left out has no parent
                out.node = tape.Node(name, parents, rules, out._data, guards)
                out.requires_grad = True
        return (out, *aux) if aux else out

    record.raw = function  # type: ignore[attr-defined]
    OPS[name] = record
    return record


def _parent(arg: Any) -> Any:
    """Where this argument's gradient goes: to the op that made it, to the leaf itself, or nowhere."""
    if not isinstance(arg, Tensor):
        return None
    if arg.node is not None:
        return arg.node
    return arg if tape.is_recorded(arg) else None


def grad(loss: Tensor, inputs: Sequence[Tensor], g: Array | None = None, *, keep: bool = False) -> list[Array]:
    """The gradients d<g, loss>/d(input) as arrays; `.grad` is left alone and only paths to the inputs are computed.

    An input that loss does not depend on gets zeros. Frees the tape unless `keep`.
    """
    found = _walk(loss, g, inputs, keep)
    keys = [id(t.node or t) for t in inputs]
    return [found[k][1] if k in found else np.zeros_like(t._data) for k, t in zip(keys, inputs, strict=True)]


def _walk(loss: Tensor, g: Array | None, inputs: Sequence[Tensor] | None, keep: bool) -> dict[int, tuple[Any, Array]]:
    if not loss.requires_grad:
        raise RuntimeError("this tensor depends on nothing that requires a gradient; was it made under no_grad?")
    if g is None:
        if loss._data.size != 1:
            raise RuntimeError(
                f"backward of a {loss.shape} tensor needs its gradient g; only a scalar's is 1 by itself."
            )
        g = np.ones_like(loss._data)
    if g.shape != loss._data.shape or g.dtype != loss._data.dtype:
        raise TypeError(f"the gradient is {g.dtype} {g.shape} for a tensor that is {loss.dtype} {loss.shape}.")
    if loss.node is None:
        return {id(loss): (loss, g)}
    found = tape.gradients(loss.node, g, None if inputs is None else [t.node or t for t in inputs], keep)
    return {
        key: (leaf, np.asarray(part) if isinstance(part, np.generic) else part) for key, (leaf, part) in found.items()
    }


from .ops import basic  # noqa: E402  (last: ops are made with `op`, and Tensor's operators are made of ops)
