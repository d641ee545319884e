"""The device that cupy_standin pretends to: its memory, what the host waits for, and CuPy's modules about it."""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

HERE = Path(__file__).parent
MEMORY = 16 << 30  # bytes

# --- waits ---------------------------------------------------------------------------------------------------------

waits: Counter[str] = Counter()  # how often the host has waited, by place: "loss.py:30 float()"
_watchers: list[list[str]] = []


def wait(what: str) -> None:
    frame: Any = sys._getframe(1)
    while (path := Path(frame.f_code.co_filename)).parent == HERE:
        frame = frame.f_back
    place = f"{path.name}:{frame.f_lineno} {what}()"
    waits[place] += 1
    for watcher in _watchers:
        watcher.append(place)


@contextlib.contextmanager
def waiting() -> Iterator[list[str]]:
    """The list of this block's waits, as it grows."""
    watcher: list[str] = []
    _watchers.append(watcher)
    try:
        yield watcher
    finally:
        _watchers[:] = [w for w in _watchers if w is not watcher]


# --- memory: an allocation is a NumPy array that owns its memory; it ends with the last view of it --------------------


class OutOfMemoryError(MemoryError):
    pass


class MemoryPool:
    """Counts the bytes of living arrays, each rounded up to 512 as CuPy does."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._used = self._peak = self._limit = 0

    def enter(self, root: np.ndarray) -> None:
        if id(root) in self._sizes:
            return
        size = -(-root.nbytes // 512) * 512
        if self._used + size > (self._limit or MEMORY):
            so_far = f"{self._used:,} bytes, limit set to: {self._limit or MEMORY:,} bytes"
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (allocated so far: {so_far}).")
        self._sizes[id(root)] = size
        self._used += size
        self._peak = max(self._peak, self._used)
        weakref.finalize(root, self._leave, id(root)).atexit = False

    def _leave(self, key: int) -> None:
        self._used -= self._sizes.pop(key)

    def used_bytes(self) -> int:
        return self._used

    def total_bytes(self) -> int:
        return self._peak

    def free_all_blocks(self, stream: Any = None) -> None:
        self._peak = self._used

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self._limit = int((fraction or 0) * MEMORY) if size is None else size

    def get_limit(self) -> int:
        return self._limit


pool = MemoryPool()


def get_default_memory_pool() -> MemoryPool:
    return pool


# --- cupy.cuda and other modules -------------------------------------------------------------------------------------


class Stream:
    null: Any = None

    def synchronize(self) -> None:
        wait("synchronize")


class Device(Stream):
    compute_capability, id = "80", 0
    mem_info = property(lambda self: (MEMORY - pool.total_bytes(), MEMORY))

    def __init__(self, device: Any = None) -> None: ...


def _module(name: str, **names: Any) -> Any:
    return SimpleNamespace(__name__=f"cupy.{name}", __spec__=ModuleSpec(f"cupy.{name}", None), **names)


Stream.null = Stream()
cuda = _module("cuda", Device=Device, Stream=Stream, is_available=lambda: True)
cuda.runtime = _module(
    "cuda.runtime", CUDARuntimeError=type("CUDARuntimeError", (RuntimeError,), {}), getDeviceCount=lambda: 1,
    getDeviceProperties=lambda device: {"name": b"CPU stand-in", "major": 8, "minor": 0, "totalGlobalMem": MEMORY},
    deviceSynchronize=Device().synchronize, memGetInfo=lambda: Device().mem_info,
    runtimeGetVersion=lambda: 12090, driverGetVersion=lambda: 12090,
)  # fmt: skip
cuda.nvrtc = _module("cuda.nvrtc", getVersion=lambda: (12, 9))
cuda.memory = _module("cuda.memory", OutOfMemoryError=OutOfMemoryError, MemoryPool=MemoryPool)
cublas = _module("cublas")
_core = _module("_core")
_types: dict[np.dtype[Any], int] = {}  # in which type products compute, by that of their factors
_core._routines_linalg = _module(
    "_core._routines_linalg", COMPUTE_TYPE_DEFAULT=1, COMPUTE_TYPE_TF32=7,
    get_compute_type=lambda dtype: _types.get(np.dtype(dtype), 0),
    set_compute_type=lambda dtype, kind: _types.update({np.dtype(dtype): kind}),
)  # fmt: skip
MODULES = {m.__name__: m for m in (cuda, cuda.runtime, cuda.nvrtc, cuda.memory, cublas, _core, _core._routines_linalg)}
