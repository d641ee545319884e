"""Element-wise arithmetic, sums, shapes and matrix products: the value and the vjps of each, side by side."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from ..backend import array_module, kernels
from ..tape import Array, Recorded
from ..tensor import op


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Sum g over the axes along which an array of this shape was broadcast: the gradient of broadcasting."""
    if g.shape == shape:
        return g
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return g.sum(axis=stretched, keepdims=True) if stretched else g


@op
def add(a: Array, b: Array) -> Recorded:
    shape_a, shape_b = np.shape(a), np.shape(b)
    return a + b, (lambda g: unbroadcast(g, shape_a), lambda g: unbroadcast(g, shape_b))


@op
def sub(a: Array, b: Array) -> Recorded:
    shape_a, shape_b = np.shape(a), np.shape(b)
    return a - b, (lambda g: unbroadcast(g, shape_a), lambda g: unbroadcast(-g, shape_b))


@op
def mul(a: Array, b: Array) -> Recorded:
    shape_a, shape_b = np.shape(a), np.shape(b)
    return a * b, (lambda g: unbroadcast(g * b, shape_a), lambda g: unbroadcast(g * a, shape_b))


@op
def div(a: Array, b: Array) -> Recorded:
    shape_a, shape_b = np.shape(a), np.shape(b)
    out = a / b
    return out, (lambda g: unbroadcast(g / b, shape_a), lambda g: unbroadcast(-g * out / b, shape_b))


@op
def neg(x: Array) -> Recorded:
    return -x, (lambda g: -g,)


@op
def exp(x: Array) -> Recorded:
    out = np.exp(x)
    return out, (lambda g: g * out,)


@op
def log(x: Array) -> Recorded:
    return np.log(x), (lambda g: g / x,)


@op
def sqrt(x: Array) -> Recorded:
    out = np.sqrt(x)
    return out, (lambda g: g / (2 * out),)


@op
def tanh(x: Array) -> Recorded:
    out = np.tanh(x)
    return out, (lambda g: g * (1 - out * out),)


@op
def relu(x: Array) -> Recorded:
    k = kernels(x)
    out = k.relu(x)
    return out, (lambda g: k.relu_gx(g, out),)


@op
def add_relu(a: Array, b: Array) -> Recorded:
    """max(a + b, 0) of two arrays of one shape: the end of a residual block."""
    if np.shape(a) != np.shape(b):
        raise ValueError(f"add_relu adds arrays of one shape, got {np.shape(a)} and {np.shape(b)}.")
    out = kernels(a).add_relu(a, b)
    return out, with_relu(out, (lambda g: g, lambda g: g))


def with_relu(out: Array, vjps: tuple[Any, ...]) -> tuple[Any, ...]:
    """The vjps of out = max(f(...), 0), from the vjps of f: where the output is 0 the gradient is 0.

    The tape calls the vjps of an op one by one with the same g, so the masked g is kept for the next one. They are not
    one shared vjp, since that would keep the arrays of all inputs, also of those that need no gradient.
    """
    k = kernels(out)
    last: list[Array] = [None, None]  # g, and g masked

    def masked(g: Array) -> Array:
        if last[0] is not g:
            last[:] = g, k.relu_gx(g, out)
        return last[1]

    return tuple(None if vjp is None else (lambda g, vjp=vjp: vjp(masked(g))) for vjp in vjps)


@op
def sum(x: Array, *, axis: Any = None, keepdims: bool = False) -> Recorded:
    """Sum over an axis, a tuple of axes, or everything (None)."""
    shape = x.shape
    return x.sum(axis=axis, keepdims=keepdims), (lambda g: _spread(g, shape, axis, keepdims),)


@op
def mean(x: Array, *, axis: Any = None, keepdims: bool = False) -> Recorded:
    """Mean over an axis, a tuple of axes, or everything (None)."""
    shape = x.shape
    out = x.mean(axis=axis, keepdims=keepdims)
    count = x.size // max(out.size, 1)
    return out, (lambda g: _spread(g / count, shape, axis, keepdims),)


def _spread(g: Array, shape: tuple[int, ...], axis: Any, keepdims: bool) -> Array:
    """Give every element of a sum the gradient of the sum."""
    xp = array_module(g)
    if axis is not None and not keepdims:
        g = xp.expand_dims(g, axis)
    return xp.broadcast_to(g, shape)


@op
def reshape(x: Array, *, shape: Any) -> Recorded:
    before = x.shape
    return x.reshape(shape), (lambda g: g.reshape(before),)


@op
def transpose(x: Array, *, axes: Any = None) -> Recorded:
    """Permute the axes; None reverses them."""
    inverse = None if axes is None else tuple(int(i) for i in np.argsort([a % x.ndim for a in axes]))
    return x.transpose(axes), (lambda g: g.transpose(inverse),)


@op
def slice(x: Array, *, key: Any) -> Recorded:
    """x[key], for every key that NumPy takes; an element that is picked twice gets the sum of both gradients."""
    shape, xp = x.shape, array_module(x)
    parts = key if isinstance(key, tuple) else (key,)
    once = all(p is None or p is Ellipsis or isinstance(p, int | builtins.slice) for p in parts)

    def vjp(g: Array) -> Array:
        gx = xp.zeros(shape, g.dtype)
        if once:
            gx[key] = g
        else:  # an array of indices may pick an element twice
            xp.add.at(gx, key, g)
        return gx

    return x[key], (vjp,)


@op
def pad(x: Array, *, widths: Any) -> Recorded:
    """Pad with zeros; widths is ((before, after), ...), one pair per axis."""
    inside = tuple(builtins.slice(before, before + n) for (before, _), n in zip(widths, x.shape, strict=True))
    return array_module(x).pad(x, widths), (lambda g: g[inside],)


@op
def concat(*arrays: Array, axis: int = 0) -> Recorded:
    """Join along an axis; the gradient is cut at the same places."""
    axis = axis % arrays[0].ndim
    sizes = [a.shape[axis] for a in arrays]
    places = [builtins.slice(end - size, end) for end, size in zip(np.cumsum(sizes).tolist(), sizes)]
    vjps = tuple(lambda g, place=place: g[(builtins.slice(None),) * axis + (place,)] for place in places)
    return array_module(arrays[0]).concatenate(arrays, axis=axis), vjps


@op
def matmul(a: Array, b: Array) -> Recorded:
    """Matrix product over the last two axes, leading axes broadcast: (..., M, K) @ (..., K, N) -> (..., M, N)."""
    if a.ndim < 2 or b.ndim < 2:
        raise ValueError(f"matmul takes matrices (2 or more axes), got shapes {a.shape} and {b.shape}; reshape first.")
    shape_a, shape_b = a.shape, b.shape
    # (..., M, N) @ (..., N, K) -> (..., M, K);  (..., K, M) @ (..., M, N) -> (..., K, N)
    return a @ b, (
        lambda g: unbroadcast(g @ b.swapaxes(-1, -2), shape_a),
        lambda g: unbroadcast(a.swapaxes(-1, -2) @ g, shape_b),
    )
