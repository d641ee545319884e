"""hypothesis strategies: calls of every op, as (arrays, settings), to check gradients and to compare two kernels.

hypothesis draws shapes, settings and a seed, but no elements: when it shrinks elements, it finds only kinks. The values
come from a grid that is 0.05 away from kinks and ties.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from .. import ops

Case = tuple[list[Any], dict[str, Any]]
Draw = Callable[..., Any]
Rng = np.random.Generator
CaseFunction = Callable[[Draw, Rng], Case]

CASES: dict[str, st.SearchStrategy[Case]] = {}  # by the op's name


def op_case(name: str) -> st.SearchStrategy[Case]:
    """A strategy that draws (arrays, settings) for the op of this name: call it as op(*arrays, **settings)."""
    if name not in CASES:
        raise LookupError(f"no case for the op {name!r}: write a function with @case({name!r}) in check/strategies.py.")
    return CASES[name]


def examples(name: str, count: int = 20) -> list[Case]:
    """A fixed list of `count` cases of this op (or all there are, if fewer), the same in every run."""
    drawn: list[Case] = []

    @settings(max_examples=count, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(op_case(name))
    def collect(one: Case) -> None:
        drawn.append(one)

    collect()
    return drawn


def case(*names: str) -> Callable[[CaseFunction], CaseFunction]:
    """Make a function the case of these ops; it gets hypothesis's `draw`, and a generator whose seed is drawn, too."""

    def enter(function: CaseFunction) -> CaseFunction:
        seeds = st.integers(0, 2**16)
        drawn = st.composite(lambda draw: function(draw, np.random.default_rng(draw(seeds))))()
        CASES.update(dict.fromkeys(names, drawn))
        return function

    return enter


def grid(rng: Rng, shape: tuple[int, ...]) -> Any:
    """Values +-0.05, 0.15, ... 1.95, at least 0.05 away from a relu's kink at zero."""
    return np.asarray((rng.integers(-20, 20, shape) + 0.5) / 10)


def positive(rng: Rng, shape: tuple[int, ...]) -> Any:
    """Values 0.35 ... 1.95, for logarithms, roots and denominators."""
    return np.asarray((rng.integers(3, 20, shape) + 0.5) / 10)


def distinct(rng: Rng, shape: tuple[int, ...]) -> Any:
    """Values around zero in random order, no two of them closer than 0.1: no ties."""
    size = int(np.prod(shape))
    return (rng.permutation(size).reshape(shape) - size // 2 + 0.5) / 10


def shapes(low: int = 0, high: int = 3, side: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of low to high axes, each of length 1 to side."""
    return st.lists(st.integers(1, side), min_size=low, max_size=high).map(tuple)


def _broadcast_pair(draw: Draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast: of either, first axes are dropped and other axes are set to 1."""
    full = draw(shapes())
    pair = []
    for _ in range(2):
        kept = full[draw(st.sampled_from([0, 0, 0, 1, 2, 3])) :]
        pair.append(tuple(1 if draw(st.booleans()) and draw(st.booleans()) else n for n in kept))
    return pair[0], pair[1]


@case("add", "sub", "mul")
def _binary(draw: Draw, rng: Rng) -> Case:
    a, b = _broadcast_pair(draw)
    arrays: list[Any] = [grid(rng, a), grid(rng, b)]
    scalar = draw(st.sampled_from([None, None, None, 0, 1]))  # now and then one of them is a Python scalar
    if scalar is not None:
        arrays[scalar] = 0.75
    return arrays, {}


@case("div")
def _div(draw: Draw, rng: Rng) -> Case:
    arrays, _ = _binary(draw, rng)
    if isinstance(arrays[1], np.ndarray):
        arrays[1] = np.asarray(arrays[1] + 0.3 * np.sign(arrays[1]))
    return arrays, {}


@case("neg", "exp", "tanh", "relu", "reverse_gradient")
def _unary(draw: Draw, rng: Rng) -> Case:
    return [grid(rng, draw(shapes()))], {}


@case("log", "sqrt")
def _of_positive(draw: Draw, rng: Rng) -> Case:
    return [positive(rng, draw(shapes()))], {}


@case("add_relu")
def _add_relu(draw: Draw, rng: Rng) -> Case:
    shape = draw(shapes())
    return [grid(rng, shape), 2 * grid(rng, shape)], {}  # the sum is as far from zero as the grid


@case("sum", "mean")
def _sums(draw: Draw, rng: Rng) -> Case:
    shape = draw(shapes(1, 4, 3))
    axes = st.integers(-len(shape), len(shape) - 1)
    several = st.lists(axes, min_size=1, max_size=3, unique_by=lambda a: a % len(shape)).map(tuple)
    return [grid(rng, shape)], {"axis": draw(st.none() | axes | several), "keepdims": draw(st.booleans())}


@case("reshape")
def _reshape(draw: Draw, rng: Rng) -> Case:
    shape = draw(shapes())
    size = int(np.prod(shape))
    return [grid(rng, shape)], {"shape": draw(st.sampled_from([(size,), (-1,), (1, size), (size, 1), shape]))}


@case("transpose")
def _transpose(draw: Draw, rng: Rng) -> Case:
    shape = draw(shapes(1, 4, 3))
    order = draw(st.permutations(range(len(shape))))
    signed = tuple(a - len(shape) if draw(st.booleans()) else a for a in order)
    return [grid(rng, shape)], {"axes": draw(st.sampled_from([None, signed, signed, signed]))}


KEYS: list[Any] = [
    1, -1, slice(None), slice(1, None), slice(None, None, 2), slice(None, None, -1), Ellipsis, None,
    (0, 1), (..., 0), (..., slice(None, None, -2)), (slice(1, 3), None, -2), (slice(None), slice(3, 0, -2), 1),
    [0, 0, 1], ([1, 1], [0, 0]), (slice(None), [2, 0, 2, 2]), (..., [1, 1, 0]), (np.array([[0, 1], [1, 1]]), 0),
    np.int64(1),
]  # fmt: skip


@case("slice")
def _slice(draw: Draw, rng: Rng) -> Case:
    shape = tuple(draw(st.integers(low, 4)) for low in (2, 3, 2))
    key = draw(st.sampled_from(KEYS) | st.just("mask"))
    return [grid(rng, shape)], {"key": rng.random(shape) < 0.5 if isinstance(key, str) else key}


@case("pad")
def _pad(draw: Draw, rng: Rng) -> Case:
    shape = draw(shapes(1, 4, 3))
    widths = tuple(draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) for _ in shape)
    return [grid(rng, shape)], {"widths": widths}


@case("concat")
def _concat(draw: Draw, rng: Rng) -> Case:
    shape = draw(shapes(1, 4, 3))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    before, after = shape[: axis % len(shape)], shape[axis % len(shape) + 1 :]
    return [grid(rng, (*before, n, *after)) for n in sizes], {"axis": axis}


@case("matmul")
def _matmul(draw: Draw, rng: Rng) -> Case:
    a, b = _broadcast_pair(draw)
    m, k, n = (draw(st.integers(1, 3)) for _ in range(3))
    return [grid(rng, (*a[-2:], m, k)), grid(rng, (*b[-2:], k, n))], {}


@case("linear")
def _linear(draw: Draw, rng: Rng) -> Case:
    n, d, f = (draw(st.integers(1, 4)) for _ in range(3))
    arrays = [grid(rng, (n, d)), grid(rng, (d, f)), grid(rng, (f,))]
    return arrays[: draw(st.integers(2, 3))], {}


# Images

_strides = st.sampled_from([1, 1, 2, 3]) | st.tuples(st.integers(1, 3), st.integers(1, 3))
_kernels = st.tuples(*[st.sampled_from([1, 2, 2, 3, 3])] * 2)  # 1 is rarer: such a window tests little


def _size(draw: Draw, kernel: tuple[int, int], padding: Any) -> tuple[int, int]:
    """Image sizes from the smallest possible to those where, with strides up to 3, no window covers the last pixels."""
    low = (1, 1) if padding == "same" else kernel
    return draw(st.integers(low[0], kernel[0] + 4)), draw(st.integers(low[1], kernel[1] + 4))


@case("conv2d")
def _conv2d(draw: Draw, rng: Rng) -> Case:
    kernel = draw(_kernels)
    asymmetric = st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2)
    padding = draw(st.sampled_from(["same", "valid"]) | st.integers(0, 2) | asymmetric)
    size, (n, c, f) = _size(draw, kernel, padding), (draw(st.integers(1, k)) for k in (2, 3, 3))
    arrays = [grid(rng, (n, *size, c)), grid(rng, (*kernel, c, f)), grid(rng, (f,))][: draw(st.integers(2, 3))]
    chosen = {"stride": draw(_strides), "padding": padding}
    before_relu = ops.conv2d(*arrays, **chosen).data
    return arrays, {**chosen, "relu": draw(st.booleans()) and _away_from_zero(before_relu)}


def _away_from_zero(before_relu: Any) -> bool:
    """May a relu follow? Not where a finite difference could step over its kink."""
    return bool(np.abs(before_relu).min(initial=1.0) > 0.01)


def _pool(draw: Draw, rng: Rng, option: str) -> Case:
    kernel = draw(_kernels | st.integers(1, 3))
    window = (kernel, kernel) if isinstance(kernel, int) else kernel
    rows, columns = (st.integers(0, min(2, k - 1)) for k in window)  # always less than the window
    asymmetric = st.tuples(st.tuples(rows, rows), st.tuples(columns, columns))
    padding = draw(st.sampled_from(["same", "valid"]) | st.integers(0, min(window) - 1) | asymmetric)
    shape = (draw(st.integers(1, 2)), *_size(draw, window, padding), draw(st.integers(1, 2)))
    stride = draw(_strides | st.none())
    chosen = {"kernel": kernel, "stride": stride, "padding": padding, option: draw(st.booleans())}
    return [distinct(rng, shape)], chosen


case("max_pool")(partial(_pool, option="ceil"))
case("avg_pool")(partial(_pool, option="count_padding"))


@case("global_avg_pool")
def _global_avg_pool(draw: Draw, rng: Rng) -> Case:
    return [grid(rng, draw(shapes(4, 4, 4)))], {}


# Normalisation and losses


def _channels(draw: Draw, rng: Rng) -> tuple[Any, int]:
    """Samples (N, C) or (N, H, W, C), also far from zero; there ten times farther apart, because of rounding."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 3)) | shapes(4, 4, 3))
    mean = draw(st.sampled_from([0.0, 0.0, -7.0, 1000.0]))
    return distinct(rng, shape) * (10 if mean == 1000 else 1) + mean, shape[-1]


@case("batch_norm_train")
def _batch_norm_train(draw: Draw, rng: Rng) -> Case:
    x, c = _channels(draw, rng)
    arrays, eps = [x, grid(rng, (c,)), grid(rng, (c,))], draw(st.sampled_from([1e-5, 1e-3]))
    before_relu = ops.batch_norm_train(*arrays, eps=eps)[0].data
    return arrays, {"eps": eps, "relu": draw(st.booleans()) and _away_from_zero(before_relu)}


@case("batch_norm_eval")
def _batch_norm_eval(draw: Draw, rng: Rng) -> Case:
    x, c = _channels(draw, rng)
    mean, eps = x.mean() + grid(rng, (c,)), draw(st.sampled_from([1e-5, 1e-3]))
    return [x, grid(rng, (c,)), grid(rng, (c,)), mean, positive(rng, (c,))], {"eps": eps}


@case("dropout")
def _dropout(draw: Draw, rng: Rng) -> Case:
    shape, rate = draw(shapes(1)), draw(st.sampled_from([0.0, 0.25, 0.5]))
    return [grid(rng, shape)], {"rate": rate, "mask": rng.random(shape) >= rate}


_reductions = st.sampled_from(["none", "sum", "mean"])


@case("softmax_cross_entropy")
def _softmax_cross_entropy(draw: Draw, rng: Rng) -> Case:
    n, c = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    labels = draw(st.sampled_from([rng.integers(0, c, n), rng.dirichlet(np.ones(c), n)]))
    return [grid(rng, (n, c)), labels], {"reduction": draw(_reductions)}


@case("binary_cross_entropy")
def _binary_cross_entropy(draw: Draw, rng: Rng) -> Case:
    n = draw(st.integers(1, 6))
    targets = draw(st.sampled_from([rng.random(n), rng.integers(0, 2, n)]))
    return [grid(rng, (n,)), targets], {"reduction": draw(_reductions)}
