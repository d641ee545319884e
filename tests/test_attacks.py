"""The attacks: published examples bit for bit, each by hand, and their random numbers."""

import numpy as np
import pytest
from attack_cases import RANDOM, WITH_ALPHA, WITH_EPSILON, images, run
from hypothesis import given, settings
from hypothesis import strategies as st

from minisatm import Tensor, attacks, models, ops


def published(name, dense, golden):
    x, y, noise, epsilon = golden["x"], golden["y"], golden["noise"], float(golden["eps"])
    return {
        "fgsm": lambda: attacks.fgsm(dense, x, y, epsilon=epsilon),
        "stepll": lambda: attacks.step_ll(dense, x, y, epsilon=epsilon),
        "stepll_seedplus": lambda: attacks.step_ll(dense, x, y, epsilon=epsilon, as_printed=True),
        "rfgsm_clipmid": lambda: attacks.r_fgsm(dense, x, y, epsilon=epsilon, noise=noise),
        "rstepll_minus": lambda: attacks.r_step_ll(dense, x, y, epsilon=epsilon, noise=noise),
        "bim": lambda: attacks.iterative_fgsm(dense, x, y, epsilon=epsilon),
        "iterll": lambda: attacks.iterative_ll(dense, x, y, epsilon=epsilon),
        "mifgsm": lambda: attacks.momentum_fgsm(dense, x, y, epsilon=epsilon),
        "fgm_l2": lambda: attacks.fast_gradient_value(dense, x, y, epsilon=0.5),
        "deepfool_stab": lambda: attacks.deepfool(dense, x, y),
    }[name]()


EXACT = ["fgsm", "stepll", "stepll_seedplus", "rfgsm_clipmid", "rstepll_minus", "bim", "iterll", "mifgsm"]


@pytest.mark.parametrize("name", EXACT)
def test_published_examples_bit_for_bit(name, dense, golden):
    ours = published(name, dense, golden)
    assert ours.dtype == np.float32
    assert ours.tobytes() == golden[name].tobytes()


@pytest.mark.parametrize("name", ["fgm_l2", "deepfool_stab"])
def test_published_examples_to_rounding(name, dense, golden):
    ours = published(name, dense, golden)
    assert ours.dtype == np.float32 and np.abs(ours - golden[name]).max() <= 1e-6


def test_published_examples_tell_the_variants_apart(dense, golden):
    """Clipping only at the end, or stepping the other way, gives others: the comparison above means something."""
    assert not np.array_equal(published("rfgsm_clipmid", dense, golden), golden["rfgsm_noclipmid"])
    assert not np.array_equal(published("stepll", dense, golden), golden["stepll_seedplus"])
    assert not np.array_equal(published("rstepll_minus", dense, golden), golden["rfgsm_clipmid"])
    assert not np.array_equal(published("mifgsm", dense, golden), golden["mifgsm_signacc"])
    assert np.array_equal(golden["mifgsm_mean"], golden["mifgsm"])  # here a mean only scales the momentum
    assert np.abs(published("deepfool_stab", dense, golden) - golden["deepfool"]).max() > 1e-5


def test_least_likely_of_the_published_network(dense, golden):
    assert np.array_equal(attacks.least_likely(dense, golden["x"]), golden["yll"])


def test_input_gradient_by_hand(dense, golden):
    """dJ/dx of a two-layer network, written out in float64."""
    x, W1, b1, W2, b2 = (golden[k].astype(np.float64) for k in ("x", "W1", "b1", "W2", "b2"))
    hidden = np.tanh(x.reshape(16, -1) @ W1 + b1)
    logits = hidden @ W2 + b2
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(16), golden["y"]] -= 1
    expected = (((p @ W2.T) * (1 - hidden**2)) @ W1.T).reshape(x.shape)
    ours = attacks.input_gradient(dense, golden["x"], golden["y"])
    assert np.abs(ours - expected).max() <= 1e-6 * np.abs(expected).max()


def test_r_step_ll_aims_at_the_least_likely_class_of_the_clean_image(dense, golden):
    """Not of the image after the random step; with a large one they differ."""
    x, noise = golden["x"], golden["noise"]
    start = np.clip(x + 0.5 * np.sign(noise), 0, 1)
    of_clean, of_start = attacks.least_likely(dense, x), attacks.least_likely(dense, start)
    assert (of_clean != of_start).any()
    by_hand = np.clip(start - 0.4 * np.sign(attacks.input_gradient(dense, start, of_clean)), 0, 1)
    ours = attacks.r_step_ll(dense, x, golden["y"], epsilon=0.9, alpha=0.5, noise=noise)
    assert np.array_equal(ours, by_hand)


def test_fgsm_raises_the_loss_and_step_ll_the_least_likely_probability(dense, golden):
    def loss(x, y):
        return float(ops.softmax_cross_entropy(dense(Tensor(x))[0], Tensor(y)))

    x, y, y_ll = golden["x"], golden["y"], golden["yll"]
    assert loss(attacks.fgsm(dense, x, y), y) > loss(x, y) + 0.01
    assert loss(attacks.step_ll(dense, x, y), y_ll) < loss(x, y_ll) - 0.01
    assert loss(attacks.step_ll(dense, x, y, as_printed=True), y_ll) > loss(x, y_ll) + 0.01


@pytest.mark.parametrize("name", ["step_ll", "r_step_ll"])
def test_least_likely_attacks_do_not_read_y(dense, golden, name):
    x, y = golden["x"], golden["y"]
    assert np.array_equal(run(name, dense, x, y), run(name, dense, x, (y + 1) % 4))


def test_random_noise_of_a_given_sign(dense, golden):
    x, y, noise = golden["x"], golden["y"], golden["noise"]
    expected = np.clip(x + np.float32(0.1) * np.sign(noise), 0, 1)
    np.testing.assert_allclose(attacks.random_noise(dense, x, y, epsilon=0.1, noise=noise), expected, rtol=0, atol=1e-7)


def test_more_restarts_are_never_worse(dense, golden):
    """An image keeps the try that fools it, or else the best one: not the last."""
    x, y = golden["x"], golden["y"]

    def margins(restarts):
        moved = run("pgd", dense, x, y, epsilon=0.05, steps=1, restarts=restarts)
        return attacks.true_margin(dense(Tensor(moved))[0].data, y)

    assert (margins(5) <= margins(1)).all() and (margins(5) < margins(1)).any()


def test_hot_cold_by_hand(dense, golden):
    x, y = golden["x"], golden["y"]
    logits, vjp = attacks.logits_and_vjp(dense, x)
    cold = np.eye(4, dtype=np.float32)[y]
    g = vjp(np.eye(4, dtype=np.float32)[np.where(cold > 0, -np.inf, logits).argmax(axis=1)] - cold)
    expected = np.clip(x + 0.1 * g / np.abs(g).max(axis=(1, 2, 3), keepdims=True), 0, 1)
    np.testing.assert_allclose(attacks.hot_cold(dense, x, y, epsilon=0.1), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", ["l2", "max"])
def test_gradient_values_are_scaled_per_image(dense, golden, scale):
    x = np.full_like(golden["x"], 0.5)
    moved = attacks.fast_gradient_value(dense, x, golden["y"], epsilon=0.1, scale=scale) - x
    size = np.sqrt((moved**2).reshape(16, -1).sum(axis=1)) if scale == "l2" else abs(moved).reshape(16, -1).max(axis=1)
    np.testing.assert_allclose(size, 0.1, rtol=1e-5)


@pytest.mark.parametrize("name", RANDOM)
def test_the_same_stream_gives_the_same_example(dense, golden, name):
    x, y = golden["x"], golden["y"]
    first, again, other = (run(name, dense, x, y, rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_random_step_is_made_of_fair_signs(dense):
    """At alpha just below epsilon the example shows the signs themselves: each pixel of its own, half of them plus."""
    x = np.full((400, 1, 3, 4), 0.5, np.float32)
    moved = attacks.r_fgsm(dense, x, np.zeros(400, int), epsilon=0.1, alpha=0.0999, rng=np.random.default_rng(0)) - x
    plus = moved > 0
    assert np.allclose(np.abs(moved), 0.1, atol=3e-4)
    assert abs(plus.mean() - 0.5) < 0.03  # 4800 fair coins: four standard deviations
    assert np.abs(np.corrcoef(plus.reshape(400, 12).T) - np.eye(12)).max() < 0.25


def test_craft_by_name_equals_the_function(dense, golden):
    x, y = golden["x"], golden["y"]
    for name in attacks.ATTACKS:
        if name.startswith("carlini"):
            continue  # a minute of work
        by_name = attacks.craft(name, dense, x, y, epsilon=0.1, alpha=0.02, rng=np.random.default_rng(7))
        extra = {"alpha": 0.02} if name in WITH_ALPHA else {}
        extra |= {"epsilon": 0.1} if name in WITH_EPSILON else {}
        assert np.array_equal(by_name, run(name, dense, x, y, **extra))


@settings(max_examples=20)
@given(classes=st.integers(2, 6), seed=st.integers(0, 2**20))
def test_least_likely_is_the_smallest_logit(classes, seed):
    network = models.build("resnet20", classes=classes, width=1 / 8, size=8, rng=seed)
    x, _ = images(3, seed=seed, size=8)
    with network.mode(False):
        logits = network(Tensor(x))[0].data
    assert np.array_equal(attacks.least_likely(network, x), logits.argmin(axis=1))
