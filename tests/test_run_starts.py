"""What a run begins with, its parts, its networks and their starts; and the examples that Figure 1 takes."""

import numpy as np
import pytest

from minisatm.evaluation.crossing import Crossing
from minisatm.run import experiment
from minisatm.run.experiment import Experiment


def prepared(settings):
    return Experiment(settings, experiment.images.prepare_data(settings))


def test_the_parts_of_a_run_are_its_split(tiny):
    for augment in (True, False):
        settings = tiny(augment=augment, seed=3, fold=2)
        run = prepared(settings)
        split = run.dataset.split(fold=2, seed=3)
        for part, batches in zip(split._fields, run.data):
            assert np.array_equal(batches.indices, getattr(split, part)), part
            assert batches.augment == (augment and part == "train")
            assert (batches.size, batches.seed) == (settings.size, 3)
        assert run.data.train.batch == settings.batch
        everything = np.concatenate(split)
        assert sorted(everything) == list(range(len(run.dataset)))


def first_weights(networks):
    return {name: next(iter(network.parameters().values())).data for name, network in networks.items()}


@pytest.mark.parametrize("names, alike", [
    (("resnet20", "resnet20"), True), (("a=resnet20", "b=resnet20"), False), (("resnet20", "b=resnet20"), False),
])  # fmt: skip
def test_only_unnamed_twins_share_a_start(tiny, capsys, names, alike):
    """Section 5.5 of the paper; and every start is of the seed."""
    run = prepared(tiny(networks=names))
    one, other = first_weights(run.start_networks()).values()
    assert np.array_equal(one, other) == alike == ("the same structure and start" in capsys.readouterr().out)
    again, _ = first_weights(prepared(tiny(networks=names)).start_networks()).values()
    seeded, _ = first_weights(prepared(tiny(networks=names, seed=1)).start_networks()).values()
    assert np.array_equal(one, again) and not np.array_equal(one, seeded)


def test_networks_are_built_as_the_settings_say(tiny):
    run = prepared(tiny(dropout=0.25, holdout="resnet20", networks=("a=vgg16", "resnet20"), width=1 / 32))
    networks = run.start_networks()
    assert list(networks) == ["a", "resnet20", "hold-out-resnet20"] and run.holdout == "hold-out-resnet20"
    assert networks["a"].definition["dropout"] == 0.25
    for network in networks.values():
        built = {k: network.definition[k] for k in ("classes", "size", "width", "channels")}
        assert built == {"classes": 8, "size": 32, "width": 1 / 32, "channels": 3}


def test_figure_1_shows_images_that_only_the_attack_turns_wrong(tiny, monkeypatch):
    """Of ten images: right and fooled are 3, 5 and 8; no image is shown twice, and nothing where none is left."""
    asked = []
    clean = np.array([1, 1, 0, 0, 1, 0, 0, 0, 0, 1])  # 0 is right
    attacked = np.array([0, 1, 0, 2, 0, 3, 0, 0, 4, 2])

    def cross(networks, batches, setting, *, keep, limit, **rest):
        (source,) = networks
        asked.append((source, setting.epsilon, keep, limit))
        images = {"": np.full((10, 2, 2, 3), 51, np.uint8), source: np.full((10, 2, 2, 3), 102, np.uint8)}
        answers = {(source, ""): clean, (source, source): attacked}
        return Crossing(setting, np.zeros(10, int), answers, {}, {}, images)

    monkeypatch.setattr(experiment, "cross", cross)
    run = prepared(tiny(networks=("a=vgg16", "b=resnet20")))
    run.methods["undefended"] = dict.fromkeys("ab")
    pairs = run.pairs()
    assert [pair["index"] for pair in pairs] == [3, 5, 8]
    assert [(pair["true"], pair["predicted_clean"], pair["predicted_adversarial"]) for pair in pairs] == [
        (0, 0, 2), (0, 0, 3), (0, 0, 4)]  # fmt: skip
    assert [256 * pair["epsilon"] for pair in pairs] == [64, 32, 16]
    assert all(np.allclose(p["clean"], 0.2) and np.allclose(p["adversarial"], 0.4) for p in pairs)
    assert all(row == ("undefended/b", e, True, run.data.test.batch) for row, e in zip(asked, (0.25, 0.125)))
