"""Three orderings of Tramer et al. 2018 on MNIST: do they hold here? As it comes out, seed by seed.

    python tests/benchmarks/mnist_orderings.py [--data DIR] [--seeds 0,1,2] [--out DIR]

Structures A and B are trained clean, by standard adversarial training (own examples), by ensemble adversarial training
and by SATM; then attacked themselves and by examples of clean networks A, B, C and D. What is in --out already is read,
not trained again, so an interrupted run goes on. Each seed draws its own starts, batches and test images. Width and
epochs are what 25 minutes on two idle cores allow; they were settled on seed 100, never by an ordering.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: each training has a core to itself

import numpy as np
from mnist_tables import EXAMPLES, METHODS, OWN, SOURCES, STATIC, TRANSFERRED, Key, black_box, orderings, table, verdict

from minisatm import attacks, data, models, optim, satm
from minisatm.data.batches import Batches
from minisatm.defences import training as defences
from minisatm.models.network import predict
from minisatm.satm import Learner, Rules
from minisatm.streams import stream

Array = Any
EPSILON, ALPHA, RATE, BATCH = 0.3, 0.05, 1e-3, 64  # Tramer's
CLEAN = (("clean", "C"), ("clean", "A"), ("clean", "B"), ("clean", "D"))  # the longest first
HARD = (("standard", "A"), ("ensemble", "A"), ("standard", "B"), ("ensemble", "B"), ("satm", "AB"), ("pair", "A"))


@dataclass(frozen=True)
class Plan:
    """What decides a run's numbers, but the seed."""

    width: float
    clean_epochs: float
    epochs: float
    images: int
    train_images: int


@cache
def digits(folder: Path) -> Any:
    """MNIST, read before the processes part, so that they share it."""
    return data.load("mnist", folder)


# Training


class Course:
    """A monitor that hands out the batches of some epochs and says now and then where it is."""

    def __init__(self, images: Batches, epochs: float, label: str) -> None:
        self.images, self.steps, self.label = images, round(epochs * images.steps_per_epoch), label
        self.spoken = time.monotonic()

    def batches(self) -> Iterator[tuple[int, Array, Array]]:
        yield from self.images.stream(0, self.steps)

    def stop(self, iteration: int, losses: dict[str, dict[str, float]]) -> bool:
        if not all(math.isfinite(own["loss"]) for own in losses.values() if own):
            raise RuntimeError(f"{self.label}: the loss is not finite at step {iteration}")
        if time.monotonic() - self.spoken > 30:
            self.spoken = time.monotonic()
            terms = "  ".join(f"{own['loss']:.3f}" for own in losses.values() if own)
            print(f"  {self.label} {iteration + 1}/{self.steps}  loss {terms}", file=sys.stderr, flush=True)
        return False


def train(plan: Plan, out: Path, folder: Path, seed: int, method: str, letters: str) -> str:
    """Train one network (SATM: the pair) and save it, unless it is there; returns what to tell."""
    files = [network_file(out, seed, method, letter) for letter in letters]
    label = f"seed {seed} {method} {letters}"
    if all(file.exists() for file in files):
        return f"{label}: was there"
    start = time.process_time()
    learners = [learner(plan, out, seed, method, letter) for letter in letters]
    epochs = plan.clean_epochs if method == "clean" else plan.epochs
    indices = np.flatnonzero(~digits(folder).official_test)[: plan.train_images or None]
    monitor = Course(Batches(digits(folder), indices, batch=BATCH, size=28, seed=seed), epochs, label)
    rules = Rules(epsilon=EPSILON, alpha=ALPHA, attack="fgsm", loss_norm="half", r_da=0.0, seed=seed)
    if method == "clean":
        defences.train_clean(learners, rules, monitor)
    elif method == "standard":
        defences.train_standard(learners, rules, monitor)
    elif method == "satm":
        satm.train(learners, rules, monitor)
    else:
        static = [
            Learner(f"clean/{s}", load(out, seed, "clean", s), None, frozen=True) for s in STATIC[method, letters]
        ]
        defences.train_ensemble(learners, [[*static, *learners]], rules, monitor)
    for own, file in zip(learners, files):
        own.network.save(str(file))
    spent = time.process_time() - start
    if method != "clean":
        with open(out / f"seed{seed}" / "seconds.txt", "a") as f:
            f.write(f"{spent:.0f} {method} {letters}\n")
    return f"{label}: {spent:.0f} s of processor time"


def learner(plan: Plan, out: Path, seed: int, method: str, letter: str) -> Learner:
    """A network at a random start of its own, or for SATM, whose line 1 is clean training, the clean one."""
    name = f"{method}/{letter}"
    if method == "satm":
        network = load(out, seed, "clean", letter)
    else:
        network = models.build(
            f"mnist_{letter.lower()}",
            classes=10,
            width=plan.width,
            size=28,
            channels=1,
            rng=stream(seed, name, "start"),
        )
    return Learner(name, network, optim.build("adam", network.parameters(), RATE))


def network_file(out: Path, seed: int, method: str, letter: str) -> Path:
    return out / f"seed{seed}" / f"{method}-{letter}.h5"


def load(out: Path, seed: int, method: str, letter: str) -> Any:
    return models.build(None, weights=str(network_file(out, seed, method, letter)))


# Measuring


def measure(plan: Plan, out: Path, folder: Path, seed: int, method: str, letter: str) -> str:
    """One network on clean images, on its own examples and on those of the clean networks: a CSV file."""
    path, label = errors_file(out, seed, method, letter), f"seed {seed} {method} {letter}"
    if path.exists():
        return f"{label}: was there"
    start = time.perf_counter()
    target = load(out, seed, method, letter)
    sources = {s: load(out, seed, "clean", s) for s in SOURCES if (method, s) != ("clean", letter)}
    wrong: dict[tuple[str, str], int] = {}
    test = np.flatnonzero(digits(folder).official_test)
    images = Batches(digits(folder), test, batch=100, size=28, seed=seed)
    n = 0
    for batch, (x, y) in enumerate(images.in_order(plan.images or None)):

        def craft(attack: str, network: Any, name: str) -> Array:
            rng = stream(seed, name, attack, batch)  # noqa: B023
            return attacks.craft(attack, network, x, y, epsilon=EPSILON, alpha=ALPHA, rng=rng)  # noqa: B023

        shown = {("", ""): x}
        shown |= {(a, "own"): craft(a, target, f"{method}/{letter}") for a in OWN}
        shown |= {(a, s): craft(a, network, f"clean/{s}") for a in TRANSFERRED for s, network in sources.items()}
        for key, x_adv in shown.items():
            wrong[key] = wrong.get(key, 0) + int((predict(target, x_adv) != y).sum())
        n += len(y)
    with open(path.with_suffix(".part"), "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(("attack", "source", "n", "wrong"))
        writer.writerows((*key, n, count) for key, count in wrong.items())
    path.with_suffix(".part").rename(path)
    return f"{label}: {time.perf_counter() - start:.0f} s"


def errors_file(out: Path, seed: int, method: str, letter: str) -> Path:
    return out / f"seed{seed}" / f"errors-{method}-{letter}.csv"


def targets(methods: Sequence[str]) -> list[tuple[str, str]]:
    """The networks that are measured: (method, structure)."""
    return [(method, k) for k, known in METHODS.items() for method in known if method in ("clean", *methods)]


def read_errors(out: Path, seed: int, methods: Sequence[str]) -> tuple[dict[Key, float], int]:
    """{key: error rate} of one seed, and the number of test images."""
    found: dict[Key, float] = {}
    for method, letter in targets(methods):
        with open(errors_file(out, seed, method, letter), newline="") as f:
            for row in csv.DictReader(f):
                n = int(row["n"])
                found[letter, method, row["attack"], row["source"]] = int(row["wrong"]) / n
    return found, n


# The report


def report(plan: Plan, out: Path, seeds: Sequence[int], methods: Sequence[str]) -> Iterator[str]:
    """All that is printed at the end."""
    read = {seed: read_errors(out, seed, methods) for seed in seeds}
    found, n = {seed: errors for seed, (errors, _) in read.items()}, read[seeds[0]][1]
    spent = ", ".join(f"{processor_minutes(out, seed):.0f}" for seed in seeds)
    yield f"MNIST, structures A and B of Tramer et al. 2018 at width {plan.width:g}; seeds {', '.join(map(str, seeds))}"
    yield f"{plan.clean_epochs:g} clean epochs, {plan.epochs:g} adversarial (Tramer: full width, 6 and 12)"
    yield "(width and epochs: settled on seed 100 for the time they take, never by an ordering)"
    yield f"Adam {RATE:g}, batch {BATCH}, epsilon {EPSILON:g}, alpha {ALPHA:g}; loss half clean, half on FGSM examples"
    yield from (f"  {method:<9} {EXAMPLES[method]}" for method in methods)
    yield "Transferred examples come from the clean networks; I-FGSM takes 10 steps of epsilon / 4."
    yield machine(out)
    yield f"minutes of processor time for each seed's adversarial training: {spent}\n"
    yield f"Error rates in % with 95 % intervals, n = {n} test images; one column a seed, then the mean"
    yield "(*: learned from that clean network; SATM from what became of it)"
    yield from table(found, n)
    yield "\nThe orderings, seed by seed: of so many comparisons so many hold (clear: beyond the 95 % interval)"
    for ordering, k in orderings(found[seeds[0]]):
        cells = "".join(f"{verdict(orderings(errors)[ordering, k], n):>24}" for errors in found.values())
        yield f"  {ordering:<42} {k}{cells}"
    yield "\nBlack-box error rate of A in %, as the paper's Table 7: mean over FGSM and R+FGSM from networks new to it"
    for what, method, sources in (
        ("Tramer's protocol, hold-out B: ensemble (paper 5.2)", "ensemble", "B"),
        ("   (and standard adversarial training)", "standard", "B"),
        ("SATM's, A and B retrained, hold-outs C, D: SATM (paper 5.6)", "satm", "CD"),
        ("   ensemble of the same pair", "pair", "CD"),
    ):
        if method not in methods:
            continue
        rates = [black_box(errors, method, sources) for errors in found.values()]
        yield f"  {what:<62}{''.join(f'{rate:8.1f}' for rate in rates)}   mean {mean(rates):.1f}"


def processor_minutes(out: Path, seed: int) -> float:
    return sum(float(line.split()[0]) for line in (out / f"seed{seed}" / "seconds.txt").read_text().splitlines()) / 60


def machine(out: Path) -> str:
    commit = (out / "commit.txt").read_text().strip()
    return f"{cores()} cores, a training each, Python {platform.python_version()}, commit {commit}"


def note_commit(out: Path) -> None:
    if not (out / "commit.txt").exists():
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        (out / "commit.txt").write_text(done.stdout or "unknown\n")


# Both cores


def cores() -> int:
    return len(os.sched_getaffinity(0))


def sit_on(seats: Any) -> None:
    """Give this process one core, so that no training's helping threads disturb another's."""
    os.sched_setaffinity(0, {seats.get()})


def all_of(pool: ProcessPoolExecutor, function: Any, jobs: Sequence[tuple[Any, ...]]) -> None:
    """Run the jobs, as many at once as there are cores, and say what each one took."""
    started = time.monotonic()
    futures = [pool.submit(function, *job) for job in jobs]
    for done, future in enumerate(as_completed(futures), 1):
        where = f"{function.__name__} {done}/{len(jobs)}, {(time.monotonic() - started) / 60:.1f} min"
        print(f"[{where}] {future.result()}", file=sys.stderr, flush=True)


def options() -> argparse.Namespace:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = Path(os.environ.get("MINISATM_DATA", "."), "data", "mnist")
    cli.add_argument("--data", type=Path, default=folder, help="MNIST's four files [$MINISATM_DATA/data/mnist]")
    cli.add_argument("--seeds", default="0,1,2")
    cli.add_argument("--methods", default="standard,ensemble,satm,pair", help="the last two may be left out")
    cli.add_argument("--width", default="1/4", help="every channel count times this [1/4]")
    cli.add_argument("--epochs", default="1,2", metavar="CLEAN,ADVERSARIAL", help="[1,2]; Tramer: 6,12")
    cli.add_argument("--images", type=int, default=2000, help="test images, drawn by the seed; 0: all [2000]")
    cli.add_argument("--train-images", type=int, default=0, help="0: all [0]")
    cli.add_argument("--out", type=Path, default=Path("runs/mnist-orderings"), help="what is done is kept there")
    return cli.parse_args()


def main() -> None:
    args = options()
    clean_epochs, epochs = (float(Fraction(e)) for e in args.epochs.split(","))
    plan = Plan(float(Fraction(args.width)), clean_epochs, epochs, args.images, args.train_images)
    seeds, methods = [int(s) for s in args.seeds.split(",")], args.methods.split(",")
    if not {"standard", "ensemble"} <= set(methods) <= {method for method, _ in HARD}:
        sys.exit("error: --methods takes standard,ensemble, and of satm and pair what you like.")
    for seed in seeds:
        (args.out / f"seed{seed}").mkdir(parents=True, exist_ok=True)
    saved = args.out / "plan.json"
    if saved.exists() and json.loads(saved.read_text()) != asdict(plan):
        sys.exit(
            f"error: {args.out} holds networks of other settings, {saved.read_text().strip()}: give another --out."
        )
    saved.write_text(json.dumps(asdict(plan)) + "\n")
    note_commit(args.out)
    digits(args.data)
    context = get_context("fork")
    seats = context.Queue()
    for core in sorted(os.sched_getaffinity(0)):
        seats.put(core)
    with ProcessPoolExecutor(cores(), context, initializer=sit_on, initargs=(seats,)) as pool:
        hard = [job for job in HARD if job[0] in methods]
        for jobs in (CLEAN, hard):  # ensemble training needs the clean networks
            all_of(pool, train, [(plan, args.out, args.data, seed, *job) for job in jobs for seed in seeds])
        all_of(
            pool, measure, [(plan, args.out, args.data, seed, *target) for target in targets(methods) for seed in seeds]
        )
    for line in report(plan, args.out, seeds, methods):
        print(line)


if __name__ == "__main__":
    main()
