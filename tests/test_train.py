"""The main command: a mistake in a file is answered by exit 2 and one sentence; a run keeps its word."""

import ast
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import SHORT, TWO, call, mistake, mnist, table
from PIL import Image

from minisatm import models, progress, train
from minisatm.run import settings as config

ROOT = Path(__file__).parent.parent

# Mistakes in files


def test_a_folder_that_exists(here, drawn):
    (here / "run").mkdir()
    (here / "run" / "mine.txt").write_text("keep me")
    sentence = mistake("--preset", "smoke", *TWO, "--out", "run", "--data-dir", drawn)
    assert sentence == "run already exists: choose another --out, or go on with --resume run."
    assert [p.name for p in (here / "run").iterdir()] == ["mine.txt"]


def test_a_place_that_cannot_be_written(here, drawn):
    (here / "file").write_text("")
    sentence = mistake(*SHORT, *TWO, "--out", "file/run", "--data-dir", drawn)
    assert "file/run" in sentence
    assert [p.name for p in here.iterdir()] == ["file"]


def test_a_batch_that_the_images_do_not_fill(here, drawn):
    sentence = mistake(*SHORT, *TWO, "--batch", "100000", "--out", "run", "--data-dir", drawn)
    assert sentence == "116 training images do not fill one batch of 100000: use a smaller --batch."
    assert list(here.iterdir()) == []


def test_weights_that_are_missing_or_of_something_else(here, drawn):
    models.build("resnet50", classes=8, width=1 / 32, size=32).save("other.h5")
    models.build("resnet20", classes=8, width=1 / 8, size=16).save("thin.h5")
    models.build("resnet20", classes=8, width=1 / 4, size=16).save("good.h5")
    (here / "text.h5").write_text("no weights")
    base = [*SHORT, *TWO, "--out", "run", "--data-dir", drawn, "--weights"]
    assert mistake(*base, "good.h5,none.h5") == "there is no file none.h5: check the path."
    assert mistake(*base, "good.h5,text.h5").startswith("text.h5 is not a whole .h5 file")
    assert (
        mistake(*base, "good.h5,other.h5")
        == "other.h5 holds weights of resnet50, not of resnet20: name that network instead."
    )
    assert not (here / "run").exists()
    status, _, err = call(*base, "good.h5,thin.h5")  # the one refusal of several lines: it lists what does not fit
    assert status == 2 and err.startswith("error: thin.h5 does not fit resnet20") and "another shape" in err
    assert not (here / "run").exists()


def test_data_files_that_are_missing_or_cut(here):
    digits = mnist(here / "digits")
    base = [*SHORT, *TWO, "--data", "mnist", "--data-dir", digits, "--out", "run"]
    file = digits / "t10k-labels-idx1-ubyte.gz"
    content = file.read_bytes()
    file.write_bytes(content[:-20])
    assert "t10k-labels-idx1-ubyte" in call(*base)[2] and call(*base)[0] == 2
    file.unlink()
    status, _, err = call(*base)
    assert status == 2 and err.startswith("error: ") and "t10k-labels-idx1-ubyte" in err and err.count("\n") == 1
    assert not (here / "run").exists()


def test_a_folder_with_one_class(here):
    (here / "pictures" / "cats").mkdir(parents=True)
    status, _, err = call(*SHORT, *TWO, "--data", "folder", "--data-dir", "pictures", "--out", "run")
    assert status == 2 and "pictures holds 1 class directories and two are needed" in err
    assert not (here / "run").exists()


def test_an_image_that_cannot_be_read(here):
    rng = np.random.default_rng(0)
    for k in range(80):
        file = here / "pictures" / "ab"[k % 2] / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(file)
        if k % 2:
            file.write_bytes(file.read_bytes()[:400])
    status, _, err = call(*SHORT, *TWO, "--data", "folder", "--data-dir", "pictures", "--out", "run")
    assert status == 2 and err.startswith("error: ") and ".png" in err and "Traceback" not in err


# Runs


def test_a_short_run_makes_all_that_is_promised(here, drawn):
    status, out, err = call(*SHORT, *TWO, "--out", "run", "--data-dir", drawn)
    assert status == 0, err
    assert out.splitlines()[-1] == "report    run/report.html"
    names = {str(p.relative_to("run")) for p in (here / "run").relative_to(here).rglob("*") if p.is_file()}
    expected = {"config.json", "log.csv", "epochs.csv", "last.h5", "best.h5", "report.html", "tables/results.csv"}
    expected |= {f"networks/{m}-{n}.h5" for m in ("undefended", "satm") for n in "xy"}
    expected |= {f"tables/confusion_{m}_{n}.csv" for m in ("undefended", "satm") for n in "xy"}
    assert expected <= names
    assert [p for p in names if p.endswith(".part")] == []
    figures = {p for p in names if p.startswith("figures/")}
    assert {"figures/figure3.png", "figures/figure4.png", "figures/results.png"} <= figures
    for figure in figures:
        with Image.open(here / "run" / figure) as image:
            assert min(image.size) > 100
    assert "<html" in (here / "run" / "report.html").read_text().lower()
    rows = table(here / "run" / "tables" / "results.csv")
    cases = {(r["method"], r["network"], r["condition"], r["source"]) for r in rows}
    other = {"x": "y", "y": "x"}
    for n in "xy":
        assert {("undefended", n, "clean", ""), ("undefended", n, "white-box", f"undefended/{n}")} <= cases
        assert {
            ("satm", n, "partner old", f"undefended/{other[n]}"),
            ("satm", n, "partner new", f"satm/{other[n]}"),
        } <= cases
    assert len(rows) == 2 * 3 + 2 * 4 + 1 and rows[-1]["method"].startswith("always (")
    assert {r["n"] for r in rows} == {"16"}
    assert json.loads((here / "run" / "config.json").read_text())["networks"] == ["x=resnet20", "y=resnet20"]
    assert "plan      2 clean steps, then 2 satm steps; batch 8" in out
    assert "attack    r_fgsm, epsilon 16/256, alpha 8/256" in out


def test_config_round_trip_gives_the_same_run(here, drawn):
    assert call(*SHORT, *TWO, "--seed", "3", "--out", "one", "--data-dir", drawn)[0] == 0
    assert call("--config", "one/config.json", "--out", "two")[0] == 0
    assert (here / "one" / "config.json").read_text() == (here / "two" / "config.json").read_text()
    assert table("one/tables/results.csv") == table("two/tables/results.csv")
    for one, two in zip(table("one/log.csv"), table("two/log.csv"), strict=True):
        assert one | {"seconds": ""} == two | {"seconds": ""}


def test_clean_training_of_one_network(here, drawn):
    argv = ["--method", "clean", "--networks", "resnet20", "--holdout", "none", "--out", "run", "--data-dir", drawn]
    status, out, err = call(*SHORT, *argv)
    assert status == 0, err
    assert "plan      4 clean steps" in out  # its steps are those asked for under either name
    assert {r["phase"] for r in table("run/log.csv")} == {"clean"}
    rows = table("run/tables/results.csv")
    assert [(r["method"], r["condition"]) for r in rows[:-1]] == [("undefended", "clean"), ("undefended", "white-box")]
    assert "resnet20" in out and "undefended" in out


def test_same_structure_and_start_warns_and_runs(here, drawn):
    base = [*SHORT, "--holdout", "none", "--data-dir", drawn, "--clean-iterations", "0"]
    status, out, err = call(*base, "--networks", "resnet20,resnet20", "--out", "twins")
    assert status == 0, err
    assert "warning: resnet20 and resnet20-2 have the same structure and" in out
    status, out, err = call(*base, "--networks", "a=resnet20,b=resnet20", "--out", "named")
    assert status == 0 and "warning" not in out


@pytest.mark.parametrize(
    "options",
    [
        ["--method", "ensemble", "--networks", "a=resnet20,b=resnet20,c=resnet20", "--holdout", "resnet20"],
        pytest.param(
            ["--method", "compare", "--attack", "step_ll", "--craft-mode", "train", "--bn-batches", "separate"],
            marks=pytest.mark.slow,
        ),
        ["--r-adv", "0", "--domain", "none", "--clean-iterations", "0", "--patience", "1", "--alpha", "0"],
        ["--iterations", "0", "--epsilon", "0", "--optimizer", "adam", "--weight-decay", "0.1", "--clip", "0"],
        [
            "--loss-norm",
            "half",
            "--attack",
            "fgsm",
            "--da-learning-rate",
            "0.5",
            "--schedule",
            "constant",
            "--augment",
            "off",
        ],
    ],
    ids=lambda options: " ".join(options[:4]),
)
def test_unusual_combinations_run(here, drawn, options):
    base = [*SHORT, "--networks", "a=resnet20,b=resnet20", "--holdout", "none", "--out", "run", "--data-dir", drawn]
    status, out, err = call(*base, *options)
    assert status == 0, err
    assert (here / "run" / "report.html").is_file()
    assert len(table("run/tables/results.csv")) > 4


def test_grey_images_and_digits_run(here):
    for k in range(80):
        (here / "pictures" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 24), 3 * k, np.uint8)).save(here / "pictures" / "ab"[k % 2] / f"{k}.png")
    status, _, err = call(*SHORT, *TWO, "--data", "folder", "--data-dir", "pictures", "--out", "run")
    assert status == 0, err
    digits = mnist(here / "digits")
    status, out, err = call(*SHORT, *TWO, "--data", "mnist", "--data-dir", digits, "--out", "run2", "--size", "28")
    assert status == 0, err
    assert "10 classes" in out


def test_runs_without_out_never_meet(here, monkeypatch):
    monkeypatch.setattr(train.time, "strftime", lambda form: "20300101-000000")
    settings = config.from_preset("smoke", {"networks": ("vgg16", "resnet50")})
    assert str(train.default_out(settings)) == "runs/20300101-000000-satm-vgg16-resnet50"
    (here / "runs" / "20300101-000000-satm-vgg16-resnet50").mkdir(parents=True)
    assert str(train.default_out(settings)) == "runs/20300101-000000-satm-vgg16-resnet50-2"


# The screen


def test_crafting_in_train_mode_with_dropout(here):
    """Dropout is not part of crafting: it would need random numbers before the step has any."""
    status, _, err = call(
        *["--preset", "smoke", "--craft-mode", "train", "--dropout", "0.5", "--out", "run"], "--iterations", "2"
    )
    assert status == 0, err


def test_one_bar_a_phase_on_a_terminal(monkeypatch, capsys):
    """The bar is redrawn in place: a new line only where a phase ends."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    display = progress.Progress([("clean", 5), ("satm", 5)])
    for phase in ("clean", "satm"):
        for done in range(1, 6):
            display.step(phase, done, 5, 0.1, {"a": {"loss": 1.0}})
    display.close()
    shown = capsys.readouterr().err
    assert shown.count("\n") == 2 and "clean: 100%" in shown and "satm: 100%" in shown


@pytest.mark.slow
def test_mnist_in_two_minutes(here, data_dir):
    """The real digits: clean networks from the command in the README are right on 98 % of the real test set."""
    argv = ["--data", "mnist", "--data-dir", str(data_dir / "data" / "mnist"), "--method", "clean", "--holdout", "none"]
    start = time.perf_counter()
    assert call(*argv, "--out", "run")[0] == 0
    print(f"took {time.perf_counter() - start:.0f} s")
    rates = {r["network"]: r for r in table(here / "run" / "tables" / "results.csv") if r["condition"] == "clean"}
    for name in ("vgg16", "resnet50"):
        assert rates[name]["n"] == "10000" and float(rates[name]["rate"]) >= 0.98, rates[name]


# As its own process


def test_the_command_itself(tmp_path):
    """The status and the streams that a shell sees."""
    base = [sys.executable, "-m", "minisatm.train"]
    result = subprocess.run([*base, "--alpha", "1/2"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and result.stdout == ""
    assert re.fullmatch(r"error: alpha 0\.5 must be below epsilon 0\.09375, [^\n]*\.\n", result.stderr)
    result = subprocess.run([*base, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and result.stderr == "" and "usage: python -m minisatm.train" in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["weights_convert.__main__", "minisatm.cli", "minisatm.classify", "minisatm.doctor"])
def test_what_does_not_train_loads_nothing_that_trains(module):
    heavy = ("satm", "defences", "evaluation", "run", "attacks", "train", "progress", "results")
    code = f"import sys, {module}; print([m for m in {heavy} if f'minisatm.{{m}}' in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_nothing_imports_a_command():
    commands = {"train", "evaluate", "classify", "doctor", "report"}
    files = [*(ROOT / "minisatm").rglob("*.py"), *(ROOT / "weights_convert").rglob("*.py")]
    assert len(files) > 50
    for file in files:
        place = file.relative_to(ROOT).with_suffix("").parts
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                base = [*place[: -node.level or None], *(node.module or "").split(".")]
                imported = {".".join(filter(None, [*base, *more])) for more in [(), *((a.name,) for a in node.names)]}
            elif isinstance(node, ast.Import):
                imported = {a.name for a in node.names}
            else:
                continue
            assert not imported & {f"minisatm.{name}" for name in commands}, file
