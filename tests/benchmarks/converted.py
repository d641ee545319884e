"""Converted files beside the libraries that wrote them: the table of maximum errors, and what a conversion costs.

    python tests/benchmarks/converted.py > tests/benchmarks/converted.txt    # some minutes; needs the peers' libraries
    python tests/benchmarks/converted.py --only "torchvision resnet50"      # the files whose name has this in it

Every network has random weights (statistics and affine terms, too), float32 in the file and float64 in both programs;
images are half random, half drawn faces: two in eval mode, four in train mode. An error is max|ours - theirs| over
max|theirs|, of running statistics the largest over all layers.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy

import argparse
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE.parent), str(ROOT)]
COLUMNS = ("logits", "features", "input gradient", "running statistics")
MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(status, time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def table(only: str) -> float:
    """Print a row for each file, size and mode as it is measured; returns the largest error."""
    from peers import published

    print(f"{published.VERSIONS}, NumPy {published.np.__version__}; float64")
    print(f"{'source':20}{'network':22}{'file':14}{'size':>4}  {'mode':6}" + "".join(f"{c:>20}" for c in COLUMNS))
    worst = 0.0
    for case in published.CASES:
        if only not in str(case):
            continue
        sizes = [case.size] + [case.other] * bool(case.other)
        plan = [(size, training, 4 if training else 2) for size in sizes for training in (False, True)]
        with tempfile.TemporaryDirectory() as folder:
            for size, training, errors in published.steps(case, Path(folder), plan):
                row = f"{case.source:20}{case.network:22}{case.format:14}{size:>4}  {'train' if training else 'eval':6}"
                cells = [f"{errors[c]:.1e}" if c in errors else "-" for c in COLUMNS]
                print(row + "".join(f"{cell:>20}" for cell in cells), flush=True)
                worst = max(worst, *errors.values())
    return worst


def conversion(case: Any) -> str:
    """Seconds and memory of the command on a file of this case, in a process of its own."""
    from peers import published

    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / f"file{case.format}", Path(folder) / "out.h5"
        published.peer(case, case.size).save(path)
        command = [sys.executable, "-m", "weights_convert", path, out, "--model", case.model]
        # (a process that starts from this large one would count its memory as its own: another stands between)
        found = subprocess.run(
            [sys.executable, "-c", MEASURE, *command], capture_output=True, text=True, check=True, cwd=ROOT
        )
        status, seconds, kib = found.stdout.split()
        if status != "0":
            raise RuntimeError(found.stderr)
        return (
            f"{case.source} {case.network}, {path.stat().st_size / 1e6:.0f} MB {case.format}: "
            f"{float(seconds):.1f} s, peak {int(kib) * 1024 / 1e9:.2f} GB"
        )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", default="", metavar="WORDS", help="files whose name has this in it, as in the table")
    args = p.parse_args()
    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # Keras on PyTorch, NumPy 2
    print(f"largest error: {table(args.only):.1e}")
    from peers import published

    print("\npython -m weights_convert, from start to end:")
    for case in published.CASES:
        if case.network == "vgg16" and case.source != published.VGGFACE and args.only in str(case):
            print(conversion(case), flush=True)


if __name__ == "__main__":
    main()
