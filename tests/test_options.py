"""Options of the commands: written in full, read by the run that is asked for, and names with the nearest known one."""

import contextlib
import dataclasses
import io
import json
import re

import pytest
from commands import call, mistake, misuse

from minisatm import InputError, attacks, backend, classify, data, doctor, evaluate, models, optim, report, train
from minisatm.data import faces
from minisatm.inputs import did_you_mean, listed, nearest, unknown
from minisatm.run import settings as config
from minisatm.setting import When, setting
from weights_convert import __main__ as convert

# What a run does not read

UNREAD = [
    ("--temperature 5 --method satm", "--temperature 5", "--method distillation"),
    ("--r-penalty 1 --method clean", "--r-penalty 1", "--method penalty"),
    ("--r-embedding 1", "--r-embedding 1", "--method cascade"),
    ("--own-examples on --method satm", "--own-examples on", "--method compare, ensemble or cascade"),
    ("--faces 99 --data mnist", "--faces 99", "--data faces and no --data-dir"),
    ("--faces 99 --data-dir drawn", "--faces 99", "--data faces and no --data-dir"),
    ("--fold 1 --data mnist", "--fold 1", "--data faces or adience"),
    ("--fold 1 --data folder --data-dir x", "--fold 1", "--data faces or adience"),
    ("--labels mapped --data folder", "--labels mapped", "--data faces or adience"),
    ("--labels strict --data mnist", "--labels strict", "--data faces or adience"),
    ("--dropout 0.5 --networks resnet20,lenet --holdout none", "--dropout 0.5", "a vgg16"),
    ("--r-da 0.5 --domain none", "--r-da 0.5", "a --domain other than none"),
    ("--r-da 0.5 --method standard", "--r-da 0.5", "--method compare, ensemble or satm"),
    ("--domain adda --r-da 0", "--domain adda", "--r-da above 0"),
    ("--domain reversal --method clean", "--domain reversal", "--method compare, ensemble or satm"),
    ("--da-learning-rate 0.1 --domain none", "--da-learning-rate 0.1", "a --domain other than none and --r-da above 0"),
    ("--da-learning-rate 0.1 --r-da 0", "--da-learning-rate 0.1", "a --domain other than none and --r-da above 0"),
    ("--momentum 0.5 --optimizer adam", "--momentum 0.5", "--optimizer sgd"),
    ("--epsilon 1/8 --attack deepfool", "--epsilon 32/256", "an --attack that has epsilon"),
    ("--epsilon 1/8 --attack carlini_wagner_l2", "--epsilon 32/256", "an --attack that has epsilon"),
    *((f"--{option} --method {method}", f"--{option}", "--method compare, standard, ensemble, cascade or satm")
      for option in ("r-adv 2", "loss-norm half", "craft-mode train", "bn-batches separate")
      for method in ("clean", "distillation", "penalty")),
]  # fmt: skip


@pytest.mark.parametrize("argv, given, needed", UNREAD, ids=[argv for argv, *_ in UNREAD])
def test_an_option_that_the_run_does_not_read(argv, given, needed):
    with pytest.raises(InputError) as problem:
        train.settings_from(vars(train.parser().parse_args(argv.split())))
    assert str(problem.value) == f"{given} has no effect: only a run with {needed} reads it, so leave it out."


def test_a_run_that_would_not_read_an_option_is_not_begun(here):
    sentence = mistake("--temperature", "5", "--method", "satm", "--data", "folder", "--data-dir", "nowhere")
    assert sentence.startswith("--temperature 5 has no effect")
    assert list(here.iterdir()) == []


READ = [
    "--temperature 5 --method distillation", "--own-examples on --method ensemble", "--own-examples on",
    "--faces 99", "--fold 1 --data adience --data-dir x", "--fold 1 --data-dir drawn", "--labels mapped --data adience",
    "--dropout 0.5", "--dropout 0.5 --networks resnet20,lenet --holdout vgg16",
    "--dropout 0.5 --networks a=vgg16,lenet",
    "--r-da 0.5 --domain adda", "--r-da 0 --domain none", "--r-da 0", "--domain none", "--da-learning-rate 0.1",
    "--momentum 0.5", "--epsilon 1/8 --attack pgd", "--r-adv 2 --method standard",
    "--craft-mode train --method cascade",
    "--bn-batches separate --method satm", "--loss-norm half --method ensemble", "--iterations 9 --method clean",
    "--warmup 3 --schedule constant", "--holdout none", "--weight-decay 0.1 --optimizer adam",
]  # fmt: skip


@pytest.mark.parametrize("argv", READ)
def test_an_option_that_the_run_reads(argv):
    options = vars(train.parser().parse_args(argv.split()))
    settings = train.settings_from(options)
    assert all(getattr(settings, name) == value for name, value in options.items() if name != "iterations")


def test_a_config_and_a_preset_may_hold_all_settings(here):
    """Only what stands on the command line must have an effect."""
    for method in config.choices("method"):
        for preset in config.PRESETS:
            assert train.settings_from({"preset": preset, "method": method}).method == method
    config.from_preset("smoke", {"method": "distillation", "temperature": 5.0}).save(here / "c.json")
    settings = train.settings_from({"config": here / "c.json", "method": "satm"})
    assert settings.temperature == 5
    with pytest.raises(InputError, match="^--r-penalty 2 has no effect: only a run with --method penalty reads it"):
        train.settings_from({"config": here / "c.json", "method": "satm", "r_penalty": 2.0})


def test_a_new_setting_says_itself_when_it_is_read(monkeypatch):
    @dataclasses.dataclass
    class Settings(config.Settings):
        gain: float = setting(1.5, "a new setting", config.LOSSES, least=0, of=("satm", "clean"),
                              when=When("--seed 3", lambda s: s.seed == 3))  # fmt: skip

    monkeypatch.setattr(config, "Settings", Settings)
    assert train.settings_from({"method": "satm", "seed": 3, "gain": 2.0}).gain == 2
    needed = "--method satm or clean and --seed 3"
    assert (
        mistake("--gain", "2", "--data-dir", "nowhere")
        == f"--gain 2 has no effect: only a run with {needed} reads it, so leave it out."
    )
    assert "--gain X satm and clean only: a new setting; only with --seed 3 (" in " ".join(call("--help")[1].split())


def test_whether_a_run_reads_it_is_what_the_help_says(monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    for s in config.declarations():
        if s.when:
            assert f"; only with {s.when.words}" in s.meaning and s.meaning in call("--help")[1]


def test_epsilon_of_an_evaluation_whose_attacks_have_none():
    from minisatm.evaluation.request import settings_of
    from minisatm.evaluation.setting import AttackSetting

    with pytest.raises(InputError, match="^--epsilon has no effect: deepfool, carlini_wagner_l2 has no epsilon"):
        settings_of(["deepfool", "carlini_wagner_l2"], ["1/8"], None, [], AttackSetting("fgsm", 0.1), (4, 4, 1))
    both = settings_of(["deepfool", "fgsm"], ["1/8"], None, ["steps=2"], AttackSetting("fgsm", 0.1), (4, 4, 1))
    assert [s.attack for s in both] == ["deepfool", "fgsm"]


# Every command has the same parser


COMMANDS = {
    "train": (train.main, [], "--epsilon --method --networks --r-da --out --resume"),
    "evaluate": (evaluate.main, ["RUN"], "--epsilon --save-examples --no-curves --images"),
    "classify": (classify.main, ["a.png", "--weights", "x.h5"], "--weights --labels"),
    "doctor": (doctor.main, [], "--quick"),
    "faces": (faces.main, ["out"], "--images --images-per-subject --seed"),
    "weights_convert": (convert.main, ["a.pth", "o.h5"], "--model --classes --partial"),
    "report": (report.main, ["RUN"], "--help"),
}


def answer(main, argv):
    """What a command prints before it leaves with status 2: (stdout, the one line on stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(argv)
        except SystemExit as leave:
            status = leave.code
    assert status == 2 and err.getvalue().startswith("error: ") and err.getvalue().count("\n") == 1, err.getvalue()
    return out.getvalue(), err.getvalue()[len("error: ") : -1]


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_written_in_full(here, command):
    main, argv, options = COMMANDS[command]
    for option in options.split():
        for wrong in (option[:-1], option[:-1] + "x", option.upper()):
            for written in ([wrong], [f"{wrong}=1"]):
                sentence = answer(main, [*argv, *written])[1]
                assert sentence.startswith(f"there is no option {wrong} (did you mean --"), sentence
                assert option in sentence
    assert answer(main, [*argv, "--zzzzzz"])[1] == "there is no option --zzzzzz; see --help."
    assert answer(main, [*argv, "-q"])[1].startswith("-q is neither an option nor the value of one")
    assert list(here.iterdir()) == []


TWICE = [
    ("train", ["--epsilon", "1/256", "--epsilon", "2/256"], "--epsilon 2/256 counts, not --epsilon 1/256"),
    ("train", ["--method=clean", "--batch", "4", "--method=satm"], "--method=satm counts, not --method=clean"),
    ("evaluate", ["RUN", "--images", "5", "--images=6"], "--images=6 counts, not --images 5"),
    ("faces", ["out", "--seed", "1", "--seed", "2"], "--seed 2 counts, not --seed 1"),
    ("weights_convert", ["a", "--model", "vgg16", "--model", "lenet"], "--model lenet counts, not --model vgg16"),
]


@pytest.mark.parametrize(
    "command, argv, taken", TWICE, ids=lambda value: " ".join(value) if type(value) is list else ""
)
def test_of_an_option_given_twice_the_last_one_counts(here, command, argv, taken):
    out, _ = answer(COMMANDS[command][0], [*argv, "--zzzzzz"])
    assert re.fullmatch(rf"note      --\w+ is given more than once: {taken}\n", out)
    once = argv[: len(argv) - 2] if command != "evaluate" else ["RUN", "--images", "5", "--no-curves", "--no-curves"]
    assert answer(COMMANDS[command][0], [*once, "--zzzzzz"])[0] == ""


def test_what_stands_after_two_hyphens_is_no_option():
    with pytest.raises(SystemExit), contextlib.redirect_stderr(io.StringIO()) as err:
        report.main(["--", "--run", "--run"])
    assert "no option" not in err.getvalue() and "--run is neither an option" in err.getvalue()


@pytest.mark.parametrize("text", ["1e3", "48.5", "nan", "", "ten", "1/2", "0x10"])
def test_numbers_that_are_not_whole(here, text):
    for main, argv, option in (
        (train.main, [], "--size"), (evaluate.main, ["RUN"], "--images"), (evaluate.main, ["RUN"], "--seed"),
        (faces.main, ["out"], "--images"), (convert.main, ["a", "b", "--model", "vgg16"], "--classes"),
    ):  # fmt: skip
        sentence = f"argument {option}: {text!r} is not a whole number, write it like 1000; see --help."
        assert answer(main, [*argv, f"{option}={text}"])[1] == sentence


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "1/0", "a", "", "1,5/", "0.1 0.2"])
@pytest.mark.parametrize("option", ["--epsilon", "--learning-rate", "--width", "--clip", "--momentum"])
def test_numbers_that_are_none(here, option, text):
    if option == "--learning-rate" and text in ("", "1,5/"):
        text = "1/"
    sentence = misuse(f"{option}={text}")
    assert re.fullmatch(
        rf"argument {option}: '.*' is not a number, write it like 0.1 or 16/256; see --help.\n", sentence
    )


def test_an_option_without_its_value(here):
    expected = "argument --alpha: give it a value (with = where the value begins with -); see --help.\n"
    assert misuse("--alpha", "-1/256") == misuse("--alpha") == expected


# Names


NAMES = [
    ("--method", "SATM", "satm"), ("--method", "esemble", "ensemble"), ("--preset", "Smoke", "smoke"),
    ("--data", "MNIST", "mnist"), ("--attack", "FGSM", "fgsm"), ("--attack", "r-fgsm", "r_fgsm"),
    ("--attack", "carlini", "carlini_wagner_l2 or carlini_wagner_linf or"), ("--backend", "CuPy", "cupy"),
    ("--domain", "ADDA", "adda"), ("--optimizer", "SGD", "sgd"), ("--optimizer", "adamw", "adam"),
    ("--schedule", "cos", "cosine"), ("--labels", "strict-fix", "strict+fix"), ("--craft-mode", "Eval", "eval"),
]  # fmt: skip


@pytest.mark.parametrize("option, name, near", NAMES)
def test_the_nearest_of_the_choices(here, option, name, near):
    what = option[2:].replace("-", " ")
    near = near.replace(" or carlini_wagner_linf or", ", carlini_wagner_linf or carlini_wagner_l0")
    sentence = misuse(option, name)
    assert sentence.startswith(f"argument {option}: unknown {what} {name!r}: choose ")
    assert sentence.endswith(f" (did you mean {near}?); see --help.\n")
    (here / "c.json").write_text(json.dumps({option[2:].replace("-", "_"): name}))
    assert mistake("--config", "c.json").endswith(f" (did you mean {near}?).")


NEAR_NETWORKS = [
    ("--networks VGG16,resnet50", "vgg16"), ("--networks vgg-16,lenet", "vgg16"),
    ("--networks a=vgg16,b=resnet_50", "resnet50"), ("--holdout ResNet101", "resnet101"),
]  # fmt: skip


@pytest.mark.parametrize("argv, near", NEAR_NETWORKS)
def test_the_nearest_network(here, argv, near):
    assert mistake(*argv.split()).endswith(f" (did you mean {near}?).")


@pytest.mark.parametrize(
    "call, near",
    [
        (lambda: models.build("VGG-16"), "vgg16"),
        (lambda: models.build("resnet50", stride="1x1"), "stride_in"),
        (lambda: attacks.craft("PGD", None, None, None, epsilon=0.1, alpha=None, rng=None), "pgd"),
        (lambda: backend.require("CUPY"), "cupy"),
        (lambda: data.load("Adience", "."), "adience"),
        (lambda: optim.build("Adam", {}, 0.1), "adam"),
        (lambda: optim.schedule("Cosine", 0, 1), "cosine"),
        (lambda: config.from_preset("Paper", {}), "paper"),
    ],
    ids=["network", "field", "attack", "backend", "data", "optimiser", "schedule", "preset"],
)
def test_the_nearest_name_from_python(call, near):
    with pytest.raises(InputError, match=rf" \(did you mean {near}\?\)\.$"):
        call()


def test_the_nearest_setting_in_a_config(here):
    (here / "c.json").write_text('{"Epsilon": 1}')
    assert mistake("--config", "c.json").endswith(" (did you mean epsilon?).")


@pytest.mark.parametrize(
    "name, near",
    [
        ("SATM", ["satm"]), ("vgg-16", ["vgg16"]), ("ResNet-50", ["resnet50"]), ("resnet", ["resnet50", "resnet20"]),
        ("epsilonn", ["epsilon"]), ("", []), ("-", []), (3, []), ("xyz", []), ("satm", []),
    ],
)  # fmt: skip
def test_the_nearest_name(name, near):
    known = ("satm", "vgg16", "resnet50", "resnet20", "epsilon")
    assert nearest(name, known) == near
    assert (f"(did you mean {' or '.join(near)}?)" in did_you_mean(name, known)) == bool(near)
    assert unknown("thing", name, known).startswith(f"unknown thing {name!r}: choose satm, vgg16, resnet50, resnet20")


def test_lists_in_words():
    assert [listed("abc"[:n], "or") for n in (1, 2, 3)] == ["a", "a or b", "a, b or c"]
