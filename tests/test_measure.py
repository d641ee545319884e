"""Measuring: who is attacked by whom, on which images, and that measuring changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from minisatm import attacks, models
from minisatm.data import Batches, Dataset
from minisatm.evaluation import main_table as measure
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
    rows = measure.cases(["undefended", "satm"], ["a", "b"], "h")
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
    assert not [r for r in measure.cases(["undefended"], ["a"], None) if r[2] not in ("clean", "white-box")]


def test_answers_are_the_target_on_the_sources_examples(batches):
    """Each answer equals what a reader would compute by hand for that target and source."""
    networks = {"m/a": network(1), "m/b": network(2)}
    wanted = [("m", "a", "clean", ""), ("m", "a", "partner new", "m/b"), ("m", "b", "white-box", "m/b")]
    rules = Rules(epsilon=0.1, seed=5)
    true, found = measure.answers(networks, wanted, batches, rules)

    by_hand = {case: [] for case in wanted}
    for b, (x, y) in enumerate(batches.in_order()):
        x_adv = attacks.r_fgsm(networks["m/b"], x, y, epsilon=0.1, rng=stream(5, "m/b", "test", b))
        for case, image, target in zip(wanted, (x, x_adv, x_adv), ("m/a", "m/a", "m/b")):
            by_hand[case].append(measure.predict(networks[target], image))
    assert np.array_equal(true, batches.dataset.labels)
    for case in wanted:
        assert np.array_equal(found[case], np.concatenate(by_hand[case])), case


def test_predicted_labels_do_not_read_the_true_ones(batches):
    networks = {"m/a": network(1)}
    wanted = [("m", "a", "white-box", "m/a")]
    rules = Rules(epsilon=0.1)
    _, first = measure.answers(networks, wanted, batches, rules, predicted_labels=True)
    batches.dataset.labels[:] = (batches.dataset.labels + 1) % CLASSES
    _, second = measure.answers(networks, wanted, batches, rules, predicted_labels=True)
    assert np.array_equal(first[wanted[0]], second[wanted[0]])


def test_validation_weighs_images_not_batches_and_changes_nothing(batches):
    """11 images in batches of 4, 4 and 3: the mean is over images. Weights, buffers and modes stay."""
    learner = Learner("a", network(1), None)
    before = {name: array.copy() for name, array in learner.network.state().items()}
    found = measure.validate([learner], [None], batches, Rules(), limit=100)["a"]
    right = [measure.predict(learner.network, x) == y for x, y in batches.in_order()]
    assert found["rate"] == pytest.approx(np.concatenate(right).mean())
    assert "adversarial_rate" not in found
    assert all(np.array_equal(before[name], array) for name, array in learner.network.state().items())
    assert all(module.training for _, module in learner.network.modules())


def test_results_have_intervals_and_the_baseline():
    true = np.array([0, 0, 1, 2])
    rows = measure.results(true, {("m", "a", "clean", ""): np.array([0, 1, 1, 0])}, "xyz")
    assert rows[0]["rate"] == 0.5 and rows[0]["one_off"] == 0.75 and rows[0]["n"] == 4
    assert rows[0]["rate_low"] < 0.5 < rows[0]["rate_high"]
    assert rows[1]["method"] == "always x" and rows[1]["rate"] == 0.5 and rows[1]["one_off"] == 0.75


def test_differences_are_paired_by_image():
    """SATM right on images 0, 1, 2 and the control on 2, 3: one more of four, from three discordant images."""
    true = np.zeros(4, np.int64)
    found = {
        ("satm", "a", "partner new", "satm/b"): np.array([0, 0, 0, 1]),
        ("control", "a", "partner new", "control/b"): np.array([1, 1, 0, 0]),
        ("control", "a", "white-box", "control/a"): np.array([1, 1, 1, 1]),
        ("undefended", "a", "partner old", "undefended/b"): np.array([1, 1, 1, 1]),
    }
    (row,) = measure.differences(true, found)
    assert (row["method"], row["other"], row["condition"], row["network"]) == ("satm", "control", "partner new", "a")
    assert row["difference"] == 0.25 and row["low"] < 0.25 < row["high"]
