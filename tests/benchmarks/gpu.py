"""All that is to be measured on an NVIDIA GPU: its ceilings, each kernel, both ways of convolution, the SATM step.

    python tests/benchmarks/gpu.py                             # some minutes; with the tests that need a GPU
    python tests/benchmarks/gpu.py --no-tests --quick          # --help: batches, rounds, without the peer, --out FILE

Kernels are timed by CUDA events behind a long product, so that the host's time to start them does not count; steps by
the host's clock, which waits for the device, ours and PyTorch's in turn, each in a process of its own. Figures are
medians. Where there is no GPU the table says "not measured" in each place, and why.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import ops
import pair
import satm_step
from gpu_sides import PRECISIONS, REST, Clock, Setting, one_line, program, stand_in, using

HERE = Path(__file__).parent
LAYER_BATCH = 16
SIDES = ("ours", *satm_step.LAYOUTS)
IN_PLACE = {"bias_relu": 1, "sgd_step": 2, "adam_step": 3}  # of the first arrays, so many are read and written
PARTS = [f"convolution {n}x{n}, {way}" for n in (3, 1, 7) for way in ("forward", "gradient to x", "gradient to w")]
PARTS += ["dense layers", "batch norm", "relu, sums, scaling", "pooling", "optimiser", REST]


class Bench:
    """The table as it grows, and what its rows are measured with."""

    def __init__(self, args: argparse.Namespace) -> None:
        from minisatm import backend

        self.args, self.problem = args, backend.cupy_problem()
        self.lines: list[str] = []
        self.ceilings: dict[str, float] = {}
        self.kernels: Any = None
        if not self.problem:
            import cupy

            from minisatm.kernels import cupy_kernels, launch

            self.cupy, self.kernels, self.launch = cupy, cupy_kernels, launch
            self.noise = np.random.default_rng(0).random(self.scaled(2**22), np.float32) - np.float32(0.5)

    @cached_property
    def clock(self) -> Clock:
        return Clock(self.cupy, self.scaled(4096), 3 if self.args.quick else 5)

    def say(self, line: str = "") -> None:
        print(line.rstrip(), flush=True)
        self.lines.append(line.rstrip())

    def row(self, label: str, measure: Callable[[], str]) -> None:
        """One row: what `measure` returns, or why it could not."""
        if self.problem:
            self.say(f"{label} not measured")
            return
        try:
            self.say(label + measure())
        except Exception as problem:  # the next row may work
            self.say(f"{label} failed: {one_line(problem)}")
            self.cupy.get_default_memory_pool().free_all_blocks()

    def scaled(self, n: int) -> int:
        """A length, made tiny where the stand-in runs."""
        return max(2, n // 28) if self.args.stand_in and n > 3 else n

    def drawn(self, what: Any) -> Any:
        """For a shape random numbers around zero, for a function what it returns; anything else as it is."""
        if isinstance(what, tuple):
            return self.cupy.asarray(np.resize(self.noise, what))
        return what() if callable(what) else what


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


# --- each kernel ---------------------------------------------------------------------------------------------------


class Scene(NamedTuple):
    """A call of cupy_kernels and which kernels it starts. Arguments as Bench.drawn takes them."""

    starts: str
    label: str
    function: str
    arguments: list[Any]
    settings: dict[str, Any] = {}

    def call(self, bench: Bench) -> partial[Any]:
        return partial(getattr(bench.kernels, self.function), *map(bench.drawn, self.arguments), **self.settings)


def convolution(bench: Bench, layer: ops.Layer) -> list[Scene]:
    """The three passes of a layer: forward, to x, to w."""
    network, *sizes, kernel, stride = layer
    side, channels, filters = map(bench.scaled, sizes)
    batch, out = bench.scaled(LAYER_BATCH), (side - 1) // stride + 1
    x, w, g = (batch, side, side, channels), (kernel, kernel, channels, filters), (batch, out, out, filters)
    where = dict(stride=(stride, stride), pads=((kernel // 2, kernel // 2),) * 2)
    label = f"{network} {channels}-{filters}@{side} {kernel}x{kernel}/{stride}"
    return [
        Scene("conv2d", label, "conv2d", [x, w, None], where),
        Scene("conv2d_gx", label, "conv2d_gx", [g, w], dict(size=(side, side), **where)),
        Scene("conv2d_gw", label, "conv2d_gw", [x, g], dict(kernel=(kernel, kernel), **where)),
    ]


def scenes(bench: Bench) -> Iterator[Scene]:
    """Every kernel of the .cu files at a shape that training has; large ones, which no cache holds."""
    s = bench.scaled
    for layer in (("vgg16", 224, 64, 64, 3, 1), ("vgg16", 56, 256, 256, 3, 1), ("vgg16", 14, 512, 512, 3, 1),
                  ("resnet50", 224, 3, 64, 7, 2), ("resnet50", 56, 128, 128, 3, 2)):  # fmt: skip
        yield from convolution(bench, layer)

    N, D, F = s(128), s(25088), s(4096)
    image, half = (s(16), s(224), s(224), s(64)), (s(16), s(224) // 2, s(224) // 2, s(64))
    w, same = (3, 3, s(64), s(64)), dict(stride=(1, 1), pads=((1, 1), (1, 1)))
    pool = dict(kernel=(2, 2), stride=(2, 2), pads=((0, 0), (0, 0)))
    back, pixels = dict(pool, size=image[1:3]), (s(64), s(224), s(224), 3)
    wide, C, vector = (s(64), s(56), s(56), s(256)), (s(256),), (s(64),)
    sgd = dict(rate=1e-3, momentum=0.9, weight_decay=1e-4)
    adam = dict(rate=1e-3, betas=(0.9, 0.999), steps=1, eps=1e-8, weight_decay=1e-4)
    bits = np.full(-(-math.prod(pixels) // 8), 0xA5, np.uint8)
    moments = "batch_norm_moments batch_norm_statistics batch_norm_train"
    sums = "batch_norm_sums batch_norm_gradients batch_norm_train_gx"
    for starts, function, arguments, settings in (
        ("linear", "linear", [(N, D), (D, F), (F,)], {}),
        ("linear_gx", "linear_gx", [(N, F), (D, F)], {}),
        ("linear_gw", "linear_gw", [(N, D), (N, F)], {}),
        ("im2col bias_relu", "conv2d", [image, w, vector], dict(relu=True, **same)),
        ("col2im", "conv2d_gx", [image, w], dict(size=image[1:3], **same)),
        ("max_pool", "max_pool", [image], dict(ceil=False, **pool)),
        ("max_pool_gx", "max_pool_gx", [half, lambda: (bench.drawn(half) > 0).view(np.uint8)], back),
        ("avg_pool", "avg_pool", [image], dict(count_padding=True, **pool)),
        ("avg_pool_gx", "avg_pool_gx", [half], dict(count_padding=True, **back)),
        ("relu", "relu", [wide], {}),
        ("relu_gx", "relu_gx", [wide, wide], {}),
        ("add_relu", "add_relu", [wide, wide], {}),
        ("scale_shift", "scale_shift", [wide, C, C], {}),
        ("channel_sums_part channel_sums_total", "channel_sums", [wide, wide], {}),
        (moments, "batch_norm_train", [wide, C, C], dict(eps=1e-5, relu=True)),
        (sums, "batch_norm_train_gx", [wide, lambda: tuple(map(bench.drawn, (wide, C, C))), C, wide], {}),
        ("running_average", "running_average", [C, C, 0.1], {}),
        ("sign_step", "sign_step", [pixels, pixels, 1 / 32], {}),
        ("random_step", "random_step", [pixels, bits, 1 / 32], {}),
        ("dropout", "dropout", [(N, F), lambda: bench.drawn((N, F)) > 0, 2.0], {}),
        ("softmax_cross_entropy", "softmax_cross_entropy", [(N, 8), (N, 8)], {}),
        ("squares clip_scale", "clip_by_norm", [lambda: [bench.drawn((D, F))], 1.0], {}),
        ("sgd_step", "sgd_step", [(D, F), (D, F), (D, F), (1,)], sgd),
        ("adam_step", "adam_step", [(D, F), (D, F), (D, F), (D, F), (1,)], adam),
    ):
        shape = arguments[0] if isinstance(arguments[0], tuple) else (D, F)
        yield Scene(starts, "x".join(map(str, shape)), function, arguments, settings)


def each_kernel(bench: Bench) -> None:
    bench.say(
        "\nkernels alone, float32; bytes: every array read or written once; floor: the time by the ceilings above"
    )
    bench.say(f"{'':24}{'shape':30}{'microseconds':>14}{'GFLOP/s':>10}{'GB/s':>8}{'floor / time':>14}")
    for scene in scenes(bench):
        seen: dict[str, Any] = {}
        for name in scene.starts.split():
            bench.row(f"{name:24}{scene.label:30}", partial(alone, bench, scene, seen, name))


def alone(bench: Bench, scene: Scene, seen: dict[str, Any], name: str) -> str:
    """A kernel repeated with the arguments that the scene, played once, gave it."""
    start = bench.launch.launch
    if not seen:

        def watched(kernel: str, *rest: Any) -> None:
            seen.setdefault(kernel, rest)
            start(kernel, *rest)

        tiles = scene.starts == scene.function  # our own product, not cuBLAS
        call = scene.call(bench)
        ways = dict(launch=watched, cublas=not tiles, WORTH_COLUMNS=0)
        with using(bench.launch, launch=watched), using(bench.kernels, **ways):
            out = call()
        seen["flop"] = satm_step.described(scene.function, call.args, scene.settings, out)[1] if tiles else 0.0
    seconds, flop = bench.clock.seconds(partial(start, name, *seen[name])), seen["flop"]
    arrays = [a for a in seen[name][2:] if isinstance(a, bench.cupy.ndarray)]
    moved = sum(a.nbytes for a in (*arrays, *arrays[: IN_PLACE.get(name, 0)]))
    floor = max(flop / bench.ceilings.get("float32", math.inf), moved / bench.ceilings.get("copy", math.inf))
    return (
        f"{1e6 * seconds:>14,.1f}{f'{flop / seconds / 1e9:,.0f}' if flop else '':>10}{moved / seconds / 1e9:>8,.0f}"
        f"{f'{floor / seconds:.0%}' if floor else '-':>14}"
    )


def both_ways(bench: Bench) -> None:
    """The rule of cupy_kernels.by_columns beside what it decides about."""
    ways = {"": dict(cublas=False), "float32": dict(cublas=True, WORTH_COLUMNS=0, tf32=False),
            "TF32": dict(cublas=True, WORTH_COLUMNS=0, tf32=True)}  # fmt: skip

    def measured(scenes: list[Scene], filters: int) -> str:
        cells, slower, columns = "", [], bench.kernels.by_columns(filters)
        for part, scene in zip(ops.PASSES, scenes):
            call, seconds = scene.call(bench), {}
            for way, settings in ways.items():
                with using(bench.kernels, **settings):
                    seconds[way] = bench.clock.seconds(call)
                cells += f"{1e3 * seconds[way]:>9.3f}"
            slower += [f"{part} {way}" for way in ("float32", "TF32") if columns != (seconds[way] < seconds[""])]
        verdict = "all" if len(slower) == 6 else ", ".join(slower)
        return f"{cells}   {'columns' if columns else 'implicit'}{f' (slower: {verdict})' if slower else ''}"

    layers = [layer for layer in ops.layers(1.0, 224) if layer[4] > 1][:: 3 if bench.args.quick else 1]
    bench.say(
        f"\nconvolution, batch {LAYER_BATCH}, milliseconds: implicit product, columns and cuBLAS, the same in TF32"
    )
    bench.say(f"{'':28}" + "".join(f"{part:>27}" for part in ops.PASSES) + "   the rule takes")
    for layer in layers:
        passes = convolution(bench, layer)
        bench.row(f"{passes[0].label:28}", partial(measured, passes, layer[3]))


def columns_at_a_time(bench: Bench) -> None:
    """How many columns to make before they are multiplied: few stay in the cache, many make long products."""
    sizes = [2**k for k in range(22, 29)]

    def measured(scene: Scene) -> str:
        call, cells = scene.call(bench), ""
        for size in sizes:
            with using(bench.kernels, COLUMN_BYTES=size, cublas=True, WORTH_COLUMNS=0, tf32=True):
                cells += f"{1e3 * bench.clock.seconds(call):>10.3f}"
        return cells

    now = "" if bench.problem else f" (now {bench.kernels.COLUMN_BYTES >> 20})"
    bench.say(
        f"\nMiB of columns at a time{now}, at least one image's: forward in TF32, batch {LAYER_BATCH}, milliseconds"
    )
    bench.say(f"{'':28}" + "".join(f"{size >> 20:>10}" for size in sizes))
    for layer in ops.layers(1.0, 224):
        if layer[0] == "vgg16" and layer[2] == layer[3] and layer[4]:
            scene = convolution(bench, layer)[0]
            bench.row(f"{scene.label:28}", partial(measured, scene))


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
