"""The mistakes found in well-known attack libraries: what each does to the attack, and that ours does not make it.

The wrong variant stands in the test, beside the property that tells it from the published attack.
"""

import numpy as np
import pytest
from attack_cases import EPSILON, SLACK

from minisatm import InputError, Tensor, attacks, models
from minisatm.attacks import carlini_wagner, gradients, minimal


def logits(network, x):
    return attacks.logits_of(network, x)


def fooled(network, x, y):
    """The share of images that are misclassified."""
    return float((attacks.true_margin(logits(network, x), y) < 0).mean())


def function(network, scale=1.0, shift=0.0):
    """The network with other logits, scale * Z + shift: the same classes."""

    def answer(x):
        found, vjp = network.logits_and_vjp(x)
        return (scale * found + shift).astype(found.dtype), lambda g: vjp((scale * g).astype(found.dtype))

    return answer


def grey(golden):
    """Images far from 0 and 1, where nothing is clipped."""
    return (0.5 + golden["x"] / 100).astype(np.float32)


def test_r_fgsm_that_steps_alpha(dense, golden):
    """At alpha = epsilon / 4 it moves no pixel by more than half of the budget."""
    x, y, noise, alpha = grey(golden), golden["y"], golden["noise"], EPSILON / 4
    ours = attacks.r_fgsm(dense, x, y, epsilon=EPSILON, alpha=alpha, noise=noise)
    start = x + alpha * np.sign(noise)
    variant = start + alpha * np.sign(attacks.input_gradient(dense, start.astype(np.float32), y))
    assert abs(abs(ours - x).max() - EPSILON) < SLACK
    assert abs(abs(variant - x).max() - EPSILON / 2) < SLACK


def masked_with_0(logits, y):
    own = np.eye(logits.shape[1], dtype=logits.dtype)[y]
    others = (1 - own) * logits
    return (own * logits).sum(axis=1) - others.max(axis=1), own - np.eye(logits.shape[1])[others.argmax(axis=1)]


@pytest.mark.parametrize("name", ["carlini_wagner_l2", "carlini_wagner_linf"])
def test_carlini_wagner_that_masks_with_0(dense, golden, name, monkeypatch):
    """With all logits below zero the true class itself, as 0, is the largest of the others: nothing is ever found."""
    x, y = golden["x"], golden["y"]
    options = {"steps": 60, "c": 1.0} | ({"search_steps": 4} if name.endswith("l2") else {})
    for shift in (0, -100, 100):
        network = function(dense, shift=np.float32(shift))
        assert fooled(dense, attacks.ATTACKS[name](network, x, y, **options), y) == 1
    monkeypatch.setattr(carlini_wagner, "margin_and_slope", masked_with_0)
    before = fooled(dense, x, y)
    found = attacks.ATTACKS[name](function(dense, shift=np.float32(-100)), x, y, **options)
    assert fooled(dense, found, y) == before < 1


def test_deepfool_without_its_stabiliser(dense, golden, monkeypatch):
    """At the boundary the step is as small as the difference of the logits, and rounding eats it."""
    x, y = golden["x"], golden["y"]
    network = function(dense, shift=np.float32(1000))  # where float32 knows differences of 6e-5 only
    assert fooled(network, attacks.deepfool(network, x, y), y) == 1
    monkeypatch.setattr(minimal, "STABILISER", 0.0)
    assert fooled(network, attacks.deepfool(network, x, y), y) < 0.8


LOUD = 200  # times the logits: the same classes, and a cross-entropy that float32 rounds to 0


def test_saturated_cross_entropy_is_not_robustness(dense, golden):
    """Logits times 200: where softmax is 1 to the last bit the gradient is zero. Count that; the margin goes on."""
    x, y = golden["x"], logits(dense, golden["x"]).argmax(axis=1)
    loud = function(dense, scale=np.float32(LOUD))
    lost = gradients.vanished(attacks.input_gradient(loud, x, y))
    assert lost.shape == (16,) and 0.2 < lost.mean() < 1
    assert not gradients.vanished(attacks.input_gradient(dense, x, y)).any()
    assert not gradients.vanished(attacks.input_gradient(loud, x, y, loss="margin")).any()
    for name in ("fgsm", "iterative_fgsm", "momentum_fgsm"):
        attack = attacks.ATTACKS[name]
        kept = (attack(loud, x, y, epsilon=0.3) == x).reshape(16, -1).all(axis=1)
        assert np.array_equal(kept, lost)
        by_margin = attack(loud, x, y, epsilon=0.3, loss="margin")
        assert fooled(dense, by_margin, y) > fooled(dense, attack(loud, x, y, epsilon=0.3), y)
        assert np.array_equal(by_margin, attack(dense, x, y, epsilon=0.3, loss="margin"))
    for name in ("r_fgsm", "pgd", "fast_gradient_value"):
        options = {"noise": golden["noise"].astype(np.float32).clip(-1, 1)} if name != "fast_gradient_value" else {}
        quiet, noisy = (attacks.ATTACKS[name](n, x, y, epsilon=0.3, loss="margin", **options) for n in (dense, loud))
        assert np.abs(quiet - noisy).max() < 1e-5


def momentum_by_hand(network, x, y, accumulate, steps=10, epsilon=EPSILON):
    moved, momentum = x, np.zeros_like(x)
    for _ in range(steps):
        momentum = accumulate(momentum, attacks.input_gradient(network, moved, y))
        moved = np.clip(np.clip(moved + epsilon / 4 * np.sign(momentum), x - epsilon, x + epsilon), 0, 1)
    return moved


def per_image(g):
    return np.abs(g).sum(axis=(1, 2, 3), keepdims=True)


ACCUMULATE = {
    "published": lambda m, g: m + g / per_image(g),
    "signs": lambda m, g: m + np.sign(g),
    "a norm over the whole batch": lambda m, g: m + g / np.abs(g).sum(),
}


@pytest.mark.parametrize("variant", ["signs", "a norm over the whole batch"])
def test_momentum_of_other_things(dense, golden, variant):
    """Signs forget how clear a gradient was. A norm over the batch lets an image's size depend on its neighbours."""
    x, y = golden["x"], golden["y"]
    ours = attacks.momentum_fgsm(dense, x, y)
    assert np.array_equal(ours, momentum_by_hand(dense, x, y, ACCUMULATE["published"]))
    wrong = momentum_by_hand(dense, x, y, ACCUMULATE[variant])
    assert not np.array_equal(ours, wrong)
    if variant != "signs":
        few = [momentum_by_hand(dense, x[:n], y[:n], ACCUMULATE[variant])[0] for n in (1, 16)]
        assert not np.array_equal(*few)


@pytest.mark.parametrize("decay", [0.0, 0.25, 1.0, 3.0])
def test_momentum_with_its_decay(dense, golden, decay):
    """At 0 it is iterative FGSM; another decay gives other steps, those that are written out here."""
    x, y = golden["x"], golden["y"]
    ours = attacks.momentum_fgsm(dense, x, y, epsilon=0.3, decay=decay)
    by_hand = momentum_by_hand(dense, x, y, lambda m, g: decay * m + g / per_image(g), epsilon=0.3)
    assert np.array_equal(ours, by_hand)
    assert np.array_equal(ours, attacks.iterative_fgsm(dense, x, y, epsilon=0.3)) == (decay == 0)


def test_restarts_that_keep_the_last_try(dense, golden):
    """The last of several tries is worse than the best for some image; ours is never worse with more of them."""
    x, y = golden["x"], golden["y"]
    starts = np.random.default_rng(0).uniform(-1, 1, (16, 6, *x.shape[1:])).astype(np.float32)

    def margins(noise, restarts):
        moved = attacks.pgd(dense, x, y, epsilon=0.05, steps=1, restarts=restarts, noise=noise)
        return attacks.true_margin(logits(dense, moved), y)

    tries = np.stack([margins(starts[:, i], 1) for i in range(6)])
    for restarts in (1, 3, 6):
        np.testing.assert_array_equal(margins(starts[:, :restarts], restarts), tries[:restarts].min(axis=0))
    assert (tries[-1] > tries.min(axis=0)).any()


def test_success_is_that_of_8_bit_pixels(dense, golden):
    """The nearest examples fool by a hair, and as an image file some of them no longer do."""
    x, y = attacks.rounded(golden["x"]), golden["y"]
    assert np.array_equal(np.rint(x * 255).astype(np.uint8) / np.float32(255), x) and x.dtype == np.float32
    assert np.array_equal(attacks.rounded(x), x) and np.abs(x - golden["x"]).max() <= 0.5 / 255 + SLACK
    moved = attacks.carlini_wagner_l2(dense, x, y, steps=60, search_steps=6)
    assert fooled(dense, moved, y) == 1 > fooled(dense, attacks.rounded(moved), y)
    sure = attacks.carlini_wagner_l2(dense, x, y, steps=60, search_steps=6, confidence=0.1)
    assert fooled(dense, attacks.rounded(sure), y) == 1


@pytest.mark.parametrize("name", ["vgg16", "resnet20", "lenet"])
def test_epsilon_is_in_pixels_whatever_the_network_normalises(name):
    """Stepping in normalised space would move a pixel by epsilon times the standard deviation."""
    network = models.build(name, classes=4, width=1 / 16, size=32, channels=3, mean=(0.4,) * 3, std=(0.2,) * 3)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0.3, 0.7, (2, 32, 32, 3)).astype(np.float32), np.array([1, 2])
    moved = np.abs(attacks.fgsm(network, x, y, epsilon=EPSILON) - x)
    assert abs(moved.max() - EPSILON) < SLACK
    variant = (x - 0.4) / 0.2 + EPSILON * np.sign(attacks.input_gradient(network, x, y))
    assert abs(np.abs(variant * 0.2 + 0.4 - x).max() - 0.2 * EPSILON) < SLACK


@pytest.mark.parametrize("epsilon", [8, 16 / 255 * 255, 2.0])
def test_epsilon_of_0_to_255(dense, golden, epsilon):
    with pytest.raises(InputError, match="not in pixels of .0, 1.: write it like 16/256"):
        attacks.fgsm(dense, golden["x"], golden["y"], epsilon=epsilon)


def test_l0_ranks_by_a_gradient_that_is_not_zero(dense, golden, monkeypatch):
    """max(f, 0) has no gradient where the example fools already: pixels ranked by it are frozen in no order at all."""
    seen = []
    real = carlini_wagner._f

    def watching(network, x, y, confidence, mode):
        margin, slope = real(network, x, y, confidence, mode)
        if confidence == np.inf:
            seen.append(np.abs(slope).reshape(len(x), -1).max(axis=1)[margin < 0])
        return margin, slope

    monkeypatch.setattr(carlini_wagner, "_f", watching)
    attacks.carlini_wagner_l0(dense, golden["x"], golden["y"], steps=20, rounds=2)
    assert len(seen) == 2 and all((s > 0).all() for s in seen)
    moved = attacks.carlini_wagner_l2(dense, golden["x"], golden["y"], steps=30, search_steps=5)
    assert not np.any(real(dense, moved, golden["y"], 0.0, "eval")[1])
    assert gradients.true_margin(dense(Tensor(moved))[0].data, golden["y"]).max() < 0
