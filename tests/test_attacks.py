"""The attacks: published examples bit for bit, the ball and the box, and a network that crafting leaves untouched."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisatm import InputError, Tensor, attacks, backend, grad, models, ops, tape
from minisatm.kernels import numpy_kernels
from minisatm.layers import BatchNorm, Module

GOLDEN = Path(__file__).parent / "golden" / "attacks.npz"
EPSILON = 16 / 256
SLACK = 2e-7  # x is at most 1, so x + epsilon - x is off by a few units of 2^-24


class Dense(Module):
    """The 12-8(tanh)-4 network that the published examples were crafted with."""

    def __init__(self, stored):
        for name in ("W1", "b1", "W2", "b2"):
            setattr(self, name, Tensor(stored[name], requires_grad=True))

    def __call__(self, x):
        features = ops.tanh(ops.linear(x.reshape(len(x), -1), self.W1, self.b1))
        return ops.linear(features, self.W2, self.b2), features


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def dense(golden):
    return Dense(golden)


@pytest.fixture(scope="module")
def resnet():
    """A thin ResNet20 whose running statistics and affine terms are not those of its start."""
    network = models.build("resnet20", classes=5, width=1 / 4, size=16, rng=0)
    rng = np.random.default_rng(5)
    for _, module in network.modules():
        if isinstance(module, BatchNorm):
            module.gamma.data = rng.uniform(0.5, 1, module.gamma.shape).astype(np.float32)
            module.mean = (0.2 * rng.standard_normal(module.mean.shape)).astype(np.float32)
            module.var = rng.uniform(0.5, 2, module.var.shape).astype(np.float32)
    return network


def images(count=4, seed=1, size=16, channels=3, classes=5):
    rng = np.random.default_rng(seed)
    return rng.random((count, size, size, channels), np.float32), rng.integers(0, classes, count)


SINGLE = ("fgsm", "step_ll", "r_fgsm", "r_step_ll")
STEPS = {name: {"steps": 2} for name in ("iterative_fgsm", "iterative_ll", "pgd", "momentum_fgsm", "deepfool")}
STEPS |= {"square": {"steps": 5}, "carlini_wagner_l2": {"steps": 10, "search_steps": 2}}
STEPS |= {"carlini_wagner_linf": {"steps": 5, "c": 5.0}}
STEPS |= {"carlini_wagner_l0": {"steps": 10, "search_steps": 2, "rounds": 2}}
VARIANTS = [(name, STEPS.get(name, {})) for name in attacks.ATTACKS]
VARIANTS += [("pgd", {"steps": 3, "restarts": 3}), ("pgd", {"steps": 3, "norm": "l2", "step": 0.5, "restarts": 2})]
VARIANTS += [("fast_gradient_value", {"scale": scale}) for scale in ("max", "none")]
VARIANTS += [(name, STEPS.get(name, {}) | {"loss": "margin"}) for name, a in attacks.ATTACKS.items() if a.takes("loss")]
WITH_EPSILON = sorted(name for name, attack in attacks.ATTACKS.items() if attack.takes("epsilon"))
WITH_ALPHA = [name for name, attack in attacks.ATTACKS.items() if attack.takes("alpha")]
WITH_NOISE = [name for name, attack in attacks.ATTACKS.items() if attack.takes("noise")]
RANDOM = [name for name, attack in attacks.ATTACKS.items() if attack.random]


def run(name, network, x, y, **options):
    if name in RANDOM and "noise" not in options:
        options.setdefault("rng", np.random.default_rng(7))
    return attacks.ATTACKS[name](network, x, y, **options)


# Published examples


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


# The ball and the box


def double(dense):
    """The same network in float64, where no sign hangs on rounding."""
    return Dense({name: tensor.data.astype(np.float64) for name, tensor in dense.parameters().items()})


def drawn(seed, dtype, count=6):
    """Images with many pixels at the corners of the range, and labels."""
    rng = np.random.default_rng(seed)
    x = np.where(
        rng.random((count, 1, 3, 4)) < 0.4, rng.integers(0, 3, (count, 1, 3, 4)) / 2, rng.random((count, 1, 3, 4))
    )
    return x.astype(dtype), rng.integers(0, 4, count)


def size_of(away, norm):
    """The length of each image's perturbation in this norm."""
    flat = np.abs(away.astype(np.float64)).reshape(len(away), -1)
    return np.sqrt((flat**2).sum(axis=1)) if norm == "l2" else flat.max(axis=1)


@pytest.mark.parametrize("name, options", VARIANTS, ids=str)
@settings(max_examples=12)
@given(
    epsilon=st.sampled_from([0.0, 1 / 256, 16 / 256, 0.3, 1.0]),
    share=st.sampled_from([None, 0.0, 0.25, 0.9]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**20),
)
def test_inside_the_ball_and_the_box(dense, name, options, epsilon, share, dtype, seed):
    attack, options = attacks.ATTACKS[name], dict(options)
    (x, y), network = drawn(seed, dtype), dense if dtype == np.float32 else double(dense)
    kept = x.copy(), y.copy()
    if attack.takes("epsilon"):
        options["epsilon"] = epsilon
    if share is not None and name in WITH_ALPHA:
        options["alpha"] = share * epsilon
    crafted = run(name, network, x, y, **options)
    assert crafted.dtype == dtype and crafted.shape == x.shape and not np.shares_memory(crafted, x)
    assert crafted.min() >= 0 and crafted.max() <= 1
    assert np.array_equal(x, kept[0]) and np.array_equal(y, kept[1])
    if attack.takes("epsilon") and options.get("scale") != "none":
        norm = "l2" if "l2" in (options.get("norm"), options.get("scale")) else attack.norm
        norm = "linf" if options.get("scale") == "max" else norm
        assert size_of(crafted - x, norm).max() <= epsilon + (SLACK if norm == "linf" else 1e-6)
        if epsilon == 0:
            assert np.array_equal(crafted, x)


@pytest.mark.parametrize("share", [0, 1 / 4, 1 / 2, 3 / 4])
def test_r_fgsm_spends_the_whole_budget(dense, golden, share):
    """alpha at random and epsilon - alpha along the gradient: where the two agree, a pixel moves by all of epsilon.

    A second step of alpha would move it by epsilon / 2 at alpha = epsilon / 4.
    """
    x = np.full_like(golden["x"], 0.5) + golden["x"] / 100  # far from 0 and 1, so that nothing is clipped
    alpha = share * EPSILON
    adversarial = attacks.r_fgsm(dense, x, golden["y"], epsilon=EPSILON, alpha=alpha, noise=golden["noise"])
    signs = np.sign(golden["noise"])
    start = x + alpha * signs
    g = np.sign(attacks.input_gradient(dense, start, golden["y"]))
    moved = np.abs(adversarial - x)
    assert np.allclose(moved[g == signs], EPSILON, rtol=0, atol=SLACK) and (g == signs).sum() > 20
    assert np.allclose(moved[g == -signs], abs(EPSILON - 2 * alpha), rtol=0, atol=SLACK) and (g == -signs).sum() > 20


def test_alpha_is_half_of_epsilon_unless_given(dense, golden):
    x, y, noise = golden["x"], golden["y"], golden["noise"]
    default = attacks.r_fgsm(dense, x, y, epsilon=0.1, noise=noise)
    assert np.array_equal(default, attacks.r_fgsm(dense, x, y, epsilon=0.1, alpha=0.05, noise=noise))
    assert not np.array_equal(default, attacks.r_fgsm(dense, x, y, epsilon=0.1, alpha=0.025, noise=noise))
    assert attacks.resolve_alpha(EPSILON, None) == EPSILON / 2
    assert attacks.resolve_alpha(EPSILON, 0.01) == 0.01


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


# One image alone, or among others


@pytest.mark.parametrize("name", SINGLE)
def test_an_image_alone_is_attacked_as_among_others(resnet, name):
    """J is summed, not averaged: each image's gradient is its own. BLAS rounds differently by batch: hence a margin."""
    x, y = images(6)
    noise = {"noise": np.random.default_rng(3).standard_normal(x.shape)} if name in WITH_ALPHA else {}
    together = attacks.ATTACKS[name](resnet, x, y, **noise)
    start = np.clip(x + EPSILON / 2 * np.sign(noise["noise"]), 0, 1).astype(np.float32) if noise else x
    labels = attacks.least_likely(resnet, x) if name.endswith("step_ll") else y
    for i in range(len(x)):
        one = {k: v[i : i + 1] for k, v in noise.items()}
        alone = attacks.ATTACKS[name](resnet, x[i : i + 1], y[i : i + 1], **one)[0]
        g = attacks.input_gradient(resnet, start, labels)[i]
        clear = np.abs(g) > 1e-4 * np.abs(g).max()
        assert clear.mean() > 0.95
        assert np.abs(alone - together[i])[clear].max() <= SLACK


@pytest.mark.parametrize("name, options", VARIANTS, ids=str)
@settings(max_examples=4)
@given(first=st.integers(1, 5), seed=st.integers(0, 2**20))
def test_images_that_come_after_change_nothing(dense, name, options, first, seed):
    """In float64, where no sign hangs on rounding; the same generator draws the same for the first images."""
    (x, y), network = drawn(seed, np.float64), double(dense)
    together, alone = (run(name, network, x[:n], y[:n], **options) for n in (6, first))
    np.testing.assert_allclose(alone, together[:first], rtol=0, atol=1e-12)


def noise_for(x, options, seed=3):
    """Starts for several tries, or one; those of pgd in L2 lie in its ball."""
    shape = (len(x), options["restarts"], *x.shape[1:]) if "restarts" in options else x.shape
    noise = np.random.default_rng(seed).uniform(-1, 1, shape)
    return noise / 4 if options.get("norm") == "l2" else noise


@pytest.mark.parametrize("name, options", [v for v in VARIANTS if v[0] not in RANDOM or v[0] in WITH_NOISE], ids=str)
@pytest.mark.parametrize("batch", [1, 4, 99])
def test_in_batches_as_at_once(dense, name, options, batch):
    (x, y), network = drawn(5, np.float64), double(dense)
    options = options | ({"noise": noise_for(x, options)} if name in WITH_NOISE else {})
    parts = attacks.ATTACKS[name](network, x, y, batch=batch, **options)
    np.testing.assert_allclose(parts, attacks.ATTACKS[name](network, x, y, **options), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name, options", [v for v in VARIANTS if v[0] in RANDOM], ids=str)
@pytest.mark.parametrize("batch", [1, 4])
def test_a_generator_draws_the_same_for_every_batch(dense, name, options, batch):
    """In float32 too: r_fgsm's bits come in eights, twelve to an image here."""
    (x, y), network = drawn(5, np.float64), double(dense)
    for images, target in ((x, network), (x.astype(np.float32), dense)):
        parts, whole = (
            attacks.ATTACKS[name](target, images, y, rng=np.random.default_rng(3), **how, **options)
            for how in ({"batch": batch}, {})
        )
        clear = np.abs(parts - whole) < 1e-6
        assert clear.all() if images is x else clear.mean() > 0.97


def test_l0_leaves_an_image_that_nothing_fools(dense):
    """A network that always answers class 0, and one image of another class: asked about no more than need be."""
    asked = []

    def constant(x):
        asked.append(len(x))
        return np.tile(np.array([1.0, 0.0]), (len(x), 1)), lambda g: np.zeros_like(x)

    x = np.full((3, 2, 2, 1), 0.5)
    found = attacks.carlini_wagner_l0(constant, x, np.array([0, 1, 0]), steps=5, search_steps=2, rounds=20)
    assert np.array_equal(found, x)
    assert len(asked) <= 2 * 5 + 1  # one round


def test_a_mask_in_batches(dense):
    (x, y), network = drawn(5, np.float64), double(dense)
    mask = (np.arange(x.size).reshape(x.shape) % 3 > 0).astype(x.dtype)
    options = STEPS["carlini_wagner_l2"] | {"mask": mask}
    parts = attacks.ATTACKS["carlini_wagner_l2"](network, x, y, batch=2, **options)
    np.testing.assert_allclose(parts, attacks.carlini_wagner_l2(network, x, y, **options), rtol=0, atol=1e-12)
    assert np.array_equal(parts[mask == 0], x[mask == 0])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_starts_fill_the_ball(norm):
    """Uniform: a share r^d of the points lies within radius r. A network without gradients lets the starts be seen."""

    def constant(x):
        return np.zeros((len(x), 3)), lambda g: np.zeros_like(x)

    x = np.full((4000, 1, 2, 1), 0.5)
    y, rng = np.zeros(4000, int), np.random.default_rng(0)
    moved = attacks.pgd(constant, x, y, epsilon=0.4, norm=norm, steps=1, rng=rng)
    radius = size_of(moved - x, norm) / 0.4
    assert radius.max() <= 1 + 1e-12
    for r in (0.25, 0.5, 0.75, 0.9):
        assert abs((radius < r).mean() - r**2) < 0.03
    assert abs(moved.mean(axis=0) - 0.5).max() < 0.02


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_starts_where_the_noise_says(dense, golden, norm):
    """epsilon times the noise, and with none of it at x itself: then pgd is iterative FGSM."""
    x, y, network = golden["x"].astype(np.float64), golden["y"], double(dense)
    noise = noise_for(x, {"restarts": 1, "norm": norm})
    one = attacks.pgd(network, x, y, epsilon=0.2, step=1e-9, steps=1, norm=norm, noise=noise)
    np.testing.assert_allclose(one, np.clip(x + 0.2 * noise[:, 0], 0, 1), rtol=0, atol=1e-8)
    still = attacks.pgd(network, x, y, epsilon=0.2, norm=norm, noise=np.zeros_like(x))
    if norm == "linf":
        assert np.array_equal(still, attacks.iterative_fgsm(network, x, y, epsilon=0.2))


def test_random_noise_of_a_given_sign(dense, golden):
    x, y, noise = golden["x"], golden["y"], golden["noise"]
    expected = np.clip(x + np.float32(0.1) * np.sign(noise), 0, 1)
    np.testing.assert_allclose(attacks.random_noise(dense, x, y, epsilon=0.1, noise=noise), expected, rtol=0, atol=1e-7)


def test_pgd_in_l2(dense, golden):
    x, y = golden["x"], golden["y"]
    away = run("pgd", dense, x, y, epsilon=0.2, norm="l2") - x
    lengths = np.sqrt((away**2).reshape(16, -1).sum(axis=1))
    assert lengths.max() <= 0.2 + 1e-6 and np.median(lengths) > 0.19


def test_more_restarts_are_never_worse(dense, golden):
    """An image keeps the try that fools it, or else the best one: not the last."""
    x, y = golden["x"], golden["y"]

    def margins(restarts):
        moved = run("pgd", dense, x, y, epsilon=0.05, steps=1, restarts=restarts)
        return attacks.true_margin(dense(Tensor(moved))[0].data, y)

    assert (margins(5) <= margins(1)).all() and (margins(5) < margins(1)).any()


def test_the_margin_masks_the_true_class_whatever_the_logits_are():
    logits = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]) - 100
    np.testing.assert_allclose(attacks.true_margin(logits, np.array([0, 1])), [1, -2])


def test_deepfool_fools_and_stays_near(dense, golden):
    x, y = golden["x"], golden["y"]
    moved = attacks.deepfool(dense, x, y)
    assert (dense(Tensor(moved))[0].data.argmax(axis=1) != y).all()
    fgsm = attacks.fgsm(dense, x, y, epsilon=0.3)
    assert np.linalg.norm(moved - x) < np.linalg.norm(fgsm - x)
    assert np.array_equal(attacks.deepfool(dense, moved, y), moved)  # misclassified already: left as it is


def test_carlini_and_wagner_find_smaller_perturbations(dense, golden):
    """Each in its own norm: shorter than DeepFool in L2, than the smallest FGSM in L-infinity; few pixels in L0."""
    x, y = golden["x"], golden["y"]

    def fooled(moved):
        return dense(Tensor(moved))[0].data.argmax(axis=1) != y

    deep = attacks.deepfool(dense, x, y)
    for shift in (0, -100):  # a mask of 0 in place of -inf would fail where all logits are far below zero
        shifted = Dense({k: golden[k] + (np.float32(shift) if k == "b2" else 0) for k in ("W1", "b1", "W2", "b2")})
        l2 = attacks.carlini_wagner_l2(shifted, x, y, steps=60, search_steps=6)
        assert fooled(l2).all() and np.linalg.norm(l2 - x) <= 1.01 * np.linalg.norm(deep - x)
    linf = attacks.carlini_wagner_linf(dense, x, y)
    assert fooled(linf).all()
    assert abs(linf - x).reshape(16, -1).max(axis=1).mean() < abs(deep - x).reshape(16, -1).max(axis=1).mean()
    l0 = attacks.carlini_wagner_l0(dense, x, y, steps=40, rounds=6)
    changed = (abs(l0 - x).max(axis=3) > 1e-4).reshape(16, -1).sum(axis=1)
    assert fooled(l0).all() and changed.mean() < 2.5  # of 3 places


class Linear:
    """Two classes, Z_0 - Z_1 = <w, x> + b, on 6x6 images that are all of class 0: the nearest examples are known."""

    def __init__(self, margin=1.0, count=8):
        rng = np.random.default_rng(2)
        self.w = 1.5 * rng.standard_normal((6, 6, 1))
        self.x, self.y = rng.uniform(0.4, 0.6, (count, 6, 6, 1)), np.zeros(count, int)
        self.b = margin - (self.x * self.w).sum(axis=(1, 2, 3)).min()
        self.f = (self.x * self.w).sum(axis=(1, 2, 3)) + self.b
        self.asked = 0

    def __call__(self, x):
        self.asked += 1
        f = (x * self.w).sum(axis=(1, 2, 3)) + self.b
        return np.stack([f, np.zeros_like(f)], axis=1), lambda g: g[:, :1, None, None] * self.w

    def fewest(self):
        """How many pixels must change: those that can take most off the difference first."""
        most = np.where(self.w > 0, self.w * self.x, -self.w * (1 - self.x)).reshape(len(self.x), -1)
        taken = np.cumsum(np.sort(most, axis=1)[:, ::-1], axis=1)
        return (taken < self.f[:, None]).sum(axis=1) + 1


def test_the_nearest_examples_of_a_linear_network():
    """|f| / ||w||_2 in L2 and |f| / ||w||_1 in L-infinity, where tau shrinks by a tenth at a time."""
    linear = Linear()
    l2, linf = linear.f / np.linalg.norm(linear.w), linear.f / np.abs(linear.w).sum()
    for name, shortest, slack, options in (
        ("deepfool", l2, 1.025, {}),
        ("carlini_wagner_l2", l2, 1.005, {"learning_rate": 0.01}),
        ("carlini_wagner_linf", linf, 1.2, {}),
    ):
        linear.asked = 0
        moved = run(name, linear, linear.x, linear.y, **options)
        assert (attacks.true_margin(linear(moved)[0], linear.y) < 0).all()
        found = size_of(moved - linear.x, "linf" if name.endswith("linf") else "l2")
        assert (found >= shortest).all() and (found <= slack * shortest).all(), (name, found / shortest)
        assert linear.asked < 2100


def test_the_fewest_pixels_of_a_linear_network():
    linear = Linear(margin=6)
    moved = attacks.carlini_wagner_l0(linear, linear.x, linear.y)
    assert (attacks.true_margin(linear(moved)[0], linear.y) < 0).all()
    changed = (moved != linear.x).reshape(8, -1).sum(axis=1)
    assert linear.fewest().min() > 3 and (changed >= linear.fewest()).all()
    assert (changed <= linear.fewest() + 1).all() and changed.mean() < linear.fewest().mean() + 0.5


def test_carlini_wagner_step_by_step(dense, golden):
    """One search step written out, with the tape for the gradient to u: its nearest example is ours."""
    x, y, network, c = golden["x"].astype(np.float64), golden["y"], double(dense), 2.0
    u, m, v = np.arctanh((2 * x - 1) * 0.999999), 0.0, 0.0
    best, shortest = x.copy(), np.full(16, np.inf)
    for t in range(1, 31):
        line = Tensor(u, requires_grad=True)
        image = (ops.tanh(line) + 1) * 0.5
        logits = network(image)[0]
        own = np.eye(4)[y]
        other = np.eye(4)[np.where(own > 0, -np.inf, logits.data).argmax(axis=1)]
        margin = (logits.data * (own - other)).sum(axis=1)
        distance = ((image.data - x) ** 2).sum(axis=(1, 2, 3))
        for i in np.flatnonzero((margin < 0) & (distance < shortest)):
            best[i], shortest[i] = image.data[i], distance[i]
        away = image - Tensor(x)
        loss = ops.sum(away * away) + ops.sum(logits * Tensor(c * (own - other) * (margin > 0)[:, None]))
        (g,) = grad(loss, [line])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        u = u - 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    options = dict(search_steps=1, steps=30, c=c, abort_early=False)
    np.testing.assert_allclose(attacks.carlini_wagner_l2(network, x, y, **options), best, rtol=0, atol=1e-9)
    assert (shortest < np.inf).sum() > 4


def test_carlini_wagner_keeps_the_pixels_that_a_mask_keeps(dense, golden):
    x = np.where(golden["x"] < 0.3, 0, golden["x"]).astype(np.float32)
    mask = np.random.default_rng(0).integers(0, 2, x.shape)
    moved = attacks.carlini_wagner_l2(dense, x, golden["y"], steps=40, search_steps=5, mask=mask)
    assert np.array_equal(moved[mask == 0], x[mask == 0]) and (moved[mask == 1] != x[mask == 1]).mean() > 0.5


def test_hot_cold_by_hand(dense, golden):
    x, y = golden["x"], golden["y"]
    logits, vjp = attacks.logits_and_vjp(dense, x)
    cold = np.eye(4, dtype=np.float32)[y]
    g = vjp(np.eye(4, dtype=np.float32)[np.where(cold > 0, -np.inf, logits).argmax(axis=1)] - cold)
    expected = np.clip(x + 0.1 * g / np.abs(g).max(axis=(1, 2, 3), keepdims=True), 0, 1)
    np.testing.assert_allclose(attacks.hot_cold(dense, x, y, epsilon=0.1), expected, rtol=0, atol=1e-6)


def test_a_search_goes_down(dense, golden):
    """Square keeps what lowers the margin, and only that; without a gradient it beats noise of the same size."""
    x, y = golden["x"], golden["y"]
    searched = [run("square", dense, x, y, epsilon=0.1, steps=n) for n in (1, 20, 100)]
    one, some, many = (attacks.true_margin(dense(Tensor(m))[0].data, y) for m in searched)
    noise = attacks.true_margin(dense(Tensor(run("random_noise", dense, x, y, epsilon=0.1)))[0].data, y)
    assert (many <= one).all() and many.mean() < some.mean() < one.mean() and many.mean() < noise.mean()


def test_several_networks_average_their_logits(dense, golden):
    other = Dense({k: golden[k] * (1.5 if k == "W2" else 1) for k in ("W1", "b1", "W2", "b2")})
    x, y = golden["x"], golden["y"]
    both = attacks.loss_gradient([dense, other], x, y)
    logits = (dense(Tensor(x))[0].data + other(Tensor(x))[0].data) / 2
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    g = p / p.sum(axis=1, keepdims=True) - np.eye(4, dtype=np.float32)[y]
    expected = sum(attacks.logits_and_vjp(n, x)[1](g.astype(np.float32) / 2) for n in (dense, other))
    np.testing.assert_allclose(both, expected, rtol=0, atol=1e-7)
    one_step = attacks.momentum_fgsm([dense, other], x, y, epsilon=0.1, step=0.1, steps=1)
    np.testing.assert_allclose(one_step, np.clip(x + 0.1 * np.sign(both), 0, 1), rtol=0, atol=1e-7)
    assert not np.array_equal(attacks.momentum_fgsm([dense, other], x, y), attacks.momentum_fgsm(dense, x, y))


@pytest.mark.parametrize("name", sorted(attacks.ATTACKS))
def test_any_function_with_a_vjp_can_be_attacked(dense, golden, name):
    """(logits, vjp) in place of a network: the same examples."""

    def function(x):
        image = Tensor(x, requires_grad=True)
        logits = dense(image)[0]
        return logits.data, lambda g: grad(logits, [image], g, keep=True)[0]

    x, y = golden["x"], golden["y"]
    options = STEPS.get(name, {})
    found, expected = (run(name, network, x, y, **options) for network in (function, dense))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_network_as_a_function(resnet):
    """For other people's tools, and for these attacks: in eval mode, whatever mode it is in."""
    x, y = images(3)
    resnet.train()
    logits, vjp = resnet.as_function()(x)
    np.testing.assert_array_equal(logits, attacks.logits_of(resnet, x))
    g = np.random.default_rng(0).standard_normal(logits.shape).astype(np.float32)
    assert vjp(g).shape == x.shape and np.array_equal(vjp(g), vjp(g))
    moved = attacks.fgsm(resnet.as_function(), x, y)
    clear = np.abs(attacks.input_gradient(resnet, x, y)) > 1e-6
    np.testing.assert_array_equal(moved[clear], attacks.fgsm(resnet, x, y)[clear])
    assert resnet.training


@pytest.mark.parametrize("scale", ["l2", "max"])
def test_gradient_values_are_scaled_per_image(dense, golden, scale):
    x = np.full_like(golden["x"], 0.5)
    moved = attacks.fast_gradient_value(dense, x, golden["y"], epsilon=0.1, scale=scale) - x
    size = np.sqrt((moved**2).reshape(16, -1).sum(axis=1)) if scale == "l2" else abs(moved).reshape(16, -1).max(axis=1)
    np.testing.assert_allclose(size, 0.1, rtol=1e-5)


def test_input_gradient_of_a_sum(resnet):
    """Twice the same image: the gradient of each is that of the image alone, not half of it."""
    x, y = images(1)
    alone = attacks.input_gradient(resnet, x, y)
    twice = attacks.input_gradient(resnet, np.concatenate([x, x]), np.concatenate([y, y]))
    assert np.abs(twice - alone).max() <= 1e-5 * np.abs(alone).max()


# The network afterwards


@pytest.mark.parametrize("craft_mode", ["eval", "train"])
@pytest.mark.parametrize("name", sorted(attacks.ATTACKS))
def test_crafting_leaves_the_network_as_it_was(resnet, name, craft_mode):
    network = resnet
    kept = np.float32(0.25)
    for t in network.parameters().values():
        t.grad = np.full(t.shape, kept)
    modules = [module for _, module in network.modules()]
    for i, module in enumerate(modules):
        module.training = i % 3 == 0  # a mixture that neither train() nor eval() would give back
    state = {n: a.tobytes() for n, a in network.state().items()}
    versions = {n: t.version for n, t in network.parameters().items()}
    x, y = images()
    try:
        run(name, network, x, y, craft_mode=craft_mode, **STEPS.get(name, {}))
        assert {n: a.tobytes() for n, a in network.state().items()} == state
        assert {n: t.version for n, t in network.parameters().items()} == versions
        assert all((t.grad == kept).all() for t in network.parameters().values())
        assert all(t.requires_grad for t in network.parameters().values())
        assert [module.training for module in modules] == [i % 3 == 0 for i in range(len(modules))]
    finally:
        network.train().zero_grad()


def test_modes_and_buffers_come_back_after_an_error(resnet):
    resnet.train()
    resnet.stem.training = False
    state = {n: a.tobytes() for n, a in resnet.state().items()}
    x, _ = images(2)
    with pytest.raises(InputError):
        attacks.fgsm(resnet, x, np.array([0, 5]), craft_mode="train")
    assert {n: a.tobytes() for n, a in resnet.state().items()} == state
    assert resnet.training and not resnet.stem.training
    resnet.train()


def test_craft_mode_decides_which_statistics_count(resnet):
    x, y = images()
    in_eval = attacks.input_gradient(resnet, x, y, craft_mode="eval")
    resnet.eval()
    assert np.array_equal(in_eval, attacks.input_gradient(resnet, x, y))
    resnet.train()
    assert np.array_equal(in_eval, attacks.input_gradient(resnet, x, y))
    in_train = attacks.input_gradient(resnet, x, y, craft_mode="train")
    assert np.abs(in_train - in_eval).max() > 0.01 * np.abs(in_eval).max()


def test_no_weight_gradient_is_computed(resnet, monkeypatch):
    calls = []
    real = numpy_kernels.conv2d_gw
    monkeypatch.setattr(numpy_kernels, "conv2d_gw", lambda *a, **k: calls.append(1) or real(*a, **k))
    x, y = images(2)
    for name in attacks.ATTACKS:
        for craft_mode in ("eval", "train"):
            run(name, resnet, x, y, craft_mode=craft_mode, **STEPS.get(name, {}))
    assert calls == []
    ops.softmax_cross_entropy(resnet(Tensor(x))[0], Tensor(y)).backward()  # the probe does see a weight gradient
    assert len(calls) == sum(t.ndim == 4 for t in resnet.parameters().values())
    resnet.zero_grad()


def test_the_tape_knows_only_the_image_while_crafting(resnet, monkeypatch):
    """Nothing that a weight's gradient would read is kept: the one leaf that any node leads to is the image."""
    leaves = []
    real = tape.Node.__init__

    def init(self, name, parents, *rest):
        leaves.extend(p for p in parents if isinstance(p, Tensor))
        real(self, name, parents, *rest)

    monkeypatch.setattr(tape.Node, "__init__", init)
    x, y = images(2)
    attacks.fgsm(resnet, x, y)
    assert len({id(leaf) for leaf in leaves}) == 1 and leaves[0].shape == x.shape


@pytest.mark.parametrize("name, options", VARIANTS, ids=str)
def test_on_a_gpu_the_same(cupy, golden, name, options):
    here, there = Dense(golden), Dense(golden).to("cupy")
    x, y = golden["x"][:5], golden["y"][:5]
    found = run(name, there, backend.placed(x, "cupy"), y, **options)
    assert backend.on_gpu(found)
    np.testing.assert_allclose(found.get(), run(name, here, x, y, **options), rtol=0, atol=1e-5)


# Random numbers


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


# Refusals


def refused(dense, golden, **changes):
    options = {"x": golden["x"], "y": golden["y"], "rng": np.random.default_rng(0), **changes}
    with pytest.raises(InputError) as problem:
        attacks.r_fgsm(dense, options.pop("x"), options.pop("y"), **options)
    return str(problem.value)


def test_alpha_must_not_be_negative(dense, golden):
    assert refused(dense, golden, epsilon=EPSILON, alpha=-0.01).startswith("alpha -0.01 is negative: leave it out")


@pytest.mark.parametrize("alpha", [EPSILON, 0.2, float("nan")])
def test_alpha_must_be_below_epsilon(dense, golden, alpha):
    message = refused(dense, golden, epsilon=EPSILON, alpha=alpha)
    assert message.startswith(f"alpha {alpha:g} must be below epsilon 0.0625")
    assert "leave alpha out for epsilon / 2" in message


@pytest.mark.parametrize("name", WITH_EPSILON)
@pytest.mark.parametrize("epsilon", [-0.1, 1.5, 16.0, float("nan")])
def test_epsilon_is_in_pixels_of_the_unit_range(dense, golden, name, epsilon):
    options = {"scale": "max"} if name == "fast_gradient_value" else {}
    with pytest.raises(InputError, match=r"epsilon \S+ is not in pixels of \[0, 1\]: write it like 16/256"):
        run(name, dense, golden["x"], golden["y"], epsilon=epsilon, **options)


@pytest.mark.parametrize("name, l2", [("pgd", {"norm": "l2"}), ("fast_gradient_value", {"scale": "l2"})])
@pytest.mark.parametrize("epsilon", [-0.1, 3.5, 16.0, float("nan")])
def test_epsilon_as_a_length_stays_inside_the_cube(dense, golden, name, l2, epsilon):
    with pytest.raises(InputError, match=rf"epsilon {epsilon:g} is out of range: .*choose a value from 0 to 3.46"):
        run(name, dense, golden["x"], golden["y"], epsilon=epsilon, **l2)
    run(name, dense, golden["x"], golden["y"], epsilon=3.4, **l2)


@pytest.mark.parametrize("name", sorted(attacks.ATTACKS))
@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, float("nan"), float("inf")])
def test_images_must_lie_in_the_unit_range(dense, golden, name, value):
    x = golden["x"].copy()
    x[3, 0, 1, 2] = value
    with pytest.raises(InputError, match=r"images must lie in \[0, 1\] without NaN .*divide 8-bit pixels by 255"):
        run(name, dense, x, golden["y"])


def test_shapes_must_fit(dense, golden):
    x, y = golden["x"], golden["y"]
    assert refused(dense, golden, x=x[0]) == "an attack takes x (N, H, W, C) and y (N,), got (1, 3, 4) and (16,)."
    assert refused(dense, golden, y=y[:5]) == "an attack takes x (N, H, W, C) and y (N,), got (16, 1, 3, 4) and (5,)."
    wrong = "noise has shape (3, 1, 3, 4), but this attack needs (16, 1, 3, 4)."
    assert refused(dense, golden, noise=golden["noise"][:3]) == wrong
    with pytest.raises(InputError, match=r"noise has shape \(16, 1, 3, 4\), .* needs \(16, 2, 1, 3, 4\)"):
        attacks.pgd(dense, x, y, restarts=2, noise=golden["noise"])


READ_LABELS = sorted(name for name, attack in attacks.ATTACKS.items() if attack.reads_label)


@pytest.mark.parametrize("name", READ_LABELS)
@pytest.mark.parametrize("function", [False, True])
@pytest.mark.parametrize(
    "wrong, message",
    [
        (-1, "label -1 is out of range: the network has 4 classes"),
        (4, "label 4 is out of range: the network has 4 classes"),
        (0.5, "class labels must be 16 integers, got float64"),
    ],
)
def test_labels_must_be_classes(dense, golden, name, function, wrong, message):
    network = dense.logits_and_vjp if function else dense
    y = golden["y"].astype(type(wrong))
    y[2] = wrong
    with pytest.raises(InputError, match=message):
        run(name, network, golden["x"], y, **STEPS.get(name, {}))


@pytest.mark.parametrize("name", sorted(attacks.ATTACKS))
def test_no_images_no_attack(dense, golden, name):
    nothing = run(name, dense, golden["x"][:0], golden["y"][:0])
    assert nothing.shape == (0, 1, 3, 4) and nothing.dtype == np.float32


@pytest.mark.parametrize("name", RANDOM)
def test_random_attacks_need_their_randomness(dense, golden, name):
    with pytest.raises(InputError, match="a random attack needs rng .a numpy Generator. or the noise itself"):
        attacks.ATTACKS[name](dense, golden["x"], golden["y"])


@pytest.mark.parametrize("name", sorted(attacks.ATTACKS))
def test_options_that_no_attack_could_mean(dense, golden, name):
    attack = attacks.ATTACKS[name]
    wrong = {"steps": (0, -1, 2.5), "restarts": (0,), "search_steps": (0,), "rounds": (0,), "step": (0, -0.1, np.nan)}
    wrong |= {"learning_rate": (-0.1, 0), "c": (0, -1), "largest_c": (0,), "share": (0,), "first": (0,), "decay": (-1,)}
    wrong |= {"confidence": (-1,), "norm": ("l1", None), "scale": ("linf",), "loss": ("hinge",)}
    for option in sorted(wrong.keys() & attack.defaults):
        for value in wrong[option]:
            with pytest.raises(InputError, match=f"^{option} .*(must be|choose) "):
                run(name, dense, golden["x"], golden["y"], **{option: value})


NEEDS_NO_NETWORK, ASKS_THE_MARGIN = {"random_noise"}, {"pgd", "deepfool", "hot_cold", "square"}


@pytest.mark.parametrize("name", sorted(set(attacks.ATTACKS) - NEEDS_NO_NETWORK))
def test_a_network_that_answers_nan(golden, name):
    """Attacks that must know what fools say so; of the others NaN images come out, with a warning (as in training)."""

    def broken(x):
        return np.full((len(x), 4), np.nan, np.float32), lambda g: np.full_like(x, np.nan)

    options = STEPS.get(name, {})
    if name in ASKS_THE_MARGIN or name.startswith("carlini"):
        with pytest.raises(InputError, match="logits are NaN, so an attack cannot tell what fools it: use other w"):
            run(name, broken, golden["x"], golden["y"], **options)
    else:
        with pytest.warns(RuntimeWarning, match=f"{name}: the network's gradient is NaN for 16 of 16 images"):
            assert np.isnan(run(name, broken, golden["x"], golden["y"], **options)).all()


@pytest.mark.parametrize("batch, ticks", [(4, [4, 4, 4, 4]), (7, [7, 7, 2]), (16, [16]), (None, [16])])
def test_a_callback_counts_the_images_and_nothing_is_drawn(dense, golden, monkeypatch, capsys, batch, ticks):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    counted = []
    options = dict(batch=batch, rng=np.random.default_rng(0))
    attacks.ATTACKS["pgd"](dense, golden["x"], golden["y"], tick=counted.append, **options)
    assert counted == ticks
    attacks.ATTACKS["pgd"](dense, golden["x"], golden["y"], **options)
    assert capsys.readouterr() == ("", "")


def test_attacks_import_no_progress_bar():
    command = "import sys, minisatm.attacks; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert not {"tqdm", "minisatm.progress"} & set(done.stdout.split())


def test_unknown_names(dense, golden):
    with pytest.raises(InputError, match="unknown attack 'pgdx': choose one of fgsm, step_ll, r_fgsm, r_step_ll"):
        attacks.craft("pgdx", dense, golden["x"], golden["y"], epsilon=0.1, alpha=None, rng=None)
    with pytest.raises(InputError, match="craft mode 'both': choose eval or train"):
        attacks.fgsm(dense, golden["x"], golden["y"], craft_mode="both")


def test_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)


@settings(max_examples=20)
@given(classes=st.integers(2, 6), seed=st.integers(0, 2**20))
def test_least_likely_is_the_smallest_logit(classes, seed):
    network = models.build("resnet20", classes=classes, width=1 / 8, size=8, rng=seed)
    x, _ = images(3, seed=seed, size=8)
    with network.mode(False):
        logits = network(Tensor(x))[0].data
    assert np.array_equal(attacks.least_likely(network, x), logits.argmin(axis=1))
