"""Is it masking? On networks made to hide their gradients, each in its own way, and on one that does not."""

from __future__ import annotations

import re

import numpy as np
import pytest

from minisatm import attacks
from minisatm.evaluation import masking
from minisatm.evaluation.masking import CANNOT_TELL, NO_SIGN, SIGN, MaskingEvidence

N, SIDE, CLASSES = 60, 6, 3
EPSILON = 0.1


class Images:
    """Noisy copies of three patterns, as batches."""

    def __init__(self, n=N, noise=0.12):
        rng = np.random.default_rng(0)
        self.patterns = 0.5 + 0.12 * rng.choice([-1.0, 1.0], (CLASSES, SIDE, SIDE, 1))
        self.y = np.arange(n) % CLASSES
        x = self.patterns[self.y] + noise * rng.standard_normal((n, SIDE, SIDE, 1))
        self.x = (np.rint(255 * x.clip(0, 1)) / 255).astype(np.float32)

    def places(self, limit=None):
        return np.arange(len(self.x))

    def in_order(self, limit=None):
        for start in range(0, len(self.x), 25):
            yield self.x[start : start + 25], self.y[start : start + 25]


def in_ball(x_adv, x):
    """8-bit pixels inside the ball, for x of 8-bit pixels: 255 * EPSILON is 25.5."""
    levels = np.rint(255 * x)
    return ((levels + (np.rint(255 * x_adv) - levels).clip(-25, 25)) / 255).astype(np.float32)


def nearest(patterns, gain=10.0):
    """Logits -gain * ||x - pattern||^2: a smooth network that hides nothing."""
    flat = patterns.reshape(len(patterns), -1)

    def network(x):
        away = x.reshape(len(x), 1, -1).astype(np.float64) - flat
        logits = (-gain * (away**2).sum(axis=2)).astype(np.float32)
        return logits, lambda g: (-2 * gain * np.einsum("nc,ncd->nd", g, away)).reshape(x.shape).astype(np.float32)

    return network


def shattered(network):
    """The same answers, but every pixel's slope comes out with a sign that depends on the pixel's last digits."""

    def function(x):
        logits, vjp = network(x)
        return logits, lambda g: vjp(g) * np.sign(np.sin(1e4 * x)).astype(x.dtype)

    return function


def quantised(network):
    """The same network on pixels of 16 levels, whose own slope is zero everywhere."""

    def function(x):
        logits, _ = network(np.rint(15 * x) / 15)
        return logits, lambda g: np.zeros_like(x)

    return function


@pytest.fixture(scope="module")
def seen():
    """Each network taken by itself, so that transferred examples say nothing: {name: MaskingEvidence}."""
    images = Images()
    plain = nearest(images.patterns)
    networks = {
        "plain": plain,
        "saturated": nearest(images.patterns, gain=20_000.0),
        "shattered": shattered(plain),
        "quantised": quantised(plain),
        "guessing": lambda x: (np.tile(np.float32([1, 0, 0]), (len(x), 1)), lambda g: np.ones_like(x)),
    }
    gathered = {name: masking.gather({name: n}, images, epsilon=EPSILON, seed=0) for name, n in networks.items()}
    return {name: own[name] for name, own in gathered.items()}


def verdicts(seen, name, reference=None):
    found = masking.checks(seen[name], seen[reference] if reference else None)
    return {line.check: line.verdict for line in found}


def signs(seen, name, reference=None):
    return {check for check, verdict in verdicts(seen, name, reference).items() if verdict == SIGN}


def test_a_plain_network_shows_no_sign(seen):
    found = verdicts(seen, "plain")
    unsure = {check for check, verdict in found.items() if verdict == CANNOT_TELL}
    assert unsure == {"transferred / own", "gradient norm"}  # nobody else is there to compare with
    assert set(found.values()) == {NO_SIGN, CANNOT_TELL}
    assert verdicts(seen, "plain", "plain")["gradient norm"] == NO_SIGN
    words = masking.summary("p", seen["plain"], masking.checks(seen["plain"]))
    assert words.startswith("p: no sign of masking in 9 of 11 checks, 2 cannot tell. The strongest attack, ")


def test_saturated_logits_are_found_by_their_zero_gradients(seen):
    """The cross-entropy of logits this large is flat in float32; the margin loss and a search get through."""
    look = seen["saturated"]
    assert look.zero.mean() > 0.5 and look.rate("clean") == seen["plain"].rate("clean")
    found = signs(seen, "saturated")
    assert {"zero gradients", "margin loss / cross-entropy", "search without gradients", "rate at epsilon 1"} <= found
    (line,) = (line for line in masking.checks(look) if line.check == "zero gradients")
    assert f"exactly zero for {int(look.zero.sum())} of {N} images" in line.text
    network, images = nearest(Images().patterns, gain=20_000.0), Images()
    x_adv = attacks.iterative_fgsm(network, images.x, images.y, epsilon=EPSILON, steps=10, loss="margin")
    left = (network(in_ball(x_adv, images.x))[0].argmax(axis=1) == images.y).mean()
    assert f"no robustness: the margin loss has a gradient, and leaves {100 * left:.1f} %" in line.text and left < 0.8
    assert line.value == look.zero.mean()


def test_shattered_gradients_are_found(seen):
    found = signs(seen, "shattered", "plain")
    assert {"search without gradients", "rate at epsilon 0.5", "rate at epsilon 1"} <= found
    assert "zero gradients" not in found


def test_a_network_without_slope_is_found(seen):
    found = signs(seen, "quantised", "plain")
    assert {"zero gradients", "gradient norm", "search without gradients", "rate at epsilon 0.5"} <= found
    assert "margin loss / cross-entropy" not in found  # that way is closed as well


def test_of_a_network_that_guesses_nothing_is_told(seen):
    assert set(verdicts(seen, "guessing").values()) == {CANNOT_TELL}
    words = masking.summary("g", seen["guessing"], masking.checks(seen["guessing"]))
    assert words == "g: clean 33.3 % is no better than always answering one class: nothing to mask."


def test_examples_of_another_network_unmask_a_shattered_one():
    """The plain twin's examples fool the shattered network, whose own do not; never the other way round."""
    images = Images()
    plain = nearest(images.patterns)
    gathered = masking.gather({"plain": plain, "masked": shattered(plain)}, images, epsilon=EPSILON, seed=0)
    assert "transferred / own" in signs(gathered, "masked")
    assert "transferred / own" not in signs(gathered, "plain")
    # the same images and the same answers: what is transferred is what fools the plain network itself
    assert np.array_equal(gathered["masked"].right["from plain"], gathered["plain"].right["multi-step"])


def test_the_evidence_is_what_a_reader_would_compute():
    """Each field against the definition, for images taken at once and not in batches."""
    images = Images()
    network = nearest(images.patterns)
    x, y, seen = images.x, images.y, masking.gather({"a": network}, images, epsilon=EPSILON, seed=0)["a"]
    assert np.array_equal(seen.true, y)
    logits, vjp = network(x)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    g = vjp((odds / odds.sum(axis=1, keepdims=True) - np.eye(CLASSES)[y]).astype(np.float32))
    single = np.clip(x + EPSILON * np.sign(g), 0, 1)
    multi = attacks.iterative_fgsm(network, x, y, epsilon=EPSILON, steps=10)
    single, multi = in_ball(single, x), in_ball(multi, x)
    for attack, example in (("clean", x), ("fgsm", single), ("multi-step", multi)):
        answers = network(example)[0].argmax(axis=1)
        assert np.array_equal(seen.right[attack], answers == y), attack
    assert np.allclose(seen.norm, np.linalg.norm(g.reshape(N, -1).astype(float), axis=1), rtol=1e-4)
    assert np.allclose(
        seen.norm_attacked, attacks.gradients.length(attacks.input_gradient(network, multi, y)), rtol=1e-4
    )
    a, b = ((e - x).reshape(N, -1) for e in (single, multi))
    assert np.allclose(seen.cosine, (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1), atol=1e-5)
    assert not seen.zero.any()


def test_a_gradient_is_zero_only_where_all_of_it_is():
    """A pixel that does not matter has no slope, and hides nothing."""
    images = Images()
    network = nearest(images.patterns)

    def blind(x):
        logits, vjp = network(x)
        return logits, lambda g: vjp(g) * (np.arange(SIDE) > 0)[:, None].astype(x.dtype)

    assert not masking.gather({"a": blind}, images, epsilon=EPSILON, seed=0)["a"].zero.any()


def test_only_examples_of_eight_bits_count():
    """A network that sees every change below a grey level is not fooled by what no image file keeps."""
    images = Images()

    def fussy(x):
        off = abs(255 * x - np.rint(255 * x)).reshape(len(x), -1).max(axis=1) > 0.01
        return np.stack([~off, off, 0 * off], axis=1).astype(np.float32), lambda g: np.ones_like(x)

    right = masking.gather({"a": fussy}, images, epsilon=0.3 / 255, seed=0)["a"].right
    assert all(np.array_equal(right[attack], images.y == 0) for attack in ("clean", "fgsm", "noise", "multi-step"))


def test_the_strongest_of_many_sources_must_be_stronger_by_more():
    """Of so many, one is ahead by chance: the interval is wider (Bonferroni)."""
    widths = []
    for others in (1, 10):
        look = constructed(**{"multi-step": 60, **{f"from {k}": 50 for k in range(others)}})
        (line,) = (line for line in masking.checks(look) if line.check == "transferred / own")
        widths.append(line.high - line.low)
    assert widths[1] > 1.2 * widths[0]


def constructed(**rights):
    """The evidence about 100 images of four classes; each attack leaves so many of them right."""
    full = dict.fromkeys(("clean", "noise", "fgsm", "r_fgsm", "multi-step", "margin", "search"), 90)
    full |= {"epsilon 0.5": 0, "epsilon 1": 0} | rights
    right = {attack: np.arange(100) < count for attack, count in full.items()}
    ones = np.ones(100)
    return MaskingEvidence(np.arange(100) % 4, right, ones < 0, ones, ones, 0.5 * ones)


@pytest.mark.parametrize(
    "check, rights, verdict",
    [
        ("single-step / multi-step", {"fgsm": 30, "multi-step": 60}, SIGN),
        ("single-step / multi-step", {"fgsm": 60, "multi-step": 30}, NO_SIGN),
        ("single-step / multi-step", {"fgsm": 59, "multi-step": 60}, CANNOT_TELL),
        ("R+FGSM / FGSM", {"fgsm": 60, "r_fgsm": 30}, SIGN),
        ("R+FGSM / FGSM", {"fgsm": 30, "r_fgsm": 60}, NO_SIGN),
        ("margin loss / cross-entropy", {"multi-step": 60, "margin": 30}, SIGN),
        ("search without gradients", {"multi-step": 60, "search": 30}, SIGN),
        ("search without gradients", {"multi-step": 30, "search": 60}, NO_SIGN),
        ("noise / attack", {"noise": 90, "multi-step": 10}, NO_SIGN),
        ("noise / attack", {"noise": 60, "multi-step": 59}, CANNOT_TELL),  # no clearly better than noise
        ("noise / attack", {"noise": 30, "multi-step": 60}, SIGN),
        ("rate at epsilon 0.5", {"epsilon 0.5": 60}, SIGN),
        ("rate at epsilon 1", {"epsilon 1": 60}, SIGN),
        ("rate at epsilon 1", {"epsilon 1": 30}, CANNOT_TELL),  # chance is 25
        ("rate at epsilon 1", {"epsilon 1": 25}, NO_SIGN),
        ("transferred / own", {"multi-step": 60, "from a": 80, "from b": 30}, SIGN),
        ("transferred / own", {"multi-step": 60, "from a": 80, "from b": 70}, NO_SIGN),
    ],
)
def test_verdicts(check, rights, verdict):
    (line,) = (line for line in masking.checks(constructed(**rights)) if line.check == check)
    assert line.verdict == verdict
    if verdict == SIGN:
        assert line.low <= line.value <= line.high


def test_a_line_gives_its_figures():
    (line,) = (c for c in masking.checks(constructed(fgsm=30, **{"multi-step": 60}))
               if c.check == "single-step / multi-step")  # fmt: skip
    assert re.fullmatch(r"FGSM 30.0 %, 10 steps 60.0 %: \+30.0 points \[\+\d+.\d, \+\d+.\d\]", line.text)
    text = masking.report_text("a", constructed(), [line])
    assert text == f"a: clean 90.0 %, n = 100\n  single-step / multi-step  SIGN OF MASKING  {line.text}"


@pytest.mark.parametrize("clean, attacked, verdict", [(0.05, 0.05, SIGN), (0.05, 1.0, NO_SIGN), (1.0, 0.05, NO_SIGN)])
def test_a_gradient_norm_is_small_only_where_it_is_so_at_both_ends(clean, attacked, verdict):
    own, before = constructed(), constructed()
    own.norm, own.norm_attacked = clean * own.norm, attacked * own.norm_attacked
    lines = {line.check: line.verdict for line in masking.checks(own, before)}
    assert lines["gradient norm"] == verdict


@pytest.mark.parametrize("own, undefended, verdict", [(0.05, None, SIGN), (0.2, None, NO_SIGN), (0.2, 0.5, SIGN)])
def test_a_cosine_is_judged_beside_the_undefended_one(own, undefended, verdict):
    a, b = constructed(), constructed()
    a.cosine, b.cosine = own + 0 * a.cosine, (undefended or 0) + 0 * b.cosine
    lines = {line.check: line.verdict for line in masking.checks(a, b if undefended else None)}
    assert lines["cosine single / multi-step"] == verdict


def test_zero_gradients_need_be_more_than_a_few():
    for count, verdict in ((0, NO_SIGN), (1, CANNOT_TELL), (20, SIGN)):
        own = constructed()
        own.zero = np.arange(100) < count
        lines = {line.check: line.verdict for line in masking.checks(own)}
        assert lines["zero gradients"] == verdict


@pytest.mark.parametrize("clean, above", [(25, False), (30, False), (36, False), (38, True), (90, True)])
def test_better_than_chance_is_a_matter_of_the_interval(clean, above):
    """Chance is 25 %; of 100 images the 99 % interval of 36 reaches down to it, that of 38 does not."""
    own = constructed(clean=clean)
    assert own.chance == 0.25 and own.above_chance == above
    found = {line.verdict for line in masking.checks(own)}
    assert (found == {CANNOT_TELL}) != above
    assert ("nothing to mask" in masking.summary("a", own, masking.checks(own))) != above
