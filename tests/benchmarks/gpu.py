"""All that is to be measured on an NVIDIA GPU: its ceilings, each kernel, both ways of convolution, the SATM step.

    python tests/benchmarks/gpu.py                             # some minutes; with the tests that need a GPU
    python tests/benchmarks/gpu.py --no-tests --quick          # --help: batches, rounds, without the peer, --out FILE

Kernels are timed by CUDA events behind a long product, so that the host's time to start them does not count; steps by
the host's clock, which waits for the device, ours and PyTorch's in turn, each in a process of its own. Figures are
medians. Where there is no GPU the table says "not measured" in each place, and why.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pair
import satm_step
from gpu_kernels import both_ways, columns_at_a_time, each_kernel
from gpu_sides import PRECISIONS, REST, Bench, Setting, one_line, program, stand_in, using

HERE = Path(__file__).parent
SIDES = ("ours", *satm_step.LAYOUTS)
PARTS = [f"convolution {n}x{n}, {way}" for n in (3, 1, 7) for way in ("forward", "gradient to x", "gradient to w")]
PARTS += ["dense layers", "batch norm", "relu, sums, scaling", "pooling", "optimiser", REST]


# --- what there is, and its tests ----------------------------------------------------------------------------------


def describe(bench: Bench) -> None:
    def card() -> str:
        runtime = bench.cupy.cuda.runtime
        card = runtime.getDeviceProperties(0)
        return (
            f" {card['name'].decode()}, {card['totalGlobalMem'] / 2**30:.0f} GiB, compute capability {card['major']}."
            f"{card['minor']}; driver {driver()}, for CUDA up to {release(runtime.driverGetVersion())}"
        )

    def cuda() -> str:
        nvrtc = ".".join(map(str, bench.cupy.cuda.nvrtc.getVersion()))
        runtime = release(bench.cupy.cuda.runtime.runtimeGetVersion())
        return f" CuPy {bench.cupy.__version__}, CUDA {runtime}, NVRTC {nvrtc}"

    try:
        torch = f"PyTorch {version('torch')}, eager; torch.backends.cudnn.benchmark as it is by default, False"
    except PackageNotFoundError:
        torch = "PyTorch is not installed"
    bench.say("minisatm on an NVIDIA GPU" + ": NO GPU, A STAND-IN; no figure means anything" * bench.args.stand_in)
    if bench.problem:
        bench.say(f"NOT MEASURED: {bench.problem}")
    bench.row("card:", card)
    bench.row("ours:", cuda)
    bench.say(f"peer: {torch}")
    bench.say(f"host: {pair.machine()}")


def release(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def driver() -> str:
    with suppress(OSError, subprocess.CalledProcessError, IndexError):
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return "unknown"


def build_and_test(bench: Bench) -> None:
    def compiled() -> str:
        start = time.perf_counter()
        for name in bench.launch.catalogue():
            bench.launch._function(name, np.dtype(np.float32))
        return f"{time.perf_counter() - start:>10.1f} s, nothing cached"

    def tests() -> str:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu"]
        done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, timeout=300)
        return "      " + (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()[-1].strip("= ")

    bench.say()
    bench.row(f"{'all kernels compiled, float32':48}", compiled)
    if bench.args.no_tests:
        bench.say(f"{'python -m pytest -m gpu':48} left out (--no-tests)")
    else:
        bench.row(f"{'python -m pytest -m gpu':48}", tests)


def ceilings(bench: Bench) -> None:
    side = bench.scaled(8192)

    def product(tf32: bool) -> str:
        a, out = bench.drawn((side, side)), bench.cupy.empty((side, side), np.float32)
        with using(bench.kernels, tf32=tf32):
            speed = 2 * side**3 / bench.clock.seconds(lambda: bench.kernels._product(a, a, out))
        bench.ceilings["TF32" if tf32 else "float32"] = speed
        return f"{speed / 1e9:>10,.0f} GFLOP/s"

    def copy() -> str:
        a = bench.drawn((bench.scaled(2**28),))
        b = bench.cupy.empty_like(a)
        bench.ceilings["copy"] = 2 * a.nbytes / bench.clock.seconds(lambda: bench.cupy.copyto(b, a))
        return f"{bench.ceilings['copy'] / 1e9:>10,.0f} GB/s"

    def start(count: int = 500) -> str:
        x = bench.drawn((2,))
        bench.kernels.relu(x)
        bench.cupy.cuda.Device().synchronize()
        seconds = pair.timed(lambda: [bench.kernels.relu(x) for _ in range(count)]) / count
        return f"{1e6 * seconds:>10,.1f} microseconds"

    bench.say("\nceilings of this card, as measured here")
    bench.row(f"{f'  cuBLAS, {side} square, float32':48}", lambda: product(tf32=False))
    bench.row(f"{f'  cuBLAS, {side} square, TF32':48}", lambda: product(tf32=True))
    bench.row(f"{'  copy of 1 GiB, bytes read and bytes written':48}", copy)
    bench.row(f"{'  the host starts one of our kernels (relu) in':48}", start)


# --- the SATM step -------------------------------------------------------------------------------------------------


def steps(bench: Bench) -> None:
    args, sides = bench.args, ["ours"] if bench.args.no_peer else list(SIDES)
    width, size = (1 / 32, 32) if args.stand_in else (1.0, 224)
    settings = [Setting(batch, tf32, width, size) for tf32 in PRECISIONS for batch in map(int, args.batch.split(","))]
    programs = None
    if not bench.problem:
        bench.cupy.get_default_memory_pool().free_all_blocks()
        programs = pair.Programs({side: (program, (args, side)) for side in sides})
    bench.say(f"\nSATM step, VGG16 and ResNet50, images on the device; {args.rounds} interleaved rounds")
    bench.say("TF32 convolutions: PyTorch's default, and our --tf32; dense layers are in float32 in either precision")
    bench.say("ratio: to PyTorch in its faster layout, median over rounds; peak: what the allocator took of the device")
    found = {setting: compare(bench, programs, sides, setting) for setting in settings}
    bench.say("\nand with next to nothing to compute: the time that the host needs to start the same kernels")
    compare(bench, programs, sides, Setting(2, True, width if args.stand_in else 0.5, 32))

    bench.say("\nwhere our time goes: milliseconds, share, GFLOP/s; between events, so a wait for the host is in it")
    bench.say(f"{'':42}" + "".join(f"{f'batch {s.batch}, {PRECISIONS[s.tf32]}':>30}" for s in settings))
    for label in PARTS:
        bench.row(f"{label:42}", lambda: "".join(f"{share(found[s], label):>30}" for s in settings))  # noqa: B023
    if programs:
        with suppress(OSError):
            programs.stop()


def share(parts: dict[str, tuple[float, float]], label: str) -> str:
    if label not in parts:
        return "-"
    seconds, flop = parts[label]
    total = sum(own for own, _ in parts.values())
    return f"{1e3 * seconds:.2f}{seconds / total:>6.0%}{f'{flop / seconds / 1e9:,.0f}' if flop else '':>9}"


def compare(bench: Bench, programs: Any, sides: list[str], setting: Setting) -> dict[str, tuple[float, float]]:
    """The rows of one setting. Returns {kernel: (seconds, FLOP)} of our step."""
    problems = {side: " left out (--no-peer)" for side in SIDES if side not in sides}
    peaks, parts, seconds = {}, {}, {side: [] for side in sides}

    def ask(side: str, order: str, task: Any = None) -> Any:
        answer, problem = None, problems.get(side)
        if not problem or order == "stop":
            try:
                answer, failed = programs.ask(side, order, task)
            except (EOFError, OSError):
                failed = "its process is gone"
            if failed:
                problems[side] = problem or f" failed: {failed}"
        return answer

    if programs:
        peaks = {side: ask(side, "start", setting) for side in sides}
        for k in range(bench.args.rounds):
            for side in sides[:: 1 if k % 2 else -1]:
                seconds[side].append(ask(side, "time"))
        bad = set(problems)
        parts = ask("ours", "shares") or {}
        for side in sides:
            ask(side, "stop")
    flop = sum(own for _, own in parts.values())
    peers = [side for side in sides if side != "ours" and programs and side not in bad]
    faster = min(peers, key=lambda side: median(seconds[side]), default=None)

    def measured(side: str) -> str:
        if side in bad:
            return problems[side]
        ratio = f"{median(a / b for a, b in zip(seconds[side], seconds[faster])):.2f}" if faster else "-"
        speed = f"{flop / median(seconds[side]) / 1e12:.1f}" if flop else "-"
        return f"{pair.in_words(seconds[side], 1e3, 1):>30}{ratio:>8}{speed:>10}{peaks[side]:>10.1f}"

    bench.say(f"\n{setting}")
    bench.say(f"{'':24}{'ms: median (range)':>30}{'ratio':>8}{'TFLOP/s':>10}{'peak GiB':>10}")
    for side in SIDES:
        bench.row(f"{side:24}", partial(measured, side))
    if programs and not parts:
        bench.say(f"where our time goes:{problems.get('ours', ' unknown')}")
    return parts


def main() -> None:
    cli = pair.parser(__doc__)
    cli.set_defaults(rounds=0)
    cli.add_argument("--batch", default="8,64", help="batches of the SATM step (default 8,64)")
    cli.add_argument("--quick", action="store_true", help="fewer rounds, and a third of the layers")
    cli.add_argument("--no-tests", action="store_true", help="do not run python -m pytest -m gpu")
    cli.add_argument("--no-peer", action="store_true", help="do not measure PyTorch")
    cli.add_argument("--out", metavar="FILE", help="also write the table here")
    cli.add_argument("--stand-in", action="store_true", help=argparse.SUPPRESS)
    args = cli.parse_args()
    args.rounds = args.rounds or (3 if args.quick else 7)
    with tempfile.TemporaryDirectory() as cache, stand_in(args):
        os.environ["CUPY_CACHE_DIR"] = cache  # of this program and its processes: nothing is compiled yet
        began, bench = time.perf_counter(), Bench(args)
        for section in (describe, build_and_test, ceilings, each_kernel, both_ways, columns_at_a_time, steps):
            try:
                section(bench)
            except Exception as problem:
                bench.say(f"failed: {one_line(problem)}")
    if not bench.problem:
        bench.say(f"\n{time.perf_counter() - began:.0f} s in all")
    if args.out:
        Path(args.out).write_text("\n".join(bench.lines) + "\n")


if __name__ == "__main__":
    main()
