"""Ops against PyTorch on drawn shapes and settings, in float64: values and all gradients to 1e-10."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minisatm import Tensor, grad, ops

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ops are not compared with it")
torch.set_num_threads(1)  # these arrays are small, and threads of two libraries wait for each other
F = torch.nn.functional

pytestmark = pytest.mark.peer

TOLERANCE = 1e-10
drawn = settings(max_examples=100, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 9)
few = st.integers(1, 3)
reductions = st.sampled_from(["none", "sum", "mean"])


def close(ours, theirs, what):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.float64, what
    difference, scale = np.abs(ours - theirs).max(initial=0), max(np.abs(theirs).max(initial=0), 1)
    assert difference <= TOLERANCE * scale, f"{what}: {difference / scale:.1e} off"


def agree(rng, our_op, their_op, *arrays):
    """The same value, and the same gradient to each array, for a random cotangent of the value."""
    tensors = [Tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.from_numpy(a.copy()).requires_grad_() for a in arrays]
    out, their_out = our_op(*tensors), their_op(*theirs)
    close(out.data, their_out, "value")
    g = rng.standard_normal(out.shape)
    their_out.backward(torch.from_numpy(np.asarray(g)))
    for i, (ours, t) in enumerate(zip(grad(out, tensors, np.asarray(g)), theirs)):
        close(ours, t.grad, f"gradient to argument {i}")


def first(x):
    """(N, H, W, C) -> (N, C, H, W)"""
    return x.permute(0, 3, 1, 2)


def last(x):
    """(N, C, H, W) -> (N, H, W, C)"""
    return x.permute(0, 2, 3, 1)


def oihw(w):
    """(kh, kw, C, F) -> (F, C, kh, kw)"""
    return w.permute(3, 2, 0, 1).contiguous()


def apart(rng, shape):
    """Random values no two of which are equal: no ties; in steps of 0.1."""
    return (rng.permutation(int(np.prod(shape))).reshape(shape) - np.prod(shape) / 2 + 0.5) / 10


@st.composite
def paddings(draw, most=3):
    kind = draw(st.sampled_from(["same", "valid", "number", "sides"]))
    if kind == "number":
        return draw(st.integers(0, most))
    if kind == "sides":
        side = st.tuples(st.integers(0, most), st.integers(0, most))
        return draw(st.tuples(side, side))
    return kind


def four_sides(padding, size, kernel, stride):
    """F.pad's (left, right, top, bottom); "same" by TensorFlow's rule, the odd pixel below and right."""
    if padding == "same":
        total = [max((int(np.ceil(n / s)) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, stride)]
        (top, left), (bottom, right) = (t // 2 for t in total), (t - t // 2 for t in total)
        return left, right, top, bottom
    if padding == "valid":
        return 0, 0, 0, 0
    if isinstance(padding, int):
        return (padding,) * 4
    return *padding[1], *padding[0]


def fits(sides, size, kernel):
    left, right, top, bottom = sides
    return size[0] + top + bottom >= kernel[0] and size[1] + left + right >= kernel[1]


@drawn
@given(seeds, few, sides, sides, few, few, st.tuples(few, few), st.tuples(few, few), paddings(), st.booleans())
def test_conv2d(seed, n, height, width, channels, filters, kernel, stride, padding, bias):
    rng = np.random.default_rng(seed)
    around = four_sides(padding, (height, width), kernel, stride)
    assume(fits(around, (height, width), kernel))
    arrays = [rng.standard_normal((n, height, width, channels)), rng.standard_normal((*kernel, channels, filters))]
    if bias:
        arrays.append(rng.standard_normal(filters))

    def theirs(x, w, b=None):
        return last(F.conv2d(F.pad(first(x), around), oihw(w), b, stride=stride))

    agree(rng, lambda *a: ops.conv2d(*a, stride=stride, padding=padding), theirs, *arrays)


@drawn
@given(seeds, few, few, few, st.integers(5, 8), st.integers(1, 4), paddings())
def test_conv2d_with_large_kernels_and_strides(seed, n, channels, filters, kernel, stride, padding):
    """7x7 windows, and strides that skip pixels altogether."""
    rng = np.random.default_rng(seed)
    size, kernel, stride = (12, 10), (kernel, kernel - 3), (stride, 5 - stride)
    around = four_sides(padding, size, kernel, stride)
    arrays = rng.standard_normal((n, *size, channels)), rng.standard_normal((*kernel, channels, filters))
    agree(
        rng,
        lambda x, w: ops.conv2d(x, w, stride=stride, padding=padding),
        lambda x, w: last(F.conv2d(F.pad(first(x), around), oihw(w), stride=stride)),
        *arrays,
    )


windows = st.tuples(st.integers(1, 4), st.integers(1, 4))


@drawn
@given(seeds, few, sides, sides, few, windows, windows, st.integers(0, 2), st.booleans(), st.booleans())
def test_max_pool(seed, n, height, width, channels, kernel, stride, padding, ceil, ties):
    rng = np.random.default_rng(seed)
    padding = min(padding, min(kernel) // 2)  # PyTorch takes no more
    assume(fits((padding,) * 4, (height, width), kernel))
    shape = n, height, width, channels
    x = rng.integers(0, 3, shape).astype(np.float64) if ties else apart(rng, shape)
    agree(
        rng,
        lambda x: ops.max_pool(x, kernel=kernel, stride=stride, padding=padding, ceil=ceil),
        lambda x: last(F.max_pool2d(first(x), kernel, stride, padding, ceil_mode=ceil)),
        x,
    )


@drawn
@given(seeds, few, sides, sides, few, windows, windows, paddings(most=1))
def test_max_pool_with_uneven_padding(seed, n, height, width, channels, kernel, stride, padding):
    rng = np.random.default_rng(seed)
    around = four_sides(padding, (height, width), kernel, stride)
    assume(fits(around, (height, width), kernel))
    assume(max(around[:2]) < kernel[1] and max(around[2:]) < kernel[0])
    agree(
        rng,
        lambda x: ops.max_pool(x, kernel=kernel, stride=stride, padding=padding),
        lambda x: last(F.max_pool2d(F.pad(first(x), around, value=-np.inf), kernel, stride)),
        apart(rng, (n, height, width, channels)),
    )


@drawn
@given(seeds, few, sides, sides, few, windows, windows, st.integers(0, 2), st.booleans())
def test_avg_pool(seed, n, height, width, channels, kernel, stride, padding, count_padding):
    rng = np.random.default_rng(seed)
    padding = min(padding, min(kernel) // 2)
    assume(fits((padding,) * 4, (height, width), kernel))
    agree(
        rng,
        lambda x: ops.avg_pool(x, kernel=kernel, stride=stride, padding=padding, count_padding=count_padding),
        lambda x: last(F.avg_pool2d(first(x), kernel, stride, padding, count_include_pad=count_padding)),
        rng.standard_normal((n, height, width, channels)),
    )


@drawn
@given(seeds, few, sides, sides, few)
def test_global_avg_pool(seed, n, height, width, channels):
    rng = np.random.default_rng(seed)
    agree(rng, ops.global_avg_pool, lambda x: x.mean(dim=(1, 2)), rng.standard_normal((n, height, width, channels)))


def norm_arrays(rng, n, height, width, channels, offset):
    x = offset + rng.standard_normal((n, height, width, channels))
    return x, rng.standard_normal(channels), rng.standard_normal(channels)


channel_counts = st.integers(1, 12)
offsets = st.sampled_from([0.0, 3.0, -20.0])
epsilons = st.sampled_from([1e-5, 1e-3, 0.1])


@drawn
@given(seeds, few, sides, sides, channel_counts, offsets, epsilons)
def test_batch_norm_train(seed, n, height, width, channels, offset, eps):
    # Between two or three values normalised x is nearly constant: its gradient is then rounding on both sides.
    assume(n * height * width >= 4)
    rng = np.random.default_rng(seed)
    x, gamma, beta = norm_arrays(rng, n, height, width, channels, offset)
    running_mean, running_var = torch.zeros(channels).double(), torch.ones(channels).double()

    def theirs(x, gamma, beta):
        return last(F.batch_norm(first(x), running_mean, running_var, gamma, beta, True, 1.0, eps))

    agree(rng, lambda *a: ops.batch_norm_train(*a, eps=eps)[0], theirs, x, gamma, beta)
    mean, var = ops.batch_norm_train(Tensor(x), Tensor(gamma), Tensor(beta), eps=eps)[1]
    count = n * height * width
    close(mean, running_mean, "mean")
    close(var * count / (count - 1), running_var, "unbiased variance")


@drawn
@given(seeds, few, sides, sides, channel_counts, offsets, epsilons)
def test_batch_norm_eval(seed, n, height, width, channels, offset, eps):
    rng = np.random.default_rng(seed)
    mean, var = offset + rng.standard_normal(channels), rng.uniform(0.1, 2, channels)

    def theirs(x, gamma, beta):
        statistics = torch.from_numpy(mean), torch.from_numpy(var)
        return last(F.batch_norm(first(x), *statistics, gamma, beta, False, 0.1, eps))

    agree(
        rng,
        lambda *a: ops.batch_norm_eval(*a, mean, var, eps=eps),
        theirs,
        *norm_arrays(rng, n, height, width, channels, offset),
    )


@drawn
@given(seeds, st.integers(4, 40), st.integers(2, 6), st.sampled_from([0.5, 5.0, 1e3]))
def test_batch_norm_train_of_rows(seed, n, channels, offset):
    """Over (N, C), as behind a dense layer."""
    rng = np.random.default_rng(seed)
    arrays = offset + rng.standard_normal((n, channels)), rng.standard_normal(channels), rng.standard_normal(channels)
    agree(
        rng,
        lambda *a: ops.batch_norm_train(*a, eps=1e-5)[0],
        lambda x, gamma, beta: F.batch_norm(x, None, None, gamma, beta, True, 0.1, 1e-5),
        *arrays,
    )


logit_scales = st.sampled_from([0.1, 1.0, 30.0, 1e3])


@drawn
@given(seeds, st.integers(1, 6), st.integers(2, 9), reductions, logit_scales)
def test_softmax_cross_entropy(seed, n, classes, reduction, scale):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    agree(
        rng,
        lambda z: ops.softmax_cross_entropy(z, Tensor(labels), reduction=reduction),
        lambda z: F.cross_entropy(z, torch.from_numpy(labels), reduction=reduction),
        scale * rng.standard_normal((n, classes)),
    )


@drawn
@given(seeds, st.integers(1, 6), st.integers(2, 9), reductions, logit_scales)
def test_softmax_cross_entropy_with_soft_labels(seed, n, classes, reduction, scale):
    rng = np.random.default_rng(seed)
    labels = rng.dirichlet(np.ones(classes), n)
    agree(
        rng,
        lambda z: ops.softmax_cross_entropy(z, Tensor(labels), reduction=reduction),
        lambda z: F.cross_entropy(z, torch.from_numpy(labels), reduction=reduction),
        scale * rng.standard_normal((n, classes)),
    )


@drawn
@given(seeds, st.integers(1, 9), reductions, logit_scales, st.booleans())
def test_binary_cross_entropy(seed, n, reduction, scale, soft):
    rng = np.random.default_rng(seed)
    targets = rng.random(n) if soft else rng.integers(0, 2, n).astype(np.float64)
    agree(
        rng,
        lambda z: ops.binary_cross_entropy(z, Tensor(targets), reduction=reduction),
        lambda z: F.binary_cross_entropy_with_logits(z, torch.from_numpy(targets), reduction=reduction),
        scale * rng.standard_normal(n),
    )


@drawn
@given(seeds, st.integers(1, 6), st.integers(1, 9), st.sampled_from([0.1, 0.5, 0.8]))
def test_dropout(seed, n, features, rate):
    """With the mask that PyTorch drew."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, features))
    masks = []

    def theirs(x):
        torch.manual_seed(seed)
        out = F.dropout(x, rate)
        masks.append(out.detach().numpy() != 0)
        return out

    theirs(torch.from_numpy(x))
    agree(rng, lambda x: ops.dropout(x, rate=rate, mask=masks[0]), theirs, x)


@drawn
@given(seeds, st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_linear(seed, n, inputs, outputs, bias):
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal((n, inputs)), rng.standard_normal((inputs, outputs))]
    if bias:
        arrays.append(rng.standard_normal(outputs))
    agree(rng, ops.linear, lambda x, w, b=None: F.linear(x, w.T, b), *arrays)


@drawn
@given(seeds, st.integers(1, 6), st.integers(1, 9))
def test_relu_and_tanh(seed, n, features):
    rng = np.random.default_rng(seed)
    agree(rng, ops.relu, torch.relu, rng.integers(-2, 3, (n, features)).astype(np.float64))  # zero has gradient zero
    agree(rng, ops.tanh, torch.tanh, rng.standard_normal((n, features)))
