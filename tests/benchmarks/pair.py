"""Two programs side by side: each lives in a process of its own, and they take turns, round by round.

A program prepares itself (and warms up), then serves: it times what it is asked to, and answers with the seconds.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

for setting in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # either may hold BLAS to an older, slower core
    os.environ.pop(setting, None)

Answers = dict[
    str, Callable[[Any], Any]
]  # what a program does when it is asked: {order: function of what comes with it}
Program = Callable[..., None]  # program(serve, *args) prepares itself, then calls serve(answers)


def peak_mib() -> int:
    """The most memory that this process ever had resident, in MiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def timed(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _live(wire: Any, program: Program, args: tuple[Any, ...]) -> None:
    def serve(answers: Answers) -> None:
        gc.collect()
        gc.freeze()
        wire.send("ready")
        while (message := wire.recv()) is not None:
            order, task = message
            wire.send(answers[order](task))

    program(serve, *args)


class Programs:
    """{name: (program, args)}, each in its own process, started one after the other."""

    def __init__(self, programs: dict[str, tuple[Program, tuple[Any, ...]]]) -> None:
        context = multiprocessing.get_context("spawn")
        self.wires: dict[str, Any] = {}
        self.processes = []
        for name, (program, args) in programs.items():
            self.wires[name], other = context.Pipe()
            self.processes.append(context.Process(target=_live, args=(other, program, args)))
            self.processes[-1].start()
            other.close()
            assert self.wires[name].recv() == "ready"

    def ask(self, name: str, order: str, task: Any = None) -> Any:
        self.wires[name].send((order, task))
        return self.wires[name].recv()

    def rounds(self, count: int, task: Any = None) -> dict[str, list[float]]:
        """Seconds of each program in each round, as it answers to "time"; who goes first changes every round."""
        seconds: dict[str, list[float]] = {name: [] for name in self.wires}
        for k in range(count):
            for name in list(self.wires)[:: 1 if k % 2 else -1]:
                seconds[name].append(self.ask(name, "time", task))
        return seconds

    def stop(self) -> None:
        for wire in self.wires.values():
            wire.send(None)
        for process in self.processes:
            process.join()


def in_words(values: list[float], unit: float = 1.0, digits: int = 2) -> str:
    """Median and range: "9.41 (9.30-9.77)"."""
    low, middle, high = (f"{v * unit:.{digits}f}" for v in (min(values), median(values), max(values)))
    return f"{middle} ({low}-{high})"


def product_speed(seconds: float = 1.0) -> float:
    """GFLOP/s of this machine's float32 matrix product (NumPy, every core), the best of about a second."""
    import numpy as np

    a = np.random.default_rng(0).random((2048, 2048), np.float32)
    best, start = timed(lambda: a @ a), time.perf_counter()
    while time.perf_counter() - start < seconds:
        best = min(best, timed(lambda: a @ a))
    return 2 * 2048**3 / best / 1e9


def machine() -> str:
    """One line: processor, cores, versions, BLAS."""
    import numpy as np
    import threadpoolctl

    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    blas = next((b for b in threadpoolctl.threadpool_info() if b["user_api"] == "blas"), {})
    cores = len(os.sched_getaffinity(0))
    return (
        f"{names[0] if names else platform.machine()}, {cores} cores; Python {platform.python_version()}, NumPy "
        f"{np.__version__}, {blas.get('internal_api')} {blas.get('version')} ({blas.get('architecture')})"
    )


def torch_version() -> str:
    from importlib.metadata import version

    return f"PyTorch {version('torch')}"


def parser(description: str) -> argparse.ArgumentParser:
    cli = argparse.ArgumentParser(description=description.splitlines()[0])
    cli.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    return cli
