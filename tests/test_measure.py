"""Measuring: who is attacked by whom, on which images, and that measuring changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from minisatm import attacks, models
from minisatm.data import Batches, Dataset
from minisatm.evaluation import crossing, main_table, validation
from minisatm.evaluation.crossing import Crossing, cross
from minisatm.evaluation.setting import AttackSetting
from minisatm.models.network import predict
from minisatm.parallel import ALONE, in_processes
from minisatm.satm import Learner, Rules
from minisatm.streams import stream

CLASSES = 4


def network(seed):
    return models.build("resnet20", classes=CLASSES, width=1 / 4, size=12, rng=seed)


@pytest.fixture
def batches():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (11, 12, 12, 3), np.uint8)
    data = Dataset("random", tuple("abcd"), rng.integers(0, CLASSES, 11), images.__getitem__, 3)
    return Batches(data, np.arange(11), batch=4, size=12)


def test_cases_name_every_source_once():
    rows = main_table.cases(["undefended", "satm"], ["a", "b"], "h")
    assert [r for r in rows if r[1] == "a"] == [
        ("undefended", "a", "clean", ""),
        ("undefended", "a", "white-box", "undefended/a"),
        ("undefended", "a", "partner old", "undefended/b"),
        ("undefended", "a", "hold-out", "undefended/h"),
        ("satm", "a", "clean", ""),
        ("satm", "a", "white-box", "satm/a"),
        ("satm", "a", "partner old", "undefended/b"),
        ("satm", "a", "partner new", "satm/b"),
        ("satm", "a", "hold-out", "undefended/h"),
    ]
    assert rows[-1] == ("undefended", "h", "clean", "")  # is the hold-out any good itself?
    assert not [r for r in main_table.cases(["undefended"], ["a"], None) if r[2] not in ("clean", "white-box")]


def test_answers_are_the_target_on_the_sources_examples(batches):
    """Each answer equals what a reader would compute by hand for that target and source."""
    networks = {"m/a": network(1), "m/b": network(2)}
    pairs = [("m/a", ""), ("m/a", "m/b"), ("m/b", "m/b")]
    found = cross(networks, batches, AttackSetting("r_fgsm", 0.1), seed=5, pairs=pairs)

    by_hand = {pair: [] for pair in pairs}
    before = {pair: [] for pair in pairs}
    for b, (x, y) in enumerate(batches.in_order()):
        bits = [stream(5, "examples", "m/b", "r_fgsm", 4 * b + i).bytes(54) for i in range(len(x))]
        noise = [2.0 * np.unpackbits(np.frombuffer(own, np.uint8)).reshape(12, 12, 3) - 1 for own in bits]
        x_adv = attacks.r_fgsm(networks["m/b"], x, y, epsilon=0.1, noise=np.stack(noise))
        levels = np.rint(255 * x)
        pixels = ((levels + (np.rint(255 * x_adv) - levels).clip(-25, 25)) / 255).astype(np.float32)
        for pair, image, exact in zip(pairs, (x, pixels, pixels), (x, x_adv, x_adv)):
            by_hand[pair].append(predict(networks[pair[0]], image))
            before[pair].append(predict(networks[pair[0]], exact))
    assert np.array_equal(found.true, batches.dataset.labels)
    for pair in pairs:
        assert np.array_equal(found.answers[pair], np.concatenate(by_hand[pair])), pair
        assert np.array_equal(found.unrounded[pair], np.concatenate(before[pair])), pair


def test_predicted_labels_do_not_read_the_true_ones(batches):
    networks, pairs = {"m/a": network(1)}, [("m/a", "m/a")]
    setting = AttackSetting("r_fgsm", 0.1)
    first = cross(networks, batches, setting, seed=0, pairs=pairs, predicted_labels=True)
    batches.dataset.labels[:] = (batches.dataset.labels + 1) % CLASSES
    second = cross(networks, batches, setting, seed=0, pairs=pairs, predicted_labels=True)
    assert np.array_equal(first.answers[pairs[0]], second.answers[pairs[0]])


def test_each_source_crafts_once_and_each_target_answers_once(batches, monkeypatch):
    """The default run has not the time for more: two questions an example, one where rounding changed nothing."""
    networks = {f"m/{name}": network(k) for k, name in enumerate("abc")}
    by_id = {id(n): name for name, n in networks.items()}
    crafted, asked = [], []
    ask, make = crossing.predict, crossing.examples
    monkeypatch.setattr(crossing, "predict", lambda n, x: asked.append(by_id[id(n)]) or ask(n, x))
    monkeypatch.setattr(crossing, "examples", lambda *a, **k: crafted.append(k["source"]) or make(*a, **k))
    pairs = [("m/a", ""), ("m/a", "m/b"), ("m/c", "m/b"), ("m/c", "m/c")]
    cross(networks, batches, AttackSetting("fgsm", 0.1), seed=0, pairs=pairs)
    assert sorted(crafted) == ["m/b"] * 3 + ["m/c"] * 3  # in three batches
    assert [asked.count(name) for name in networks] == [3 * (1 + 2), 0, 3 * (2 + 2)]
    asked.clear()
    cross(networks, batches, AttackSetting("fgsm", 20 / 255), seed=0, pairs=pairs)
    assert [asked.count(name) for name in networks] == [3 * (1 + 1), 0, 3 * (1 + 1)]


def test_a_team_of_two_gives_the_same_crossing(batches):
    networks = {"m/a": network(1), "m/b": network(2)}

    def work(team, tick=None):
        return cross(networks, batches, AttackSetting("pgd", 0.1, None, dict(steps=2)), seed=1, keep=True, team=team,
                     tick=tick)  # fmt: skip

    ticks = []
    alone = work(ALONE, ticks.append)
    assert ticks == [4, 4, 3]
    ticks.clear()
    shared = in_processes(lambda team: work(team, ticks.append if team.leads else None), 2)
    assert ticks == [4, 4, 3]
    for one, other in ((alone.answers, shared.answers), (alone.unrounded, shared.unrounded),
                       (alone.images, shared.images), (alone.sizes, shared.sizes)):  # fmt: skip
        assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_validation_weighs_images_not_batches_and_changes_nothing(batches):
    """11 images in batches of 4, 4 and 3: the mean is over images. Weights, buffers and modes stay."""
    learner = Learner("a", network(1), None)
    before = {name: array.copy() for name, array in learner.network.state().items()}
    found = validation.validate([learner], [None], batches, Rules(), limit=100)["a"]
    right = [predict(learner.network, x) == y for x, y in batches.in_order()]
    assert found["rate"] == pytest.approx(np.concatenate(right).mean())
    assert "adversarial_rate" not in found
    assert all(np.array_equal(before[name], array) for name, array in learner.network.state().items())
    assert all(module.training for _, module in learner.network.modules())


def crossed(true, answers):
    return Crossing(AttackSetting("fgsm", 0.1), true, answers, {}, {"m/b": np.float64([0.1, 0.0, 0.1, 0.1])}, {})


def test_results_have_intervals_and_the_baseline():
    true = np.array([0, 0, 1, 2])
    found = crossed(true, {("m/a", ""): np.array([0, 1, 1, 0]), ("m/a", "m/b"): np.array([0, 0, 1, 0])})
    found.unrounded["m/a", "m/b"] = np.array([1, 1, 1, 0])
    cases = [("m", "a", "clean", ""), ("m", "a", "partner new", "m/b")]
    clean, attacked, always = main_table.results(found, cases, "xyz")
    assert clean.rate == 0.5 and clean.one_off == 0.75 and clean.n == 4
    assert clean.rate_low < 0.5 < clean.rate_high
    assert (clean.attack, clean.norm, clean.epsilon, clean.rate_before_rounding) == ("", "", None, None)
    assert (attacked.method, attacked.network, attacked.condition) == ("m", "a", "partner new")
    assert (attacked.attack, attacked.norm, attacked.epsilon, attacked.source) == ("fgsm", "linf", 0.1, "m/b")
    assert attacked.rate == 0.75 and attacked.rate_before_rounding == 0.25
    assert (attacked.perturbation, attacked.largest_perturbation) == (pytest.approx(0.075), 0.1)
    assert always.method == "always x" and always.rate == 0.5 and always.one_off == 0.75


def test_differences_are_paired_by_image():
    """SATM right on images 0, 1, 2 and the control on 2, 3: one more of four, from three discordant images."""
    cases = [
        ("satm", "a", "partner new", "satm/b"),
        ("control", "a", "partner new", "control/b"),
        ("control", "a", "white-box", "control/a"),
        ("undefended", "a", "partner old", "undefended/b"),
    ]
    given = np.array([0, 0, 0, 1]), np.array([1, 1, 0, 0]), np.array([1, 1, 1, 1]), np.array([1, 1, 1, 1])
    found = crossed(np.zeros(4, np.int64), dict(zip(map(main_table.pair_of, cases), given)))
    (row,) = main_table.differences(found, cases)
    assert (row.method, row.other, row.condition, row.network) == ("satm", "control", "partner new", "a")
    assert row.difference == 0.25 and row.low < 0.25 < row.high
