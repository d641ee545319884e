"""Attacks stay inside the ball and in [0, 1], and an image gets the same example alone as in a batch."""

import subprocess
import sys

import numpy as np
import pytest
from attack_cases import (
    EPSILON,
    RANDOM,
    SINGLE,
    SLACK,
    STEPS,
    VARIANTS,
    WITH_ALPHA,
    WITH_NOISE,
    double,
    drawn_images,
    images,
    noise_for,
    run,
    size_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from minisatm import attacks


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
    (x, y), network = drawn_images(seed, dtype), dense if dtype == np.float32 else double(dense)
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
    (x, y), network = drawn_images(seed, np.float64), double(dense)
    together, alone = (run(name, network, x[:n], y[:n], **options) for n in (6, first))
    np.testing.assert_allclose(alone, together[:first], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name, options", [v for v in VARIANTS if v[0] not in RANDOM or v[0] in WITH_NOISE], ids=str)
@pytest.mark.parametrize("batch", [1, 4, 99])
def test_in_batches_as_at_once(dense, name, options, batch):
    (x, y), network = drawn_images(5, np.float64), double(dense)
    options = options | ({"noise": noise_for(x, options)} if name in WITH_NOISE else {})
    parts = attacks.ATTACKS[name](network, x, y, batch=batch, **options)
    np.testing.assert_allclose(parts, attacks.ATTACKS[name](network, x, y, **options), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name, options", [v for v in VARIANTS if v[0] in RANDOM], ids=str)
@pytest.mark.parametrize("batch", [1, 4])
def test_a_generator_draws_the_same_for_every_batch(dense, name, options, batch):
    """In float32 too: r_fgsm's bits come in eights, twelve to an image here."""
    (x, y), network = drawn_images(5, np.float64), double(dense)
    for pixels, target in ((x, network), (x.astype(np.float32), dense)):
        parts, whole = (
            attacks.ATTACKS[name](target, pixels, y, rng=np.random.default_rng(3), **how, **options)
            for how in ({"batch": batch}, {})
        )
        clear = np.abs(parts - whole) < 1e-6
        assert clear.all() if pixels is x else clear.mean() > 0.97


def test_a_mask_in_batches(dense):
    (x, y), network = drawn_images(5, np.float64), double(dense)
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


def test_pgd_in_l2(dense, golden):
    x, y = golden["x"], golden["y"]
    away = run("pgd", dense, x, y, epsilon=0.2, norm="l2") - x
    lengths = np.sqrt((away**2).reshape(16, -1).sum(axis=1))
    assert lengths.max() <= 0.2 + 1e-6 and np.median(lengths) > 0.19


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
