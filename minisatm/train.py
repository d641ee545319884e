"""The main command, python -m minisatm.train: with no arguments the whole comparison on drawn faces, in minutes."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from . import models
from .cli import Parser, boolean, folder, numbers, words
from .errors import MISTAKES, InputError, tell
from .run import settings as config
from .run.folder import RunFolder
from .run.monitor import Interrupted
from .units import fraction

EXAMPLES = """examples:
  python -m minisatm.train                                   the comparison on drawn faces, a few minutes
  python -m minisatm.train --preset smoke                    a tiny SATM run, in seconds
  python -m minisatm.train --data adience --data-dir DIR --size 64
  python -m minisatm.train --preset paper --data adience --data-dir DIR --weights vgg16.h5,resnet50.h5

(paper) marks the paper's own value, (our choice) one that it leaves open, [value] what a run with no arguments takes.
A run goes to runs/<date>-<method>-<networks>
and is never overwritten; Ctrl-C saves it, and --resume goes on."""


# What each option is to argparse, by group; config.Settings holds their defaults.
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "the run": {
        "preset": dict(
            choices=list(config.PRESETS),
            help="toy (no arguments), smoke (seconds) or paper (224x224, batch 8, rate 1e-5, 10,000 iterations)",
        ),
        "method": dict(
            help="compare: clean, then control, ensemble and satm from the same start; or one of them, or standard "
            "adversarial training, cascade, distillation, penalty, after clean (smoke, paper: satm)"
        ),
        "out": dict(type=folder, metavar="DIR", help="run folder; must not exist"),
        "resume": dict(type=Path, metavar="DIR", help="go on with an interrupted run"),
        "config": dict(type=Path, metavar="FILE", help="settings from another run's config.json"),
        "seed": dict(type=int, help="of everything random"),
        "backend": dict(help="where the arrays live: in main memory, or on a GPU"),
        "tf32": dict(action="store_true", help="on a GPU, convolutions in TF32 (as PyTorch's default), else float32"),
    },
    "networks": {
        "networks": dict(
            type=words, metavar="A,B", help=f"kinds ({', '.join(models.NAMES)}) or name=kind (paper: vgg16,resnet50)"
        ),
        "holdout": dict(
            metavar="KIND", help="attacks the others, is never trained against; none for none (paper: resnet101)"
        ),
        "weights": dict(
            type=words, metavar="A.h5,B.h5", help="start from these files, one per network, then the hold-out's"
        ),
        "width": dict(type=fraction, help="every channel count times this (paper 1)"),
        "size": dict(type=int, help="side of the input in pixels (paper 224)"),
        "dropout": dict(
            type=float,
            help="of VGG's dense layers (our choice in the paper preset 0.5); Tramer's networks keep their own",
        ),
    },
    "data": {
        "data": dict(help="the data set; faces are drawn where no --data-dir is given"),
        "data-dir": dict(metavar="DIR", help="where the data set lies"),
        "faces": dict(type=int, metavar="N", help="how many faces to draw"),
        "fold": dict(type=int, help="the test fold of Adience and faces"),
        "labels": dict(help="which of Adience's age labels count"),
        "augment": dict(type=boolean, metavar="on|off", help="mirror and shift the training images"),
    },
    "attack and losses (pixels in [0, 1])": {
        "attack": dict(help="crafted in training and tests (paper: r_fgsm, called R+Step-LL there)"),
        "epsilon": dict(type=fraction, help="size of the perturbation (paper 16/256)"),
        "alpha": dict(type=fraction, help="size of its random part, below epsilon (paper, and none: epsilon/2)"),
        "r-adv": dict(type=float, help="weight of the adversarial loss (our choice 1)"),
        "r-da": dict(type=float, help="weight of the domain loss (our choice 0.1)"),
        "domain": dict(
            help="of ensemble and satm: classifier of features behind a gradient reversal (paper; strength 1, width "
            "256, features of fc7 / the global average pool: our choice), or against the network (adda)"
        ),
        "own-examples": dict(
            type=boolean, metavar="on|off", help="ensemble, cascade: a network's own among its sources (Tramer: on)"
        ),
        "r-embedding": dict(type=float, help="cascade: weight of the unified embedding (our choice 0.01)"),
        "temperature": dict(type=float, help="distillation: of teacher and student (Papernot et al. 20)"),
        "r-penalty": dict(type=float, help="penalty: weight of the squared input gradient (our choice 0.03)"),
        "loss-norm": dict(help="sum of clean and adversarial loss (paper), or half of it: their mean (Tramer)"),
        "craft-mode": dict(help="batch norm while crafting (our choice eval)"),
        "bn-batches": dict(help="clean and adversarial images as one batch (our choice) or two"),
    },
    "optimisation": {
        "optimizer": dict(help="sgd has momentum (paper: sgd)"),
        "learning-rate": dict(
            type=numbers,
            metavar="R[,R]",
            help="one for all networks or one each, the hold-out takes the last (paper 1e-5, printed there as "
            "e^-5; else sgd 0.05 for vgg16 and 0.1 for residual networks, adam 1e-3)",
        ),
        "da-learning-rate": dict(type=float, help="the domain classifier's own, times r_da (none: its network's)"),
        "momentum": dict(type=float, help="of sgd (our choice 0.9)"),
        "weight-decay": dict(type=float, help="pulls weights to zero"),
        "schedule": dict(help="of the learning rate (paper preset constant)"),
        "warmup": dict(type=int, help="iterations of linear warm-up"),
        "clip": dict(type=float, help="largest gradient norm; 0 for no limit"),
        "batch": dict(type=int, help="images per step (paper 8)"),
        "iterations": dict(type=int, help="steps of the method (paper 10,000)"),
        "clean-iterations": dict(type=int, help="steps of the fine-tuning before it; 0 skips it"),
        "patience": dict(
            type=int, help="stop after so many evaluations without a lower validation loss; 0 never (our choice 5)"
        ),
        "evaluate-every": dict(type=int, metavar="ITERATIONS", help="how often to validate (0: once an epoch)"),
        "evaluate-images": dict(type=int, help="of each part, when validating"),
        "test-images": dict(type=int, help="measure on so many of the test images (0: all)"),
    },
}


def _default(name: str) -> str:
    """What a run with no arguments takes, for the help."""
    value = getattr(config.from_preset("toy", {}), name.replace("-", "_"), "")
    if name == "preset" or value in ("", (), False):
        return ""
    return f" [{','.join(value) if isinstance(value, tuple) else 'none' if value is None else value}]"


def parser() -> argparse.ArgumentParser:
    """The command line; options not given stay out of the namespace, so that presets and --resume fill them."""
    p = Parser(
        prog="python -m minisatm.train", usage="%(prog)s [options]", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter, argument_default=argparse.SUPPRESS,
    )  # fmt: skip
    for title, options in OPTIONS.items():
        group = p.add_argument_group(title)
        for name, settings in options.items():
            known = config.CHOICES.get(name.replace("-", "_"))
            settings = settings if known is None else {"choices": known, **settings}
            group.add_argument(f"--{name}", **settings | {"help": settings["help"] + _default(name)})
    return p


def settings_from(options: dict[str, Any]) -> config.Settings:
    """Settings from a preset, a --config file and the options, each over the one before."""
    if "config" in options and "preset" in options:
        raise InputError("--config holds a preset's settings already: leave out --preset.")
    base = config.read(options["config"]) if "config" in options else {}
    own = {f.name for f in fields(config.Settings)}
    changes = {**base, **{k: v for k, v in options.items() if k in own}}
    if changes.get("clip") == 0:
        changes["clip"] = None
    preset = options.get("preset", base.get("preset", "toy"))
    if changes.get("method") == "clean":
        # Clean training is the fine-tuning itself: its steps are those asked for under either name.
        asked = [options[k] for k in ("clean_iterations", "iterations") if k in options]
        if asked:
            changes["clean_iterations"] = sum(asked)
    return config.from_preset(preset, {k: v for k, v in changes.items() if k != "preset"})


def resumed_settings(saved: dict[str, Any], where: dict[str, Any]) -> config.Settings:
    """A run's settings, perhaps on another backend than it began on."""
    if where.get("backend") == "numpy":
        where = {"tf32": False, **where}
    return config.Settings(**{**saved, **where}).check()


def default_out(settings: config.Settings) -> Path:
    name = "-".join([time.strftime("%Y%m%d-%H%M%S"), settings.method, *settings.named_networks()])
    path, number = Path("runs") / name, 2
    while path.exists():
        path, number = Path("runs") / f"{name}-{number}", number + 1
    return path


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 2 for a user's mistake or a run that diverged, with one sentence; 130 for Ctrl-C."""
    from .run import experiment

    options = vars(parser().parse_args(argv))
    out: Path | None = None
    try:
        if "resume" in options:
            where = {k: options[k] for k in ("backend", "tf32") if k in options}
            others = sorted(set(options) - {"resume", *where})
            if others:
                raise InputError(
                    f"--resume goes on with the run's own settings (but --backend and --tf32): leave out "
                    f"--{others[0].replace('_', '-')}."
                )
            out = RunFolder.open(options["resume"]).path
            report = experiment.run_on(out, resumed_settings(config.read(out / "config.json"), where))
        else:
            settings = settings_from(options)
            out = options.get("out") or default_out(settings)
            report = experiment.run_new(settings, out)
    except MISTAKES as problem:
        return tell(problem, out, "not enough memory: use a smaller --batch, --size or --width.")
    except (Interrupted, KeyboardInterrupt):
        resume = out is not None and (out / "last.h5").exists()
        print(
            "\ninterrupted: "
            + (f"go on with  python -m minisatm.train --resume {out}" if resume else "nothing was trained yet"),
            file=sys.stderr,
        )
        return 130
    print(f"\nreport    {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
