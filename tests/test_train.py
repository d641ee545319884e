"""The main command: each mistake is answered by exit 2 and one sentence and writes nothing; a run keeps its word."""

import contextlib
import csv
import gzip
import io
import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from minisatm import models, progress, train
from minisatm.run import settings as config

TWO = ["--networks", "x=resnet20,y=resnet20", "--holdout", "none"]
SHORT = [
    *("--preset", "smoke", "--width", "1/4", "--size", "16", "--batch", "8", "--clean-iterations", "2"),
    *("--iterations", "2", "--evaluate-every", "2", "--evaluate-images", "8", "--test-images", "16"),
]


def call(*argv):
    """Exit status, stdout and stderr of the command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = train.main([str(a) for a in argv])
        except SystemExit as leave:
            status = leave.code
    return status, out.getvalue(), err.getvalue()


def mistake(*argv):
    """The one sentence that answers a mistake."""
    status, _, err = call(*argv)
    assert status == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err[len("error: ") : -1]


def misuse(*argv):
    """What argparse finds wrong, in one line."""
    status, _, err = call(*argv)
    assert status == 2 and "Traceback" not in err
    assert re.fullmatch(r"error: [^\n]*; see --help\.\n", err)
    return err[len("error: ") :]


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# Mistakes in what was asked for


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--networks", "vgg17,resnet50"], "unknown network 'vgg17': choose vgg16, resnet50"),
        (["--networks", "a=vgg16,b="], "unknown network ''"),
        (["--networks", "vgg16"], "satm trains networks on one another's examples and needs two or more, got 1"),
        (["--networks", ""], "needs two or more, got 0"),
        (["--networks", "a=resnet20,a=vgg16"], "two networks are called 'a': give each a name of its own"),
        (["--holdout", "resnet18"], "unknown network 'resnet18'"),
        (["--alpha", "32/256"], "alpha 0.125 must be below epsilon 0.0625"),
        (["--alpha=-1/256"], "alpha -0.00390625 is negative"),
        (
            ["--attack", "pgd", "--alpha", "1/256"],
            "--alpha is the size of a random step, and pgd has none: leave it out",
        ),
        (["--epsilon", "16"], r"epsilon 16 is not in pixels of \[0, 1\]: write it like 16/256"),
        (["--width", "0"], "--width 0 is too small"),
        (["--size", "0"], "--size 0 is too small"),
        (["--batch", "0"], "--batch 0 is too small"),
        (["--iterations=-1"], "--iterations -1 is too small"),
        (["--patience=-1"], "--patience -1 is too small"),
        (["--seed=-1"], "--seed -1 is too small"),
        (["--r-adv=-1"], "--r-adv -1 is too small"),
        (["--dropout", "1"], "--dropout 1 is too large: 0.99 at most"),
        (["--learning-rate", "1,2,3"], "--learning-rate has 3 values for 2 networks: give one, or one each"),
        (["--weights", "a.h5"], "--weights names 1 files for 2 networks: name one each, with commas"),
        (["--data", "mnist"], "--data mnist needs --data-dir, the directory that holds it"),
        (["--data", "adience"], "--data adience needs --data-dir"),
        (["--data", "folder", "--data-dir", "nowhere"], "nowhere is not a directory"),
        (["--data-dir", "nowhere"], "nowhere is not a directory"),
        (["--config", "none.json"], "cannot read none.json: No such file or directory"),
        (["--config", "none.json", "--preset", "smoke"], "--config holds a preset's settings already"),
        (["--resume", "none"], r"none is not a run folder \(no config.json\)"),
        (["--resume", "none", "--seed", "1"], r"own settings \(but --backend and --tf32\): leave out --seed"),
    ],
    ids=" ".join,
)
def test_mistakes(here, argv, message):
    extra = [] if argv[0] in ("--resume", "--config") else ["--preset", "smoke", "--out", "run"]
    if "--networks" not in argv and extra:
        extra += ["--networks", "resnet20,vgg16"]
    assert re.search(message, mistake(*argv, *extra))
    assert list(here.iterdir()) == []  # nothing was drawn, nothing written


@pytest.mark.parametrize(
    "argv",
    [
        ["--test-images=-3"],
        ["--clip=-1"],
        ["--weight-decay=-1"],
        ["--weight-decay", "nan"],
        ["--da-learning-rate=-1"],
        ["--da-learning-rate", "nan"],
        ["--learning-rate=-1"],
        ["--learning-rate", "0.1,-1"],
        ["--momentum", "1"],
        ["--r-adv", "inf"],
        ["--r-da", "nan"],
        ["--width", "1e30"],
        ["--size", "100000"],
        ["--networks", "../x=resnet20,y=resnet20"],
        ["--networks", "a/b=resnet20,y=resnet20"],
        ["--networks", "a b=resnet20,y=resnet20"],
        ["--networks", ".=resnet20,y=resnet20"],
        ["--networks", "x=y=resnet20,y=resnet20"],
        ["--networks", "hold-out-resnet20=resnet20,resnet20"],
    ],
    ids=" ".join,
)
def test_values_that_cannot_work(here, drawn, argv):
    """Each names the value or its option, before anything is written."""
    extra = ["--preset", "smoke", *([] if "--out" in argv else ["--out", "run"]), "--data-dir", drawn]
    if "--networks" not in argv:
        extra += TWO
    name = argv[0].split("=")[0]
    sentence = mistake(*extra, *argv)
    assert name in sentence or argv[-1].split("=")[0] in sentence
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--labels", "all"], "argument --labels: invalid choice: 'all'"),
        (["--method", "fast"], "argument --method: invalid choice: 'fast'"),
        (["--preset", "huge"], "argument --preset: invalid choice: 'huge'"),
        (["--epsilon", "1/0"], "argument --epsilon: "),
        (["--epsilon", "nan"], "argument --epsilon: "),
        (["--epsilon", "16/"], "argument --epsilon: "),
        (["--epsilon", "sixteen"], "argument --epsilon: "),
        (["--width", "inf"], "argument --width: "),
        (["--learning-rate", "0.1,fast"], "argument --learning-rate: "),
        (["--augment", "maybe"], "argument --augment: "),
        (["--size", "48.5"], "argument --size: "),
        (["--out", ""], "argument --out: "),
        (["--epsilon", "1e999"], "argument --epsilon: "),
        (["--fold", "5"], "argument --fold: "),
        (["--speed", "9"], "unrecognized arguments: --speed 9"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_words_that_are_no_values(here, argv, message):
    assert misuse(*argv).startswith(message)
    assert list(here.iterdir()) == []


def test_a_backend_that_is_not_here(here, monkeypatch):
    from minisatm import backend

    monkeypatch.setattr(backend, "cupy_problem", lambda: "CuPy is not installed: use --backend numpy.")
    assert (
        mistake("--backend", "cupy", "--preset", "smoke", "--out", "run")
        == "CuPy is not installed: use --backend numpy."
    )
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "content, message",
    [
        ("{cut", "c.json is not valid JSON"),
        (b"\xff\xfe", "c.json is not valid JSON"),
        ("[1]", "c.json"),
        ('"text"', "c.json"),
        ('{"epsilonn": 1}', "c.json has unknown settings epsilonn: known are alpha"),
        ('{"width": "a"}', "width"),
        ('{"seed": 1.5}', "seed"),
        ('{"size": true}', "size"),
        ('{"networks": "vgg16,resnet50"}', "networks"),
        ('{"networks": [1, 2]}', "networks"),
        ('{"weights": null}', "weights"),
        ('{"epsilon": "16/256"}', "epsilon"),
        ('{"epsilon": NaN}', "epsilon"),
        ('{"preset": "huge"}', "unknown preset 'huge': choose toy, smoke, paper"),
        ('{"method": "fast"}', "unknown method 'fast'"),
        ('{"optimizer": "lion"}', "unknown optimi[sz]er 'lion'"),
        ('{"data": "cats"}', "unknown data 'cats'|data 'cats' is not known"),
        ('{"labels": "all"}', "unknown labels 'all'"),
        ('{"backend": "tpu"}', "unknown backend 'tpu'"),
        ('{"fold": 7}', "fold"),
        ('{"schedule": "step"}', "unknown schedule 'step'"),
    ],
)
def test_config_files_that_cannot_work(here, drawn, content, message):
    path = here / "c.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert re.search(message, mistake("--config", path, "--out", "run", "--data-dir", drawn))
    assert [p.name for p in here.iterdir()] == ["c.json"]


def test_a_resumed_config_is_checked_like_any_other(here):
    (here / "run").mkdir()
    (here / "run" / "config.json").write_text('{"size": "big"}')
    assert "size" in mistake("--resume", "run")


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


def mnist(directory, count=200):
    """Four small IDX files."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        pixels, digits = rng.integers(0, 256, (count, 28, 28), np.uint8), (np.arange(count) % 10).astype(np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", pixels), (f"{part}-labels-idx1-ubyte", digits)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            with gzip.open(directory / f"{name}.gz", "wb") as file:
                file.write(head + array.tobytes())
    return directory


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


# The words


def test_help():
    status, out, _ = call("--help")
    words = " ".join(out.split())
    assert status == 0
    for promise in ("our choice", "pixels in [0, 1]", "in pixels (paper 224", "paper 16/256", "e^-5", "--resume"):
        assert promise in words, promise
    for action in train.parser()._actions:
        assert action.help, action.option_strings


def test_every_setting_has_its_option():
    options = {a.dest for a in train.parser()._actions}
    assert set(config.Settings.__dataclass_fields__) <= options | {"preset"}


@pytest.mark.parametrize("text, value", [("16/256", 0.0625), ("0.1", 0.1), ("1/8", 0.125), ("2", 2.0), ("1e-5", 1e-5)])
def test_fractions(text, value):
    assert config.fraction(text) == value


def test_a_word_is_stripped_and_an_empty_one_dropped():
    assert train.words(" vgg16, ,a=resnet50 ,") == ("vgg16", "a=resnet50")
    assert train.numbers("1/2, 0.1") == (0.5, 0.1)


def test_the_paper_preset():
    s = config.from_preset("paper", {})
    assert (s.size, s.batch, s.learning_rate, s.width, s.epsilon, s.alpha) == (224, 8, (1e-5,), 1.0, 16 / 256, None)
    assert (s.networks, s.holdout, s.clip, s.schedule) == (("vgg16", "resnet50"), "resnet101", None, "constant")
    assert (s.iterations, s.clean_iterations, s.loss_norm, s.attack) == (10_000, 10_000, "sum", "r_fgsm")


def test_options_go_before_config_before_preset(here):
    (here / "c.json").write_text('{"preset": "smoke", "seed": 5, "batch": 4}')
    options = vars(train.parser().parse_args(["--config", "c.json", "--seed", "6"]))
    s = train.settings_from(options)
    assert (s.preset, s.seed, s.batch, s.size) == ("smoke", 6, 4, 32)


def test_named_networks():
    def named(*networks):
        return config.Settings(networks=networks).named_networks()

    assert named("vgg16", "resnet50") == {"vgg16": "vgg16", "resnet50": "resnet50"}
    assert list(named("resnet50", "resnet50", "resnet50")) == ["resnet50", "resnet50-2", "resnet50-3"]
    taken = named("resnet50", "resnet50-2=vgg16", "resnet50")
    assert taken == {"resnet50": "resnet50", "resnet50-2": "vgg16", "resnet50-3": "resnet50"}
    assert named("face=resnet50", "resnet50") == {"face": "resnet50", "resnet50": "resnet50"}


def test_default_rates_follow_the_optimiser():
    s = config.Settings()
    assert (s.rate(0, "vgg16"), s.rate(1, "resnet50")) == (0.05, 0.1)
    assert config.Settings(optimizer="adam").rate(0, "vgg16") == 1e-3
    given = config.Settings(learning_rate=(0.3, 0.2))
    assert [given.rate(k, "vgg16") for k in (0, 1, -1)] == [0.3, 0.2, 0.2]  # the hold-out takes the last


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
    assert re.fullmatch(r"error: alpha 0\.5 must be below epsilon 0\.09375: [^\n]*\.\n", result.stderr)
    result = subprocess.run([*base, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and result.stderr == "" and "usage: python -m minisatm.train" in result.stdout
    assert list(tmp_path.iterdir()) == []
