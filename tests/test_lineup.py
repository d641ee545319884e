"""Which networks evaluate takes, and its words for each mistake."""
# ruff: noqa: F401, F811 (imported fixtures, and arguments of their names)

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from evaluation_runs import LABELS, SIZE, call, run, table, target

from minisatm import attacks, backend, models
from minisatm.evaluation import request
from minisatm.run import lineup
from minisatm.run import settings as config


@pytest.mark.parametrize(
    "wanted, labels",
    [
        ([""], LABELS),
        ([":satm/x"], ["satm/x"]),
        ([":x"], ["undefended/x", "satm/x"]),
        ([":satm"], ["satm/x", "satm/y"]),
        ([":h"], ["undefended/h"]),
        ([":satm", ":x"], ["satm/x", "satm/y", "undefended/x"]),
    ],
)
def test_runs_and_their_networks(run, wanted, labels):
    entries, runs = lineup.line_up([f"{run}{w}" for w in wanted])
    assert [e.label for e in entries] == labels and runs == [run]


def test_networks_of_several_runs_are_told_apart(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    entries, _ = lineup.line_up([f"{run}:satm/x", f"{other}:satm/y"])
    assert [e.label for e in entries] == ["satm/x", "satm/y"]
    entries, runs = lineup.line_up([f"{run}:satm/x", f"{other}:satm/x", str(run / "networks" / "satm-y.h5")])
    assert [e.label for e in entries] == ["run:satm/x", "other:satm/x", "satm-y"] and runs == [run, other]
    same = shutil.copytree(run, tmp_path / "deeper" / "run")
    entries, _ = lineup.line_up([f"{run}:satm/x", f"{same}:satm/x"])
    assert [e.label for e in entries] == [f"{run}:satm/x", f"{same}:satm/x"]


def test_a_file_is_attacked_and_attacks(run, tmp_path):
    file = tmp_path / "outside.h5"
    shutil.copy(run / "networks" / "satm-y.h5", file)
    argv = [f"{run}:satm/x", file, "--images", 20, "--no-curves", "--no-masking", "--out", tmp_path / "out"]
    assert call(*argv)[0] == 0
    rows = table(tmp_path / "out" / "tables" / "matrix.csv")
    assert [(target(r), r["source"]) for r in rows][2:] == [
        ("satm/x", "satm/x"), ("outside", "satm/x"), ("satm/x", "outside"), ("outside", "outside"),
    ]  # fmt: skip
    assert {r["attack"] for r in rows} == {"", "r_fgsm"} and rows[-1]["epsilon"] == "0.03125"  # the run's own


def mistake(*argv):
    status, _, err = call(*argv)
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(
    "argv, message",
    [
        (["nowhere"], r"nowhere is not a run folder \(no config.json\)"),
        ([], "no run is named"),
        (["RUN:vgg16"], "has no network 'vgg16': it has undefended/x, undefended/y, undefended/h, satm/x, satm/y"),
        (["RUN/networks/satm-x.h5"], "also name the run whose test images to use"),
        (["RUN", "gone.h5"], "there is no file gone.h5"),
        (["RUN", "--attack", "fgms"], "unknown attack 'fgms': choose from fgsm,"),
        (["RUN", "--attack", ","], "--attack is empty"),
        (["RUN", "--epsilon", "16"], r"epsilon 16 is not in pixels of \[0, 1\]: write it like 16/256"),
        (["RUN", "--epsilon", "8/256,2.0"], r"epsilon 2 is not in pixels of \[0, 1\]"),
        (["RUN", "--epsilon", "nan"], "argument --epsilon: 'nan' is not a number, write it like 0.1 or 16/256"),
        (["RUN", "--epsilon", "1/0"], "--epsilon: '1/0' is not a number"),
        (["RUN", "--epsilon=-1/256"], r"epsilon -0.00390625 is not in pixels of \[0, 1\]: write it like 16/256"),
        (["RUN", "--epsilon", ""], "--epsilon is empty"),
        (["RUN", "--alpha", "32/256"], "alpha 0.125 must be below epsilon 0.03125"),
        (["RUN", "--alpha", "x"], "--alpha: 'x' is not a number"),
        (["RUN", "--attack", "fgsm", "--alpha", "1/256"], "fgsm has none: leave it out"),
        (["RUN", "--set", "steps=20"], "--set steps=20: r_fgsm has no such option: give craft_mode="),
        (["RUN", "--attack", "pgd", "--set", "steps"], "--set steps: pgd has no such option: give craft_mode=..."),
        (["RUN", "--attack", "pgd", "--set", "steps=2.5"], "--set steps=2.5: steps of pgd must be a whole number"),
        (["RUN", "--attack", "pgd", "--set", "steps=0"], "steps 0 must be a whole number from 1 up"),
        (["RUN", "--attack", "pgd", "--set", "step=x"], "step of pgd must be a number"),
        (["RUN", "--attack", "pgd", "--set", "norm=l2"], "epsilon of pgd is a length, but the run's epsilon is per"),
        (["RUN", "--attack", "pgd", "--set", "norm=l3"], "norm 'l3': choose linf or l2"),
        (["RUN", "--attack", "pgd", "--set", "rng=1"], "--set rng=1: pgd has no such option"),
        (["RUN", "--attack", "step_ll", "--set", "as_printed=yes"], "as_printed of step_ll must be true or false"),
        (["RUN", "--images=-1"], "--images -1 is too small"),
        (["RUN", "--batch", "0"], "--batch 0 is too small"),
        (["RUN", "--seed=-1"], "--seed -1 is too small"),
        (["RUN", "--data-dir", "gone"], "gone is not a directory"),
        (["RUN", "--out", "full"], "full already exists: choose another --out"),
        (["RUN", "--save-examples", "full"], "full holds files already: name a new folder for --save-examples"),
        (["RUN", "--save-examples", "full/file"], "full/file holds files already"),
        (["RUN", "--save-examples", "full/file/x"], "Not a directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_mistakes(here, run, argv, message):
    (here / "full").mkdir()
    (here / "full" / "file").write_text("x")
    before = sorted(run.rglob("*"))
    err = mistake(*[str(a).replace("RUN", str(run)) for a in argv])
    assert re.search(message, err), err
    assert sorted(run.rglob("*")) == before  # nothing was begun
    assert sorted(p.name for p in here.rglob("*")) == ["file", "full"]


def test_a_gpu_that_is_not_there(here, run, monkeypatch):
    monkeypatch.setattr(backend, "cupy_problem", lambda: "there is no GPU.")
    assert "there is no GPU." in mistake(run, "--backend", "cupy")


def test_broken_and_foreign_runs(run, tmp_path, drawn):
    other = shutil.copytree(run, tmp_path / "other")
    file = other / "networks" / "satm-x.h5"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "satm-x.h5 is not a whole .h5 file" in mistake(f"{other}:satm/x")

    settings = config.read(other / "config.json")
    for what, value, words in (
        ("size", 20, "size: 16 and 20"),
        ("data_dir", str(tmp_path), "directory: "),
        ("fold", 1, "fold: 0 and 1"),
        ("labels", "mapped", "labels: strict and mapped"),
        ("data", "mnist", "data: faces and mnist"),
    ):
        (other / "config.json").write_text(json.dumps(settings | {what: value}))
        found = mistake(run, other)
        assert "do not share their test images (" + words in found, found
    (other / "config.json").write_text(json.dumps(settings | {"size": 20, "seed": 5}))
    assert "undefended/x is a network of size 16, the test images of faces have size 20" in mistake(other)
    (other / "config.json").write_text("{")
    assert "is not valid JSON" in mistake(other)
    shutil.rmtree(other / "networks")
    shutil.copy(run / "config.json", other)
    assert "has no networks yet" in mistake(other) and "--resume" in mistake(other)
    (other / "evaluation.txt").touch()
    assert "is an evaluation, not a run" in mistake(other)


def test_networks_with_other_classes_are_refused(run, tmp_path):
    file = tmp_path / "ten.h5"
    models.build("resnet20", classes=10, width=1 / 4, size=SIZE).save(str(file))
    assert "ten is a network of classes 10, the test images of faces have classes 8" in mistake(run, file)
    foreign = tmp_path / "foreign.h5"
    import h5py

    with h5py.File(foreign, "w") as h5:
        h5.create_dataset("w", data=np.zeros(3))
    assert "foreign.h5 is not a minisatm weights file" in mistake(run, foreign)


def test_seeds_matter_where_they_draw_the_test_images():
    settings = config.from_preset("smoke", {})
    assert lineup._identity(settings) != lineup._identity(replace(settings, seed=1))
    on_disk = replace(settings, data="adience", data_dir="d")
    assert lineup._identity(on_disk) == lineup._identity(replace(on_disk, seed=1))
    drawn_parts = replace(settings, data="folder", data_dir="d")
    assert lineup._identity(drawn_parts) != lineup._identity(replace(drawn_parts, seed=1))


def test_every_option_that_may_be_set_has_a_type():
    """A new option of an attack that --set cannot give should be a decision, not an accident."""
    for name, attack in attacks.ATTACKS.items():
        assert set(attack.defaults) - set(request.kinds(name)) <= set(request.HANDED), name


def test_the_list_names_every_attack():
    status, said, _ = call("--list")
    assert status == 0
    for name, attack in attacks.ATTACKS.items():
        assert re.search(rf"^{name} +{attack.norm} +{re.escape(attack.reference)}$", said, flags=re.M)
    assert "steps=10" in said and "rng" not in said
