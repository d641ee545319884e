"""The evaluate command: its tables against the same sums by hand, its screen, its files and its curves."""
# ruff: noqa: F401, F811 (imported fixtures, and arguments of their names)

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_runs import (
    LABELS,
    SIZE,
    THREE,
    batches,
    batches_of,
    call,
    few_questions,
    networks,
    run,
    table,
    target,
)
from PIL import Image

from minisatm import attacks, data, evaluate, metrics
from minisatm.evaluation import crossing, session
from minisatm.evaluation.setting import AttackSetting
from minisatm.models.network import predict
from minisatm.run import lineup
from minisatm.run.experiment import Experiment
from minisatm.run.folder import RunFolder
from minisatm.streams import stream

pytestmark = pytest.mark.usefixtures("few_questions")


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """One evaluation with everything: two attacks, two epsilons, examples, curves and masking."""
    out = tmp_path_factory.mktemp("evaluation")
    argv = [f"{run}:x", f"{run}:h", "--attack", "r_fgsm,fgsm", "--epsilon", "16/256,8/256", "--images", 30, "--seed", 3]
    status, said, err = call(*argv, "--out", out / "out", "--save-examples", out / "examples")
    assert status == 0, err
    return out, said


def signs(seed, source, places):
    """The random step of r_fgsm: for each image the bits of a stream of its own, as plus and minus one."""
    count, noise = SIZE * SIZE * 3, []
    for place in places:
        bits = np.frombuffer(stream(seed, "examples", source, "r_fgsm", int(place)).bytes(count // 8), np.uint8)
        noise.append(2.0 * np.unpackbits(bits) - 1)
    return np.stack(noise).reshape(-1, SIZE, SIZE, 3)


def test_the_matrix_is_what_a_reader_would_compute(whole, networks, batches):
    """Every cell, from crafting to rate: with the definition of the attack, the mean and Wilson's interval alone."""
    rows = table(whole[0] / "out" / "tables" / "matrix.csv")
    found = {(r["attack"], r["epsilon"], target(r), r["source"]): r for r in rows if r["source"]}
    assert len(found) == 2 * 2 * 9
    assert [target(r) for r in rows if not r["source"]] == [target(r) for r in rows[:3]] == THREE
    images, places = list(batches.in_order(30)), batches.places(30)
    assert not np.array_equal(places, np.arange(30))  # a subset: an image keeps its place in the test order
    true = np.concatenate([y for _, y in images])
    for (name, epsilon), source in itertools.product(itertools.product(("r_fgsm", "fgsm"), (8, 16)), THREE):
        options = dict(epsilon=epsilon / 256)
        crafted = []
        for b, (x, y) in enumerate(images):
            own = dict(noise=signs(3, source, places[16 * b : 16 * b + 16])) if name == "r_fgsm" else {}
            crafted.append(attacks.ATTACKS[name].function(networks[source], x, y, **options, **own))
        x_adv, x = np.concatenate(crafted), np.concatenate([x for x, _ in images])
        steps = np.rint(255 * x_adv) - np.rint(255 * x)
        kept = (np.rint(255 * x) + steps.clip(-(255 * epsilon // 256), 255 * epsilon // 256)) / 255
        for name_of_target in THREE:
            row = found[name, f"{epsilon / 256:.6g}", name_of_target, source]
            answers = predict(networks[name_of_target], kept)
            right = int((answers == true).sum())
            assert float(row["rate"]) == pytest.approx(right / 30, abs=1e-6)
            assert [float(row[k]) for k in ("rate_low", "rate_high")] == pytest.approx(
                metrics.interval(right / 30, 30), abs=1e-6
            )
            assert float(row["one_off"]) == pytest.approx((abs(answers - true) <= 1).mean(), abs=1e-6)
            before = (predict(networks[name_of_target], x_adv) == true).mean()
            assert float(row["rate_before_rounding"]) == pytest.approx(before, abs=1e-6)
            assert row["condition"] == ("white-box" if source == name_of_target else "other") and row["n"] == "30"
            assert row["norm"] == "linf" and row["run"] == ""
            assert float(row["perturbation"]) == pytest.approx(abs(kept - x).max(axis=(1, 2, 3)).mean(), rel=1e-4)
    rates = {float(r["rate"]) for r in rows}
    assert len(rates) > 5  # networks that all answer the same would agree with anything


def test_rates_above_the_clean_one_stand_beside_those_from_predicted_labels(whole, networks, batches):
    rows = table(whole[0] / "out" / "tables" / "matrix.csv")
    clean = {target(r): float(r["rate"]) for r in rows if not r["source"]}
    above = [r for r in rows if r["source"] and float(r["rate"]) > clean[target(r)]]
    leaks = table(whole[0] / "out" / "tables" / "leaks.csv")
    assert above and len(above) == len(leaks)  # random networks: some are above
    three = {name: networks[name] for name in THREE}
    for row, leak in zip(above, leaks):
        assert [leak[k] for k in ("method", "network", "condition", "source", "n", "rate", "run")] == [
            row[k] for k in ("method", "network", "condition", "source", "n", "rate", "run")
        ]
        assert float(leak["clean_rate"]) == clean[target(row)]
        assert float(leak["difference"]) == pytest.approx(float(row["rate"]) - clean[target(row)], abs=2e-6)
        assert float(leak["low"]) < float(leak["difference"]) < float(leak["high"])
        setting = AttackSetting(row["attack"], float(row["epsilon"]))
        found = crossing.cross(
            three, batches, setting, seed=3, limit=30, pairs=[(target(row), row["source"])], predicted_labels=True
        )
        rate = found.right(target(row), row["source"]).mean()
        assert float(leak["rate_from_predicted_labels"]) == pytest.approx(rate, abs=1e-6)


@pytest.fixture(scope="module")
def measured(run, networks, tmp_path_factory):
    """A run with a seed and an alpha of its own, and the table that training leaves."""
    path = shutil.copytree(run, tmp_path_factory.mktemp("measured") / "run")
    settings = replace(lineup.settings_of(run), seed=5, alpha=1 / 256)
    settings.save(path / "config.json")
    experiment = Experiment(settings, data.load("faces", settings.data_dir))
    experiment.holdout = "h"
    for label in LABELS:
        method, name = label.split("/")
        experiment.methods.setdefault(method, {})[name] = networks[label]
    (path / "tables").mkdir()
    experiment.measure(RunFolder(path))
    return path


@pytest.mark.parametrize("options", [[], ["--batch", 7], ["--batch", 64]], ids=str)
def test_evaluate_prints_the_digits_of_the_runs_own_table(measured, tmp_path, options):
    """The same question has one answer: whoever asks it, and in batches of any size."""
    status, said, err = call(
        measured, "--images", 0, "--no-curves", "--no-masking", "--out", tmp_path / "out", *options
    )
    assert status == 0, err
    asked = {(target(r), r["source"]): r for r in table(tmp_path / "out" / "tables" / "matrix.csv")}
    rows = [r for r in table(measured / "tables" / "results.csv") if not r["method"].startswith("always")]
    assert len(rows) == 2 * (1 + 1 + 1 + 1) + 2 * (1 + 1 + 1 + 1 + 1) + 1  # clean, white-box, partner(s), hold-out; h
    for row in rows:
        there = asked[target(row), row["source"]]
        for column in set(row) - {"condition"}:
            assert row[column] == there[column], (column, row)
    assert len({r["rate"] for r in rows}) > 5
    assert all(bool(r["rate_before_rounding"]) == bool(r["source"]) for r in rows)
    leaks, evaluated = (
        {(target(r), r["source"]): {k: v for k, v in r.items() if k != "condition"} for r in table(file)}
        for file in (measured / "tables" / "leaks.csv", tmp_path / "out" / "tables" / "leaks.csv")
    )
    assert leaks and leaks.items() <= evaluated.items()
    clean = [r for r in rows if not r["source"]]
    assert all(f"{100 * float(r['rate']):.1f}" in said for r in clean)


def test_masking_takes_the_first_epsilon_and_the_undefended_network_of_the_same_name(whole):
    rows = table(whole[0] / "out" / "tables" / "masking.csv")
    assert {r["epsilon"] for r in rows} == {"0.0625"} and len(rows) == 3 * 11
    beside = {r["network"]: r["text"] for r in rows if r["check"] == "gradient norm"}
    undefended = re.search("median (.+) at clean images, (.+) at their", beside["undefended/x"]).groups()
    assert beside["satm/x"].endswith("; undefended {} and {}".format(*undefended))
    assert beside["undefended/x"].endswith("; no undefended network to compare with")


def test_the_screen_and_its_file_say_the_same(whole):
    out, said = whole
    assert (out / "out" / "evaluation.txt").read_text() == said[: said.index("\nsaved")]
    assert max(map(len, said.splitlines())) <= 120
    row = next(r for r in table(out / "out" / "tables" / "matrix.csv") if r["source"] == target(r) == "satm/x")
    assert re.search(rf"^2 satm/x .* {100 * float(row['rate']):.1f}\*", said, flags=re.M)
    for name in THREE:
        assert re.search(rf"^{name}: .*(mask)", said, flags=re.M)  # its summary
    facts = json.loads((out / "out" / "config.json").read_text())
    assert list(facts["networks"]) == THREE and facts["images"] == 30 and facts["seed"] == 3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_tables(run, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "SUBSET", 10)
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


def test_a_curve_begins_clean_and_takes_the_strongest_of_the_others(whole, networks, batches):
    rows = table(whole[0] / "out" / "tables" / "curve_fgsm.csv")
    assert sorted({256 * float(r["epsilon"]) for r in rows}) == pytest.approx(
        [0, 2, 4, 8, 16, 32, 64, 128, 256], rel=1e-5
    )
    start = [r for r in rows if float(r["epsilon"]) == 0]
    for row in start:
        right = [predict(networks[row["target"]], x) == y for x, y in batches.in_order(30)]
        assert row["white_box"] == row["transferred"] == f"{np.concatenate(right).mean():.6g}"
    matrix = {(target(r), r["source"]): r for r in table(whole[0] / "out" / "tables" / "matrix.csv")
              if r["attack"] == "fgsm" and r["epsilon"] == "0.0625"}  # fmt: skip
    for row in (r for r in rows if float(r["epsilon"]) == 0.0625):
        own = row["target"]
        assert row["white_box"] == matrix[own, own]["rate"]
        others = {s: float(matrix[own, s]["rate"]) for s in THREE if s != own}
        assert float(row["transferred"]) == min(others.values()) == others[row["strongest_source"]]
    assert Image.open(whole[0] / "out" / "figures" / "curve_fgsm.png").size[0] > 500


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
    matrix = {(r["attack"], r["epsilon"], target(r), r["source"]): r
              for r in table(whole[0] / "out" / "tables" / "matrix.csv")}  # fmt: skip
    for file in folder.glob("*.npz"):
        saved = np.load(file)
        assert saved["x"].dtype == saved["x_adv"].dtype == np.uint8 and saved["x"].shape == (30, SIZE, SIZE, 3)
        epsilon, source = float(saved["epsilon"]), str(saved["source"])
        assert abs(saved["x_adv"].astype(int) - saved["x"]).max() <= 255 * epsilon  # inside the ball
        for k, name in enumerate(saved["targets"].tolist()):
            x_adv = saved["x_adv"].astype(np.float32) / 255
            assert np.array_equal(predict(networks[name], x_adv), saved["predicted"][k])
            rate = (saved["predicted"][k] == saved["y"]).mean()
            assert float(matrix[str(saved["attack"]), f"{epsilon:.6g}", name, source]["rate"]) == pytest.approx(
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
    assert {r["attack"] for r in table(tmp_path / "out" / "tables" / "matrix.csv")} == {"", "fgsm"}


@pytest.mark.peer
def test_the_readme_example_lets_art_attack_a_network(tmp_path):
    """The lines of USING.md; ART's PGD without a random start then is iterative FGSM, pixel by pixel."""
    pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed; it is only an optional peer")
    text = (Path(__file__).parent.parent / "minisatm" / "USING.md").read_text()
    (code,) = (b for b in re.findall(r"(?:^    .*\n|^\n)+", text, flags=re.M) if "from art." in b)
    said: dict = {}
    exec(textwrap.dedent(code), said)
    x, y, ours = said["x"], said["y"], said["ours"]
    by_us = attacks.iterative_fgsm(ours.model, x, y, epsilon=16 / 256, steps=10)
    assert np.allclose(said["pgd"], by_us, atol=1e-6)
    fooled = ours.predict(said["pgd"]).argmax(axis=1) != y
    assert fooled.any() and (ours.predict(said["jump"]).argmax(axis=1) != y)[fooled].all()
    assert not np.array_equal(said["jump"], said["pgd"])  # it went on from there, without a gradient
