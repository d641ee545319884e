"""Tensor, an array that remembers how it was made, and `op`, which turns a function of arrays into one of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Any, overload

import numpy as np

from . import guards, tape
from .tape import Array, Recorded, RecordedAux

OPS: dict[str, Callable[..., Any]] = {}  # every op by name, for the tests that check all of them


class Tensor:
    """An array with a place on the tape.

    data: the array (NumPy or CuPy; its dtype is kept). requires_grad: does backward leave a gradient in `.grad`?
    `.grad` is None or an array of data's shape and dtype; read it, but do not write into it (it may be shared).
    Assigning to `.data`, also by `t.data -= step`, makes a new version of a leaf: a backward pass from an earlier
    forward pass then fails. Never change the data of a tensor that an op made. guards.checking_every_entry says which
    changes backward finds. Tensors have no comparisons and no truth value: compare their arrays, `t.data == y`.
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

    def __reduce__(self) -> Any:
        """For copy and pickle: a leaf with its gradient."""
        if self.node is not None:
            raise TypeError("a tensor that an op made cannot be copied or pickled with its tape: use its .data.")
        return Tensor, (self._data, self.requires_grad), (None, {"grad": self.grad, "version": self.version})

    def _no_array(self, *args: Any, **settings: Any) -> Any:
        raise TypeError(
            "a Tensor cannot be compared, tested for truth or given to NumPy: use its array, as in t.data == 3 or "
            "np.mean(t.data == y)."
        )

    # NumPy would make an array of objects of it, and np.array_equal would answer False.
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__ = _no_array
    __array__ = __array_function__ = _no_array
    __hash__ = object.__hash__  # a tensor is itself, whatever is in it

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

    Positional arguments are arrays that may have a gradient (or None, or Python scalars); keyword-only ones are
    settings. `vjps` has an entry for each positional argument: a function of the output's gradient, or None for an
    argument without a gradient. If the gradients share work, it is one function (g, wanted) -> all gradients. A third
    value, `aux`, is returned beside the tensor. `op.raw` is the function itself: the mathematics without a tape.
    NumPy scalars take the dtype of the tensor beside them, and become Python numbers among the settings: float32 stays.
    """
    name = function.__name__
    parameters = signature(function).parameters.values()
    inputs = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)

    @wraps(function)
    def record(*args: Any, **settings: Any) -> Any:
        while len(args) < len(inputs) and inputs[len(args)] in settings:  # conv2d(x, w, b=bias)
            args += (settings.pop(inputs[len(args)]),)
        arrays = [a._data if isinstance(a, Tensor) else a for a in args]
        dtype = next((a.dtype for a in args if isinstance(a, Tensor)), None)
        if dtype is not None and dtype.kind == "f":
            arrays = [dtype.type(a) if isinstance(a, np.generic) else a for a in arrays]
        settings = {key: s.item() if isinstance(s, np.generic) else s for key, s in settings.items()}
        recorded = function(*arrays, **settings)
        wanted = len(args) if any_number else len(inputs)
        if fault := guards.fault(recorded, len(args), wanted, dtype is None):
            raise TypeError(f"the op {name} {fault}: {guards.RIGHT_FORM}")
        value, vjps, *aux = recorded
        out = Tensor(value)
        parents = tuple(map(_parent, args))
        if any(p is not None for p in parents):
            leaves = (a for a in args if isinstance(a, Tensor) and a.node is None)
            given = vjps if callable(vjps) else vjps[: len(args)]  # without those of optional arguments left out
            out.node = tape.Node(name, parents, given, out._data, leaves)
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
