"""Twins: the fast kernels against plain.py, adjoints against their definition."""

import functools
from unittest import mock

import hypothesis
import loops
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisatm import ops
from minisatm.check.strategies import examples, op_case
from minisatm.kernels import im2col, numpy_kernels, plain, winograd
from minisatm.ops.conv import pair, resolve_padding
from minisatm.tensor import OPS


def close(a, b, tolerance=1e-12):
    """Equal to within rounding, relative to the largest entry."""
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1e-300, np.abs(b).max(initial=0)))


cases = functools.lru_cache(examples)


def cotangent(value):
    return np.cos(np.arange(1.0, value.size + 1)).reshape(value.shape)


def window(x, kernel, settings):
    stride = settings.get("stride")
    stride = pair(kernel if stride is None else stride)
    pads = resolve_padding(settings["padding"], x.shape[1:3], pair(kernel), stride)
    return {"stride": stride, "pads": pads}


# --- plain and fast kernels -------------------------------------------------------------------------------------------


def conv2d_twin(arrays, settings):
    x, w, b = (*arrays, None)[:3]
    value, _ = ops.conv2d.raw(x, w, b, **settings)
    where = window(x, w.shape[:2], settings)
    uncut = plain.conv2d(x, w, b, **where)
    close(value, np.maximum(uncut, 0) if settings["relu"] else uncut)
    # without bias and relu a convolution is linear in x and in w: both adjoints must give the same number exactly
    straight, (vjp_x, vjp_w, _) = ops.conv2d.raw(x, w, None, **{**settings, "relu": False})
    g = cotangent(value)
    product = np.sum(straight * g)
    size = np.sum(np.abs(straight * g)) + 1
    assert abs(np.sum(x * vjp_x(g)) - product) <= 1e-12 * size
    assert abs(np.sum(w * vjp_w(g)) - product) <= 1e-12 * size


def conv2d_blocks_twin(arrays, settings):
    """Blocks of one row, of three rows, of two images (the last block is shorter), and everything at once."""
    x, w, *b = arrays
    x = np.concatenate([x[:1], x[:1] + 1, x[:1] - 1])
    _, P, Q, _ = ops.conv2d.raw(x, w, **settings)[0].shape
    row_bytes = Q * w[..., 0].size * x.itemsize
    for column_bytes in (1, 3 * row_bytes, 2 * P * row_bytes, 2**30):
        with mock.patch.object(im2col, "COLUMN_BYTES", column_bytes):
            conv2d_twin([x, w, *b], settings)


def winograd_twin(arrays, settings, tolerance=1e-12):
    """Winograd's way against im2col: value and gradients to x and w, in blocks of a row of tiles and in large ones."""
    x, w, b = arrays
    pads = settings["pads"]
    where = {"stride": (1, 1), "pads": pads}
    for block_bytes in (1, 2**20):
        with mock.patch.object(winograd, "BLOCK_BYTES", block_bytes):
            value = winograd.conv2d(x, w, b, **settings)
            close(value, im2col.conv2d(x, w, b, **where, relu=settings["relu"]), tolerance)
            g = cotangent(value).astype(x.dtype)
            expected = im2col.conv2d_gw(x, g, kernel=(3, 3), **where)
            close(winograd.conv2d_gw(x, g, pads=pads), expected, tolerance)
            sizes = {"size": x.shape[1:3], **where}
            by_winograd = im2col.conv2d_gx(
                g, w, **sizes, conv=lambda g, w, b, stride, pads: winograd.conv2d(g, w, b, pads=pads)
            )
            close(by_winograd, im2col.conv2d_gx(g, w, **sizes), tolerance)


def max_pool_twin(arrays, settings):
    (x,), kernel, ceil = arrays, pair(settings["kernel"]), settings["ceil"]
    value, (vjp,) = ops.max_pool.raw(x, **settings)
    close(value, plain.max_pool(x, kernel=kernel, ceil=ceil, **window(x, kernel, settings))[0])
    # no ties in these cases: each g belongs to the one pixel of its image and channel that has the value
    g, expected = cotangent(value), np.zeros(x.shape)
    for n, p, q, c in np.ndindex(value.shape):
        expected[n, ..., c][x[n, ..., c] == value[n, p, q, c]] += g[n, p, q, c]
    close(vjp(g), expected)


def max_pool_ties_twin(arrays, settings):
    """With many ties: g goes to the first of the equal pixels, in row order."""
    x, kernel = np.floor(arrays[0] % 3), pair(settings["kernel"])
    where = window(x, kernel, settings)
    value, (vjp,) = ops.max_pool.raw(x, **settings)
    g, expected = cotangent(value), np.zeros(x.shape)
    for n, p, q, c in np.ndindex(value.shape):
        corner = [i * s - before for i, s, (before, _) in zip((p, q), where["stride"], where["pads"])]
        inside = [
            (corner[0] + i, corner[1] + j)
            for i, j in np.ndindex(*kernel)
            if 0 <= corner[0] + i < x.shape[1] and 0 <= corner[1] + j < x.shape[2]
        ]
        row, column = max(inside, key=lambda ij: x[n, ij[0], ij[1], c])  # max keeps the first of equals
        expected[n, row, column, c] += g[n, p, q, c]
    close(vjp(g), expected)


def avg_pool_twin(arrays, settings):
    (x,), kernel = arrays, pair(settings["kernel"])
    value, (vjp,) = ops.avg_pool.raw(x, **settings)
    count = settings["count_padding"]
    close(value, plain.avg_pool(x, kernel=kernel, count_padding=count, **window(x, kernel, settings)))
    g = cotangent(value)
    assert abs(np.sum(x * vjp(g)) - np.sum(value * g)) <= 1e-12 * (np.sum(np.abs(value * g)) + 1)


def linear_twin(arrays, settings):
    x, w, b = (*arrays, None)[:3]
    close(ops.linear.raw(x, w, b)[0], plain.linear(x, w, b))


def batch_norm_train_twin(arrays, settings):
    x, gamma, beta = arrays
    value, _, (mean, variance) = ops.batch_norm_train.raw(x, gamma, beta, **settings)
    expected, _, *statistics = plain.batch_norm_train(x, gamma, beta, **settings)
    np.testing.assert_allclose(mean, statistics[0], rtol=0, atol=1e-13 * np.abs(x).max())  # a sum may cancel
    close(variance, statistics[1], 1e-9)  # sums and matrix products round a mean of 1000 apart by 1e-13
    close(value, expected, 1e-9)


def batch_norm_eval_twin(arrays, settings):
    close(ops.batch_norm_eval.raw(*arrays, **settings)[0], loops.batch_norm(*arrays, **settings), 1e-11)


def softmax_cross_entropy_twin(arrays, settings):
    logits, labels = arrays
    rows = np.eye(logits.shape[1])[labels] if labels.ndim == 1 else labels
    loss, _ = plain.softmax_cross_entropy(logits, rows)
    reduced = {"none": loss, "sum": loss.sum(), "mean": loss.mean()}[settings["reduction"]]
    # logits of order one: a loss near zero is a difference of such numbers
    np.testing.assert_allclose(
        ops.softmax_cross_entropy.raw(logits, labels, **settings)[0], reduced, rtol=1e-12, atol=1e-14
    )


@given(op_case("conv2d"))
def test_conv2d_is_plain_and_its_adjoints(case):
    conv2d_twin(*case)


@given(op_case("conv2d"))
def test_conv2d_in_blocks_of_any_size(case):
    conv2d_blocks_twin(*case)


@st.composite
def winograd_cases(draw):
    """Images of 1 to 11 pixels a side, so that tiles hang over on either side, with any padding up to 2."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    pads = draw(st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2))
    size = [draw(st.integers(max(1, 3 - sum(p)), 11)) for p in pads]
    n, c, f = (draw(st.integers(1, 3)) for _ in range(3))
    arrays = [rng.standard_normal(s) for s in ((n, *size, c), (3, 3, c, f), (f,))]
    return [*arrays[:2], draw(st.sampled_from([arrays[2], None]))], {"pads": pads, "relu": draw(st.booleans())}


@functools.cache
def fixed_winograd_cases():
    drawn = []

    @hypothesis.settings(max_examples=30, derandomize=True, database=None, phases=[hypothesis.Phase.generate])
    @given(winograd_cases())
    def collect(case):
        drawn.append(case)

    collect()
    return drawn


@given(
    channels=st.sampled_from([1, 16, 17]),
    more=st.integers(1, 3),
    kernel=st.sampled_from([(2, 2), (3, 2), (1, 3), (4, 4)]),
    stride=st.sampled_from([(1, 1), (2, 1), (3, 3)]),
    pads=st.sampled_from([((0, 0), (0, 0)), ((1, 0), (0, 2)), ((2, 1), (1, 1))]),
    images=st.integers(1, 5),
    cache=st.sampled_from([2**12, 2**30]),
)
def test_tap_by_tap_is_the_convolution_with_the_flipped_kernel(channels, more, kernel, stride, pads, images, cache):
    """The gradient to x either way, in blocks of one image and at once; g read-only; where few channels meet many."""
    rng, size, filters = np.random.default_rng(0), (7, 8), 2 * channels + more
    out = tuple((n + sum(p) - k) // s + 1 for n, p, k, s in zip(size, pads, kernel, stride))
    g, w = rng.standard_normal((images, *out, filters)), rng.standard_normal((*kernel, channels, filters))
    g.flags.writeable = w.flags.writeable = False
    where = dict(size=size, stride=stride, pads=pads)
    with mock.patch.object(im2col, "CACHE", 0):
        expected = im2col.conv2d_gx(g, w, **where)
    with mock.patch.object(im2col, "CACHE", cache):
        close(im2col.conv2d_gx_by_taps(g, w, **where), expected)


@pytest.mark.parametrize(
    "channels, filters, kernel, by_taps",
    [(1, 3, 5, True), (16, 33, 3, True), (1, 2, 5, False), (3, 64, 7, False), (16, 32, 3, False), (16, 64, 1, False)],
)
def test_where_a_tap_at_a_time_pays(channels, filters, kernel, by_taps, monkeypatch):
    calls = []
    monkeypatch.setattr(im2col, "conv2d_gx_by_taps", lambda *a, **k: calls.append(1))
    g, w = np.ones((2, 6, 6, filters)), np.ones((kernel, kernel, channels, filters))
    size = (5 + kernel, 5 + kernel)
    im2col.conv2d_gx(g, w, size=size, stride=(1, 1), pads=((0, 0), (0, 0)))
    assert bool(calls) == by_taps


def test_no_images_have_a_gradient_too():
    g, w = np.ones((0, 24, 24, 64)), np.ones((5, 5, 1, 64))
    gx = im2col.conv2d_gx(g, w, size=(28, 28), stride=(1, 1), pads=((0, 0), (0, 0)))
    assert gx.shape == (0, 28, 28, 1)


@given(winograd_cases())
def test_winograd_is_im2col(case):
    winograd_twin(*case)


@given(winograd_cases())
def test_winograd_in_single_precision(case):
    arrays, settings = case
    winograd_twin([a if a is None else a.astype(np.float32) for a in arrays], settings, 1e-4)


@given(winograd_cases())
def test_winograd_is_plain(case):
    (x, w, b), settings = case
    uncut = plain.conv2d(x, w, b, stride=(1, 1), pads=settings["pads"])
    close(winograd.conv2d(x, w, b, **settings), np.maximum(uncut, 0) if settings["relu"] else uncut)


@given(op_case("max_pool"))
def test_max_pool_is_plain(case):
    max_pool_twin(*case)


@given(op_case("max_pool"))
def test_max_pool_gives_ties_to_the_first(case):
    max_pool_ties_twin(*case)


@given(op_case("avg_pool"))
def test_avg_pool_is_plain_and_its_adjoint(case):
    avg_pool_twin(*case)


@given(op_case("linear"))
def test_linear_is_plain(case):
    linear_twin(*case)


@given(op_case("batch_norm_train"))
def test_batch_norm_train_is_plain(case):
    batch_norm_train_twin(*case)


@given(op_case("batch_norm_eval"))
def test_batch_norm_eval_is_plain(case):
    batch_norm_eval_twin(*case)


@given(op_case("softmax_cross_entropy"))
def test_softmax_cross_entropy_is_plain(case):
    softmax_cross_entropy_twin(*case)


@given(st.integers(1, 700), st.integers(1, 40), st.integers(0, 9))
def test_channel_sums_whatever_the_folding(pixels, channels, seed):
    x, y = np.random.default_rng(seed).standard_normal((2, pixels, channels))
    close(numpy_kernels.channel_sums(x), x.sum(axis=0), 1e-11)
    close(numpy_kernels.channel_sums(x, y), (x * y).sum(axis=0), 1e-11)
    close(numpy_kernels.scale_shift(x, y[0], x[0]), x * y[0] + x[0])


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_conv2d_of_a_real_layer_in_every_dtype(dtype, tolerance):
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((2, 9, 11, 16)).astype(dtype), rng.standard_normal((3, 5, 16, 7)).astype(dtype)
    value, _ = ops.conv2d.raw(x, w, stride=2)
    pads = resolve_padding("same", (9, 11), (3, 5), (2, 2))
    exact = plain.conv2d(x.astype(np.float64), w.astype(np.float64), None, stride=(2, 2), pads=pads)
    assert value.dtype == dtype
    close(value.astype(np.float64), exact, tolerance)


# --- memory ------------------------------------------------------------------------------------------------------


def fortran(a):
    return np.array(a, order="F")


def backwards(a):
    return a[tuple(slice(None, None, -1) for _ in a.shape)].copy()[tuple(slice(None, None, -1) for _ in a.shape)]


def new_axes(a):
    """The axes of length one made anew, as by images[..., None]: NumPy gives them a stride of 0."""
    return a.squeeze()[tuple(None if n == 1 else slice(None) for n in a.shape)]


def gaps(a):
    return np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a


def answers(name, arrays, settings, arrange=np.array):
    """The op's value and its gradients to all arrays that have one, with inputs and g laid out by `arrange`."""
    inputs = [arrange(a) if isinstance(a, np.ndarray) else a for a in arrays]
    value, vjps, *_ = OPS[name].raw(*inputs, **settings)
    g = arrange(cotangent(np.asarray(value)).astype(value.dtype))
    wanted = tuple(isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in arrays)
    parts = vjps(g, wanted) if callable(vjps) else [v(g) for v, want in zip(vjps, wanted) if v and want]
    return [np.asarray(value), *(np.asarray(p) for p in parts if p is not None)]


@pytest.mark.parametrize("layout", [fortran, backwards, new_axes, gaps])
@pytest.mark.parametrize("name", ops.__all__)
def test_the_layout_in_memory_does_not_matter(name, layout):
    """The same numbers in the inputs and in g, however they lie in memory."""
    for case in cases(name, 60):
        for laid_out, whole in zip(answers(name, *case, layout), answers(name, *case)):
            np.testing.assert_allclose(laid_out, whole, rtol=1e-9, atol=1e-11)
