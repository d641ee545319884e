"""python -m minisatm.train: train networks by SATM and by other methods, measure them, and write a report."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, get_args

from .cli import READERS, Parser, folder, print_any_name
from .errors import MISTAKES, InputError, tell
from .run import settings as config
from .run.folder import RunFolder
from .run.monitor import Interrupted

EXAMPLES = """examples:
  python -m minisatm.train                                   the comparison on drawn faces, a few minutes
  python -m minisatm.train --preset smoke                    a tiny SATM run, in seconds
  python -m minisatm.train --data adience --data-dir DIR --size 64
  python -m minisatm.train --preset paper --data adience --data-dir DIR --weights vgg16.h5,resnet50.h5

In brackets: the paper's value, or "our choice" where the paper gives none, or who else proposed the value; then the
default, which a run with no options takes. A number may be a fraction, like 16/256.
A run never overwrites another. Ctrl-C saves it, and --resume goes on with it."""


def parser() -> argparse.ArgumentParser:
    """The command line; options not given stay out of the namespace, so that presets and --resume fill them."""
    p = Parser(
        prog="python -m minisatm.train", usage="%(prog)s [options]", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter, argument_default=argparse.SUPPRESS,
    )  # fmt: skip
    groups = {title: p.add_argument_group(title) for title in config.GROUPS}
    for s in config.declarations():
        reader, shown = next(READERS[kind] for kind in (s.type, *get_args(s.type)) if kind in READERS)
        alone: dict[str, Any] = dict(nargs="?", const=True) if s.type is bool else {}  # --tf32 is --tf32 on
        metavar = s.metavar or (None if s.choices else shown)
        groups[s.group].add_argument(s.option, type=reader, choices=s.choices or None, metavar=metavar,
                                     help=config.help_text(s), **alone)  # fmt: skip
    for option, reader, metavar, text in (
        ("--config", Path, "FILE", "start from the settings in another run's config.json, not from a preset"),
        ("--out", folder, "DIR", "folder to make for the run (default runs/<date>-<method>-<networks>)"),
        ("--resume", Path, "DIR", "go on with the interrupted run in this folder; takes only --backend and --tf32"),
    ):
        groups[config.RUN].add_argument(option, type=reader, metavar=metavar, help=text)
    return p


def settings_from(options: dict[str, Any]) -> config.Settings:
    """Settings from a preset, a --config file and the options, each over the one before."""
    if "config" in options and "preset" in options:
        raise InputError("--config holds a preset's settings already: leave out --preset.")
    base = config.read(options["config"]) if "config" in options else {}
    changes = {k: v for k, v in (base | options).items() if k not in ("preset", "config", "out")}
    if changes.get("clip") == 0:
        changes["clip"] = None
    # Clean training is the fine-tuning itself: its steps are those asked for under either name.
    asked = [options[k] for k in ("clean_iterations", "iterations") if k in options]
    if asked and changes.get("method") == "clean":
        changes["clean_iterations"] = sum(asked)
    settings = config.from_preset((base | options).get("preset", "toy"), changes)
    for s in config.declarations():
        if s.name in options:  # a preset and a config.json may hold what this run does not read
            s.check_read(settings)
    return settings


def resumed_settings(saved: dict[str, Any], where: dict[str, Any]) -> config.Settings:
    """A run's settings with the backend and tf32 that are given for the rest of it."""
    if where.get("backend", "cupy") != "cupy":  # only a GPU has TF32
        where = {"tf32": False, **where}
    return config.Settings(**{**saved, **where}).check()


def default_out(settings: config.Settings) -> Path:
    """The folder of a run without --out: runs/<date>-<method>-<networks>, numbered where that exists."""
    name = "-".join([time.strftime("%Y%m%d-%H%M%S"), settings.method, *settings.named_networks()])
    path, number = Path("runs") / name, 2
    while path.exists():
        path, number = Path("runs") / f"{name}-{number}", number + 1
    return path


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 2 for a user's mistake or a run that diverged, with one sentence; 130 for Ctrl-C."""
    from .run import experiment

    print_any_name()
    options = vars(parser().parse_args(argv))
    out: Path | None = None
    try:
        if "resume" in options:
            where = {k: v for k, v in options.items() if k in ("backend", "tf32")}
            if others := sorted(set(options) - {"resume", *where}):
                kept = "--resume goes on with the run's own settings (but --backend and --tf32)"
                raise InputError(f"{kept}: leave out --{others[0].replace('_', '-')}.")
            out = RunFolder.open(options["resume"]).path
            report = experiment.run_on(out, resumed_settings(config.read(out / "config.json"), where))
        else:
            settings = settings_from(options)
            out = options.get("out") or default_out(settings)
            report = experiment.run_new(settings, out)
    except MISTAKES as problem:
        return tell(problem, out, "not enough memory: use a smaller --batch, --size or --width.")
    except (Interrupted, KeyboardInterrupt):
        saved = out is not None and (out / "last.h5").exists()
        what_now = f"go on with  python -m minisatm.train --resume {out}" if saved else "nothing was trained yet"
        print(f"\ninterrupted: {what_now}", file=sys.stderr)
        return 130
    print(f"\nreport    {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
