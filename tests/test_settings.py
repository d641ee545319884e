"""Settings: each is declared once, and checked with one sentence wherever it comes from; a mistake writes nothing."""

import dataclasses
import json
import math
import re
import typing
from pathlib import Path

import pytest
from commands import TWO, call, mistake, misuse

from minisatm import cli, train, units
from minisatm.defences.settings import RELATIVES
from minisatm.run import phases
from minisatm.run import settings as config
from minisatm.setting import OURS, declared, setting

each_setting = pytest.mark.parametrize("s", config.declarations(), ids=lambda s: s.name)

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
        (["--labels", "all"], "argument --labels: unknown labels 'all': choose strict, "),
        (["--method", "fast"], "argument --method: unknown method 'fast': choose compare, "),
        (["--preset", "huge"], "argument --preset: unknown preset 'huge': choose toy, smoke, paper; "),
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
        (["--speed", "9"], "there is no option --speed (did you mean --seed?)"),
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


# Declarations, help and words


def test_help():
    status, out, _ = call("--help")
    words = " ".join(out.split())
    assert status == 0
    for promise in ("our choice", "pixels of [0, 1]", "in pixels (paper 224", "paper 16/256", "e^-5", "--resume"):
        assert promise in words, promise
    for action in train.parser()._actions:
        assert action.help, action.option_strings


def test_every_setting_has_its_option():
    options = {a.dest for a in train.parser()._actions}
    assert set(config.Settings.__dataclass_fields__) <= options


@each_setting
def test_every_declaration_is_complete(s):
    assert s.help and s.group in config.GROUPS and s.type in typing.get_type_hints(config.Settings).values()
    for value in (s.default, *([] if s.paper is None else [s.paper])):
        s.check_type(value)
        s.check_value(value)
        assert s.text(value), "unset must say what an empty value means"
    assert set(s.of) <= set(phases.PLANS)
    if s.type in (int, float, float | None, tuple[float, ...]) and not s.choices:
        assert s.least >= 0  # no setting may be negative


@each_setting
def test_every_setting_is_in_the_help_and_in_the_table(monkeypatch, s):
    monkeypatch.setenv("COLUMNS", "1000")  # one line for each option, or two
    default = s.text(getattr(config.from_preset("toy", {}), s.name))
    (line,) = re.findall(rf"^  {s.option} .*(?:\n {{20}}.*)?", call("--help")[1], flags=re.M)
    assert s.meaning in line and s.unit in s.meaning and line.endswith(f"default {default})")
    assert f"({s.origin}; " in line or not s.origin
    assert not s.choices or all(str(choice) in line for choice in s.choices)
    (row,) = [row for row in config.table().splitlines() if row.startswith(f"| `{s.option}` |")]
    assert row.count("|") == 8 and s.meaning in row and s.range in row and s.origin in row and f"| {default} |" in row


@each_setting
def test_every_type_is_checked(here, s):
    """In config.json, and on the command line where not every word will do."""
    (here / "c.json").write_text(json.dumps({s.name: {"a": 1}}))
    sentence = mistake("--config", "c.json", "--out", "run")
    if s.name == "preset":
        assert sentence == "unknown preset {'a': 1}: choose toy, smoke, paper."
    else:
        assert re.fullmatch(rf"{s.option} must be an? [^.]*, not {{'a': 1}}\.|{s.option} must be true or .*", sentence)
    if s.choices or s.type not in (str, tuple[str, ...]):
        assert misuse(s.option, "x!").startswith(f"argument {s.option}: ")
    assert [p.name for p in here.iterdir()] == ["c.json"]


LIMITED = [(s, k) for s in config.declarations() for k in (0, 1) if math.isfinite((s.least, s.most)[k])]


@pytest.mark.parametrize("s, k", LIMITED, ids=lambda v: v.name if isinstance(v, config.Setting) else "")
def test_every_limit_is_checked(here, s, k):
    limit = (s.least, s.most)[k]
    beyond = limit + (1 if k else -1)
    changes = {s.name: [beyond] if s.type == tuple[float, ...] else int(beyond) if s.type is int else beyond}
    (here / "c.json").write_text(json.dumps({"preset": "smoke"} | changes))
    sentences = [
        mistake("--config", "c.json", "--out", "run"),
        mistake("--preset", "smoke", f"{s.option}={beyond:.17g}", "--out", "run"),
    ]
    if s.name in ("epsilon", "alpha"):  # attacks say it of these, with the unit
        assert all(sentence.startswith(f"{s.name} ") for sentence in sentences)
    else:
        end = f"is too {('small', 'large')[k]}: {limit:g} at {('least', 'most')[k]}."
        assert sentences == [f"{s.option} {beyond:g} {end}"] * 2
    assert [p.name for p in here.iterdir()] == ["c.json"]


CHOSEN = [s for s in config.declarations() if s.choices]


@pytest.mark.parametrize("s", CHOSEN, ids=lambda s: s.name)
def test_every_choice_is_checked(here, s):
    other = 99 if s.type is int else "no such"
    (here / "c.json").write_text(json.dumps({s.name: other}))
    known = ", ".join(map(str, s.choices))
    expected = f"unknown {s.name.replace('_', ' ')} {other!r}: choose {known}."
    assert mistake("--config", "c.json", "--out", "run") == expected
    assert misuse(s.option, other) == f"argument {s.option}: {expected[:-1]}; see --help.\n"
    assert config.choices(s.name) == s.choices


def test_a_new_setting_is_one_field(monkeypatch, here):
    """One declaration gives the option, the help, the table, the default and the checks."""

    @dataclasses.dataclass
    class Settings(config.Settings):
        gain: float = setting(1.5, "a new setting", config.LOSSES, least=0, most=2, unit="volts", source=OURS)

    monkeypatch.setattr(config, "Settings", Settings)
    assert "--gain X a new setting, in volts (our choice; default 1.5)" in " ".join(call("--help")[1].split())
    assert "| `--gain` | a new setting, in volts | 0 to 2 | our choice | 1.5 | 1.5 | 1.5 |" in config.table()
    assert train.settings_from({"preset": "smoke", "gain": 0.5}).gain == 0.5
    assert mistake("--preset", "smoke", "--gain", "5/2") == "--gain 2.5 is too large: 2 at most."
    (here / "c.json").write_text('{"gain": "much"}')
    assert mistake("--config", "c.json") == "--gain must be a finite number, not 'much'."


def test_who_reads_a_relatives_setting():
    """The declarations and the phases agree."""
    for phase, names in phases.OWN_SETTINGS.items():
        for name in names:
            methods = [m for m, plan in phases.PLANS.items() if phase in plan]
            assert list(declared(config.Settings)[name].of) == methods
    assert {s.name for s in config.declarations() if s.group == RELATIVES} == {
        "own_examples",
        *(name for names in phases.OWN_SETTINGS.values() for name in names),
    }


def test_a_config_of_before_is_read(here):
    """Names and values of a config.json as runs have written it since the first release."""
    written = dict(
        preset="smoke", method="satm", networks=["vgg16", "resnet50"], weights=[], holdout="none", width=0.0625,
        size=32, dropout=0.0, data="faces", data_dir="", augment=True, faces=600, fold=0, labels="strict",
        epsilon=0.0625, alpha=None, attack="r_fgsm", r_adv=1.0, r_da=0.1, domain="reversal", own_examples=False,
        r_embedding=0.01, temperature=20.0, r_penalty=0.03, loss_norm="sum", craft_mode="eval", bn_batches="joint",
        optimizer="sgd", learning_rate=[], da_learning_rate=None, momentum=0.9, weight_decay=0.0, schedule="cosine",
        warmup=5, clip=1.0, batch=16, clean_iterations=40, iterations=20, patience=5, evaluate_every=20,
        evaluate_images=64, test_images=200, backend="numpy", tf32=False, seed=0,
    )  # fmt: skip
    (here / "old.json").write_text(json.dumps(written))
    settings = config.from_preset("smoke", {})
    assert config.Settings(**config.read(here / "old.json")).check() == settings
    settings.save(here / "new.json")
    assert json.loads((here / "new.json").read_text()) == written


@pytest.mark.parametrize("text, value", [("16/256", 0.0625), ("0.1", 0.1), ("1/8", 0.125), ("2", 2.0), ("1e-5", 1e-5)])
def test_fractions(text, value):
    assert units.fraction(text) == value


def test_a_word_is_stripped_and_an_empty_one_dropped():
    assert cli.words(" vgg16, ,a=resnet50 ,") == ("vgg16", "a=resnet50")
    assert cli.numbers("1/2, 0.1") == (0.5, 0.1)


def test_the_paper_preset():
    assert config.choices("preset") == tuple(config.PRESETS)
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


def test_the_table_in_the_docs_is_the_declarations():
    text = (Path(__file__).parent.parent / "minisatm" / "USING.md").read_text()
    assert config.table() in text
