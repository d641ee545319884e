"""The one loop of evaluation: whose examples are shown to whom, what they are drawn from, and what is said of them."""
# ruff: noqa: F401, F811 (imported fixtures, and arguments of their names)

from __future__ import annotations

import numpy as np
import pytest
from evaluation_runs import SIZE, batches, batches_of, networks, run

from minisatm import attacks, data, models
from minisatm.evaluation import crossing, curves, main_table, masking, matrix
from minisatm.evaluation.crossing import Crossing
from minisatm.evaluation.setting import AttackSetting, examples
from minisatm.models.network import predict
from minisatm.results.readings import leak_sentences
from minisatm.run import lineup
from minisatm.streams import stream

PAIRS = [("satm/x", ""), ("satm/x", "satm/x"), ("undefended/y", "satm/x")]


def test_a_seed_decides_random_attacks_and_nothing_else(networks, batches):
    drawn = [crossing.cross(networks, batches, AttackSetting("r_fgsm", 0.1), seed=seed, pairs=PAIRS, keep=True)
             for seed in (3, 3, 4)]  # fmt: skip
    first, again, other = (found.images["satm/x"] for found in drawn)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(drawn[0].images[""], drawn[2].images[""])


def test_what_rounds_away_does_not_count(networks, batches):
    """Less than half a grey level: it fools some as it is, and after rounding no image is changed at all."""
    found = crossing.cross(networks, batches, AttackSetting("fgsm", 0.49 / 255), seed=0)
    for target, source in found.answers:
        assert np.array_equal(found.answers[target, source], found.answers[target, ""])
    changed = [np.mean(found.unrounded[k] != found.answers[k]) for k in found.answers]
    assert max(changed) > 0
    assert all((sizes == 0).all() for sizes in found.sizes.values())


@pytest.mark.parametrize("norm, size", [("linf", 0.5), ("l2", 0.5 * np.sqrt(3)), ("l0", 2)])
def test_sizes_of_perturbations(norm, size):
    change = np.zeros((1, 4, 4, 3))
    change[0, 1, 1], change[0, 2, 3, 0] = (0.5, -0.5, 0), 0.5
    assert crossing.perturbation_size(change, norm) == pytest.approx([size])


def made(answers, unrounded=None, attack="fgsm"):
    true = np.zeros(100, np.int64)
    answers = {key: np.arange(100) >= count for key, count in answers.items()}  # so many are right
    unrounded = answers if unrounded is None else {k: np.arange(100) >= c for k, c in unrounded.items()}
    return Crossing(AttackSetting(attack, 0.1), true, answers, unrounded, {}, {})


def leaks(found, predicted=None):
    """Of networks "m/a": as a run has them."""
    cases = [("m", t[2:], "white-box" if t == s else "partner old", s) for t, s in found.answers]
    return main_table.leaks(found, cases, predicted)


def test_leaking_labels_are_warned_of():
    found = made({("m/a", ""): 50, ("m/a", "m/a"): 90, ("m/a", "m/b"): 51})
    assert found.above_clean() == [("m/a", "m/a"), ("m/a", "m/b")]
    again = made({("m/a", ""): 50, ("m/a", "m/a"): 40, ("m/a", "m/b"): 30})
    sure, within = leak_sentences(leaks(found, again), matrix.leak_name)
    assert sure == (
        "WARNING: m/a on its own examples: 90.0 % beats clean 50.0 %; crafted from predicted labels, which cannot leak "
        "the true one, it is 40.0 %."
    )
    assert within.startswith("Chance can explain this: m/a on examples of m/b: 51.0 % beats clean 50.0 %")
    assert made({("a", ""): 50, ("a", "a"): 90}, attack="step_ll").above_clean() == []  # it never saw the label
    many = made({("m/a", ""): 50, **{("m/a", f"m/{k}"): 51 for k in range(5)}})
    assert leak_sentences(leaks(many), matrix.leak_name)[0].startswith("5 rates beat the clean one, but chance can")


def test_a_leak_is_paired_image_by_image():
    """90 against 50 of the same 100 images: 40 are right only when attacked, none only when clean."""
    (leak,) = leaks(made({("m/a", ""): 50, ("m/a", "m/a"): 90}), made({("m/a", "m/a"): 30}))
    assert (leak.method, leak.network, leak.condition, leak.source, leak.n) == ("m", "a", "white-box", "m/a", 100)
    assert (leak.rate, leak.clean_rate, leak.difference, leak.rate_from_predicted_labels) == (0.9, 0.5, 0.4, 0.3)
    p, q = 41 / 102, 1 / 102  # Bonett and Price: one pseudo-image of each kind of disagreement
    half = 1.96 * ((p + q - (p - q) ** 2) / 102) ** 0.5
    assert (leak.low, leak.high) == (pytest.approx(p - q - half), pytest.approx(p - q + half))


def test_what_rounding_changed_is_said():
    found = made({("a", ""): 90, ("a", "b"): 60}, {("a", ""): 90, ("a", "b"): 10})
    assert matrix.rounding_remarks(found) == [
        "rounding to 8-bit pixels changes a on examples of b from 10.0 to 60.0 %."
    ]
    found = made({("a", ""): 90, ("a", "b"): 10}, {("a", ""): 90, ("a", "b"): 60})
    assert matrix.rounding_remarks(found) == [
        "rounding to 8-bit pixels changes a on examples of b from 60.0 to 10.0 %."
    ]
    assert matrix.rounding_remarks(made({("a", ""): 90, ("a", "b"): 60}, {("a", ""): 90, ("a", "b"): 59})) == []
    many = {("a", f"{k}"): 60 + k for k in range(4)}
    assert matrix.rounding_remarks(made(many, dict.fromkeys(many, 10))) == [
        "rounding to 8-bit pixels changes 4 rates by more than chance explains, most a on examples of 3 from 10.0 to "
        "63.0 %; tables/matrix.csv has all of them."
    ]


def test_predicted_labels_are_the_sources_own(networks, batches):
    found = crossing.cross(
        networks, batches, AttackSetting("fgsm", 0.05), seed=0, pairs=PAIRS[1:], predicted_labels=True
    )
    source, answers = networks["satm/x"], []
    for x, _ in batches.in_order():
        x_adv = attacks.fgsm(source, x, predict(source, x), epsilon=0.05)
        answers.append(predict(networks["undefended/y"], attacks.rounded(x_adv, x, epsilon=0.05)))
    assert np.array_equal(found.answers["undefended/y", "satm/x"], np.concatenate(answers))
    assert found.sources == ["satm/x"]


def test_a_curve_scales_what_belongs_to_epsilon():
    setting = AttackSetting("r_fgsm", 0.1, 0.04, {}).at(0.5)
    assert (setting.epsilon, setting.alpha) == (0.5, pytest.approx(0.2))
    assert AttackSetting("pgd", 0.1, None, dict(step=0.01, steps=3)).at(0.2).options == dict(
        step=pytest.approx(0.02), steps=3
    )
    assert max(curves.epsilons([0.1], AttackSetting("pgd", 0.1), (4, 4, 3))) == 1
    assert max(curves.epsilons([0.1], AttackSetting("pgd", 0.1, None, dict(norm="l2")), (4, 4, 3))) == pytest.approx(
        48**0.5
    )


def test_epsilon_has_the_attacks_own_unit(run):
    """A length in L2, a factor on the gradient, or a change of pixels; only the last may come from the run."""
    settings = {
        scale: AttackSetting("fast_gradient_value", 0.5, options={"scale": scale}) for scale in ("l2", "max", "none")
    } | {
        "pgd": AttackSetting("pgd", 0.5, options={"norm": "l2"}),
        "fgsm": AttackSetting("fgsm", 0.5),
    }
    units = {name: (setting.unit, setting.norm) for name, setting in settings.items()}
    assert units == {"l2": ("length", "l2"), "max": ("", "linf"), "none": ("factor on the gradient", "l2"),
                     "pgd": ("length", "l2"), "fgsm": ("", "linf")}  # fmt: skip
    assert str(settings["pgd"]).startswith("pgd, epsilon 0.5 (length)") and "128/256" in str(settings["fgsm"])


@pytest.mark.slow
def test_a_gpu_gives_the_same_answers(cupy, run):
    found = []
    for name in ("numpy", "cupy"):
        own = {label: models.build(None, weights=str(run / "networks" / f"{label.replace('/', '-')}.h5")).to(name)
               for label in ("satm/x", "satm/y")}  # fmt: skip
        images = data.Batches(**{k: getattr(batches_of(lineup.settings_of(run)), k) for k in ("dataset", "indices")},
                              batch=4, size=SIZE, backend=name)  # fmt: skip
        crossed = crossing.cross(own, images, AttackSetting("r_fgsm", 0.05), seed=0, limit=6, keep=True)
        found.append((crossed, masking.gather(own, images, epsilon=0.05, seed=0, limit=6)))
    (here, seen), (there, seen_there) = found
    assert all(np.mean(here.answers[key] != there.answers[key]) <= 1 / 6 for key in here.answers)
    assert all(np.mean(here.images[s] != there.images[s]) < 0.02 for s in here.images)
    for label, evidence in seen.items():
        assert np.allclose(evidence.norm, seen_there[label].norm, rtol=1e-3)
        assert evidence.right.keys() == seen_there[label].right.keys()


@pytest.mark.parametrize(
    "setting",
    [AttackSetting("r_fgsm", 0.05), AttackSetting("r_step_ll", 0.05), AttackSetting("random_noise", 0.05),
     AttackSetting("pgd", 0.05, None, dict(steps=2, restarts=2)), AttackSetting("square", 0.05, None, dict(steps=4)),
     AttackSetting("pgd", 1.0, None, dict(steps=2, norm="l2")), AttackSetting("fgsm", 0.05)],
    ids=str,
)  # fmt: skip
def test_an_example_depends_on_neither_the_batch_nor_the_subset(run, networks, setting):
    """Image by image; a gradient's sign may differ where BLAS rounds it from zero to either side."""
    own, settings = {"satm/x": networks["satm/x"]}, lineup.settings_of(run)
    whole = crossing.cross(own, batches_of(settings, 16), setting, seed=0, keep=True)
    for batch, limit in ((5, None), (16, 20), (7, 20)):
        again = crossing.cross(own, batches_of(settings, batch), setting, seed=0, limit=limit, keep=True)
        places = batches_of(settings).places(limit)
        for source in ("", "satm/x"):
            assert np.mean(whole.images[source][places] != again.images[source]) < 1e-3
            key = "satm/x", source
            assert np.array_equal(whole.answers[key][places], again.answers[key])


def test_examples_are_of_the_seed_the_source_the_attack_and_the_place(networks, batches):
    """Other images have other noise, and so has any of the four."""
    x = np.full((2, SIZE, SIZE, 3), 0.5, np.float32)
    network, y, setting = networks["satm/x"], np.zeros(2, np.int64), AttackSetting("random_noise", 0.1)

    def drawn(setting=setting, **changes):
        return examples(network, x, y, setting, **dict(seed=0, source="satm/x", places=[3, 4]) | changes)[0]

    one = drawn()
    assert np.array_equal(one, drawn()) and not np.array_equal(one[0], one[1])
    assert np.array_equal(drawn(places=[4, 3]), one[::-1])
    for changes in (dict(seed=1), dict(source="satm/y"), dict(places=[5, 6])):
        assert not np.array_equal(one, drawn(**changes))
    first_steps = drawn(AttackSetting("r_fgsm", 0.1, 0.1 - 1e-6))  # nearly all of it is the random step
    assert np.mean(abs(first_steps - one) > 1e-3) > 0.3
    bits = np.frombuffer(stream(0, "examples", "satm/x", "random_noise", 3).bytes(SIZE * SIZE * 3 // 8), np.uint8)
    assert np.array_equal(one[0] > 0.5, np.unpackbits(bits).reshape(SIZE, SIZE, 3) == 1)


def test_names_in_the_streams_may_differ_from_the_labels(networks, batches):
    setting = AttackSetting("random_noise", 0.1)
    plain = crossing.cross({"satm/x": networks["satm/x"]}, batches, setting, seed=0, keep=True)
    named = crossing.cross({"run:satm/x": networks["satm/x"]}, batches, setting, seed=0, keep=True,
                           names={"run:satm/x": "satm/x"})  # fmt: skip
    other = crossing.cross({"run:satm/x": networks["satm/x"]}, batches, setting, seed=0, keep=True)
    assert np.array_equal(plain.images["satm/x"], named.images["run:satm/x"])
    assert not np.array_equal(plain.images["satm/x"], other.images["run:satm/x"])
