"""A run folder: interrupted runs go on to the same bits, broken ones leave good weights behind, old ones stay whole."""

import signal
import subprocess
import sys
import time

import pytest
from tiny_runs import TINY, PowerCut, arrays, at, outcome, stopping, table

from minisatm import parallel, train
from minisatm.kernels import blocks
from minisatm.run import experiment
from minisatm.run import monitor as monitors
from minisatm.run import settings as config

# Going on


@pytest.mark.parametrize(
    "method, phase, iteration, how",
    [
        ("satm", "clean", 2, "cut"),  # two rows were logged after the checkpoint of step 2
        ("satm", "clean", 3, "ctrl-c"),  # the last step of a phase
        ("satm", "satm", 0, "cut"),
        ("cascade", "cascade", 2, "cut"),  # whose sources are read from their files
        ("distillation", "distillation", 1, "ctrl-c"),
        pytest.param("standard", "standard", 2, "cut", marks=pytest.mark.slow),
        pytest.param("penalty", "penalty", 2, "cut", marks=pytest.mark.slow),
        pytest.param("satm", "satm", 3, "ctrl-c", marks=pytest.mark.slow),
        pytest.param("satm", "satm", 4, "ctrl-c", marks=pytest.mark.slow),  # the last step of all
        pytest.param("compare", "control", 1, "cut", marks=pytest.mark.slow),
        pytest.param("compare", "ensemble", 2, "ctrl-c", marks=pytest.mark.slow),
        pytest.param("compare", "satm", 2, "cut", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(tiny, whole, tmp_path, monkeypatch, method, phase, iteration, how):
    settings, out = tiny(method=method), tmp_path / "run"
    patch = stopping(monkeypatch, phase, iteration, how)
    with pytest.raises(monitors.Interrupted if how == "ctrl-c" else PowerCut):
        experiment.run_new(settings, out)
    patch.undo()
    broken_off = len(table(out / "log.csv"))
    experiment.run_on(out, settings)
    expected = whole(method)
    assert broken_off < len(expected["log"]) or (phase, iteration) == ("satm", 4)
    ours = outcome(out)
    assert ours["log"] == expected["log"]
    assert ours["epochs"] == expected["epochs"]
    assert ours["tables"] == expected["tables"]
    assert ours["networks"] == expected["networks"]


@pytest.mark.parametrize("method", ["cascade", "distillation", "penalty", "ensemble", "satm"])
def test_settings_reach_the_phases_they_are_for(tiny, tmp_path, monkeypatch, method):
    seen = {}

    def record(phase, learners, static, rules, monitor, team, *, own_examples, **own):
        kinds = {type(learner.domain).__name__ for learner in learners}
        seen[phase] = (own, rules.r_da, kinds, own_examples)

    monkeypatch.setattr(experiment.phases, "train", record)
    settings = tiny(method=method, domain="adda", r_da=0.3, r_embedding=0.7, temperature=9.0, r_penalty=0.2,
                    own_examples=True)  # fmt: skip
    experiment.run_new(settings, tmp_path / "run")
    for phase, found in seen.items():
        domain = (0.3, {"Discriminator"}) if phase in ("ensemble", "satm") else (0.0, {"NoneType"})
        own = {"cascade": {"r_embedding": 0.7}, "penalty": {"r_penalty": 0.2}}
        own |= dict.fromkeys(("teacher", "distillation"), {"temperature": 9.0})
        assert found == (own.get(phase, {}), *domain, True), phase
    assert method in seen


def test_another_seed_gives_another_run(tiny, whole, tmp_path):
    """What the comparisons above would see if resuming mixed anything up."""
    experiment.run_new(tiny(seed=1), tmp_path / "run")
    ours, other = outcome(tmp_path / "run"), whole("satm")
    assert ours["log"] != other["log"] and ours["networks"] != other["networks"]


def test_a_finished_run_resumed_is_the_same_run(tiny, whole, tmp_path):
    experiment.run_new(tiny(), tmp_path / "run")
    before = outcome(tmp_path / "run")
    experiment.run_on(tmp_path / "run", tiny())
    assert outcome(tmp_path / "run") == before == whole("satm")


@pytest.mark.parametrize("method", ["satm", pytest.param("compare", marks=pytest.mark.slow)])
def test_the_number_of_cores_changes_no_bit(tiny, tmp_path, monkeypatch, method):
    """One process for all networks, or one for each: the same rows, checkpoints and results."""
    outcomes = []
    for count in (1, 2, 3):
        for module in (parallel.threads, experiment, blocks):
            monkeypatch.setattr(module, "cores", lambda: count)  # noqa: B023
        out = tmp_path / f"{count}"
        experiment.run_new(tiny(method=method, holdout="resnet20"), out)
        outcomes.append(outcome(out) | {file: (arrays(out / file), at(out / file)) for file in ("last.h5", "best.h5")})
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_a_row_that_was_cut_in_two_is_dropped(tiny, whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    patch = stopping(monkeypatch, "satm", 2, "cut")
    with pytest.raises(PowerCut):
        experiment.run_new(tiny(), out)
    patch.undo()
    for file in ("log.csv", "epochs.csv"):
        with open(out / file, "a") as f:
            f.write("sat")
    experiment.run_on(out, tiny())
    assert outcome(out) == whole("satm")


def test_ctrl_c_at_a_real_run(faces32, tmp_path):
    """SIGINT to a process in the middle of training: exit 130 with the command that goes on; then the same bits."""
    settings = config.from_preset("smoke", {**TINY, "data_dir": str(faces32), "iterations": 40, "evaluate_every": 20})
    settings.save(tmp_path / "config.json")
    command = [sys.executable, "-m", "minisatm.train", "--config", "config.json", "--out", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    log, end = tmp_path / "run" / "log.csv", time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if log.exists() and log.read_text().count("\nsatm") >= 3:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted: go on with  python -m minisatm.train --resume run"
    assert "Traceback" not in err
    rows = table(log)
    assert at(tmp_path / "run" / "last.h5")["iteration"] == int(rows[-1]["iteration"]) + 1 < 40
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment.Experiment, "report", lambda self, run, *measured: run.path)
        patch.chdir(tmp_path)
        assert train.main(["--resume", "run"]) == 0
        experiment.run_new(settings, tmp_path / "whole")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
