"""Rules inside the attacks, seen by what they ask the network: when an image stops, what decays, what is kept."""

import numpy as np
import pytest
from test_attacks_minimal import Linear

from minisatm import attacks


class Watched:
    """A function network that writes down each question: the images and their margins."""

    def __init__(self, function, y):
        self.function, self.y, self.asked = function, y, []

    def __call__(self, x):
        logits, vjp = self.function(x)
        self.asked.append((x.copy(), attacks.true_margin(logits, self.y) if len(x) == len(self.y) else None))
        return logits, vjp


def curved(classes=3, seed=0, images=6, side=6, confident=0.3):
    """A network with a tanh, images, and the labels that it gives them: some are easy to fool and some are not."""
    rng = np.random.default_rng(seed)
    one, two = rng.standard_normal((side * side * 2, 12)), rng.standard_normal((12, classes))

    def function(x):
        hidden = np.tanh(x.reshape(len(x), -1) @ one * confident)
        return hidden @ two, lambda g: (((g @ two.T) * (1 - hidden**2)) @ one.T * confident).reshape(x.shape)

    x = rng.uniform(0.2, 0.8, (images, side, side, 2))
    return function, x, function(x)[0].argmax(axis=1)


# --- momentum


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_momentum_decays(decay):
    function, x, y = curved()
    moved, momentum = x, np.zeros_like(x)
    for _ in range(10):
        g = attacks.input_gradient(function, moved, y)
        momentum = decay * momentum + g / np.abs(g).sum(axis=(1, 2, 3), keepdims=True)
        moved = np.clip(np.clip(moved + 0.3 / 4 * np.sign(momentum), x - 0.3, x + 0.3), 0, 1)
    ours = attacks.momentum_fgsm(function, x, y, epsilon=0.3, decay=decay)
    np.testing.assert_array_equal(ours, moved)
    assert not np.array_equal(ours, attacks.momentum_fgsm(function, x, y, epsilon=0.3))  # the decay is 1 unless given
    if decay == 0:
        np.testing.assert_array_equal(ours, attacks.iterative_fgsm(function, x, y, epsilon=0.3))


# --- projections and steps


@pytest.mark.parametrize("name", ["iterative_fgsm", "iterative_ll", "momentum_fgsm", "pgd"])
@pytest.mark.parametrize("step", [0.02, 0.2, 3.0])
def test_a_step_of_any_size_ends_in_the_ball_and_a_small_one_moves_that_far(name, step):
    function, x, y = curved()
    rng = {"rng": np.random.default_rng(0)} if name == "pgd" else {}
    moved = np.abs(attacks.ATTACKS[name](function, x, y, epsilon=0.1, step=step, steps=3, **rng) - x)
    assert moved.max() <= 0.1 + 1e-12
    if name != "pgd":
        assert moved.max() == pytest.approx(min(3 * step, 0.1))


@pytest.mark.parametrize("name", ["iterative_fgsm", "iterative_ll", "momentum_fgsm", "pgd"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_step_is_a_quarter_of_epsilon_unless_given(name, steps):
    function, x, y = curved()
    options = {"noise": np.zeros_like(x)} if name == "pgd" else {}
    moved = attacks.ATTACKS[name](function, x, y, epsilon=0.1, steps=steps, **options)
    assert np.abs(moved - x).max() == pytest.approx(steps * 0.1 / 4)
    for norm in ("l2",) if name == "pgd" else ():
        moved = attacks.pgd(function, x, y, epsilon=0.1, steps=1, norm=norm, **options)
        np.testing.assert_allclose(np.linalg.norm((moved - x).reshape(len(x), -1), axis=1), 0.1 / 4)


@pytest.mark.parametrize("step", [0.05, 2.0, 50.0])
def test_pgd_in_l2_ends_in_the_ball_whatever_the_step(step):
    function, x, y = curved()
    moved = attacks.pgd(function, x, y, epsilon=0.3, step=step, steps=3, norm="l2", rng=np.random.default_rng(0)) - x
    assert np.linalg.norm(moved.reshape(len(x), -1), axis=1).max() <= 0.3 + 1e-9


@pytest.mark.parametrize("restarts", [1, 2, 5])
def test_each_restart_is_tried_in_full(restarts):
    function, x, y = curved()
    watched = Watched(function, y)
    attacks.pgd(watched, x, y, epsilon=0.1, steps=4, restarts=restarts, rng=np.random.default_rng(0))
    assert len(watched.asked) == restarts * (4 + 1)
    first = [watched.asked[5 * r][0] for r in range(restarts)]
    assert all(not np.array_equal(one, other) for i, one in enumerate(first) for other in first[:i])
    assert all(np.abs(start - x).max() <= 0.1 + 1e-12 for start in first)


# --- Square


def square(seed=3, steps=60, **more):
    function, x, y = curved(images=10, **more)
    watched = Watched(function, y)
    moved = attacks.square(watched, x, y, epsilon=0.2, steps=steps, rng=np.random.default_rng(seed))
    return x, moved, watched.asked


def test_square_stops_at_the_first_success_and_else_keeps_the_best():
    x, moved, asked = square()
    margins = np.stack([margin for _, margin in asked])
    assert len(asked) == 61 and (margins.min(axis=0) < 0).sum() > 0
    better_later = 0
    for i in range(len(x)):
        won = np.flatnonzero(margins[:, i] < 0)
        kept = won[0] if len(won) else margins[:, i].argmin()
        np.testing.assert_array_equal(moved[i], asked[kept][0][i])
        better_later += bool(len(won)) and len(won) < len(margins) - won[0]
    assert better_later > 0


def test_squares_shrink_to_a_pixel_and_have_one_sign_in_each_channel():
    x, _, asked = square(side=12, confident=0.01)
    start = asked[0][0] - x
    assert np.allclose(np.abs(start), 0.2) and np.allclose(start, start[:, :1])  # the columns of the start
    sides, both, (current, least) = [], set(), asked[0]
    for candidate, margin in asked[1:]:
        rows, columns = np.nonzero((candidate[0] != current[0]).any(axis=-1))
        sides.append(max(np.ptp(rows), np.ptp(columns)) + 1 if len(rows) else 0)
        if len(rows):
            signs = np.sign(candidate[0] - x[0])[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert (signs == signs[:1, :1]).all()
            both.add(tuple(signs[0, 0].tolist()))
        if margin[0] < least[0] and least[0] >= 0:
            current, least = candidate, margin
    wanted = [max(1, round(np.sqrt(0.3 * (1 - k / 60) ** 2 * 144))) for k in range(60)]
    assert all(side <= most for side, most in zip(sides, wanted))
    assert both == {(1, 1), (1, -1), (-1, 1), (-1, -1)}  # each channel has a sign of its own
    assert max(sides[:20]) >= 4 and max(sides[-6:]) == 1


# --- Carlini and Wagner


class Halves:
    """Image 0: nothing that is done changes its logits. The others: a linear network."""

    def __init__(self, linear):
        self.linear, self.counts = linear, []

    def __call__(self, x):
        self.counts.append(len(x))
        logits, vjp = self.linear(x)
        still = (x[:, 0, 0, 0] > 0.7)[:, None]  # only image 0 is that bright there, and it stays so
        stuck = np.where(still, [[1.0, 0.0]], logits)
        return stuck, lambda g: vjp(g) * ~still[:, :, None, None]


@pytest.mark.parametrize("steps, early", [(50, True), (50, False), (20, True)])
def test_an_image_whose_loss_does_not_fall_stops_at_the_next_tenth(steps, early):
    linear = Linear(count=3)
    x = linear.x.copy()
    x[0, 0, 0, 0] = 0.9
    network = Halves(linear)
    options = dict(steps=steps, search_steps=1, c=1.0, learning_rate=0.002)
    moved = attacks.carlini_wagner_l2(network, x, linear.y, abort_early=early, **options)
    assert network.counts[: steps // 5] == [3] * (steps // 5) and network.counts[steps // 5] == (2 if early else 3)
    assert early or network.counts == [3] * steps
    np.testing.assert_array_equal(moved[0], x[0])


@pytest.mark.parametrize("confidence", [0.0, 0.2, 1.0])
def test_a_confidence_is_the_margin_by_which_an_example_fools(confidence):
    linear = Linear()
    moved = attacks.carlini_wagner_l2(linear, linear.x, linear.y, confidence=confidence, learning_rate=0.01)
    margin = attacks.true_margin(linear(moved)[0], linear.y)
    assert (margin < -confidence).all() and (margin > -confidence - 0.1).all()


def test_c_grows_tenfold_until_the_image_is_fooled():
    """||d||^2 + c f is least where f has fallen by c ||w||^2 / 2: c = 0.001 is too little, and 0.1 is enough."""
    linear = Linear()
    assert (2 * linear.f / (linear.w**2).sum()).min() > 0.01 and (2 * linear.f / (linear.w**2).sum()).max() < 0.1
    fooled = []
    for searches in (4, 6):
        options = dict(c=1e-6, search_steps=searches, steps=300, learning_rate=0.003)
        moved = attacks.carlini_wagner_l2(linear, linear.x, linear.y, **options)
        fooled.append((attacks.true_margin(linear(moved)[0], linear.y) < 0).mean())
    assert fooled == [0.0, 1.0]
