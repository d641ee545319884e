"""The tape: what is recorded, in which order it is walked, what it keeps and when it lets go."""

import contextlib
import gc
import threading
import time
import weakref

import numpy as np
import pytest

from minisatm import Tensor, grad, no_grad, ops, tape
from minisatm.layers import Linear
from minisatm.tensor import OPS, op


def leaf(*values):
    return Tensor(np.array(values, np.float64), requires_grad=True)


def probe(calls, name="probe"):
    """An op like a * b that notes which of its vjps run; it does not stay in the registry."""

    def function(a, b):
        def vjp_a(g):
            calls.append("a")
            return g * b

        def vjp_b(g):
            calls.append("b")
            return g * a

        return a * b, (vjp_a, vjp_b)

    return unlisted(function, name)


def unlisted(function, name):
    function.__name__ = name
    made = op(function)
    del OPS[name]
    return made


@contextlib.contextmanager
def no_collector():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# --- the walk ----------------------------------------------------------------------------------------------------


def test_diamond_adds_both_paths():
    x = leaf(3.0)
    y = x * 2
    (y * y + ops.exp(y) * x).sum().backward()
    assert x.grad[0] == pytest.approx(8 * 3 + np.exp(6) * (2 * 3 + 1), rel=1e-14)


def test_two_to_the_forty_paths():
    x = leaf(1.0)
    y, start = x, time.perf_counter()
    for _ in range(40):
        y = y + y
    y.sum().backward()
    assert x.grad[0] == 2.0**40
    assert time.perf_counter() - start < 1


def test_a_chain_of_five_thousand_ops():
    x = leaf(1.0)
    y = x
    for _ in range(5000):
        y = y + 1.0
    y.sum().backward()
    assert x.grad[0] == 1
    del y  # nor may letting go of it recurse


def test_letting_go_of_a_deep_chain_that_was_never_walked():
    y = leaf(1.0)
    for _ in range(100_000):
        y = -y
    del y


def test_long_and_short_paths_meet():
    """The short path reaches x first; its gradient must wait for the long one."""
    x = leaf(2.0)
    h = x * 1.0
    y = h
    for _ in range(5):
        y = y * 2
    (y + h).sum().backward()
    assert x.grad[0] == 33


def test_leaf_gradients_accumulate_until_cleared():
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    (3 * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [5, 7])
    x.grad = None
    (3 * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [3, 3])


def test_a_loss_of_infinity_still_has_its_gradient():
    x = leaf(np.inf)
    (x * 2).sum().backward()
    assert x.grad[0] == 2


def test_backward_with_a_gradient_of_ones_own():
    x = leaf(1.0, 2.0)
    (x * x).backward(np.array([10.0, 1.0]))
    np.testing.assert_array_equal(x.grad, [20, 4])
    x.backward(np.array([1.0, 1.0]))
    np.testing.assert_array_equal(x.grad, [21, 5])


# --- grad --------------------------------------------------------------------------------------------------------


def test_grad_of_an_unused_input_is_zero():
    x, unused = leaf(1.0, 2.0), leaf(np.inf, 3.0)
    gx, nothing = grad((x * x).sum(), [x, unused])
    np.testing.assert_array_equal(gx, [2, 4])
    np.testing.assert_array_equal(nothing, [0, 0])
    assert x.grad is None and unused.grad is None


def test_grad_of_an_intermediate_tensor_and_of_the_loss_itself():
    x = leaf(2.0)
    h = x * 3
    loss = (h * h).sum()
    g_loss, gh, gx = grad(loss, [loss, h, x])
    assert (g_loss, gh[0], gx[0]) == (1, 12, 36)


def test_grad_runs_only_the_vjps_on_the_path():
    calls = []
    product = probe(calls)
    x, w = leaf(2.0), leaf(5.0)
    loss = product(product(x, w), w).sum()
    (gx,) = grad(loss, [x], keep=True)
    assert gx[0] == 25 and calls == ["a", "a"]
    calls.clear()
    (gw,) = grad(loss, [w])
    assert gw[0] == 20 and sorted(calls) == ["a", "b", "b"]
    calls.clear()
    (gx,) = grad((product(x, w) + product(product(w, w), w)).sum(), [x])  # the second term does not depend on x
    assert gx[0] == 5 and calls == ["a"]


# --- what is recorded --------------------------------------------------------------------------------------------


def test_frozen_weights_get_no_gradient_and_no_vjp():
    calls = []
    product = probe(calls)
    x, w = leaf(2.0), Tensor(np.array([5.0]))
    product(x, w).sum().backward()
    assert calls == ["a"] and w.grad is None and x.grad[0] == 5
    layer = Linear(3, 2, rng=np.random.default_rng(0)).requires_grad(False)
    image = Tensor(np.ones((1, 3), np.float32), requires_grad=True)
    layer(image).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is None
    np.testing.assert_allclose(image.grad, layer.weight.data.sum(axis=1)[None], rtol=1e-6)


def test_only_makes_constants_of_all_other_leaves():
    calls = []
    product = probe(calls)
    x, w = leaf(2.0), leaf(5.0)
    with tape.only(x):
        loss = product(x, w).sum()
        assert not (w * 2).requires_grad
    loss.backward()
    assert calls == ["a"] and w.grad is None and x.grad[0] == 5
    assert (w * 2).requires_grad


def test_no_grad_records_nothing_and_ends_with_its_block():
    x = leaf(1.0)
    with no_grad():
        with no_grad():
            pass
        y = x * 2
        assert y.node is None and not y.requires_grad
    with pytest.raises(ZeroDivisionError), no_grad():
        raise ZeroDivisionError
    assert (x * 2).requires_grad
    with pytest.raises(RuntimeError, match="depends on nothing that requires a gradient; was it made under no_grad?"):
        y.backward()


def test_no_grad_in_one_thread_is_not_seen_in_another():
    x, seen = leaf(1.0), {}
    inside, done = threading.Event(), threading.Event()

    def quiet():
        with no_grad(), tape.only():
            inside.set()
            done.wait(5)
            seen["quiet"] = (x * 2).requires_grad

    thread = threading.Thread(target=quiet)
    thread.start()
    inside.wait(5)
    here = (x * 2).requires_grad
    done.set()
    thread.join()
    assert here and not seen["quiet"]


# --- memory ------------------------------------------------------------------------------------------------------


def test_no_reference_cycles_without_backward():
    with no_collector():
        x = leaf(1.0, 2.0)
        y = ops.tanh(x * 2)
        loss = (y * y).sum()
        watched = [weakref.ref(t) for t in (y, loss)] + [weakref.ref(y.data)]
        del y, loss
        assert [w() for w in watched] == [None, None, None]


def test_no_reference_cycles_after_backward():
    with no_collector():
        x = leaf(1.0, 2.0)
        y = ops.tanh(x * 2)
        loss = (y * y).sum()
        watched = [weakref.ref(t) for t in (x, y, loss)]
        loss.backward()
        del x, y, loss
        assert [w() for w in watched] == [None, None, None]


def test_backward_frees_what_the_closures_hold():
    with no_collector():
        x = leaf(1.0, 2.0)
        y = ops.tanh(x * 2)
        held = weakref.ref(y.data)
        loss = (y * y).sum()
        del y
        assert held() is not None
        loss.backward(keep=True)
        assert held() is not None
        loss.backward()
        assert held() is None
        image = weakref.ref(x)
        del x
        assert image() is None  # a loss that is kept for the log keeps nothing else


def test_recording_drops_what_only_a_constants_gradient_would_read():
    with no_collector():
        x, w = leaf(1.0, 2.0), Tensor(np.array([3.0, 4.0]))
        h = x + 1
        held = weakref.ref(h.data)
        loss = (h * w).sum()  # h itself is read by the gradient to w alone, and w is a constant
        del h
        assert held() is None
        loss.backward()
        np.testing.assert_array_equal(x.grad, [3, 4])


def test_live_tensors_do_not_grow_with_steps():
    def live():
        return sum(isinstance(o, Tensor | tape.Node) for o in gc.get_objects())

    with no_collector():
        layer = Linear(4, 3, rng=np.random.default_rng(0))
        counts = []
        for _ in range(4):
            x = Tensor(np.ones((2, 4), np.float32), requires_grad=True)
            out = ops.relu(layer(x))
            grad((out * out).sum(), [x])
            del x, out
            counts.append(live())
        assert len(set(counts)) == 1


def test_nodes_are_freed_while_backward_passes():
    """Before the first op's vjp runs, the arrays of the later ops are gone already."""
    seen = []

    def function(x):
        return x + 0, (lambda g: seen.append(late()) or g,)

    first = unlisted(function, "first")
    with no_collector():
        x = leaf(1.0, 2.0)
        y = ops.exp(first(x))
        late = weakref.ref(y.data)
        loss = y.sum()
        del y
        assert late() is not None
        loss.backward()
    assert seen == [None]


def test_gradients_never_land_in_foreign_arrays():
    """Vjps may hand on g itself: neither it nor a gradient shared by two leaves may be added to in place."""
    hand_on = unlisted(lambda a, b: (a + b, (lambda g: g, lambda g: g)), "hand_on")
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    g = np.array([1.0, 10.0])
    g.flags.writeable = False
    h = hand_on(x, y)
    hand_on(hand_on(h, x), hand_on(h, h)).backward(g)
    np.testing.assert_array_equal(x.grad, [4, 40])
    np.testing.assert_array_equal(y.grad, [3, 30])
    np.testing.assert_array_equal(g, [1, 10])
    first = y.grad.copy(), y.grad
    hand_on(x, y).backward(g)
    np.testing.assert_array_equal(first[0], first[1])  # a gradient once read stays as it was


def test_read_only_inputs_are_never_written():
    x, w = (np.linspace(-1, 1, 12).reshape(s) for s in ((3, 4), (4, 3)))
    x.flags.writeable = w.flags.writeable = False
    a, b = Tensor(x, requires_grad=True), Tensor(w, requires_grad=True)
    out = ops.softmax_cross_entropy(ops.relu(a @ b) + ops.tanh(a @ b), np.array([0, 1, 2]))
    out.backward()
    out = ops.softmax_cross_entropy(a @ b, np.array([0, 1, 2]))
    out.backward()
    assert a.grad.shape == (3, 4) and b.grad.shape == (4, 3)


# --- errors ------------------------------------------------------------------------------------------------------


def test_second_backward_says_what_to_do():
    loss = (leaf(1.0) * 2).sum()
    loss.backward()
    text = "backward has already passed sum and freed it; run the forward pass again, or pass keep=True"
    with pytest.raises(RuntimeError, match=text):
        loss.backward()


def test_backward_into_a_freed_part_says_so():
    x = leaf(1.0)
    h = x * 2
    h.sum().backward()
    with pytest.raises(RuntimeError, match="already passed mul"):
        (h * 3).sum().backward()


def test_keep_allows_a_second_backward():
    x = leaf(3.0)
    loss = (x * x).sum()
    loss.backward(keep=True)
    loss.backward(keep=True)
    assert grad(loss, [x])[0][0] == 6 and x.grad[0] == 12


def test_weights_changed_after_the_forward_pass():
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    loss = (x * w).sum()
    w.data -= 0.1
    text = r"mul: one of its inputs \(shape \(2,\)\) was changed after the forward pass.* run the forward pass again"
    with pytest.raises(RuntimeError, match=text):
        loss.backward()


@pytest.mark.parametrize(
    "vjp, text",
    [
        (
            lambda g: g.sum(keepdims=True),
            r"the vjp of wrong returned float64 \(1,\) for an input that is float64 \(2,\)",
        ),
        (lambda g: g.astype(np.float32), r"returned float32 \(2,\) for an input that is float64 \(2,\)"),
    ],
)
@pytest.mark.parametrize("of_leaf", [True, False])
def test_a_gradient_of_the_wrong_shape_or_dtype(vjp, text, of_leaf):
    wrong = unlisted(lambda x: (x + 0, (vjp,)), "wrong")
    x = leaf(1.0, 2.0)
    with pytest.raises(TypeError, match=text):
        wrong(x if of_leaf else x * 2).sum().backward()


def test_backward_of_an_image_needs_its_gradient():
    y = leaf(1.0, 2.0) * 2
    with pytest.raises(RuntimeError, match=r"backward of a \(2,\) tensor needs its gradient g"):
        y.backward()
    with pytest.raises(TypeError, match=r"the gradient is float32 \(2,\) for a tensor that is float64 \(2,\)"):
        y.backward(np.ones(2, np.float32))
