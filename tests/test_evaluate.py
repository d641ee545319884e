"""The evaluate command: its tables against the same sums by hand, what it is asked to measure, and each mistake."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import re
import shutil
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minisatm import attacks, backend, data, evaluate, metrics, models
from minisatm.evaluation import crossing, curves, masking
from minisatm.evaluation import main_table as measure
from minisatm.evaluation.crossing import Crossing, Shot
from minisatm.run import lineup
from minisatm.run import settings as config
from minisatm.streams import stream

SIZE, CLASSES = 16, 8
NETWORKS = {"undefended": "xyh", "satm": "xy"}  # h is the hold-out
LABELS = ["undefended/x", "undefended/y", "undefended/h", "satm/x", "satm/y"]
THREE = ["undefended/x", "satm/x", "undefended/h"]


def lively(x, seed, **variant):
    """A random network whose answers differ from image to image; std far below 1: small changes matter."""
    network = models.build("resnet20", classes=CLASSES, width=1 / 4, size=SIZE, rng=seed, std=(0.1,) * 3, **variant)
    top = network.parameters()[f"{network.top}.weight"], network.parameters()[f"{network.top}.bias"]
    logits = attacks.logits_of(network, x)
    top[0].data[:] /= logits.std(axis=0)
    top[1].data[:] = -(attacks.logits_of(network, x)).mean(axis=0)
    return network


@pytest.fixture(scope="module")
def run(drawn, tmp_path_factory):
    """A run folder with five networks, as training leaves it."""
    path = tmp_path_factory.mktemp("runs") / "run"
    settings = config.from_preset(
        "smoke",
        dict(networks=("x=resnet20", "y=resnet20"), holdout="none", size=SIZE, data_dir=str(drawn), epsilon=8 / 256,
             batch=4),
    )  # fmt: skip
    (path / "networks").mkdir(parents=True)
    settings.save(path / "config.json")
    x = np.concatenate([x for x, _ in test_batches(settings).in_order()])
    for seed, (method, name) in enumerate((m, n) for m, names in NETWORKS.items() for n in names):
        lively(x, seed).save(path / "networks" / f"{method}-{name}.h5")
    return path


def test_batches(settings, batch=16):
    dataset = data.load("faces", settings.data_dir)
    return data.Batches(dataset, dataset.split(fold=0, seed=0).test, batch=batch, size=SIZE, seed=0)


test_batches.__test__ = False


@pytest.fixture(scope="module")
def networks(run):
    return {label: models.build(None, weights=str(run / "networks" / f"{label.replace('/', '-')}.h5"))
            for label in LABELS}  # fmt: skip


@pytest.fixture(scope="module")
def batches(run):
    return test_batches(lineup.settings_of(run))


def call(*argv):
    """Exit status, stdout and stderr of the command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = evaluate.main([str(a) for a in argv])
        except SystemExit as leave:
            status = leave.code
    return status, out.getvalue(), err.getvalue()


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# The source x target matrix


@pytest.fixture(scope="module", autouse=True)
def few_questions():
    """The search without gradients asks little here; test_masking.py has it as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masking, "QUESTIONS", 5)
        yield


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """One evaluation with everything: two attacks, two epsilons, examples, curves and masking."""
    out = tmp_path_factory.mktemp("evaluation")
    argv = [f"{run}:x", f"{run}:h", "--attack", "r_fgsm,fgsm", "--epsilon", "16/256,8/256", "--images", 30, "--seed", 3]
    status, said, err = call(*argv, "--out", out / "out", "--save-examples", out / "examples")
    assert status == 0, err
    return out, said


def test_the_matrix_is_what_a_reader_would_compute(whole, networks, batches):
    """Every cell, from crafting to rate: with the definition of the attack, the mean and Wilson's interval alone."""
    rows = table(whole[0] / "out" / "tables" / "matrix.csv")
    found = {(r["attack"], r["epsilon"], r["target"], r["source"]): r for r in rows if r["source"]}
    assert len(found) == 2 * 2 * 9
    assert [r["target"] for r in rows[:3]] == THREE and not any(r["source"] for r in rows[:3])
    images = list(batches.in_order(30))
    true = np.concatenate([y for _, y in images])
    for (name, epsilon), source in itertools.product(itertools.product(("r_fgsm", "fgsm"), (8, 16)), THREE):
        options = dict(epsilon=epsilon / 256)
        crafted = []
        for b, (x, y) in enumerate(images):
            own = dict(rng=stream(3, source, name, b)) if name == "r_fgsm" else {}
            crafted.append(attacks.ATTACKS[name].function(networks[source], x, y, **options, **own))
        x_adv, x = np.concatenate(crafted), np.concatenate([x for x, _ in images])
        kept = np.rint(255 * x_adv) / 255
        for target in THREE:
            row = found[name, f"{epsilon / 256:.6g}", target, source]
            answers = measure.predict(networks[target], kept)
            right = int((answers == true).sum())
            assert float(row["rate"]) == pytest.approx(right / 30, abs=1e-6)
            assert [float(row[k]) for k in ("rate_low", "rate_high")] == pytest.approx(
                metrics.interval(right / 30, 30), abs=1e-6
            )
            assert float(row["one_off"]) == pytest.approx((abs(answers - true) <= 1).mean(), abs=1e-6)
            before = (measure.predict(networks[target], x_adv) == true).mean()
            assert float(row["rate_before_rounding"]) == pytest.approx(before, abs=1e-6)
            assert row["white_box"] == ("yes" if source == target else "") and row["n"] == "30"
            assert float(row["perturbation"]) == pytest.approx(abs(kept - x).max(axis=(1, 2, 3)).mean(), rel=1e-4)
    rates = {float(r["rate"]) for r in rows}
    assert len(rates) > 5  # networks that all answer the same would agree with anything


def test_rates_above_the_clean_one_stand_beside_those_from_predicted_labels(whole, networks, batches):
    rows = table(whole[0] / "out" / "tables" / "matrix.csv")
    clean = {r["target"]: float(r["rate"]) for r in rows if not r["source"]}
    above = [r for r in rows if r["source"] and float(r["rate"]) > clean[r["target"]]]
    assert above  # random networks: some are
    for row in above:
        shot = Shot(row["attack"], float(row["epsilon"]))
        own = {name: networks[name] for name in THREE}
        found = crossing.cross(own, batches, shot, seed=3, limit=30, sources=[row["source"]], predicted_labels=True)
        rate = found.right(row["target"], row["source"]).mean()
        assert float(row["rate_from_predicted_labels"]) == pytest.approx(rate, abs=1e-6)


def test_masking_takes_the_first_epsilon_and_the_undefended_network_of_the_same_name(whole):
    rows = table(whole[0] / "out" / "tables" / "masking.csv")
    assert {r["epsilon"] for r in rows} == {"0.0625"} and len(rows) == 3 * 11
    beside = {r["network"]: r["text"] for r in rows if r["check"] == "gradient norm"}
    undefended = re.search("median (.+) at clean images, (.+) at their", beside["undefended/x"]).groups()
    assert beside["satm/x"].endswith("; undefended {} and {}".format(*undefended))
    assert beside["undefended/x"].endswith("; nothing undefended to compare with")


def test_the_screen_and_its_file_say_the_same(whole):
    out, said = whole
    assert (out / "out" / "evaluation.txt").read_text() == said[: said.index("\nsaved")]
    assert max(map(len, said.splitlines())) <= 120
    row = next(r for r in table(out / "out" / "tables" / "matrix.csv") if r["source"] == r["target"] == "satm/x")
    assert re.search(rf"^2 satm/x .* {100 * float(row['rate']):.1f}\*", said, flags=re.M)
    for name in THREE:
        assert re.search(rf"^{name}: .*(mask)", said, flags=re.M)  # its summary
    facts = json.loads((out / "out" / "config.json").read_text())
    assert list(facts["networks"]) == THREE and facts["images"] == 30 and facts["seed"] == 3


def test_the_same_seed_gives_the_same_tables(run, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "SUBSET", 10)
    argv = [f"{run}:satm", "--images", 12]
    for seed, out in ((3, "a"), (3, "b")):
        assert call(*argv, "--seed", seed, "--out", tmp_path / out)[0] == 0
    names = ("curve_r_fgsm.csv", "masking.csv", "matrix.csv")
    assert [p.name for p in sorted((tmp_path / "a" / "tables").iterdir())] == list(names)
    for name in names:
        files = [tmp_path / out / "tables" / name for out in "ab"]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert table(files[0])[0]["n"] == ("12" if name == "matrix.csv" else "10")
    assert call(*argv, "--out", tmp_path / "c", "--no-curves", "--no-masking")[0] == 0
    assert [p.name for p in (tmp_path / "c" / "tables").iterdir()] == ["matrix.csv"]


def test_a_seed_decides_random_attacks_and_nothing_else(networks, batches):
    drawn = [crossing.cross(networks, batches, Shot("r_fgsm", 0.1), seed=seed, sources=["satm/x"], keep=True)
             for seed in (3, 3, 4)]  # fmt: skip
    first, again, other = (found.images["satm/x"] for found in drawn)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(drawn[0].images[""], drawn[2].images[""])


def test_what_rounds_away_does_not_count(networks, batches):
    """Less than half a grey level: it fools some as it is, and after rounding no image is changed at all."""
    found = crossing.cross(networks, batches, Shot("fgsm", 0.49 / 255), seed=0)
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
    return Crossing(Shot(attack, 0.1), true, answers, unrounded, {}, {})


def test_leaking_labels_are_warned_of():
    found = made({("a", ""): 50, ("a", "a"): 90, ("a", "b"): 51})
    assert crossing.leaking(found) == [("a", "a"), ("a", "b")]
    again = made({("a", ""): 50, ("a", "a"): 40, ("a", "b"): 30})
    sure, within = crossing.remarks(found, again)
    assert sure == (
        "WARNING: a on its own examples: 90.0 % beats clean 50.0 %; crafted from predicted labels, which cannot leak "
        "the true one, it is 40.0 %."
    )
    assert within.startswith("WARNING: a on examples of b: 51.0 % beats clean 50.0 %")
    assert crossing.leaking(made({("a", ""): 50, ("a", "a"): 90}, attack="step_ll")) == []  # it never saw the label
    many = made({("a", ""): 50, **{("a", f"{k}"): 51 for k in range(5)}})
    assert crossing.remarks(many)[0].startswith("5 rates lie above the clean one")


def test_what_rounding_changed_is_said():
    found = made({("a", ""): 90, ("a", "b"): 60}, {("a", ""): 90, ("a", "b"): 10})
    assert crossing.remarks(found) == ["rounding to 8-bit pixels changes a on examples of b from 10.0 to 60.0 %."]
    found = made({("a", ""): 90, ("a", "b"): 10}, {("a", ""): 90, ("a", "b"): 60})
    assert crossing.remarks(found) == ["rounding to 8-bit pixels changes a on examples of b from 60.0 to 10.0 %."]
    assert crossing.remarks(made({("a", ""): 90, ("a", "b"): 60}, {("a", ""): 90, ("a", "b"): 59})) == []


def test_predicted_labels_are_the_sources_own(networks, batches):
    found = crossing.cross(networks, batches, Shot("fgsm", 0.05), seed=0, sources=["satm/x"], predicted_labels=True)
    source, answers = networks["satm/x"], []
    for x, _ in batches.in_order():
        x_adv = attacks.fgsm(source, x, measure.predict(source, x), epsilon=0.05)
        answers.append(measure.predict(networks["undefended/y"], attacks.rounded(x_adv)))
    assert np.array_equal(found.answers["undefended/y", "satm/x"], np.concatenate(answers))
    assert found.sources == ["satm/x"]


# Epsilon curves


def test_a_curve_begins_clean_and_takes_the_strongest_of_the_others(whole, networks, batches):
    rows = table(whole[0] / "out" / "tables" / "curve_fgsm.csv")
    assert sorted({256 * float(r["epsilon"]) for r in rows}) == pytest.approx(
        [0, 2, 4, 8, 16, 32, 64, 128, 256], rel=1e-5
    )
    start = [r for r in rows if float(r["epsilon"]) == 0]
    for row in start:
        right = [measure.predict(networks[row["target"]], x) == y for x, y in batches.in_order(30)]
        assert row["white_box"] == row["transferred"] == f"{np.concatenate(right).mean():.6g}"
    matrix = {(r["target"], r["source"]): r for r in table(whole[0] / "out" / "tables" / "matrix.csv")
              if r["attack"] == "fgsm" and r["epsilon"] == "0.0625"}  # fmt: skip
    for row in (r for r in rows if float(r["epsilon"]) == 0.0625):
        own = row["target"]
        assert row["white_box"] == matrix[own, own]["rate"]
        others = {s: float(matrix[own, s]["rate"]) for s in THREE if s != own}
        assert float(row["transferred"]) == min(others.values()) == others[row["strongest_source"]]
    assert Image.open(whole[0] / "out" / "figures" / "curve_fgsm.png").size[0] > 500


def test_a_curve_scales_what_belongs_to_epsilon():
    shot = Shot("r_fgsm", 0.1, 0.04, {}).at(0.5)
    assert (shot.epsilon, shot.alpha) == (0.5, pytest.approx(0.2))
    assert Shot("pgd", 0.1, None, dict(step=0.01, steps=3)).at(0.2).options == dict(step=pytest.approx(0.02), steps=3)
    assert max(curves.epsilons([0.1], Shot("pgd", 0.1), (4, 4, 3))) == 1
    assert max(curves.epsilons([0.1], Shot("pgd", 0.1, None, dict(norm="l2")), (4, 4, 3))) == pytest.approx(48**0.5)


# Examples as files


def test_epsilon_has_the_attacks_own_unit(run):
    """A length in L2, a factor on the gradient, or a change of pixels; only the last may come from the run."""
    shots = {scale: Shot("fast_gradient_value", 0.5, options={"scale": scale}) for scale in ("l2", "max", "none")} | {
        "pgd": Shot("pgd", 0.5, options={"norm": "l2"}),
        "fgsm": Shot("fgsm", 0.5),
    }
    units = {name: (shot.unit, shot.norm) for name, shot in shots.items()}
    assert units == {"l2": ("length", "l2"), "max": ("", "linf"), "none": ("factor on the gradient", "l2"),
                     "pgd": ("length", "l2"), "fgsm": ("", "linf")}  # fmt: skip
    assert str(shots["pgd"]).startswith("pgd, epsilon 0.5 (length)") and "128/256" in str(shots["fgsm"])


def test_masking_is_not_looked_for_at_epsilon_zero(run, tmp_path):
    out = tmp_path / "out"
    status = evaluate.main([f"{run}:satm/x", "--attack", "fgsm", "--epsilon", "0,8/256", "--images", "8", "--no-curves",
                            "--out", str(out)])  # fmt: skip
    rows = list(csv.DictReader((out / "tables" / "masking.csv").open()))
    assert status == 0 and {float(row["epsilon"]) for row in rows} == {8 / 256}


def test_examples_of_sources_with_like_names_lie_apart(run, tmp_path):
    """satm/x of the run, and the very file beside it, whose name is satm-x."""
    out, examples = tmp_path / "out", tmp_path / "examples"
    options = ["--attack", "fgsm", "--images", "8", "--no-curves", "--no-masking"]
    places = ["--out", str(out), "--save-examples", str(examples)]
    status = evaluate.main([f"{run}:satm/x", str(run / "networks" / "satm-x.h5"), *options, *places])
    found = sorted(examples.glob("*.npz"))
    assert status == 0 and len(found) == 2
    assert {str(np.load(file)["source"]) for file in found} == {"satm/x", "satm-x"}


def test_examples_reread_are_those_that_were_measured(whole, networks):
    folder = whole[0] / "examples"
    assert len(list(folder.glob("*.npz"))) == 4 * 3
    matrix = {(r["attack"], r["epsilon"], r["target"], r["source"]): r
              for r in table(whole[0] / "out" / "tables" / "matrix.csv")}  # fmt: skip
    for file in folder.glob("*.npz"):
        saved = np.load(file)
        assert saved["x"].dtype == saved["x_adv"].dtype == np.uint8 and saved["x"].shape == (30, SIZE, SIZE, 3)
        epsilon, source = float(saved["epsilon"]), str(saved["source"])
        assert abs(saved["x_adv"].astype(int) - saved["x"]).max() <= round(255 * epsilon)
        for k, target in enumerate(saved["targets"].tolist()):
            x_adv = saved["x_adv"].astype(np.float32) / 255
            assert np.array_equal(measure.predict(networks[target], x_adv), saved["predicted"][k])
            rate = (saved["predicted"][k] == saved["y"]).mean()
            assert float(matrix[str(saved["attack"]), f"{epsilon:.6g}", target, source]["rate"]) == pytest.approx(
                rate, abs=1e-6
            )
    saved = np.load(folder / "fgsm-16of256-satm-x.npz")
    assert str(saved["norm"]) == "linf" and saved["classes"].tolist()[0] == "(0, 2)"
    pictures = sorted((folder / "fgsm-16of256-satm-x").glob("*_adversarial.png"))
    assert len(pictures) == 8
    own = saved["targets"].tolist().index("satm/x")
    fooled = (saved["predicted_clean"][own] == saved["y"]) & (saved["predicted"][own] != saved["y"])
    assert sum(fooled[int(p.name[:5])] for p in pictures) == min(8, fooled.sum()) > 0  # these come first
    for picture in pictures:
        index, true, answer = re.fullmatch(r"(\d+)_true_(.+)_answer_(.+)_adversarial.png", picture.name).groups()
        assert np.array_equal(np.asarray(Image.open(picture)), saved["x_adv"][int(index)])
        safe = [c.strip("()").replace(", ", "-") for c in saved["classes"].tolist()]
        assert (true, answer) == (safe[saved["y"][int(index)]], safe[saved["predicted"][own][int(index)]])
        (clean,) = picture.parent.glob(f"{index}_*_clean.png")
        assert np.array_equal(np.asarray(Image.open(clean)), saved["x"][int(index)])


# What RUN[:network] names


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
    assert [(r["target"], r["source"]) for r in rows][2:] == [
        ("satm/x", "satm/x"), ("outside", "satm/x"), ("satm/x", "outside"), ("outside", "outside"),
    ]  # fmt: skip
    assert {r["attack"] for r in rows} == {"clean", "r_fgsm"} and rows[-1]["epsilon"] == "0.03125"  # the run's own


# Mistakes


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
        (["RUN/networks/satm-x.h5"], "name the run whose images to take as well"),
        (["RUN", "gone.h5"], "there is no file gone.h5"),
        (["RUN", "--attack", "fgms"], "unknown attack 'fgms': choose from fgsm,"),
        (["RUN", "--attack", ","], "--attack is empty"),
        (["RUN", "--epsilon", "16"], r"epsilon 16 is not in pixels of \[0, 1\]: write it like 16/256"),
        (["RUN", "--epsilon", "8/256,2.0"], r"epsilon 2 is not in pixels of \[0, 1\]"),
        (["RUN", "--epsilon", "nan"], "--epsilon 'nan' is not a number: write it like 16/256"),
        (["RUN", "--epsilon", "1/0"], "--epsilon '1/0' is not a number"),
        (["RUN", "--epsilon=-1/256"], "--epsilon -1/256 is negative"),
        (["RUN", "--epsilon", ""], "--epsilon is empty"),
        (["RUN", "--alpha", "32/256"], "alpha 0.125 must be below epsilon 0.03125"),
        (["RUN", "--alpha", "x"], "--alpha 'x' is not a number"),
        (["RUN", "--attack", "fgsm", "--alpha", "1/256"], "fgsm has none: leave it out"),
        (["RUN", "--set", "steps=20"], "--set steps=20: r_fgsm has no such option: give craft_mode="),
        (["RUN", "--attack", "pgd", "--set", "steps"], "--set steps: pgd has no such option: give craft_mode=..."),
        (["RUN", "--attack", "pgd", "--set", "steps=2.5"], "--set steps=2.5: steps of pgd must be a whole number"),
        (["RUN", "--attack", "pgd", "--set", "steps=0"], "steps 0 must be a whole number from 1 up"),
        (["RUN", "--attack", "pgd", "--set", "step=x"], "step of pgd must be a number"),
        (["RUN", "--attack", "pgd", "--set", "norm=l2"], "epsilon of pgd is a length here, and the run's is none"),
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
    assert "is an evaluation and no run" in mistake(other)


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


def test_ctrl_c_keeps_what_was_measured(run, tmp_path, monkeypatch):
    cross, calls = crossing.cross, []

    def interrupted(*args, **options):
        calls.append(args)
        if args[2].attack == "pgd":
            raise KeyboardInterrupt
        return cross(*args, **options)

    monkeypatch.setattr(crossing, "cross", interrupted)
    status, _, err = call(f"{run}:satm", "--attack", "fgsm,pgd", "--images", 16, "--out", tmp_path / "out")
    assert status == 130 and err.strip().endswith(f"interrupted: what was measured is in {tmp_path / 'out'}")
    assert {r["attack"] for r in table(tmp_path / "out" / "tables" / "matrix.csv")} == {"clean", "fgsm"}


def test_the_list_names_every_attack():
    status, said, _ = call("--list")
    assert status == 0
    for name, attack in attacks.ATTACKS.items():
        assert re.search(rf"^{name} +{attack.norm} +{re.escape(attack.reference)}$", said, flags=re.M)
    assert "steps=10" in said and "rng" not in said


def test_every_option_that_may_be_set_has_a_type():
    """A new option of an attack that --set cannot give should be a decision, not an accident."""
    for name, attack in attacks.ATTACKS.items():
        assert set(attack.defaults) - set(evaluate.kinds(name)) <= set(evaluate.HANDED), name


@pytest.mark.slow
def test_a_gpu_gives_the_same_answers(cupy, run):
    found = []
    for name in ("numpy", "cupy"):
        own = {label: models.build(None, weights=str(run / "networks" / f"{label.replace('/', '-')}.h5")).to(name)
               for label in ("satm/x", "satm/y")}  # fmt: skip
        images = data.Batches(**{k: getattr(test_batches(lineup.settings_of(run)), k) for k in ("dataset", "indices")},
                              batch=4, size=SIZE, backend=name)  # fmt: skip
        crossed = crossing.cross(own, images, Shot("r_fgsm", 0.05), seed=0, limit=6, keep=True)
        found.append((crossed, masking.look(own, images, epsilon=0.05, seed=0, limit=6)[1]))
    (here, seen), (there, seen_there) = found
    assert all(np.mean(here.answers[key] != there.answers[key]) <= 1 / 6 for key in here.answers)
    assert all(np.mean(here.images[s] != there.images[s]) < 0.02 for s in here.images)
    for label, look in seen.items():
        assert np.allclose(look.norm, seen_there[label].norm, rtol=1e-3)
        assert look.right.keys() == seen_there[label].right.keys()


# Other people's tools


@pytest.mark.peer
def test_the_readme_example_lets_art_attack_a_network(tmp_path):
    """The README's own lines; ART's PGD without a random start then is iterative FGSM, pixel by pixel."""
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed; it is only an optional peer")
    text = (Path(__file__).parent.parent / "README.md").read_text()
    (code,) = (b for b in re.findall(r"(?:^    .*\n|^\n)+", text, flags=re.M) if "from art." in b)
    said: dict = {}
    exec(textwrap.dedent(code), said)
    x, y, ours = said["x"], said["y"], said["ours"]
    by_us = attacks.iterative_fgsm(ours.model, x, y, epsilon=16 / 256, steps=10)
    assert np.allclose(said["pgd"], by_us, atol=1e-6)
    fooled = ours.predict(said["pgd"]).argmax(axis=1) != y
    assert fooled.any() and (ours.predict(said["jump"]).argmax(axis=1) != y)[fooled].all()
    assert not np.array_equal(said["jump"], said["pgd"])  # it went on from there, without a gradient
