"""What an op's function may return, comparisons of tensors, changes in place, copies, and infinite logits."""

import copy
import pickle
import warnings

import numpy as np
import pytest

from minisatm import Tensor, backend, guards, models, op, ops, optim
from minisatm.tensor import OPS, grad


def temporary(function):
    """The function as an op that does not stay in OPS."""
    made = op(function)
    del OPS[function.__name__]
    return made


THREE = np.arange(9.0).reshape(3, 3)
WRONG = {
    "an array alone": lambda x: x**3,
    "two rows": lambda x: x[:2],
    "nothing": lambda x: None,
    "a number alone": lambda x: float(x.sum()),
    "no vjps": lambda x: (x**3,),
    "four values": lambda x: (x, (lambda g: g,), 1, 2),
    "a list as value": lambda x: ([1.0, 2.0], (lambda g: g,)),
    "a dict as value": lambda x: ({"a": x}, (lambda g: g,)),
    "a generator as value": lambda x: ((row for row in x), (lambda g: g,)),
    "a Python number as value": lambda x: (float(x.sum()), (lambda g: g,)),
    "a tensor as value": lambda x: (Tensor(x), (lambda g: g,)),
    "objects as value": lambda x: (np.array([None, x], object), (lambda g: g,)),
    "an array as vjps": lambda x: (x, x),
    "two vjps for one input": lambda x: (x, (lambda g: g, lambda g: g)),
    "no vjp for one input": lambda x: (x, ()),
    "an array in place of a vjp": lambda x: (x, (x,)),
    "the comma forgotten": lambda x: (x, (lambda g: g)),
    "aux before vjps": lambda x: (x, x.mean(), (lambda g: g,)),
    "a dict of vjps": lambda x: (x, {"x": lambda g: g}),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("requires_grad", [True, False])
def test_an_op_that_returns_something_else_is_told_the_right_form(name, requires_grad):
    def cube(x):
        return WRONG[name](x)

    with pytest.raises(TypeError, match=r"the op cube returned .*: return \(value, vjps\) or .*, as in `return out"):
        temporary(cube)(Tensor(THREE, requires_grad=requires_grad))


@pytest.mark.parametrize("right", [
    lambda x: (x.sum(), (lambda g: g * np.ones_like(x),)),  # a NumPy scalar is an array of no dimensions
    lambda x: (x * 2, [lambda g: g * 2]),
    lambda x: (x * 2, lambda g, wanted: (g * 2,)),
    lambda x: (x * 2, lambda *args: (args[0] * 2,)),
    lambda x: (x.argmax(), (None,)),
])  # fmt: skip
def test_right_forms_pass(right):
    def fine(x):
        return right(x)

    assert temporary(fine)(Tensor(THREE, requires_grad=True)).data.dtype.kind in "fi"


@pytest.mark.parametrize("vjp", [lambda g: None, lambda g: 2.0, lambda g: [1.0], lambda g: (g,)])
def test_a_vjp_that_returns_no_array_is_an_error(vjp):
    def forgetful(x):
        return x * 2, (vjp,)

    with pytest.raises(TypeError, match="vjp of forgetful returned"):
        temporary(forgetful)(Tensor(THREE, requires_grad=True)).backward(np.ones((3, 3)))


@pytest.mark.parametrize("parts", [lambda g: g, lambda g: None, lambda g: (g, g), lambda g: ()])
def test_a_shared_vjp_returns_one_gradient_for_each_input(parts):
    def shared(x):
        return x * 2, lambda g, wanted: parts(g)

    with pytest.raises(TypeError, match="vjp of shared must return one gradient"):
        temporary(shared)(Tensor(np.ones(1), requires_grad=True)).backward(np.ones(1))


def test_numpy_numbers_leave_float32_alone():
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    y = ops.reverse_gradient(x * np.sqrt(0.5) + np.float64(1), strength=np.float64(2))
    y = ops.dropout(y, rate=np.float64(0.5), rng=np.random.default_rng(0))
    y.backward(np.ones((2, 3), np.float32))
    assert y.dtype == x.grad.dtype == np.float32


# Comparisons

PRED, RIGHT = np.array([0, 2, 1]), np.array([0, 2, 1])


@pytest.mark.parametrize("use", [
    lambda t: np.mean(t == RIGHT), lambda t: t >= RIGHT, lambda t: t != 3, lambda t: t < 1, lambda t: t <= 1,
    lambda t: 3.0 in t, lambda t: bool(t), lambda t: not t, lambda t: max(t), lambda t: sorted(t), lambda t: any(t),
    lambda t: np.array_equal(t, RIGHT), lambda t: np.asarray(t), lambda t: np.array([t, t]), lambda t: np.max(t),
    lambda t: np.allclose(t, RIGHT), lambda t: np.argmax(t), lambda t: t > RIGHT,
])  # fmt: skip
def test_tensors_are_not_compared(use):
    with pytest.raises(TypeError, match=r"use its array, as in t\.data"):
        use(Tensor(PRED))


def test_a_tensor_is_still_a_key():
    a, b = Tensor(PRED), Tensor(PRED)
    assert {a: 1, b: 2}[a] == 1 and len({a, b, a}) == 2 and np.mean(a.data == RIGHT) == 1


# Changes in place


def fill(w):
    w.data.fill(3.0)


def some(w):
    np.add.at(w.data, [1], 5.0)


def out(w):
    np.multiply(w.data, 2, out=w.data)


def base(w):
    w.data.base[...] = 7.0


def minus(w):
    w.data[...] -= 0.1


@pytest.mark.parametrize("change", [fill, some, out, base, minus])
@pytest.mark.parametrize("made", [False, True])
def test_a_change_in_place_before_backward_is_found(change, made):
    w = Tensor(np.random.default_rng(0).random((4, 5))[:, :], requires_grad=True)
    h = ops.exp(w).reshape(4, 5) if made else w
    loss = ops.mul(h, h).sum()
    change(h)
    with pytest.raises(RuntimeError, match="was changed after the forward pass"):
        loss.backward()


@pytest.mark.parametrize("shape", [(3, 3, 64, 64), (4096, 17), (2, 50_000)])
def test_large_leaves_are_sampled(shape):
    x = Tensor(np.ones(shape, np.float32), requires_grad=True)
    for part in (np.s_[...], np.s_[0], np.s_[..., 0]):
        loss = ops.mul(x, x).sum()
        x.data[part] += 1
        with pytest.raises(RuntimeError, match="was changed after"):
            loss.backward()
    with guards.checking_every_entry():
        loss, half = ops.mul(x, x).sum(), ops.exp(x * 0.5)
    x.data[tuple(n // 2 for n in shape)] += 1
    with pytest.raises(RuntimeError, match="was changed after"):
        loss.backward()
    half.data[tuple(n // 2 for n in shape)] += 1
    with pytest.raises(RuntimeError, match="output of exp .* was changed"):
        half.backward(np.ones(shape, np.float32))


@pytest.mark.parametrize("data", [np.array([1.0, np.nan]), np.zeros(0), np.array(2.0), np.ones((50, 60)).T])
def test_what_did_not_change_passes(data):
    x = Tensor(data, requires_grad=True)
    y = ops.mul(x, x)
    grad(y, [x], np.ones_like(data), keep=True)
    x.data[...] = x.data.copy()
    assert np.array_equal(grad(y, [x], np.ones_like(data))[0], 2 * data, equal_nan=True)


def test_the_logits_of_a_function_may_be_changed():
    network = models.build("resnet20", classes=3, width=1 / 8, size=8)
    logits, vjp = network.as_function()(np.zeros((2, 8, 8, 3), np.float32))
    logits -= 5
    assert vjp(np.ones_like(logits)).shape == (2, 8, 8, 3)


# Copies


def test_a_tensor_with_a_tape_is_not_copied_and_a_leaf_is():
    leaf = Tensor(THREE, requires_grad=True)
    made = ops.exp(leaf)
    for way in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled with its tape: use its .data"):
            way(made)
    made.sum().backward()
    for way in (copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))):
        again = way(leaf)
        assert again.requires_grad and np.array_equal(again.data, THREE) and np.array_equal(again.grad, leaf.grad)
        assert again.data is not leaf.data


@pytest.mark.parametrize("name", ["vgg16", "resnet20", "inception_v3", "mnist_b"])
def test_networks_that_have_answered_are_copied(name):
    network = models.build(name, classes=3, width=1 / 16, size=75 if "inception" in name else 32).eval()
    x = Tensor(np.random.default_rng(0).random((1, *(network.definition["size"],) * 2, 3), np.float32))
    answer = network(x)[0].data
    sgd = optim.SGD(network.parameters(), 0.1)
    for way in (copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))):
        other, other_sgd = way((network, sgd))
        assert other(x)[0].data.tobytes() == answer.tobytes()
        assert all(other_sgd.parameters[n] is t for n, t in other.parameters().items())
        assert not {id(t) for t in other.parameters().values()} & {id(t) for t in network.parameters().values()}


# Infinite logits

INF = np.inf


@pytest.mark.parametrize("kernels", ["plain", "numpy"])
@pytest.mark.parametrize("logits, label, loss, gradient", [  # what PyTorch's cross_entropy gives
    ([-INF, 0, 1], 1, 1.3132616, [0, -0.7310586, 0.7310586]),
    ([-INF, 0, 1], 0, INF, [-1, 0.2689414, 0.7310586]),
    ([-INF, -INF, 1], 2, 0, [0, 0, 0]),
    ([-INF, -INF, -INF], 1, np.nan, [np.nan] * 3),
    ([INF, 0, 1], 0, np.nan, None),
    ([INF, 0, 1], 1, np.nan, None),
])  # fmt: skip
def test_a_logit_of_minus_infinity(kernels, logits, label, loss, gradient):
    for labels in (np.array([label]), np.eye(3, dtype=np.float32)[[label]]):
        z = Tensor(np.array([logits], np.float32), requires_grad=True)
        with backend.using(kernels), warnings.catch_warnings():
            if np.isfinite(loss):
                warnings.simplefilter("error")
            else:
                warnings.simplefilter("ignore")
            total = ops.softmax_cross_entropy(z, Tensor(labels))
            total.backward()
        np.testing.assert_allclose(float(total), loss, rtol=1e-6)
        if gradient:
            np.testing.assert_allclose(z.grad[0], gradient, rtol=1e-6)


def test_minus_infinity_with_soft_labels():
    z = Tensor(np.array([[-INF, 0, 1]]), requires_grad=True)
    loss = ops.softmax_cross_entropy(z, Tensor(np.array([[0, 0.25, 0.75]])))
    assert float(loss) == pytest.approx(np.log(1 + np.e) - 0.75)
