"""The default run on several seeds, as it comes out.

    python tests/benchmarks/five_seeds.py [--seeds 0,1,2,3,4] [--out DIR]

Each seed draws its own faces, networks and batches. Runs that are in --out already are read, not run again. Prints the
rates of every seed and the paired differences over seeds (same start, same images), with a 95 % t interval.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev

METHODS = ("undefended", "control", "ensemble", "satm")
CONDITIONS = ("clean", "white-box", "partner old", "partner new", "hold-out")
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}  # by n, two-sided
DIFFERENCES = (
    ("satm", "control", "clean"),
    ("satm", "control", "partner new"),
    ("satm", "control", "hold-out"),
    ("satm", "ensemble", "hold-out"),
)


def rates(folder: Path) -> dict[tuple[str, str, str], float]:
    """{(method, network, condition): classification rate in percent} of a finished run."""
    with open(folder / "tables" / "results.csv", newline="") as f:
        return {(r["method"], r["network"], r["condition"]): 100 * float(r["rate"]) for r in csv.DictReader(f)}


def run(seed: int, folder: Path, extra: list[str]) -> None:
    if (folder / "tables" / "results.csv").exists():
        return
    start = time.perf_counter()
    command = [sys.executable, "-m", "minisatm.train", "--seed", str(seed), "--out", str(folder), *extra]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (folder / "seconds.txt").write_text(f"{time.perf_counter() - start:.0f}\n")
    (folder / "commit.txt").write_text(commit())


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout or "unknown\n"


def interval(values: list[float]) -> str:
    if len(values) < 2:
        return ""
    half = T_95[len(values)] * stdev(values) / math.sqrt(len(values))  # up to ten seeds
    return f"{mean(values):+6.1f} ± {half:.1f}"


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--seeds", default="0,1,2,3,4")
    cli.add_argument("--out", type=Path, default=Path("runs/five-seeds"))
    args, extra = cli.parse_known_args()  # what is left goes to minisatm.train
    seeds = [int(s) for s in args.seeds.split(",")]
    folders = {seed: args.out / f"seed{seed}" for seed in seeds}
    for seed, folder in folders.items():
        run(seed, folder, extra)
    found = {seed: rates(folder) for seed, folder in folders.items()}
    networks = sorted({n for _, n, _ in found[seeds[0]] if n}, reverse=True)

    seconds = [int((f / "seconds.txt").read_text()) for f in folders.values() if (f / "seconds.txt").exists()]
    cores = len(os.sched_getaffinity(0))
    print(
        f"python -m minisatm.train --seed S {' '.join(extra)}: seeds {args.seeds}; "
        f"{cores} cores, Python {platform.python_version()}"
    )
    commits = sorted({(f / "commit.txt").read_text().strip() for f in folders.values()})
    print(f"seconds per run: {', '.join(map(str, seconds)) or 'not measured'}; at commit {', '.join(commits)}\n")
    print("Classification rate in %, one column a seed, then the mean")
    for network in networks:
        for condition in CONDITIONS:
            for method in METHODS:
                if (method, network, condition) in found[seeds[0]]:
                    row = [found[s][method, network, condition] for s in seeds]
                    cells = "".join(f"{v:8.1f}" for v in row)
                    print(f"  {network:<10}{condition:<13}{method:<12}{cells}   {mean(row):6.1f}")
    print("\nPaired differences in points (same seed, start and test images), then mean ± 95 % t interval over seeds")
    for method, other, condition in DIFFERENCES:
        for network in networks:
            if (method, network, condition) not in found[seeds[0]]:
                continue  # the hold-out is not trained
            row = [found[s][method, network, condition] - found[s][other, network, condition] for s in seeds]
            cells = "".join(f"{v:+8.1f}" for v in row)
            above = f"{sum(v > 0 for v in row)} of {len(row)} above 0, {sum(v >= 5 for v in row)} by 5 or more"
            print(f"  {network:<10}{condition:<13}{method} - {other:<10}{cells}   {interval(row)}   {above}")


if __name__ == "__main__":
    main()
