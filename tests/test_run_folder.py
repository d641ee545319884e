"""The monitor and the folder of a run: early stopping, losses that are not finite, columns, what cannot be resumed."""

import os
import shutil

import h5py
import numpy as np
import pytest
from tiny_runs import SIZE, arrays, at, outcome, stopping, table

from minisatm import InputError, models, satm, train
from minisatm.models import files as weights
from minisatm.results.tables import write_rows
from minisatm.run import experiment
from minisatm.run import folder as runs
from minisatm.run import monitor as monitors
from minisatm.run import settings as config

# Early stopping


def losses_of(monkeypatch, losses):
    """Validation losses as if each network's were these, evaluation after evaluation."""
    left = iter(losses)
    value = {}

    def validate(learners, sources, batches, rules, *, limit, **rest):
        if batches.augment:  # the training images come first
            value["now"] = next(left)
        terms = {"rate": 0.5, "adversarial_rate": 0.25, "clean": value["now"], "loss": value["now"]}
        return {own.name: terms for own in learners}

    monkeypatch.setattr(monitors, "validate", validate)


def test_early_stopping_restores_the_best(tiny, tmp_path, monkeypatch):
    settings = tiny(clean_iterations=0, iterations=30, patience=3, evaluate_every=2)
    losses_of(monkeypatch, [5, 3, 4, 2, 2, 3, 2.5, 0.1])
    experiment.run_new(settings, tmp_path / "run")
    rows = table(tmp_path / "run" / "epochs.csv")
    assert [row["iteration"] for row in rows] == ["1", "3", "5", "7", "9", "11", "13"]  # 2 again is not better
    assert len(table(tmp_path / "run" / "log.csv")) == 14
    assert at(tmp_path / "run" / "best.h5") == {"phase": "satm", "iteration": 8, "best": 4.0, "best_at": 8, "worse": 0}
    best = arrays(tmp_path / "run" / "best.h5")
    for name in ("a", "b"):
        final = arrays(tmp_path / "run" / "networks" / f"satm-{name}.h5")
        assert {n.removeprefix("weights/"): b for n, b in final.items()} == {
            n.removeprefix(f"{name}/network/"): b for n, b in best.items() if n.startswith(f"{name}/network/")
        }
        last = arrays(tmp_path / "run" / "last.h5")
        assert last[f"{name}/network/{'conv1_1' if name == 'a' else 'stem.conv'}.weight"] not in final.values()


def test_patience_zero_never_stops(tiny, tmp_path, monkeypatch):
    losses_of(monkeypatch, range(100))
    experiment.run_new(tiny(clean_iterations=0, iterations=12, patience=0), tmp_path / "run")
    assert len(table(tmp_path / "run" / "log.csv")) == 12


def test_a_phase_that_stopped_early_does_not_go_on_when_resumed(tiny, tmp_path, monkeypatch):
    """Interrupted between early stopping and the next phase's first checkpoint: no more steps, and the best weights."""
    settings = tiny(clean_iterations=20, iterations=2, patience=1)
    outcomes = []
    for interrupted in (False, True):
        out = tmp_path / f"run{interrupted}"
        losses_of(monkeypatch, [3, 4, *[1] * 20])
        if interrupted:
            patch = stopping(monkeypatch, "clean", 3, "ctrl-c")
            with pytest.raises(monitors.Interrupted):
                experiment.run_new(settings, out)
            patch.undo()
            losses_of(monkeypatch, [1] * 20)
            experiment.run_on(out, settings)
        else:
            experiment.run_new(settings, out)
        outcomes.append(outcome(out))
    assert [row["phase"] for row in outcomes[0]["log"]] == ["clean"] * 4 + ["satm"] * 2
    assert outcomes[0] == outcomes[1]


def test_patience_is_counted_across_an_interruption(tiny, tmp_path, monkeypatch):
    """3, then 4 before the interruption and 3.5 after it: two evaluations without a lower loss, so it stops there."""
    settings, out = tiny(clean_iterations=0, iterations=20, patience=2), tmp_path / "run"
    losses_of(monkeypatch, [3, 4])
    patch = stopping(monkeypatch, "satm", 3, "ctrl-c")
    with pytest.raises(monitors.Interrupted):
        experiment.run_new(settings, out)
    patch.undo()
    losses_of(monkeypatch, [3.5, *[1] * 20])
    experiment.run_on(out, settings)
    assert [row["iteration"] for row in table(out / "epochs.csv")] == ["1", "3", "5"]
    assert at(out / "best.h5") == {"phase": "satm", "iteration": 2, "best": 6.0, "best_at": 2, "worse": 0}


# Divergence


def test_a_loss_that_is_not_finite(tiny, tmp_path, monkeypatch):
    """The message names network, step and phase; last.h5 holds finite weights."""
    real = satm.loss_terms

    def loss_terms(own, x, y, x_adv, rules, *rest, **more):
        total, terms = real(own, x, y, x_adv, rules, *rest, **more)
        if own.name == "b" and x_adv is not None and own.optimiser.steps == 3:
            terms["loss"] = float("nan")
        return total, terms

    monkeypatch.setattr(satm, "loss_terms", loss_terms)
    out = tmp_path / "run"
    with pytest.raises(InputError) as problem:
        experiment.run_new(tiny(), out)
    assert str(problem.value) == (
        f"the loss of b is nan at step 3 of satm: stopped. {out}/last.h5 holds the last good weights (step 2); "
        "try a smaller --learning-rate or a --clip."
    )
    assert [row["iteration"] for row in table(out / "log.csv") if row["phase"] == "satm"] == ["0", "1", "2"]
    assert at(out / "last.h5")["iteration"] == 2
    network = models.build("resnet20", width=1 / 64, size=SIZE)
    with h5py.File(out / "last.h5") as h5:
        network.set_state(weights.read_arrays(h5["b/network"]))
    assert all(np.isfinite(a).all() for a in network.state().values())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("rate", [1e6, 1e30])
def test_a_learning_rate_beyond_all_measure(tiny, tmp_path, rate):
    out = tmp_path / "run"
    settings = tiny(networks=("a=resnet20", "b=resnet20"), learning_rate=(rate,), clip=None, iterations=40)
    with pytest.raises(
        InputError, match=r"at step \d+ of (clean|satm): stopped\. .*last\.h5 holds the last good weights"
    ):
        experiment.run_new(settings, out)
    assert all(
        np.isfinite(np.frombuffer(b, np.float32)).all() for n, b in arrays(out / "last.h5").items() if "steps" not in n
    )


def test_a_validation_loss_that_is_not_finite(tiny, tmp_path, monkeypatch):
    losses_of(monkeypatch, [float("nan")] * 50)
    with pytest.raises(InputError, match="validation loss .* is nan at step 1 of clean: stopped"):
        experiment.run_new(tiny(patience=1), tmp_path / "run")


# The folder


def test_an_existing_folder_is_never_written_into(tiny, tmp_path):
    out = tmp_path / "run"
    experiment.run_new(tiny(), out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for again in (experiment.run_new, lambda s, o: runs.RunFolder.create(o, s, ["a"])):
        with pytest.raises(InputError) as problem:
            again(tiny(), out)
        assert str(problem.value) == f"{out} already exists: choose another --out, or go on with --resume {out}."
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        experiment.run_new(tiny(), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_folder_may_be_filled(tiny, tmp_path):
    (tmp_path / "run").mkdir()
    experiment.run_new(tiny(), tmp_path / "run")
    assert (tmp_path / "run" / "config.json").is_file()


def test_columns_and_rows(tiny, tmp_path):
    experiment.run_new(tiny(), tmp_path / "run")
    log = table(tmp_path / "run" / "log.csv")
    terms = ["loss", "clean", "adversarial", "domain", "rate", "adversarial_rate", "gradient_norm", "learning_rate"]
    assert list(log[0]) == [
        "phase",
        "iteration",
        "seconds",
        *(f"{n}.{t}" for n in "ab" for t in terms),
    ]
    assert [(r["phase"], r["iteration"]) for r in log] == [("clean", str(i)) for i in range(4)] + [
        ("satm", str(i)) for i in range(5)
    ]
    for row in log:
        filled = {k for k, v in row.items() if v}
        silent = {f"{n}.{t}" for n in "ab" for t in ("adversarial", "domain", "adversarial_rate")}
        assert filled == set(row) - (silent if row["phase"] == "clean" else set())
        assert all(float(v) >= 0 for k, v in row.items() if v and k != "phase")
    rates = [float(row["a.learning_rate"]) for row in log[:4]]
    assert rates == pytest.approx([0.025, 0.05, 0.05, 0.025])  # two steps of warm-up, then half a cosine over two

    epochs = table(tmp_path / "run" / "epochs.csv")
    terms = ["train_clean", "train_adversarial", "validation_clean", "validation_adversarial", "validation_loss"]
    assert list(epochs[0]) == ["phase", "iteration", "epoch", *(f"{n}.{t}" for n in "ab" for t in terms)]
    assert [(r["phase"], r["iteration"]) for r in epochs] == [
        ("clean", "1"), ("clean", "3"), ("satm", "1"), ("satm", "3"), ("satm", "4"),
    ]  # fmt: skip
    steps = len(faces_in_training(tiny())) // 8
    assert [float(r["epoch"]) for r in epochs] == pytest.approx([k / steps for k in (2, 4, 2, 4, 5)], rel=1e-5)
    assert all(r[k] for r in epochs for k in r)
    assert all(0 <= float(r[f"{n}.{t}"]) <= 1 for r in epochs for n in "ab" for t in terms[:4])


def faces_in_training(settings):
    return experiment.Experiment(settings, experiment.images.prepare_data(settings)).data.train


def test_the_config_is_the_settings(tiny, tmp_path):
    settings = tiny(alpha=0.01, clip=None, learning_rate=(0.01, 0.02))
    settings.save(tmp_path / "config.json")
    assert config.Settings(**config.read(tmp_path / "config.json")) == settings
    options = vars(train.parser().parse_args(["--config", str(tmp_path / "config.json")]))
    assert train.settings_from(options) == settings
    options = vars(train.parser().parse_args(["--config", str(tmp_path / "config.json"), "--seed", "5"]))
    assert train.settings_from(options) == config.from_preset("smoke", {**vars(settings), "seed": 5})


def test_what_cannot_be_resumed(tiny, tmp_path):
    with pytest.raises(InputError, match=r"is not a run folder \(no config.json\)"):
        runs.RunFolder.open(tmp_path)
    tiny().save(tmp_path / "config.json")
    with pytest.raises(InputError, match=r"has no checkpoint yet \(last.h5\): start the run again with another --out"):
        experiment.run_on(tmp_path, tiny())
    (tmp_path / "last.h5").write_bytes(b"\x89HDF cut")
    with pytest.raises(InputError, match="last.h5 is not a whole .h5 file"):
        experiment.run_on(tmp_path, tiny())


def test_a_checkpoint_of_something_else(tiny, tmp_path):
    """A weights file where last.h5 should be: it has no progress and no learners."""
    experiment.run_new(tiny(), tmp_path / "run")
    shutil.copy(tmp_path / "run" / "networks" / "satm-a.h5", tmp_path / "run" / "last.h5")
    with pytest.raises(InputError, match=r"last\.h5"):
        experiment.run_on(tmp_path / "run", tiny())


def test_a_run_without_its_log(tiny, tmp_path):
    experiment.run_new(tiny(), tmp_path / "run")
    os.remove(tmp_path / "run" / "log.csv")
    with pytest.raises(InputError, match=r"log\.csv"):
        experiment.run_on(tmp_path / "run", tiny())


def test_tables_are_rounded_and_empty_where_there_is_nothing(tmp_path):
    write_rows(tmp_path / "t.csv", [{"a": 1, "b": 0.123456789, "c": None}, {"a": "x,y", "b": 2.0, "c": 3}])
    assert (tmp_path / "t.csv").read_text().splitlines() == ["a,b,c", "1,0.123457,", '"x,y",2,3']
