"""The GPU benchmark's table and clock, and its two sides, ours and PyTorch's, each in a process of its own."""

from __future__ import annotations

import argparse
import gc
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import pair
import satm_step

HERE = Path(__file__).parent
PRECISIONS = {True: "TF32 convolutions", False: "plain float32"}  # by what --tf32 is
REST = "everything else (tape, attack, losses)"


def stand_in(args: argparse.Namespace) -> Any:
    """A block with CuPy; or with its stand-in on the CPU, to try this program itself."""
    if not args.stand_in:
        return nullcontext()
    sys.path.insert(0, str(HERE.parent))
    from cuda_on_cpu.cupy_standin import standing_in

    return standing_in()


@contextmanager
def using(module: Any, **settings: Any) -> Iterator[None]:
    """A block in which these names of a module have other values."""
    before = {name: getattr(module, name) for name in settings}
    vars(module).update(settings)
    try:
        yield
    finally:
        vars(module).update(before)


def one_line(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {problem}".split("\n")[0][:120]


class Clock:
    """Seconds on the device, between CUDA events; where there are none, by the host's clock, which then waits."""

    def __init__(self, cupy: Any, side: int, rounds: int = 1) -> None:
        self.cupy, self.rounds, self.events = cupy, rounds, hasattr(cupy.cuda, "Event")
        self.factor = cupy.asarray(np.random.default_rng(0).random((side, side), np.float32))
        self.product = cupy.empty_like(self.factor)
        self.busy(2)
        self.busy_seconds = self.between(self.now(), self.busy(4)) / 4

    def busy(self, count: int = 1) -> Any:
        """Give the device something to do, so that what is started now waits for nothing but the device."""
        for _ in range(count):
            self.cupy.matmul(self.factor, self.factor, out=self.product)
        return self.now()

    def now(self) -> Any:
        if not self.events:
            return time.perf_counter()
        event = self.cupy.cuda.Event()
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        if not self.events:
            return end - start
        end.synchronize()
        return self.cupy.cuda.get_elapsed_time(start, end) / 1e3

    def seconds(self, action: Callable[[], Any]) -> float:
        action()
        start = self.busy()
        action()
        once = self.between(start, self.now())
        repeats, found = round(min(10, max(1, 2e-3 / max(once, 1e-6)))), []
        for _ in range(self.rounds):
            start = self.busy()
            for _ in range(repeats):
                action()
            found.append(self.between(start, self.now()) / repeats)
        return median(found)


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


class Setting(NamedTuple):
    batch: int
    tf32: bool
    width: float
    size: int

    def __str__(self) -> str:
        return f"batch {self.batch}, width {self.width:g}, {self.size}x{self.size}, {PRECISIONS[self.tf32]}"


class Ours:
    """A step of VGG16 and ResNet50 on the GPU."""

    def __init__(self, args: argparse.Namespace) -> None:
        import cupy

        from minisatm.kernels import cupy_kernels

        self.args, self.cupy, self.kernels = args, cupy, cupy_kernels
        self.pool, self.wait = cupy.get_default_memory_pool(), cupy.cuda.Device().synchronize

    def build(self, setting: Setting) -> Callable[[], Any]:
        from minisatm import backend, models, optim, satm
        from minisatm.domain import DomainClassifier

        backend.use("cupy", tf32=setting.tf32)
        learners, rng = [], np.random.default_rng(0)
        for name in ("vgg16", "resnet50"):
            network = models.build(name, classes=satm_step.CLASSES, width=setting.width, size=setting.size, rng=rng)
            modules = network.to("cupy"), DomainClassifier(network.feature_width, rng=rng).to("cupy")
            sgd, domain_sgd = (optim.SGD(module.parameters(), 1e-3) for module in modules)
            learners.append(satm.Learner(name, network, sgd, modules[1], domain_sgd))
        x = self.cupy.asarray(rng.random((setting.batch, setting.size, setting.size, 3), np.float32))
        y = self.cupy.asarray(rng.integers(0, satm_step.CLASSES, setting.batch))
        rules = satm.Rules(epsilon=satm_step.EPSILON, alpha=satm_step.ALPHA)
        return lambda: satm.step(learners, x, y, rules, 0)

    def free(self) -> None:
        self.pool.free_all_blocks()

    def memory(self) -> tuple[int, int]:
        """Bytes that are free on the device, and the most that this process has taken of it."""
        return self.cupy.cuda.runtime.memGetInfo()[0], self.pool.total_bytes()

    def shares(self, step: Callable[[], Any]) -> dict[str, tuple[float, float]]:
        """{kernel: (seconds, FLOP)} of one step: events around each call, started while the device is still busy."""
        from minisatm.kernels import numpy_kernels

        clock, found = Clock(self.cupy, 16 if self.args.stand_in else 4096), []

        def watched(name: str, function: Any) -> Any:
            def call(*arrays: Any, **settings: Any) -> Any:
                start = clock.now()
                out = function(*arrays, **settings)
                kind = "step" if name in ("sgd_step", "adam_step", "clip_by_norm") else name
                found.append((start, clock.now(), *satm_step.described(kind, arrays, settings, out)))
                return out

            return call

        names = [name for name in numpy_kernels.__all__ if hasattr(self.kernels, name)]
        with using(self.kernels, **{name: watched(name, getattr(self.kernels, name)) for name in names}):
            host = pair.timed(step)
            found.clear()
            start = clock.busy(math.ceil(1.5 * host / clock.busy_seconds) if clock.events else 1)
            step()
            total = clock.between(start, clock.now())
        sums = {label: [0.0, 0.0] for _, _, label, _ in found}
        for began, ended, label, flop in found:
            sums[label][0] += clock.between(began, ended)
            sums[label][1] += flop
        sums[REST] = [total - sum(seconds for seconds, _ in sums.values()), 0.0]
        return {label: (seconds, flop) for label, (seconds, flop) in sums.items()}


class Torch:
    """The step that satm_step.py has, on the GPU: cuDNN's convolutions in TF32, PyTorch's default, or in float32."""

    def __init__(self, args: argparse.Namespace, channels_last: bool) -> None:
        import torch

        if not torch.cuda.is_available() and not args.stand_in:
            raise RuntimeError("this PyTorch finds no GPU")
        self.torch, self.cuda, self.channels_last = torch, not args.stand_in, channels_last
        torch.set_default_device("cuda" if self.cuda else "cpu")

    def build(self, setting: Setting) -> Callable[[], Any]:
        self.torch.backends.cudnn.allow_tf32 = setting.tf32
        if self.cuda:
            self.torch.cuda.reset_peak_memory_stats()
        answers: dict[str, Any] = {}
        args = argparse.Namespace(**setting._asdict(), craft=None, pair="vgg16,resnet50")
        satm_step.theirs(answers.update, args, self.channels_last)
        return lambda: answers["time"](None)

    def wait(self) -> None:
        if self.cuda:
            self.torch.cuda.synchronize()

    def free(self) -> None:
        self.torch.cuda.empty_cache()

    def memory(self) -> tuple[int, int]:
        return (self.torch.cuda.mem_get_info()[0], self.torch.cuda.max_memory_reserved()) if self.cuda else (2**40, 0)


def program(serve: Any, args: argparse.Namespace, side: str) -> None:
    """One side in a process of its own. An answer is (what was asked for, None) or (None, the problem in one line)."""
    own: dict[str, Any] = {}

    def start(setting: Setting) -> float:
        """Prepare, and warm up. Returns the GiB that the step takes."""
        if "library" not in own:
            own["library"] = Ours(args) if side == "ours" else Torch(args, satm_step.LAYOUTS[side])
        stop()
        own["step"] = own["library"].build(setting)
        turn(1)
        own["repeats"] = 1 if args.stand_in else max(1, round(0.2 / turn(1)))
        own["peak"] = own["library"].memory()[1]
        make_room()
        return own["peak"] / 2**30

    def turn(repeats: int) -> float:
        began = time.perf_counter()
        for _ in range(repeats):
            own["step"]()
        own["library"].wait()
        return (time.perf_counter() - began) / repeats

    def timed(_: Any) -> float:
        if own["emptied"]:
            turn(1)
        seconds = turn(own["repeats"])
        make_room()
        return seconds

    def make_room() -> None:
        """The next one needs about as much: where that is not free, it gets what this one keeps for its next turn."""
        own["emptied"] = own["library"].memory()[0] < 1.2 * own["peak"]
        if own["emptied"]:
            own["library"].free()

    def stop(_: Any = None) -> None:
        own.pop("step", None)
        gc.collect()
        if "library" in own:
            own["library"].free()

    def safely(action: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def answer(task: Any) -> tuple[Any, str | None]:
            try:
                return action(task), None
            except Exception as problem:
                return None, one_line(problem)

        return answer

    actions = dict(start=start, time=timed, stop=stop, shares=lambda _: own["library"].shares(own["step"]))
    with stand_in(args) if side == "ours" else nullcontext():
        serve({name: safely(action) for name, action in actions.items()})
