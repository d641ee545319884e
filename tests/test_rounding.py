"""8-bit pixels: on the grid, inside the ball and the pixel range, and the nearest such wherever that is allowed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisatm import attacks
from minisatm.evaluation.setting import AttackSetting

CASES = dict(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([np.float32, np.float64]),
    epsilon=st.one_of(
        st.sampled_from([k / 255 for k in (0, 1, 2, 8, 200, 255)] + [k / 256 for k in (1, 2, 8, 16, 24, 255)]),
        st.floats(0, 1),
    ),
    on_grid=st.booleans(),
)


def ball(seed, dtype, epsilon, on_grid):
    """Images, and points within epsilon of each of their pixels; some pixels at the ends of the range and the ball."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (3, 4, 5, 3)).astype(dtype) / 255 if on_grid else rng.random((3, 4, 5, 3)).astype(dtype)
    way = rng.choice([-1, 0, 1, rng.uniform(-1, 1)], x.shape).astype(dtype)
    return x, np.clip(x + dtype(epsilon) * way, 0, 1).astype(dtype)


def check_pixels(pixels, dtype):
    assert pixels.dtype == dtype
    assert pixels.min() >= 0 and pixels.max() <= 1
    assert np.array_equal(pixels, np.rint(255 * pixels.astype(float)).astype(dtype) / 255)  # just these floats


@given(**CASES)
def test_pixels_stay_inside_a_ball_of_pixels(seed, dtype, epsilon, on_grid):
    x, x_adv = ball(seed, dtype, epsilon, on_grid)
    pixels = attacks.rounded(x_adv, x, epsilon=epsilon, norm="linf")
    check_pixels(pixels, dtype)
    away = abs(pixels.astype(float) - x)
    # by hand, level by level: the nearest of those inside, and the one nearest to x where there is none
    levels = np.arange(256) / 255
    inside = abs(levels - x[..., None].astype(float)) <= epsilon + 5e-7
    some = inside.any(axis=-1)
    assert (away <= epsilon + 1e-6)[some].all() and (away <= 0.5 / 255 + 1e-6)[~some].all()
    distance = np.where(inside, abs(levels - x_adv[..., None].astype(float)), np.inf).min(axis=-1)
    assert np.allclose(abs(pixels - x_adv.astype(float))[some], distance[some], atol=2e-6)
    assert some.all() or not on_grid


@given(**CASES | dict(epsilon=st.floats(0, 5)))
def test_images_stay_inside_a_ball_of_lengths(seed, dtype, epsilon, on_grid):
    x, x_adv = ball(seed, dtype, 0.3, on_grid)
    away = (x_adv - x).astype(float)
    far = np.sqrt((away**2).sum(axis=(1, 2, 3)))
    share = np.minimum(1, epsilon / np.maximum(far, 1e-12)).reshape(-1, 1, 1, 1)
    x_adv = (x + share * away).astype(dtype).clip(0, 1)
    pixels = attacks.rounded(x_adv, x, epsilon=epsilon, norm="l2")
    check_pixels(pixels, dtype)
    length = np.sqrt(((pixels.astype(float) - x) ** 2).sum(axis=(1, 2, 3)))
    nearest = np.rint(255 * x_adv) / 255
    fits = np.sqrt(((nearest.astype(float) - x) ** 2).sum(axis=(1, 2, 3))) <= epsilon - 1e-5
    assert all(np.array_equal(a, b) for a, b, fit in zip(pixels, nearest, fits) if fit)
    if on_grid:
        assert (length <= epsilon + 1e-5).all()
        cut = (np.rint(255 * x) + np.trunc(255 * (x_adv.astype(float) - x))) / 255  # towards zero, never beyond
        for a, b, c in zip(pixels, nearest, cut):
            assert np.array_equal(a, b) or abs(a - c).max() <= 1.01 / 255
    else:  # a grid has no point inside every ball: no farther than the attack went, or than the grid is fine
        assert (length <= epsilon + 0.5 / 255 * np.sqrt(x[0].size) + 1e-5).all()


@given(**CASES)
def test_without_a_ball_the_nearest_pixels_are_taken(seed, dtype, epsilon, on_grid):
    x, x_adv = ball(seed, dtype, epsilon, on_grid)
    pixels = attacks.rounded(x_adv)
    check_pixels(pixels, dtype)
    assert np.array_equal(pixels, np.rint(255 * x_adv) / 255)
    assert np.array_equal(pixels, attacks.rounded(x_adv, x))


def test_a_whole_level_is_not_lost_in_float32():
    """255 * x is not quite whole in float32: the bound of a ball of 8 levels must still be 8 levels away."""
    x = np.arange(256, dtype=np.float32).reshape(1, 16, 16, 1) / 255
    for sign in (-1, 1):
        x_adv = np.clip(x + np.float32(sign * 8 / 255), 0, 1)
        steps = np.rint(255 * attacks.rounded(x_adv, x, epsilon=8 / 255)) - np.arange(256).reshape(x.shape)
        assert np.array_equal(steps, np.clip(np.arange(256) + 8 * sign, 0, 255).reshape(x.shape) - np.rint(255 * x))


def test_a_ball_between_two_levels_takes_the_lower():
    """16/256 is 15.94 levels: 16 would be outside."""
    x = np.full((1, 1, 1, 2), 100 / 255, np.float32)
    x_adv = x + np.float32([-16 / 256, 16 / 256])
    assert (np.rint(255 * attacks.rounded(x_adv, x, epsilon=16 / 256)) == [85, 115]).all()
    assert (np.rint(255 * attacks.rounded(x_adv)) == [84, 116]).all()


@pytest.mark.parametrize(
    "setting, expected",
    [
        (AttackSetting("fgsm", 0.9 / 255), 0),
        (AttackSetting("pgd", 0.9 / 255, None, dict(norm="l2")), 0),
        (AttackSetting("fast_gradient_value", 0.9 / 255, None, dict(scale="max")), 0),
        (AttackSetting("fast_gradient_value", 0.9 / 255, None, dict(scale="none")), 1),  # a factor is no radius
        (AttackSetting("deepfool", 0.9 / 255), 1),  # nor has this attack one
        (AttackSetting("carlini_wagner_l2", 0.9 / 255), 1),
    ],
    ids=str,
)
def test_which_attacks_keep_to_a_ball(setting, expected):
    x = np.full((1, 2, 2, 1), 100 / 255, np.float32)
    x_adv = x + np.float32(0.9 / 255) * np.float32([1, 0, 0, 0]).reshape(x.shape)
    assert np.rint(255 * (setting.rounded(x_adv, x) - x)).max() == expected
