"""What every CUDA kernel is held against: the NumPy kernel of the same name, on drawn shapes.

A check takes a case and raises AssertionError; `CHECKS` lists those of each .cu file. They run through cupy_kernels.py,
on a GPU or on its CPU stand-in, for the kernels as they are (test_cuda_kernels.py) and for wrong ones
(test_cuda_mutants.py).
"""

import contextlib
import functools
from unittest import mock

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from minisatm import backend
from minisatm.kernels import numpy_kernels, plain

FLOAT = np.dtype(np.float32)
TOLERANCE = {FLOAT: 3e-5, np.dtype(np.float64): 1e-12}  # of the largest value


def ours():
    from minisatm.kernels import cupy_kernels

    return cupy_kernels


def up(*arrays):
    return [None if a is None else backend.placed(a, "cupy") for a in arrays]


def close(found, expected, tolerance=None):
    """Every entry: the same shape and dtype, and equal to within rounding relative to the largest one."""
    found = found.get()
    assert found.shape == expected.shape and found.dtype == expected.dtype
    tolerance = tolerance or TOLERANCE[expected.dtype]
    size = np.abs(expected[np.isfinite(expected)]).max(initial=1e-6)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * size)


def agree(name, arrays, *args, tolerance=None, **settings):
    """kernel(*arrays, *args, **settings) of either backend; some kernels return several arrays."""
    expected = getattr(numpy_kernels, name)(*arrays, *args, **settings)
    found = getattr(ours(), name)(*up(*arrays), *args, **settings)
    for one, other in zip(*((v if isinstance(v, tuple) else (v,)) for v in (found, expected)), strict=True):
        close(one, other, tolerance)


# --- cases ----------------------------------------------------------------------------------------------------------

DTYPES = st.sampled_from([np.float32, np.float32, np.float64])
CHANNELS = st.sampled_from([1, 2, 3, 5, 8, 31, 32, 33, 70])


class Case:
    """Random numbers of one dtype from a seed, and whatever else a check draws."""

    def __init__(self, seed, dtype, **settings):
        self.rng, self.dtype = np.random.default_rng(seed), np.dtype(dtype)
        self.__dict__.update(settings)
        self.drawn = (seed, dtype), settings

    def __repr__(self):
        return f"Case{self.drawn}"

    def array(self, *shape, shift=0.0):
        return (self.rng.standard_normal(shape) + shift).astype(self.dtype)

    def again(self):
        """The same random numbers once more."""
        return Case(*self.drawn[0], **self.drawn[1])

    def in_single_precision(self):
        return Case(self.drawn[0][0], FLOAT, **self.drawn[1])


@st.composite
def windows(draw, channels=CHANNELS):
    """Images of 1 to 9 pixels a side, kernels of 1 to 4, strides up to 3, uneven padding: at least one window fits."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    pads = tuple(draw(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1))) for k in kernel)
    size = tuple(draw(st.integers(max(1, k - sum(p)), 9)) for k, p in zip(kernel, pads))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return Case(
        draw(st.integers(0, 999)), draw(DTYPES).__name__, size=size, kernel=kernel, stride=stride, pads=pads,
        n=draw(st.integers(1, 3)), c=draw(channels), f=draw(channels), flag=draw(st.booleans()),
        bias=draw(st.booleans()),
    )  # fmt: skip


@st.composite
def matrices(draw, channels=CHANNELS):
    """Rows and channels: one row, one channel, a few more than a block takes."""
    return Case(
        draw(st.integers(0, 999)), draw(DTYPES).__name__, rows=draw(st.sampled_from([1, 2, 7, 40, 100])),
        c=draw(channels), f=draw(channels), flag=draw(st.booleans()), bias=draw(st.booleans()),
        shift=draw(st.sampled_from([0.0, 0.0, 1000.0])),
    )  # fmt: skip


# --- convolution and dense layers -----------------------------------------------------------------------------------


@contextlib.contextmanager
def ways(**settings):
    """cupy_kernels with other settings: cublas, WORTH_COLUMNS, COLUMN_BYTES ..."""
    with contextlib.ExitStack() as stack:
        for name, value in settings.items():
            stack.enter_context(mock.patch.object(ours(), name, value))
        yield


def convolutions(case):
    (H, W), (kh, kw), where = case.size, case.kernel, dict(stride=case.stride, pads=case.pads)
    x, w = case.array(case.n, H, W, case.c), case.array(kh, kw, case.c, case.f)
    b = case.array(case.f) if case.bias else None
    P, Q = plain.output_size(case.size, case.kernel, case.stride, case.pads)
    g = case.array(case.n, P, Q, case.f)
    agree("conv2d", [x, w, b], relu=case.flag, exact=True, **where)
    agree("conv2d_gx", [g, w], size=case.size, exact=True, **where)
    agree("conv2d_gw", [x, g], kernel=case.kernel, exact=True, **where)


def implicit(case):
    with ways(cublas=False, PIXELS=case.rng.integers(8, 60)):
        convolutions(case)


def by_columns(case):
    with ways(cublas=True, WORTH_COLUMNS=1, COLUMN_BYTES=4000):
        convolutions(case)


def dense(case):
    x, w, b = case.array(case.rows, case.c), case.array(case.c, case.f), case.array(case.f) if case.bias else None
    g = case.array(case.rows, case.f)
    with ways(cublas=case.flag):
        agree("linear", [x, w, b])
        agree("linear_gx", [g, w])
        agree("linear_gw", [x, g])


# --- pooling --------------------------------------------------------------------------------------------------------


def pooled(case):
    x = case.array(case.n, *case.size, case.c)
    if case.bias:
        x = np.round(x)  # many ties: they go to the first
    where = dict(kernel=case.kernel, stride=case.stride, pads=case.pads)
    best, place = numpy_kernels.max_pool(x, ceil=case.flag, **where)
    found, found_place = ours().max_pool(*up(x), ceil=case.flag, **where)
    np.testing.assert_array_equal(found.get(), best)
    np.testing.assert_array_equal(found_place.get(), place)
    g = case.array(*best.shape)
    agree("max_pool_gx", [g, place], size=case.size, **where)
    agree("avg_pool", [x], count_padding=case.flag, **where)
    P, Q = plain.output_size(case.size, case.kernel, case.stride, case.pads)
    agree("avg_pool_gx", [case.array(case.n, P, Q, case.c)], size=case.size, count_padding=case.flag, **where)


def pooled_nan(case):
    """A NaN is larger than all, and the first one of a window has the gradient."""
    x = case.array(2, 5, 5, 3)
    x[case.rng.random(x.shape) < 0.3] = np.nan
    where = dict(kernel=(2, 2), stride=(1, 1), pads=((0, 0), (0, 0)))
    found, place = ours().max_pool(*up(x), ceil=False, **where)
    seen = np.lib.stride_tricks.sliding_window_view(x, (2, 2), (1, 2)).reshape(2, 4, 4, 3, 4)
    np.testing.assert_array_equal(found.get(), seen.max(axis=-1))
    np.testing.assert_array_equal(place.get(), seen.argmax(axis=-1))


# --- channels and elements --------------------------------------------------------------------------------------------


def summed(case):
    x, y = case.array(case.rows, case.c), case.array(case.rows, case.c)
    with ways(CHUNK_ROWS=32):
        agree("channel_sums", [x], tolerance=TOLERANCE[case.dtype] * np.sqrt(case.rows))
        agree("channel_sums", [x, y], tolerance=TOLERANCE[case.dtype] * np.sqrt(case.rows))


def normalised(case):
    x, gamma, beta = case.array(case.rows, 1, case.c, shift=case.shift), case.array(case.c), case.array(case.c)
    k, near = ours(), TOLERANCE[case.dtype] * (1 + case.shift)
    with ways(CHUNK_ROWS=32):
        out, saved, mean, variance = k.batch_norm_train(*up(x, gamma, beta), eps=1e-3, relu=case.flag)
        exact = x.astype(np.float64)  # a mean of 1000 costs the variance no digits, whoever computes it
        np.testing.assert_allclose(mean.get(), exact.mean(axis=(0, 1)), rtol=TOLERANCE[case.dtype], atol=near)
        np.testing.assert_allclose(variance.get(), exact.var(axis=(0, 1)), rtol=20 * near, atol=near * near)
        numpy = numpy_kernels.batch_norm_train(exact, *map(np.float64, (gamma, beta)), eps=1e-3, relu=case.flag)
        close(out, numpy[0].astype(case.dtype), 100 * near)
        g = case.array(*x.shape)
        cut = out.get() if case.flag else None
        expected = numpy_kernels.batch_norm_train_gx(
            g.astype(np.float64), numpy[1], gamma.astype(np.float64), None if cut is None else cut.astype(np.float64)
        )
        found = k.batch_norm_train_gx(*up(g), saved, *up(gamma), out if case.flag else None)
        for one, other in zip(found, expected, strict=True):
            close(one, other.astype(case.dtype), 300 * near)
    agree("running_average", [gamma, beta], 0.1, 1.25)


def element_wise(case):
    x, y = case.array(case.rows, case.c), case.array(case.rows, case.c)
    scale, shift = case.array(case.c), case.array(case.c) if case.bias else None
    x[case.rng.random(x.shape) < 0.1] = 0
    agree("add", [x, y])
    agree("relu", [x])
    agree("relu_gx", [y, np.maximum(x, 0)])
    agree("add_relu", [x, y])
    agree("scale_shift", [x, scale, shift])
    x.flat[0] = np.nan
    found = ours().relu(*up(x)).get(), ours().add_relu(*up(x, y)).get()
    assert all(np.isnan(f.flat[0]) for f in found)  # a network that diverged says so


def dropped(case):
    x = case.array(case.rows, case.c)
    agree("dropout", [x, case.rng.random(x.shape) < 0.5], 2.0)


# --- attack, loss and optimisers --------------------------------------------------------------------------------------


def attacked(case):
    """Exactly NumPy's numbers: a step of an attack is one sum and a comparison. Outside of the box there is NaN."""
    x, g = case.rng.random((case.rows, case.c)).astype(case.dtype), case.array(case.rows, case.c)
    g[case.rng.random(g.shape) < 0.2] = 0
    bits = np.frombuffer(case.rng.bytes(-(-x.size // 8)), np.uint8)
    step = 0.25 if case.flag else -0.25
    k = ours()
    np.testing.assert_array_equal(k.sign_step(*up(x, g), step).get(), numpy_kernels.sign_step(x, g, step))
    found = k.random_step(*up(x), bits, 0.125).get()
    np.testing.assert_array_equal(found, numpy_kernels.random_step(x, bits, 0.125))
    outside = np.array([-0.01, 1.01, np.nan, np.inf, 0, 1], case.dtype)
    for moved in (k.sign_step(*up(outside, np.ones_like(outside)), 0.5), k.random_step(*up(outside), bits[:1], 0.5)):
        assert np.isnan(moved.get()).tolist() == [True] * 4 + [False] * 2
    assert np.isnan(k.sign_step(*up(outside[4:], np.full(2, np.nan, case.dtype)), 0.5).get()).all()


def losses(case):
    """Logits around 1e4 and one far above the others; soft labels whose rows need not sum to one."""
    logits = 5 * case.array(case.rows, case.c) + case.dtype.type(10 * case.shift)
    logits[0] += case.dtype.type(200) * np.eye(1, case.c, case.c // 2, dtype=case.dtype)[0]
    logits = logits.astype(case.dtype)
    labels = case.rng.random((case.rows, case.c)).astype(case.dtype)
    agree("softmax_cross_entropy", [logits, labels])
    if case.c > 1:  # an impossible class, whose label is 0, adds nothing
        logits[0, 0], labels[0, 0] = -np.inf, 0
        agree("softmax_cross_entropy", [logits, labels])
    logits[-1, -1] = np.nan
    loss, _ = ours().softmax_cross_entropy(*up(logits, labels))
    assert np.isnan(loss.get()).tolist() == [False] * (case.rows - 1) + [True]


def optimised(case):
    """Norm, clipping, and a step of either optimiser; a gradient that is not finite moves nothing."""
    k = ours()
    gradients = [case.array(case.rows, case.c), case.array(case.f), case.array(3, 20000 if case.flag else 2)]
    for clip in (None, 0.5, 1e6):
        expected, found = numpy_kernels.clip_by_norm(gradients, clip), k.clip_by_norm(up(*gradients), clip)
        np.testing.assert_allclose([float(found[0]), float(found[1][0])], expected, rtol=1e-5)
    rules = {
        "sgd_step": (1, dict(rate=0.1, momentum=0.9, weight_decay=0.01)),
        "adam_step": (2, dict(rate=0.1, betas=(0.9, 0.99), steps=3, eps=1e-8, weight_decay=0.01)),
    }
    for rule, (slots, chosen) in rules.items():
        state = [case.array(case.rows, case.c) for _ in range(2)] + [
            case.rng.random((case.rows, case.c)).astype(case.dtype) for _ in range(slots)
        ]
        there, before = up(*state), [a.copy() for a in state]
        getattr(k, rule)(*there, up(np.full(1, np.nan, case.dtype))[0], **chosen)
        for found, own in zip(there, before):
            np.testing.assert_array_equal(found.get(), own)
        getattr(k, rule)(*there, up(np.full(1, 0.5, case.dtype))[0], **chosen)
        getattr(numpy_kernels, rule)(*state, 0.5, **chosen)
        for found, own in zip(there, state):
            close(found, own)
    gradients[1][-1] = np.inf if case.flag else np.nan
    norm, scale = k.clip_by_norm(up(*gradients), clip)
    assert not np.isfinite(float(norm)) and np.isnan(float(scale[0]))


CHECKS = {
    "attack.cu": [(matrices(), attacked)],
    "batch_norm.cu": [(matrices(), normalised)],
    "channel_sums.cu": [(matrices(), summed)],
    "conv2d.cu": [(windows(), implicit)],
    "dropout.cu": [(matrices(), dropped)],
    "im2col.cu": [(windows(), by_columns)],
    "linear.cu": [(matrices(), dense)],
    "optimisers.cu": [(matrices(), optimised)],
    "pool.cu": [(windows(), pooled), (matrices(), pooled_nan)],
    "relu.cu": [(matrices(), element_wise), (windows(), by_columns), (matrices(), dense)],
    "scale_shift.cu": [(matrices(), element_wise)],
    "softmax_cross_entropy.cu": [(matrices(), losses)],
}


@functools.cache
def fixed(cases, count):
    """A fixed list of cases, the same in every run."""
    drawn = []

    @settings(max_examples=count, derandomize=True, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(cases)
    def collect(case):
        drawn.append(case)

    collect()
    return drawn
