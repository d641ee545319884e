"""python -m minisatm.evaluate RUN[:network]...: who fools whom, at which epsilon, and whether gradients are masked."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from typing import Any

from . import backend
from .cli import Parser, folder, number, numbers, print_any_name, words
from .errors import MISTAKES, InputError, tell
from .evaluation import export
from .evaluation.request import attack_list, settings_of
from .evaluation.session import SUBSET, Session
from .evaluation.setting import AttackSetting
from .parallel import cores
from .run import lineup
from .run.experiment import TEST_BATCH, is_narrow
from .run.images import test_images
from .run.settings import choices

EXAMPLES = f"""examples:
  python -m minisatm.evaluate runs/toy                                  every network of the run, with its own attack
  python -m minisatm.evaluate runs/toy:satm runs/toy:resnet101 --attack pgd --epsilon 16/256,32/256 --set steps=20
  python -m minisatm.evaluate runs/toy:satm/vgg16 other.h5 --attack carlini_wagner_l2 --images 50
  python -m minisatm.evaluate runs/toy --images 0 --no-curves --no-masking     the digits of the run's own table
  python -m minisatm.evaluate runs/toy --save-examples adversarial
  python -m minisatm.evaluate --list                                    the attacks, their options and references

RUN is a folder of minisatm.train; RUN:satm/vgg16 one network of it, RUN:vgg16 that network after every method,
RUN:satm all networks after that method; x.h5 any network's file, with the test images of a RUN named beside it.
Every network attacks all. Examples are 8-bit pixels inside the ball of the attack; the table also has the rate before
rounding. epsilon, alpha and step are in pixels of [0, 1] (paper: r_fgsm, 16/256 and others, alpha epsilon/2); with
norm=l2 epsilon is a length. Epsilon curves (a given alpha and step are scaled with epsilon) and the masking report use
{SUBSET} of the images.

OUT holds evaluation.txt (what the screen shows), config.json, tables/matrix.csv, tables/leaks.csv (rates above the
clean one, if any), tables/curve_<attack>.csv, tables/masking.csv, figures/curve_<attack>.png.
DIR of --save-examples gets <attack>-<epsilon>-<source>.npz, for numpy.load anywhere: x, x_adv (n, H, W, C) uint8,
y (n,), predicted_clean, predicted (targets, n), targets, classes, attack, source, norm, epsilon; and a few as PNGs."""


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m minisatm.evaluate", usage="%(prog)s RUN[:network]... [options]", description=__doc__,
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    p.add_argument("runs", nargs="*", metavar="RUN[:network]", help="run folders, networks of them, weights files")
    p.add_argument("--attack", type=words, metavar="A,B", help="one or several of --list [the first run's]")
    p.add_argument("--epsilon", type=numbers, metavar="E,E", help="like 16/256,32/256 [the first run's]")
    p.add_argument("--alpha", type=number, metavar="A", help="the random step of r_fgsm and r_step_ll, below epsilon "
                   "[the first run's; with --epsilon, epsilon/2]")  # fmt: skip
    p.add_argument("--set", type=words, default=(), metavar="K=V,K=V", help="an attack's own options, like steps=20")
    p.add_argument("--images", type=int, default=500, metavar="N", help="how many of the test images; 0: all [500]")
    p.add_argument("--batch", type=int, metavar="N", help=f"images at a time [the run's, times {TEST_BATCH}]")
    p.add_argument("--seed", type=int, help="of random attacks, which draw for each image by itself [the first run's]")
    p.add_argument("--backend", choices=choices("backend"), default="numpy", help="numpy, plain or cupy (a GPU)")
    p.add_argument("--data-dir", default="", metavar="DIR", help="where the data set lies now [where the run found it]")
    p.add_argument("--out", type=folder, metavar="DIR", help="must not exist [RUN/evaluations/<date>-<attack>]")
    p.add_argument("--save-examples", type=folder, metavar="DIR", help="write the examples there; must be empty")
    p.add_argument("--no-curves", dest="curves", action="store_false", help="leave out the epsilon curves")
    p.add_argument("--no-masking", dest="masking", action="store_false", help="leave out the masking report")
    p.add_argument("--list", action="store_true", help="print the attacks and stop")
    return p


def prepare(args: Any) -> Session:
    """Every mistake in the arguments is found here, before anything is written."""
    for name, least in (("images", 0), ("batch", 1), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name} {value} is too small: {least} at least.")
    if not args.runs:
        raise InputError("no run is named: give the folder of one, like runs/toy (--help has examples).")
    entries, runs = lineup.line_up(args.runs)
    first = lineup.shared_settings(runs, args.data_dir)
    backend.use(args.backend, tf32=False)
    batch = args.batch or first.batch * TEST_BATCH
    seed = first.seed if args.seed is None else args.seed
    dataset, batches, notes = test_images(first, runs, batch=batch, backend=args.backend)
    own = AttackSetting(first.attack, first.epsilon, first.alpha)
    names = (own.attack,) if args.attack is None else args.attack
    shape = first.size, first.size, dataset.channels
    settings = settings_of(names, args.epsilon, args.alpha, args.set, own, shape)
    networks = lineup.read_networks(entries, dataset, first.size, args.backend)
    width = max(network.definition["width"] for network in networks.values())
    narrow = args.backend != "cupy" and is_narrow(first.batch, first.size, width)
    attacks = "+".join(dict.fromkeys(setting.attack for setting in settings))
    out = args.out or runs[0] / "evaluations" / f"{time.strftime('%Y%m%d-%H%M%S')}-{attacks}"
    if out.exists():
        raise InputError(f"{out} already exists: choose another --out.")
    if args.save_examples is not None:
        export.check_empty(args.save_examples)
    for part in ("tables", "figures"):
        (out / part).mkdir(parents=True)
    limit = min(args.images or len(batches), len(batches))
    facts = dict(
        networks={e.label: str(e.file) for e in entries}, attacks=[asdict(setting) for setting in settings],
        images=limit, batch=batch, seed=seed, backend=args.backend, curves=args.curves, masking=args.masking,
        runs=[str(run) for run in runs], settings=asdict(first),
    )  # fmt: skip
    (out / "config.json").write_text(json.dumps(facts, indent=1) + "\n")
    return Session(networks, entries, dataset, batches, settings, first.epsilon, limit, seed, cores() if narrow else 1,
                   out, args.save_examples, notes)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 2 for a user's mistake, with one sentence; 130 for Ctrl-C."""
    print_any_name()
    args = parser().parse_args(argv)
    if args.list:
        print(attack_list())
        return 0
    session = None
    try:
        session = prepare(args)
        session.introduce()
        session.matrices()
        if args.curves:
            session.curves()
        if args.masking:
            session.masking()
    except MISTAKES as problem:
        return tell(problem, args.out, "not enough memory: use a smaller --batch.")
    except KeyboardInterrupt:
        kept = f"what was measured is in {session.out}" if session else "nothing was measured yet"
        print(f"\ninterrupted: {kept}", file=sys.stderr)
        return 130
    print(f"\nsaved     {session.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
