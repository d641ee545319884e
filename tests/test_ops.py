"""What ops do by hand-made examples, and what they say when a call makes no sense."""

import numpy as np
import pytest

from minisatm import InputError, Tensor, grad, ops
from minisatm.kernels import im2col, winograd
from minisatm.kernels.plain import output_size
from minisatm.ops import conv


def image(*rows):
    """One image of one channel: (1, H, W, 1)."""
    return np.array(rows, np.float64)[None, :, :, None]


def raw(op, *arrays, **settings):
    """Value and the gradient to the first input for a cotangent 1, 2, 3, ..., without the channel axes of an image."""
    value, vjps, *_ = op.raw(*arrays, **settings)
    g = np.arange(1.0, value.size + 1).reshape(value.shape)
    return value.squeeze(), vjps[0](g).squeeze()


# --- values ------------------------------------------------------------------------------------------------------


def test_conv2d_is_a_cross_correlation():
    x = image([1, 2, 3], [4, 5, 6], [7, 8, 9])
    w = np.array([[1.0, 0], [0, 10]]).reshape(2, 2, 1, 1)
    value, _ = raw(ops.conv2d, x, w, np.array([100.0]), padding="valid")
    np.testing.assert_array_equal(value, [[151, 162], [184, 195]])


@pytest.mark.parametrize(
    "n, kernel, stride, pads, out",
    [
        (224, 7, 2, (2, 3), 112),  # the odd pixel goes below and right
        (224, 3, 1, (1, 1), 224),
        (5, 2, 1, (0, 1), 5),
        (5, 3, 2, (1, 1), 3),
        (6, 3, 2, (0, 1), 3),
        (4, 1, 2, (0, 0), 2),
        (2, 5, 3, (1, 2), 1),
    ],
)
def test_same_padding_is_as_in_keras(n, kernel, stride, pads, out):
    assert conv.resolve_padding("same", (n, n), (kernel, kernel), (stride, stride)) == (pads, pads)
    assert output_size((n, n), (kernel, kernel), (stride, stride), (pads, pads)) == (out, out)


def test_padding_in_all_its_forms():
    sides = (8, 9), (3, 3), (1, 1)
    assert conv.resolve_padding("valid", *sides) == ((0, 0), (0, 0))
    assert conv.resolve_padding(2, *sides) == ((2, 2), (2, 2))
    assert conv.resolve_padding(((0, 1), (2, 3)), *sides) == ((0, 1), (2, 3))
    assert conv.resolve_padding((1, 2), *sides) == ((1, 1), (2, 2))


def test_max_pool_gives_ties_to_the_first():
    x = image([5, 5, 1, 1], [5, 5, 1, 2])
    value, gx = raw(ops.max_pool, x, kernel=2)
    np.testing.assert_array_equal(value, [5, 2])
    np.testing.assert_array_equal(gx, [[1, 0, 0, 0], [0, 0, 0, 2]])


def test_max_pool_adds_the_gradients_of_windows_that_overlap():
    """Also where kernel times windows is the size of the image: here one pixel is in two windows, and one in none."""
    value, gx = raw(ops.max_pool, image([1, 2, 9, 4, 5, 6]), kernel=(1, 3), stride=(1, 2))
    np.testing.assert_array_equal(value, [9, 9])
    np.testing.assert_array_equal(gx, [0, 0, 3, 0, 0, 0])


def test_max_pool_pads_with_minus_infinity():
    value, gx = raw(ops.max_pool, -image([3, 4], [5, 6]), kernel=3, stride=1, padding=1)
    np.testing.assert_array_equal(value, np.full((2, 2), -3))
    np.testing.assert_array_equal(gx, [[10, 0], [0, 0]])


def test_max_pool_with_ceil_hangs_over_but_never_starts_outside():
    x = image([1, 2, 3, 4, 5])
    assert raw(ops.max_pool, x, kernel=(1, 2), stride=2)[0].tolist() == [2, 4]
    assert raw(ops.max_pool, x, kernel=(1, 2), stride=2, ceil=True)[0].tolist() == [2, 4, 5]
    # four windows would fit by rounding up, but the last would start in the padding
    assert raw(ops.max_pool, x, kernel=(1, 2), stride=(1, 3), padding=((0, 0), (1, 1)), ceil=True)[0].tolist() == [1, 4]
    assert output_size((5, 2), (2, 1), (2, 3), ((1, 1), (0, 0)), ceil=True) == (3, 1)


def test_avg_pool_with_and_without_its_padding():
    x = image([4, 8], [12, 16])
    counted, _ = raw(ops.avg_pool, x, kernel=2, stride=2, padding=((1, 0), (1, 0)))
    assert counted.shape == ()
    value, _ = raw(ops.avg_pool, x, kernel=2, stride=1, padding=1, count_padding=True)
    np.testing.assert_array_equal(value, [[1, 3, 2], [4, 10, 6], [3, 7, 4]])
    value, gx = raw(ops.avg_pool, x, kernel=2, stride=1, padding=1, count_padding=False)
    np.testing.assert_array_equal(value, [[4, 6, 8], [8, 10, 12], [12, 14, 16]])
    assert gx[0, 0] == 1 + 2 / 2 + 4 / 2 + 5 / 4


def test_reductions_of_the_losses():
    logits, labels = np.array([[2.0, 0, 1], [0, 0, 0]]), np.array([0, 2])
    none, sum_, mean = (ops.softmax_cross_entropy.raw(logits, labels, reduction=r)[0] for r in ("none", "sum", "mean"))
    np.testing.assert_allclose(none, [np.log(1 + np.exp(-2) + np.exp(-1)), np.log(3)], rtol=1e-14)
    assert sum_ == pytest.approx(none.sum(), rel=1e-14) and mean == pytest.approx(none.mean(), rel=1e-14)


def test_soft_labels_of_one_class_are_hard_labels():
    logits, labels = np.linspace(-2, 3, 12).reshape(4, 3), np.array([2, 0, 1, 1])
    hard, soft = (raw(ops.softmax_cross_entropy, logits, y) for y in (labels, np.eye(3)[labels]))
    np.testing.assert_array_equal(hard[0], soft[0])
    np.testing.assert_array_equal(hard[1], soft[1])


def test_binary_cross_entropy_takes_integer_targets():
    z = Tensor(np.float32([0.5, -2]), requires_grad=True)
    loss = ops.binary_cross_entropy(z, np.array([1, 0]))
    loss.backward()
    assert loss.dtype == z.grad.dtype == np.float32


def test_dropout_keeps_the_mean_and_draws_from_the_generator():
    x = np.ones((200, 200), np.float32)
    value, (vjp,) = ops.dropout.raw(x, rate=0.25, rng=np.random.default_rng(0))
    again, _ = ops.dropout.raw(x, rate=0.25, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(value, again)
    assert abs(value.mean() - 1) < 0.01 and set(np.unique(value)) == {0, np.float32(4 / 3)}
    np.testing.assert_array_equal(vjp(x), value)


def test_relu_at_its_kink_passes_nothing_on():
    value, gx = raw(ops.relu, np.array([-1.0, 0.0, 2.0]))
    assert value.tolist() == [0, 0, 2] and gx.tolist() == [0, 0, 3]


def test_slice_adds_up_what_was_picked_twice():
    x = Tensor(np.arange(3.0), requires_grad=True)
    x[[1, 1, 2]].backward(np.array([1.0, 10, 100]))
    np.testing.assert_array_equal(x.grad, [0, 11, 100])


def test_batch_norm_train_hands_out_the_biased_variance():
    x = np.array([[1.0], [3.0], [8.0]])
    value, _, (mean, variance) = ops.batch_norm_train.raw(x, np.ones(1), np.zeros(1), eps=0.0)
    assert (mean[0], variance[0]) == (4, 26 / 3)
    np.testing.assert_allclose(value.mean(), 0, atol=1e-15)
    np.testing.assert_allclose(value.var(), 1, rtol=1e-14)


def test_operators_of_tensors_and_arrays_on_either_side():
    x, a = Tensor(np.array([1.0, 2.0]), requires_grad=True), np.array([4.0, 8.0])
    for out, expected in (
        (a + x, [5, 10]), (a - x, [3, 6]), (a * x, [4, 16]), (a / x, [4, 4]), (x - a, [-3, -6]), (-x, [-1, -2]),
        (np.eye(2) @ x.reshape(2, 1), [[1], [2]]), (x.reshape(1, 2) @ np.eye(2), [[1, 2]]),
        (x.reshape((1, 2)).transpose(), [[1], [2]]), (x[::-1], [2, 1]), (x.sum(keepdims=True), [3]), (x.mean(), 1.5),
    ):  # fmt: skip
        assert isinstance(out, Tensor) and out.requires_grad
        np.testing.assert_array_equal(out.data, expected)


def test_auxiliary_values_are_handed_through():
    x = Tensor(np.array([[1.0], [3.0]]), requires_grad=True)
    out, (mean, variance) = ops.batch_norm_train(x, np.ones(1), np.zeros(1), eps=0.0)
    assert (mean[0], variance[0]) == (2, 1)
    assert out.requires_grad


# --- errors ------------------------------------------------------------------------------------------------------

X, W = np.zeros((1, 5, 5, 3)), np.zeros((3, 3, 3, 2))


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: ops.conv2d(X[0], W), r"conv2d takes x \(N, H, W, C\) and w .* got \(5, 5, 3\) and \(3, 3, 3, 2\)"),
        (lambda: ops.conv2d(X, W[:, :, :2]), r"with the same C, got \(1, 5, 5, 3\) and \(3, 3, 2, 2\)"),
        (lambda: ops.conv2d(X, W, padding="full"), "padding 'full': use \"same\", \"valid\", an integer, or"),
        (lambda: ops.conv2d(X, W, padding=-1), "padding -1: it may not be negative"),
        (lambda: ops.conv2d(X, W, padding=((0, 0), (0, -2))), "it may not be negative"),
        (lambda: ops.conv2d(X[:, :2], W, padding="valid"), r"a window of 3 does not fit into 2 pixels .* larger image"),
        (lambda: ops.linear(X, W), r"linear takes x \(N, D\) and w \(D, F\) with the same D, got"),
        (lambda: ops.linear(np.ones((2, 3)), np.ones((4, 2))), r"got \(2, 3\) and \(4, 2\)"),
        (lambda: ops.matmul(np.ones(3), np.ones((3, 2))), r"matmul takes matrices .* got shapes \(3,\) and \(3, 2\)"),
        (lambda: ops.max_pool(X[0]), r"pooling takes x \(N, H, W, C\), got \(5, 5, 3\)"),
        (lambda: ops.max_pool(X, kernel=2, padding=2), "is as wide as the window .* some windows would have no pixel"),
        (lambda: ops.avg_pool(X, kernel=6), "a window of 6 does not fit into 5 pixels"),
        (lambda: ops.dropout(X, rate=1.0), r"dropout rate 1.0: it must lie in \[0, 1\)"),
        (lambda: ops.dropout(X, rate=-0.1), "dropout rate -0.1"),
        (lambda: ops.softmax_cross_entropy(np.ones((2, 3)), np.ones((2, 4))), r"do not fit: \(2, 3\) and \(2, 4\)"),
        (lambda: ops.softmax_cross_entropy(np.ones((1, 3)), np.array([0]), reduction="max"), "one of none, sum, mean"),
        (lambda: ops.binary_cross_entropy(np.ones(3), np.ones((3, 1))), r"both be \(N,\), got \(3,\) and \(3, 1\)"),
        (lambda: ops.binary_cross_entropy(np.ones(3), np.ones(3), reduction=None), "reduction None: choose one of"),
    ],
)  # fmt: skip
def test_errors_say_what_was_wrong(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize(
    "labels, text",
    [
        (np.array([0, 3]), r"label 3 is out of range: the network has 3 classes, so labels must lie in 0\.\.2"),
        (np.array([-1, 2]), "label -1 is out of range"),
        (np.array([0.0, 1.0]), r"class labels must be 2 integers, got float64 \(2,\)"),
        (np.array([0, 1, 2]), r"class labels must be 2 integers, got int64 \(3,\)"),
    ],
)
def test_labels_that_are_none(labels, text):
    with pytest.raises(InputError, match=text):
        ops.softmax_cross_entropy(np.zeros((2, 3)), labels)


def test_tensors_are_made_of_floats_to_have_gradients():
    with pytest.raises(TypeError, match="only floating-point tensors have gradients, this one is int64"):
        Tensor(np.arange(3), requires_grad=True)
    with pytest.raises(TypeError, match="takes an array, not a Tensor"):
        Tensor(Tensor(np.ones(1)))


# --- relu within other ops, and Winograd's way ---------------------------------------------------------------------


def test_a_kept_tape_cuts_each_gradient_anew():
    """A relu inside an op masks its gradient once for all vjps, but not once for all gradients."""
    rng = np.random.default_rng(0)
    x, w = (Tensor(rng.standard_normal(shape), requires_grad=True) for shape in ((1, 4, 4, 2), (3, 3, 2, 2)))
    out = ops.conv2d(x, w, relu=True)
    g = rng.standard_normal(out.shape)
    once = grad(out, [x, w], g, keep=True)
    twice = grad(out, [x, w], 2 * g, keep=True)
    for a, b in zip(once, twice):
        np.testing.assert_allclose(b, 2 * a, rtol=1e-12)


def test_add_relu_takes_one_shape_only():
    with pytest.raises(ValueError, match=r"add_relu adds arrays of one shape, got \(2, 3\) and \(3,\)"):
        ops.add_relu(np.ones((2, 3)), np.ones(3))


def test_double_precision_and_exact_never_take_winograds_way():
    """Where Winograd's way would be taken in float32, float64 and exact=True give im2col's numbers, bit for bit."""
    rng = np.random.default_rng(0)
    x, w, g = (rng.standard_normal(shape) for shape in ((2, 8, 8, 64), (3, 3, 64, 64), (2, 8, 8, 64)))
    where = dict(stride=(1, 1), pads=((1, 1), (1, 1)))
    for dtype, exact in ((np.float64, False), (np.float32, True)):
        x, w, g = (a.astype(dtype) for a in (x, w, g))
        value, (vjp_x, vjp_w, _) = ops.conv2d.raw(x, w, exact=exact)
        assert np.array_equal(value, im2col.conv2d(x, w, None, **where))
        assert np.array_equal(vjp_x(g), im2col.conv2d_gx(g, w, size=(8, 8), **where))
        assert np.array_equal(vjp_w(g), im2col.conv2d_gw(x, g, kernel=(3, 3), **where))
    fast = ops.conv2d.raw(x, w)[0]
    assert not np.array_equal(fast, value), "Winograd's way was not taken at all"
    np.testing.assert_allclose(fast, value, rtol=0, atol=1e-4 * np.abs(value).max())


@pytest.mark.parametrize(
    "out, channels, filters, expected",
    [((224, 224), 3, 64, False), ((224, 224), 64, 64, True), ((7, 7), 512, 512, True), ((8, 8), 64, 64, True),
     ((64, 64), 8, 8, False), ((32, 32), 16, 16, False), ((16, 16), 32, 32, True), ((1, 1), 512, 512, False)],
)  # fmt: skip
def test_winograds_way_where_it_multiplies_less(out, channels, filters, expected):
    assert winograd.pays(out, channels, filters) is expected
