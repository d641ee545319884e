"""Fused ops against the same functions composed of basic ops: values and gradients."""

import numpy as np
from hypothesis import given
from test_twins import cotangent, window

from minisatm import Tensor, grad, ops
from minisatm.check.strategies import op_case
from minisatm.kernels import plain
from minisatm.ops.conv import pair


def composition_twin(fused, composed, arrays, differentiable=None, tolerance=1e-11):
    """Two functions of tensors with equal values and equal gradients."""
    count = len(arrays) if differentiable is None else differentiable
    answers = []
    for function in (fused, composed):
        inputs = [Tensor(a, requires_grad=True) for a in arrays[:count]]
        out = function(*inputs, *arrays[count:])
        answers.append([out.data, *grad(out, inputs, cotangent(out.data))])
    for a, b in zip(*answers):
        # a gradient that is zero but for rounding has no scale of its own
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max(initial=0)))


@given(op_case("batch_norm_train"))
def test_batch_norm_train_is_a_composition(case):
    arrays, settings = case
    axes = tuple(range(arrays[0].ndim - 1))

    def composed(x, gamma, beta):
        centred = x - x.mean(axis=axes)
        variance = (centred * centred).mean(axis=axes)
        out = centred / ops.sqrt(variance + settings["eps"]) * gamma + beta
        return ops.relu(out) if settings["relu"] else out

    def fused(x, gamma, beta):
        return ops.batch_norm_train(x, gamma, beta, **settings)[0]

    composition_twin(fused, composed, arrays, tolerance=1e-8)


@given(op_case("batch_norm_eval"))
def test_batch_norm_eval_is_a_composition(case):
    arrays, settings = case

    def composed(x, gamma, beta, mean, var):
        return (x - mean) / np.sqrt(var + settings["eps"]) * gamma + beta

    composition_twin(lambda *a: ops.batch_norm_eval(*a, **settings), composed, arrays, 3)


@given(op_case("softmax_cross_entropy"))
def test_softmax_cross_entropy_is_a_composition(case):
    (logits, labels), settings = case
    rows = np.eye(logits.shape[1])[labels] if labels.ndim == 1 else labels

    def composed(z):
        losses = ((ops.log(ops.exp(z).sum(axis=1, keepdims=True)) - z) * rows).sum(axis=1)
        return losses if settings["reduction"] == "none" else getattr(losses, settings["reduction"])()

    composition_twin(lambda z: ops.softmax_cross_entropy(z, labels, **settings), composed, [logits])


@given(op_case("binary_cross_entropy"))
def test_binary_cross_entropy_is_a_composition(case):
    (logits, targets), settings = case

    def composed(z):
        p = 1 / (1 + ops.exp(-z))
        losses = -(targets * ops.log(p)) - (1 - targets) * ops.log(1 - p)
        return losses if settings["reduction"] == "none" else getattr(losses, settings["reduction"])()

    composition_twin(lambda z: ops.binary_cross_entropy(z, targets, **settings), composed, [logits])


@given(op_case("linear"))
def test_linear_is_a_composition(case):
    arrays, _ = case
    composition_twin(ops.linear, lambda x, w, b=0.0: x @ w + b, arrays)


def taps(x, kernel, where, fill=0.0):
    """For each tap of the window, the padded image's pixels that stand there: (N, P, Q, C) tensors."""
    (sh, sw), pads = where["stride"], where["pads"]
    P, Q = plain.output_size(x.shape[1:3], kernel, where["stride"], pads)
    outside = np.pad(np.zeros(x.shape), ((0, 0), *pads, (0, 0)), constant_values=fill)
    padded = ops.pad(x, widths=((0, 0), *pads, (0, 0))) + outside
    return [padded[:, i : i + sh * (P - 1) + 1 : sh, j : j + sw * (Q - 1) + 1 : sw] for i, j in np.ndindex(*kernel)]


@given(op_case("conv2d"))
def test_conv2d_is_a_composition(case):
    arrays, settings = case
    kernel = arrays[1].shape[:2]
    where = window(arrays[0], kernel, settings)

    def composed(x, w, b=0.0):
        out = b
        for tap, (i, j) in zip(taps(x, kernel, where), np.ndindex(*kernel)):
            out = tap @ w[i, j] + out
        return ops.relu(out) if settings["relu"] else out

    composition_twin(lambda *a: ops.conv2d(*a, **settings), composed, arrays)


@given(op_case("add_relu"))
def test_add_relu_is_a_composition(case):
    composition_twin(ops.add_relu, lambda a, b: ops.relu(a + b), case[0])


@given(op_case("max_pool"))
def test_max_pool_is_a_composition(case):
    (x,), settings = case
    kernel, settings = pair(settings["kernel"]), {**settings, "ceil": False}
    where = window(x, kernel, settings)

    def composed(x):
        first, *rest = taps(x, kernel, where, fill=-1e6)
        for tap in rest:  # max(a, b) = b + relu(a - b); no ties in these cases
            first = tap + ops.relu(first - tap)
        return first

    composition_twin(lambda x: ops.max_pool(x, **settings), composed, [x], tolerance=1e-8)  # -1e6 costs digits


@given(op_case("avg_pool"))
def test_avg_pool_is_a_composition(case):
    (x,), settings = case
    kernel = pair(settings["kernel"])
    where = window(x, kernel, settings)

    def composed(x):
        count = sum(t.data for t in taps(Tensor(np.ones(x.shape)), kernel, where))
        return sum(taps(x, kernel, where)) / (kernel[0] * kernel[1] if settings["count_padding"] else count)

    composition_twin(lambda x: ops.avg_pool(x, **settings), composed, [x])


@given(op_case("global_avg_pool"))
def test_global_avg_pool_is_a_mean(case):
    composition_twin(ops.global_avg_pool, lambda x: x.mean(axis=(1, 2)), case[0])


def test_a_one_by_one_convolution_is_a_matrix_product():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in ((2, 5, 4, 3), (1, 1, 3, 6))]
    composition_twin(ops.conv2d, lambda x, w: x @ w[0, 0], arrays)
