"""The optimisers against their recurrences in float64 and against PyTorch; clipping, schedules, checkpoints."""

import math

import numpy as np
import pytest

from minisatm import InputError, Tensor, ops, optim

SHAPES = {"w": (3, 4), "b": (4,)}
FACTORS = [1.0, 0.5, 0.25, 1.0, 2.0, 0.1]


def weights(dtype=np.float64):
    rng = np.random.default_rng(0)
    return {n: Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True) for n, shape in SHAPES.items()}


def gradients(step, dtype=np.float64):
    rng = np.random.default_rng([1, step])
    return {n: rng.standard_normal(shape).astype(dtype) for n, shape in SHAPES.items()}


def train(optimiser, steps=range(6), clip=None):
    dtype = next(iter(optimiser.parameters.values())).dtype
    for k in steps:
        for n, g in gradients(k, dtype).items():
            optimiser.parameters[n].grad = g
        optimiser.step(FACTORS[k], clip)
    return {n: t.data for n, t in optimiser.parameters.items()}


def sgd_by_hand(rate, momentum, decay):
    found = {}
    for n, t in weights().items():
        w, v = t.data.copy(), 0.0
        for k, factor in enumerate(FACTORS):
            v = momentum * v + gradients(k)[n] + decay * w
            w = w - rate * factor * v
        found[n] = w
    return found


def adam_by_hand(rate, b1, b2, eps, decay):
    found = {}
    for n, t in weights().items():
        w, m, v = t.data.copy(), 0.0, 0.0
        for k, factor in enumerate(FACTORS):
            g = gradients(k)[n] + decay * w
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            w = w - rate * factor * (m / (1 - b1 ** (k + 1))) / (np.sqrt(v / (1 - b2 ** (k + 1))) + eps)
        found[n] = w
    return found


@pytest.mark.parametrize("momentum, decay", [(0, 0), (0.9, 0), (0.9, 0.01), (0.5, 0.1)])
def test_sgd_by_hand(momentum, decay):
    ours = train(optim.SGD(weights(), 0.1, momentum=momentum, weight_decay=decay))
    for n, expected in sgd_by_hand(0.1, momentum, decay).items():
        assert np.allclose(ours[n], expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("betas, eps, decay", [((0.9, 0.999), 1e-8, 0), ((0.5, 0.9), 1e-3, 0.01)])
def test_adam_by_hand(betas, eps, decay):
    ours = train(optim.Adam(weights(), 0.1, betas=betas, eps=eps, weight_decay=decay))
    for n, expected in adam_by_hand(0.1, *betas, eps, decay).items():
        assert np.allclose(ours[n], expected, rtol=1e-12, atol=1e-13)


def test_the_usual_settings():
    """Momentum 0.9; Adam's betas and eps as in its paper; no weight decay: by the class and by its name."""
    sgd, adam = sgd_by_hand(0.1, 0.9, 0), adam_by_hand(0.1, 0.9, 0.999, 1e-8, 0)
    for by_hand, made in ((sgd, optim.SGD), (adam, optim.Adam)):
        for optimiser in (made(weights(), 0.1), optim.build(made.__name__.lower(), weights(), 0.1)):
            for n, value in train(optimiser).items():
                np.testing.assert_allclose(value, by_hand[n], rtol=1e-12, atol=1e-13)


def test_the_first_step_of_adam_is_the_rate():
    """With bias correction the first step is rate * sign(g), whatever the size of g."""
    w = weights()
    before = {n: t.data.copy() for n, t in w.items()}
    after = train(optim.Adam(w, 0.1), [0])
    for n, g in gradients(0).items():
        assert np.allclose(after[n] - before[n], -0.1 * np.sign(g), atol=1e-7)


@pytest.mark.peer
@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("decay", [0, 0.01])
def test_as_in_pytorch(torch, name, decay):
    ours = train(optim.build(name, weights(), 0.1, momentum=0.9, weight_decay=decay))
    theirs = {n: torch.tensor(t.data.copy(), requires_grad=True) for n, t in weights().items()}
    if name == "sgd":
        peer = torch.optim.SGD(theirs.values(), 0.1, momentum=0.9, weight_decay=decay)
    else:
        peer = torch.optim.Adam(theirs.values(), 0.1, weight_decay=decay)
    start = {n: t.data.copy() for n, t in weights().items()}
    for k, factor in enumerate(FACTORS):
        peer.param_groups[0]["lr"] = 0.1 * factor
        for n, g in gradients(k).items():
            theirs[n].grad = torch.tensor(g)
        peer.step()
    for n, w in theirs.items():
        assert np.abs(w.detach().numpy() - start[n]).max() > 0.01
        assert np.allclose(ours[n], w.detach().numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", optim.OPTIMISERS)
def test_float32_stays_float32(name):
    optimiser = optim.build(name, weights(np.float32), 0.1, weight_decay=0.01)
    assert {a.dtype for a in train(optimiser, clip=0.5).values()} == {np.dtype(np.float32)}
    assert {a.dtype for own in optimiser.slots.values() for a in own.values()} == {np.dtype(np.float32)}


# Clipping


def test_the_joint_norm_is_clipped():
    """3 and 4 make 5: clipped to 1, each is a fifth of what it was; each on its own would have become 1."""
    one, two = Tensor(np.zeros(1), requires_grad=True), Tensor(np.zeros(1), requires_grad=True)
    optimiser = optim.SGD({"one": one, "two": two}, 1.0, momentum=0)
    one.grad, two.grad = np.array([3.0]), np.array([-4.0])
    assert optimiser.step(clip=1.0) == 5.0
    assert one.data == pytest.approx(-0.6, rel=1e-15) and two.data == pytest.approx(0.8, rel=1e-15)


def test_a_small_gradient_is_not_blown_up():
    for clip in (None, 5.0, 50.0):
        w = Tensor(np.zeros(2), requires_grad=True)
        w.grad = np.array([3.0, 4.0])
        assert optim.SGD({"w": w}, 1.0, momentum=0).step(clip=clip) == 5.0
        assert w.data.tolist() == [-3.0, -4.0]


def test_clipping_comes_before_weight_decay():
    w = Tensor(np.array([10.0]), requires_grad=True)
    w.grad = np.array([4.0])
    optim.SGD({"w": w}, 1.0, momentum=0, weight_decay=0.1).step(clip=1.0)
    assert w.data == pytest.approx([8.0], rel=1e-15)  # 10 - (1 + 0.1 * 10)


def test_a_zero_gradient_divides_by_nothing():
    w = Tensor(np.ones(2), requires_grad=True)
    w.grad = np.zeros(2)
    assert optim.SGD({"w": w}, 1.0).step(clip=1.0) == 0.0
    assert w.data.tolist() == [1.0, 1.0]


def test_gradient_norm():
    optimiser = optim.SGD(weights(), 0.1)
    assert optimiser.step() == 0.0
    for n, g in gradients(0).items():
        optimiser.parameters[n].grad = g
    flat = np.concatenate([g.ravel() for g in gradients(0).values()])
    assert optimiser.step() == pytest.approx(np.linalg.norm(flat), rel=1e-14)


@pytest.mark.parametrize("name", optim.OPTIMISERS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e200])
def test_a_gradient_that_is_not_finite_moves_nothing(name, wrong):
    """1e200 is finite, its square is not."""
    optimiser = optim.build(name, weights(), 0.1, weight_decay=0.01)
    train(optimiser, [0])
    before = {n: t.data.tobytes() for n, t in optimiser.parameters.items()}
    slots = {n: [a.tobytes() for a in own.values()] for n, own in optimiser.slots.items()}
    for n, g in gradients(1).items():
        optimiser.parameters[n].grad = g
    next(iter(optimiser.parameters.values())).grad.flat[0] = wrong
    assert not np.isfinite(optimiser.step(clip=1.0))
    assert {n: t.data.tobytes() for n, t in optimiser.parameters.items()} == before
    assert {n: [a.tobytes() for a in own.values()] for n, own in optimiser.slots.items()} == slots


# What a step touches


@pytest.mark.parametrize("name", optim.OPTIMISERS)
def test_a_weight_without_a_gradient_is_left_alone(name):
    w = weights()
    kept, version = w["b"].data.tobytes(), w["b"].version
    optimiser = optim.build(name, w, 0.1, weight_decay=0.5)
    for k in range(2):
        w["w"].grad = gradients(k)["w"]
        optimiser.step()
    assert w["b"].data.tobytes() == kept and w["b"].version == version
    assert all(not a.any() for a in optimiser.slots["b"].values())
    assert all(a.any() for a in optimiser.slots["w"].values())


@pytest.mark.parametrize("name", optim.OPTIMISERS)
def test_a_step_clears_the_gradients_and_does_not_write_into_them(name):
    w, g = weights(), gradients(0)
    for n, t in w.items():
        t.grad = g[n]
        g[n].flags.writeable = False
    optim.build(name, w, 0.1, weight_decay=0.1).step(clip=0.1)
    assert all(t.grad is None for t in w.values())
    assert all(np.array_equal(g[n], gradients(0)[n]) for n in g)


@pytest.mark.parametrize("name", optim.OPTIMISERS)
def test_backward_through_old_weights_is_an_error(name):
    w = Tensor(np.ones((2, 2)), requires_grad=True)
    x = Tensor(np.ones((1, 2)), requires_grad=True)
    loss = ops.matmul(x, w).sum()
    w.grad = np.ones((2, 2))
    optim.build(name, {"w": w}, 0.1).step()
    with pytest.raises(RuntimeError, match="was changed after the forward pass"):
        loss.backward()


# Checkpoints


@pytest.mark.parametrize("name", optim.OPTIMISERS)
def test_the_state_goes_on_where_it_was(name):
    whole = train(optim.build(name, weights(), 0.1))
    first = optim.build(name, weights(), 0.1)
    half = {n: a.copy() for n, a in train(first, range(3)).items()}
    state = {n: np.array(a) for n, a in first.state().items()}
    second = optim.build(name, weights(), 0.1)
    for n, a in half.items():
        second.parameters[n].data = a
    second.set_state(state)
    kept = {n: a.tobytes() for n, a in state.items()}
    resumed = train(second, range(3, len(FACTORS)))
    assert {n: a.tobytes() for n, a in resumed.items()} == {n: a.tobytes() for n, a in whole.items()}
    assert second.steps == len(FACTORS)
    assert {n: a.tobytes() for n, a in state.items()} == kept  # a copy was taken

    forgetful = optim.build(name, weights(), 0.1)
    for n, a in half.items():
        forgetful.parameters[n].data = a.copy()
    assert not np.allclose(train(forgetful, range(3, len(FACTORS)))["w"], whole["w"])


# The schedule


def test_schedule_values():
    assert [optim.schedule("constant", i, 100) for i in (0, 50, 99)] == [1.0, 1.0, 1.0]
    assert [optim.schedule("constant", i, 100, warmup=4) for i in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    cosine = [optim.schedule("cosine", i, 100) for i in (0, 25, 50, 75, 100)]
    r = math.sqrt(0.5)
    assert cosine == pytest.approx([1, (1 + r) / 2, 0.5, (1 - r) / 2, 0], abs=1e-15)
    warm = [optim.schedule("cosine", i, 30, warmup=10) for i in (0, 9, 10, 20, 30)]
    assert warm == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.0], abs=1e-15)


@pytest.mark.parametrize("kind", ["constant", "cosine"])
@pytest.mark.parametrize("iterations, warmup", [(1, 0), (1, 1), (2, 1), (50, 20), (20, 20)])
def test_schedule_stays_in_its_range(kind, iterations, warmup):
    factors = [optim.schedule(kind, i, iterations, warmup) for i in range(iterations)]
    assert all(0 < f <= 1 for f in factors) and factors == sorted(factors[:warmup]) + factors[warmup:]
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


def test_unknown_names():
    with pytest.raises(InputError, match="unknown schedule 'step': choose constant, cosine"):
        optim.schedule("step", 0, 10)
    with pytest.raises(InputError, match="unknown optimiser 'lion': choose sgd, adam"):
        optim.build("lion", weights(), 0.1)
