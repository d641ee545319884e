"""The mathematics of every op: its vjps against central differences, and what differences cannot see."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisatm import Tensor, check, ops
from minisatm.check import strategies
from minisatm.tensor import OPS

NAMES = sorted(name for name, op in OPS.items() if op.__module__.startswith("minisatm.ops"))


def test_every_op_has_a_case():
    assert set(NAMES) == set(ops.__all__) == set(strategies.CASES)
    with pytest.raises(LookupError, match="no case for the op 'softplus'"):
        strategies.op_case("softplus")


@pytest.mark.parametrize("name", [n for n in NAMES if n != "reverse_gradient"])
def test_gradients(name):
    @settings(max_examples=120)
    @given(strategies.op_case(name), st.integers(0, 2**16))
    def agree(case, seed):
        arrays, chosen = case
        check.gradients(OPS[name], *arrays, seed=seed, **chosen)

    agree()


@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_float32_on_the_tape(name):
    for arrays, chosen in strategies.examples(name, 12):
        inputs = [
            Tensor(a.astype(np.float32), requires_grad=True) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a
            for a in arrays
        ]
        out = OPS[name](*inputs, **chosen)
        out = out[0] if isinstance(out, tuple) else out
        assert out.dtype == np.float32
        if out.requires_grad:
            out.backward(np.ones(out.shape, np.float32))
            grads = [t.grad for t in inputs if isinstance(t, Tensor) and t.grad is not None]
            assert grads and all(g.dtype == np.float32 for g in grads)


@given(strategies.op_case("reverse_gradient"), st.floats(0, 10))
def test_reverse_gradient_is_exactly_minus_strength(case, strength):
    ((x,), _) = case
    value, (vjp,) = ops.reverse_gradient.raw(x, strength=strength)
    g = np.linspace(-1, 2, x.size).reshape(x.shape)
    np.testing.assert_array_equal(value, x)
    np.testing.assert_array_equal(vjp(g), -strength * g)
    with pytest.raises(check.GradientError):
        check.gradients(ops.reverse_gradient, x, strength=strength)


def test_python_scalars_do_not_promote():
    x = Tensor(np.float32([1, 2, 4]), requires_grad=True)
    for out in (2 * x, x * 2.5, 1.5 + x, x - 0.1, 1 - x, x / 3, 2.0 / x, x.mean() * 0.5, 1 / x.sum()):
        assert out.dtype == np.float32
    (1 / x.sum() * 2.0).backward()
    assert x.grad.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_cross_entropy_with_logits_of_ten_thousand(dtype):
    logits = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4]], dtype)
    value, (vjp, _) = ops.softmax_cross_entropy.raw(logits, np.array([1, 0]), reduction="none")
    np.testing.assert_allclose(value, [2e4, 2e4 + np.log(2)], rtol=1e-7)
    np.testing.assert_allclose(vjp(np.ones(2, dtype)), [[1, -1, 0], [-1, 0.5, 0.5]], atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_cross_entropy_with_logits_of_ten_thousand(dtype):
    logits = np.array([1e4, -1e4, 1e4, -1e4], dtype)
    value, (vjp, _) = ops.binary_cross_entropy.raw(logits, np.array([1, 0, 0, 1], dtype), reduction="none")
    np.testing.assert_array_equal(value, [0, 0, 1e4, 1e4])
    np.testing.assert_array_equal(vjp(np.ones(4, dtype)), [0, 0, 1, -1])


def test_batch_norm_of_a_large_mean_in_float32():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((8, 14, 14, 5)) + 1e4).astype(np.float32)
    gamma, beta, g = rng.standard_normal(5), rng.standard_normal(5), rng.standard_normal(x.shape)
    answers = []
    for dtype in (np.float64, np.float32):
        inputs = [a.astype(dtype) for a in (x, gamma, beta)]
        value, vjp, (_, variance) = ops.batch_norm_train.raw(*inputs, eps=1e-5)
        answers.append([value, variance, *vjp(g.astype(dtype), (True, True, True))])
    for exact, single in zip(*answers):
        # the mean itself cannot be held closer than the spacing of float32 at 1e4, which is 1e-3
        assert np.abs(single - exact).max() <= 2e-3 * np.abs(exact).max()


# --- the check itself --------------------------------------------------------------------------------------------


def square(x):
    return x * x, (lambda g: 2 * g * x,)


X = np.array([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]])


def test_accepts_ops_raw_functions_and_functions_of_tensors():
    assert check.gradients(ops.tanh, X) < 1e-8
    assert check.gradients(ops.tanh.raw, X.astype(np.float32)) < 1e-8
    assert check.gradients(square, X) < 1e-8
    assert check.gradients(lambda x, y: (x * y).sum(axis=0), X, X + 1) < 1e-8
    assert check.gradients(lambda x: ops.softmax_cross_entropy(x, np.array([1, 0])), X) < 1e-8
    assert check.gradients(lambda x, g, b: ops.batch_norm_train(x, g, b, eps=1e-3), X, X[0], X[1]) < 1e-7
    assert check.gradients(ops.sum, np.ones((30, 30)), axis=1) < 1e-8


def test_message_is_a_table_of_the_worst_entries():
    def wrong(x, *, power=2):
        gx = 2 * x
        gx[0, 1] = 7
        return x**power, (lambda g: g * gx,)

    with pytest.raises(check.GradientError) as caught:
        check.gradients(wrong, X, power=2)
    text = str(caught.value)
    assert text.startswith("wrong(float64 (2, 3), power=2): the gradient to x is wrong in 3 of 8 places")
    lines = text.splitlines()
    assert lines[1].split() == ["entry", "yours", "finite", "differences", "relative", "difference"]
    assert lines[2].split()[:2] == ["(0,", "1)"]
    assert caught.value.argument == 0
    where, yours, differences, _ = caught.value.rows[0]
    assert where == "(0, 1)" and yours / differences == pytest.approx(-7 / 4)


def in_place(x):
    x += 1
    return x, (lambda g: g,)


def in_place_on_g(x):
    def vjp(g):
        g *= 2
        return g

    return 2 * x, (vjp,)


def forgetful():
    calls = []

    def vjp(g):
        calls.append(1)
        return g if len(calls) == 1 else 0 * g

    return lambda x: (x + 0, (vjp,))


def entangled(a, b):
    return a * b, lambda g, wanted: (g * b if wanted[1] else g, g * a)


def noise(x):
    return x + np.random.default_rng().random(x.shape), (lambda g: g,)


@pytest.mark.parametrize(
    "function, arrays, text",
    [
        (in_place, [X], "writes into an input or into g"),
        (in_place_on_g, [X], "writes into an input or into g"),
        (forgetful(), [X], "twice with the same g"),
        (entangled, [X, X], "another when it is the only one wanted"),
        (noise, [X], "two different values"),
        (square, [np.arange(3)], "nothing to check: no input is an array of floats that has a vjp"),
        (lambda x: (x * x, (None,)), [X], "nothing to check"),
        (lambda x: (x * x, lambda g: 2 * g * x), [X], r"return a tuple with one per input: \(lambda g: ...,\)"),
        (lambda a, b: (a * b, (lambda g: g * b,)), [X, X], "1 vjps for 2 inputs"),
        (lambda x: (x * np.float64(2), (lambda g: g * 2,)), [X], "the value is float64 for float32 inputs"),
        (
            lambda x: (2 * x, (lambda g: g * np.float64(2),)),
            [X],
            "the gradient to x is float64 .* the input is float32",
        ),
        (lambda x: (x.sum(), (lambda g: g,)), [X], r"the gradient to x is float64 \(\), the input is float64 \(2, 3\)"),
        (lambda x: (np.log(np.abs(x) - 0.5), (lambda g: g,)), [X], r"the value is -inf at \(1, 0\)"),
        (lambda x: (x, (lambda g: g * np.nan,)), [X], r"the gradient to x is nan at \(0, 0\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_message_for_each_broken_promise(function, arrays, text):
    with pytest.raises(check.GradientError, match=text):
        check.gradients(function, *arrays)


def test_something_else_is_refused_in_words():
    with pytest.raises(TypeError, match="a function to check returns"):
        check.gradients(lambda x: 3, X)


def test_check_imports_without_hypothesis():
    code = "import sys; sys.modules['hypothesis'] = None; from minisatm import check; print(check.gradients)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
