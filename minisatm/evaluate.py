"""python -m minisatm.evaluate RUN[:network]...: who fools whom, at which epsilon, and whether gradients are masked."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import backend, metrics
from .attacks import ATTACKS
from .cli import Parser, folder, words
from .errors import MISTAKES, InputError, tell
from .evaluation import crossing, curves, export, masking
from .evaluation.crossing import Shot
from .parallel import cores, in_processes
from .progress import bar
from .results.figures import figure_epsilons
from .run import lineup
from .run.experiment import TEST_BATCH, is_narrow
from .run.folder import RunFolder
from .run.images import test_images
from .run.settings import Settings, choices
from .units import epsilon_text, fraction

SUBSET = 200  # images for curves and masking: they ask far more of each
HANDED = ("epsilon", "alpha", "rng", "noise", "mask")  # never given with --set

EXAMPLES = """examples:
  python -m minisatm.evaluate runs/toy                                  every network of the run, with its own attack
  python -m minisatm.evaluate runs/toy:satm runs/toy:resnet101 --attack pgd --epsilon 16/256,32/256 --set steps=20
  python -m minisatm.evaluate runs/toy:satm/vgg16 other.h5 --attack carlini_wagner_l2 --images 50
  python -m minisatm.evaluate runs/toy --save-examples adversarial
  python -m minisatm.evaluate --list                                    the attacks, their options and references

RUN is a folder of minisatm.train; RUN:satm/vgg16 one network of it, RUN:vgg16 that network after every method,
RUN:satm all networks after that method; x.h5 any network's file, with the test images of a RUN named beside it.
Every network attacks all. Rates are those of examples rounded to 8-bit pixels. epsilon, alpha and step are in pixels of
[0, 1] (paper: r_fgsm, 16/256 and others, alpha epsilon/2); with norm=l2 epsilon is a length. Epsilon curves (given
alpha and step grow and shrink with epsilon) and the masking report take 200 of the images.

OUT holds evaluation.txt (what the screen shows), config.json, tables/matrix.csv, tables/curve_<attack>.csv,
tables/masking.csv, figures/curve_<attack>.png.
DIR of --save-examples gets <attack>-<epsilon>-<source>.npz, for numpy.load anywhere: x, x_adv (n, H, W, C) uint8,
y (n,), predicted_clean, predicted (targets, n), targets, classes, attack, source, norm, epsilon; and a few as PNGs."""


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m minisatm.evaluate", usage="%(prog)s RUN[:network]... [options]", description=__doc__,
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    p.add_argument("runs", nargs="*", metavar="RUN[:network]", help="run folders, networks of them, weights files")
    p.add_argument("--attack", type=words, metavar="A,B", help="one or several of --list [the first run's]")
    p.add_argument("--epsilon", type=words, metavar="E,E", help="like 16/256,32/256 [the first run's]")
    p.add_argument("--alpha", metavar="A", help="of r_fgsm and r_step_ll: the random part, below epsilon [epsilon/2]")
    p.add_argument("--set", type=words, default=(), metavar="K=V,K=V", help="an attack's own options, like steps=20")
    p.add_argument("--images", type=int, default=500, metavar="N", help="how many of the test images; 0: all [500]")
    p.add_argument("--batch", type=int, metavar="N", help=f"images at a time [the run's, times {TEST_BATCH}]")
    p.add_argument("--seed", type=int, default=0, help="of random attacks, which draw by batch and network [0]")
    p.add_argument("--backend", choices=choices("backend"), default="numpy", help="numpy, plain or cupy (a GPU)")
    p.add_argument("--data-dir", default="", metavar="DIR", help="where the data set lies now [where the run found it]")
    p.add_argument("--out", type=folder, metavar="DIR", help="must not exist [RUN/evaluations/<date>-<attack>]")
    p.add_argument("--save-examples", type=folder, metavar="DIR", help="write the examples there; must be empty")
    p.add_argument("--no-curves", dest="curves", action="store_false", help="leave out the epsilon curves")
    p.add_argument("--no-masking", dest="masking", action="store_false", help="leave out the masking report")
    p.add_argument("--list", action="store_true", help="print the attacks and stop")
    return p


def registry() -> str:
    """Every attack with its norm, its own options and where it comes from."""
    lines = []
    for attack in ATTACKS.values():
        options = {k: v for k, v in attack.defaults.items() if k not in ("rng", "noise", "mask", "craft_mode")}
        shown = ", ".join(f"{k}={epsilon_text(v) if k == 'epsilon' else v}" for k, v in options.items())
        lines += [f"{attack.name:<22}{attack.norm:<6}{attack.reference}", f"{'':<28}{shown or '-'}"]
    return "\n".join([f"{'attack':<22}{'norm':<6}reference; options with their defaults", *lines])


def kinds(attack: str) -> dict[str, Any]:
    """The options of an attack that --set may give, with their types."""
    known = {"bool": bool, "int": int, "float": fraction, "str": str}
    parameters = inspect.signature(ATTACKS[attack].function).parameters
    found = {name: str(parameters[name].annotation).split(" ")[0] for name in ATTACKS[attack].defaults}
    return {name: known[kind] for name, kind in found.items() if kind in known and name not in HANDED}


def own_options(attack: str, given: Sequence[str]) -> dict[str, Any]:
    """{option: value} of those `steps=20` that this attack has."""
    options = {}
    for entry in given:
        name, _, text = entry.partition("=")
        kind = kinds(attack).get(name)
        if kind is None:
            continue
        try:
            options[name] = {"true": True, "false": False}[text] if kind is bool else kind(text)
        except (ValueError, KeyError) as problem:
            what = {int: "a whole number", fraction: "a number", bool: "true or false"}[kind]
            raise InputError(f"--set {entry}: {name} of {attack} must be {what}.") from problem
    return options


def shots(args: Any, settings: Settings, channels: int) -> list[Shot]:
    """Every attack at every epsilon that was asked for, each tried on a small stand-in for a network first."""
    names = args.attack if args.attack is not None else (settings.attack,)
    for name in names:
        if name not in ATTACKS:
            raise InputError(f"unknown attack {name!r}: choose from {', '.join(ATTACKS)} (--list says more).")
    if not names:
        raise InputError("--attack is empty: name one or several, like --attack fgsm,pgd.")
    known = {option for name in names for option in kinds(name)}
    for entry in args.set:
        if "=" not in entry or entry.partition("=")[0] not in known:
            raise InputError(
                f"--set {entry}: {', '.join(names)} {'has' if len(names) == 1 else 'have'} no such option: give "
                f"{', '.join(f'{k}=...' for k in sorted(known))}."
            )
    alpha = None if args.alpha is None else number("--alpha", args.alpha)
    if alpha is not None and not any(ATTACKS[name].takes("alpha") for name in names):
        raise InputError(f"--alpha is a random step's size, and {', '.join(names)} has none: leave it out.")
    epsilons = [settings.epsilon] if args.epsilon is None else [number("--epsilon", e) for e in args.epsilon]
    if not epsilons:
        raise InputError("--epsilon is empty: give one or several, like --epsilon 16/256,32/256.")
    found = []
    for name in dict.fromkeys(names):
        options = own_options(name, args.set)
        for epsilon in dict.fromkeys(epsilons if ATTACKS[name].takes("epsilon") else epsilons[:1]):
            found.append(Shot(name, epsilon, alpha if ATTACKS[name].takes("alpha") else None, options))
            if found[-1].has_epsilon and found[-1].unit and args.epsilon is None:
                raise InputError(
                    f"epsilon of {name} is a {found[-1].unit} here, and the run's is none: give one, like --epsilon 1."
                )
            try_out(found[-1], settings.size, channels)
    return found


def number(option: str, text: str) -> float:
    try:
        value = fraction(text)
    except ValueError as problem:
        raise InputError(f"{option} {text!r} is not a number: write it like 16/256.") from problem
    if value < 0:
        raise InputError(f"{option} {text} is negative: write it like 16/256.")
    return value


def try_out(shot: Shot, size: int, channels: int) -> None:
    """Two grey images and a linear network: an option that the attack refuses is heard of before the work begins."""

    def network(x: Any) -> Any:
        w = np.linspace(-1, 1, 3 * x[0].size, dtype=x.dtype).reshape(-1, 3)
        return x.reshape(len(x), -1) @ w, lambda g: (g @ w.T).reshape(x.shape)

    shot(network, np.full((2, size, size, channels), 0.5, np.float32), np.array([0, 1]), np.random.default_rng(0))


@dataclass
class Evaluation:
    """What is measured, on what, and where it is written."""

    networks: dict[str, Any]
    entries: list[lineup.Entry]
    dataset: Any
    batches: Any
    shots: list[Shot]
    epsilon: float  # of the first run
    limit: int
    seed: int
    processes: int
    out: Path
    examples: Path | None = None

    def say(self, text: str = "", indent: int = 0) -> None:
        """To the screen, and to evaluation.txt; with an indent, folded to the screen's width."""
        text = textwrap.fill(text, crossing.WIDTH, subsequent_indent=" " * indent) if indent else text
        print(text, flush=True)
        with open(self.out / "evaluation.txt", "a", encoding="utf-8") as file:
            file.write(text + "\n")

    def shared(self, what: str, images: int, work: Any) -> Any:
        """work(tick=...), by as many processes as pay, with a bar."""
        with bar(images, what, "image") as shown:
            return in_processes(lambda team: work(team=team, tick=shown.update if team.leads else None), self.processes)

    @property
    def subset(self) -> int:
        return min(SUBSET, self.limit)

    def introduce(self) -> None:
        classes, true = self.dataset.classes, np.concatenate([y for _, y in self.batches.in_order(self.limit)])
        group, rate, _ = metrics.majority_rate(true, len(classes))
        self.say(
            f"images    {len(true):,} of {len(self.batches):,} test images of {self.dataset.name}, "
            f"{self.batches.size}x{self.batches.size}, {len(classes)} classes (always {classes[group]}: "
            f"{100 * rate:.1f} %)"
        )
        numbered = ", ".join(f"{k} {name}" for k, name in enumerate(self.networks, 1))
        self.say(f"networks  {numbered}", indent=10)
        self.say(f"attacks   {'; '.join(map(str, self.shots))}; examples are rounded to 8-bit pixels", indent=10)

    def matrices(self) -> None:
        rows: crossing.Rows = []
        for shot in self.shots:
            work = partial(crossing.cross, self.networks, self.batches, shot, seed=self.seed, limit=self.limit)
            found = self.shared(str(shot), self.limit, partial(work, keep=self.examples is not None))
            above, predicted = crossing.leaking(found), None
            if above:
                sources = list(dict.fromkeys(source for _, source in above))
                again = partial(work, sources=sources, both=False, predicted_labels=True)
                predicted = self.shared("from predicted labels", self.limit, again)
            rows += crossing.results(found, self.dataset.classes, predicted)
            RunFolder(self.out).table("matrix", rows)
            self.say("\n" + crossing.matrix_text(found, self.dataset.classes))
            for line in crossing.remarks(found, predicted):
                self.say(line, indent=2)
            if self.examples is not None:
                export.export(self.examples, found, self.dataset.classes)

    def curves(self) -> None:
        shape = (self.batches.size, self.batches.size, self.dataset.channels)
        for attack in dict.fromkeys(shot.attack for shot in self.shots if shot.has_epsilon):
            own = [shot for shot in self.shots if shot.attack == attack]
            points = curves.epsilons([shot.epsilon for shot in own], own[0], shape)
            work = partial(curves.curve, self.networks, self.batches, own[0], points, seed=self.seed,
                           limit=self.subset)  # fmt: skip
            rows = self.shared(f"{attack} by epsilon", self.subset * len(points), work)
            RunFolder(self.out).table(f"curve_{attack}", rows)
            self.say("\n" + curves.curves_text(rows))
            true = np.concatenate([y for _, y in self.batches.in_order(self.subset)])
            chance = metrics.majority_rate(true, len(self.dataset.classes))[1]
            figure_epsilons(self.out / "figures" / f"curve_{attack}.png", rows, chance)

    def masking(self) -> None:
        own = [shot.epsilon for shot in self.shots if shot.has_epsilon and not shot.unit]
        epsilon = next((e for e in (*own, self.epsilon) if e > 0), 16 / 256)
        work = partial(masking.look, self.networks, self.batches, epsilon=epsilon, seed=self.seed, limit=self.subset)
        true, seen = self.shared("masking", self.subset, work)
        undefended = {(e.run, e.name): e.label for e in self.entries if e.method == "undefended"}
        rows, summaries = [], []
        self.say(
            f"\nIs it masking? Rates at epsilon {epsilon_text(epsilon)}; points: by how much the first of two attacks "
            "is stronger, with 99 % intervals"
        )
        for entry in self.entries:
            reference = undefended.get((entry.run, entry.name))
            other = seen[reference] if reference and reference != entry.label else None
            own = seen[entry.label]
            checks = masking.lines(own, true, other)
            rows += [dict(network=entry.label, n=len(true), epsilon=epsilon) | asdict(check) for check in checks]
            if masking.above_chance(own, true):
                self.say("\n" + masking.report_text(entry.label, own, true, checks))
            summaries.append(masking.summary(entry.label, own, true, checks))
        RunFolder(self.out).table("masking", rows)
        self.say()
        for line in summaries:
            self.say(line, indent=2)


def prepare(args: Any) -> Evaluation:
    """Everything that can be wrong is found here, before anything is written."""
    for name, least in (("images", 0), ("batch", 1), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name} {value} is too small: {least} at least.")
    if not args.runs:
        raise InputError("no run is named: give the folder of one, like runs/toy (--help has examples).")
    entries, runs = lineup.line_up(args.runs)
    settings = lineup.shared_settings(runs, args.data_dir)
    backend.use(args.backend, tf32=False)
    batch = args.batch or settings.batch * TEST_BATCH
    dataset, batches = test_images(settings, batch=batch, backend=args.backend)
    found = shots(args, settings, dataset.channels)
    networks = lineup.read_networks(entries, dataset, settings.size, args.backend)
    width = max(network.definition["width"] for network in networks.values())
    narrow = args.backend == "numpy" and is_narrow(settings.batch, settings.size, width)
    names = "+".join(dict.fromkeys(shot.attack for shot in found))
    out = args.out or runs[0] / "evaluations" / f"{time.strftime('%Y%m%d-%H%M%S')}-{names}"
    if out.exists():
        raise InputError(f"{out} already exists: choose another --out.")
    if args.save_examples is not None:
        export.check_empty(args.save_examples)
    for part in ("tables", "figures"):
        (out / part).mkdir(parents=True)
    limit = min(args.images or math.inf, len(batches))
    evaluation = Evaluation(networks, entries, dataset, batches, found, settings.epsilon, int(limit), args.seed,
                            cores() if narrow else 1, out, args.save_examples)  # fmt: skip
    facts = dict(
        networks={e.label: str(e.file) for e in entries}, attacks=[asdict(shot) for shot in found],
        images=evaluation.limit, batch=batch, seed=args.seed, backend=args.backend, curves=args.curves,
        masking=args.masking, runs=[str(run) for run in runs], settings=asdict(settings),
    )  # fmt: skip
    (out / "config.json").write_text(json.dumps(facts, indent=1) + "\n")
    return evaluation


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 2 for a user's mistake, with one sentence; 130 for Ctrl-C."""
    args = parser().parse_args(argv)
    if args.list:
        print(registry())
        return 0
    evaluation = None
    try:
        evaluation = prepare(args)
        evaluation.introduce()
        evaluation.matrices()
        if args.curves:
            evaluation.curves()
        if args.masking:
            evaluation.masking()
    except MISTAKES as problem:
        return tell(problem, args.out, "not enough memory: use a smaller --batch.")
    except KeyboardInterrupt:
        kept = f"what was measured is in {evaluation.out}" if evaluation else "nothing was measured yet"
        print(f"\ninterrupted: {kept}", file=sys.stderr)
        return 130
    print(f"\nsaved     {evaluation.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
