"""Compile the CUDA kernels for real GPUs on a machine that has none, by NVRTC from its pip wheel.

    pip install -e '.[cuda-check]' && python tests/cuda_on_cpu/nvrtc.py

prints what each kernel takes of a multiprocessor. CuPy compiles with the same NVRTC and the same options; neither CuPy
nor a driver is needed here.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from minisatm.kernels.cuda_source import NAMES, OPTIONS, catalogue, instances, source

ARCHITECTURES = ("sm_70", "sm_80", "sm_90")  # V100, A100, H100 and H200
ABSENT = "NVRTC is not installed (pip install -e '.[cuda-check]'): the CUDA kernels are not compiled for a GPU here"
ENTRY = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?"
    r"Used (\d+) registers([^\n]*)", re.S
)  # fmt: skip


class Cost(NamedTuple):
    """Registers of a thread, bytes of shared memory of a block, bytes that found no place in registers."""

    registers: int
    shared: int
    spilled: int


class CompileError(RuntimeError):
    """The compiler's own words."""


@cache
def library() -> Any:
    """NVRTC, or None where its wheel is not installed."""
    package = find_spec("nvidia")
    folders = package.submodule_search_locations or () if package else ()
    found = [file for folder in folders if (file := Path(folder, "cuda_nvrtc/lib/libnvrtc.so.12")).exists()]
    return ctypes.CDLL(str(found[0])) if found else None


def version() -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def compiled(code: str, names: Sequence[str], architecture: str) -> tuple[dict[str, Cost], int]:
    """Compile these instances, as "relu<float>", down to machine code: the cost of each, and the CUBIN's bytes."""
    nvrtc, program = library(), ctypes.c_void_p()
    options = [o.encode() for o in (*OPTIONS, f"--gpu-architecture={architecture}", "--ptxas-options=-v")]
    _expect(nvrtc.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None))
    try:
        for name in names:
            _expect(nvrtc.nvrtcAddNameExpression(program, name.encode()))
        failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = _bytes("ProgramLog", program).decode().rstrip("\0")
        if failed:
            raise CompileError(log)
        by_entry = {entry: _cost(*found) for entry, *found in ENTRY.findall(log)}
        return {name: by_entry[_lowered(program, name)] for name in names}, len(_bytes("CUBIN", program))
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _expect(result: int) -> None:
    if result:
        library().nvrtcGetErrorString.restype = ctypes.c_char_p
        raise CompileError(library().nvrtcGetErrorString(result).decode())


def _bytes(what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _expect(getattr(library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _expect(getattr(library(), f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _lowered(program: ctypes.c_void_p, name: str) -> str:
    """The name that an instance has in the machine code."""
    found = ctypes.c_char_p()
    _expect(library().nvrtcGetLoweredName(program, name.encode(), ctypes.byref(found)))
    return (found.value or b"").decode()


def _cost(stores: str, loads: str, registers: str, rest: str) -> Cost:
    shared = re.search(r"(\d+) bytes smem", rest)
    return Cost(int(registers), int(shared[1]) if shared else 0, int(stores) + int(loads))


def files() -> list[str]:
    return sorted({kernel.file for kernel in catalogue().values()})


@cache
def costs(file: str, architecture: str) -> tuple[dict[str, Cost], int]:
    """compiled() for all kernels of a .cu file, for float and double together: starting the compiler takes longest."""
    return compiled(source(file), [name for dtype in NAMES for name in instances(file, dtype)], architecture)


def report() -> str:
    """One table of all kernels."""
    types = tuple(NAMES.values())
    cubins = ", ".join(f"{a} {sum(costs(f, a)[1] for f in files()) / 1024:.0f} KiB" for a in ARCHITECTURES)
    kernels = [k for f in files() for k in catalogue().values() if k.file == f]
    rows = [
        f"{len(kernels)} kernels as {' and '.join(types)}, compiled to CUBIN by NVRTC {version()}: {cubins}",
        "",
        f"{'':22}{'registers of a thread, ' + ' / '.join(types):^36}{'shared bytes':>16}{'spilled':>10}",
        f"{'':22}" + "".join(f"{a:^12}" for a in ARCHITECTURES) + f"{' / '.join(types):>16}{'bytes':>10}",
    ]
    for k in kernels:
        by_type = [[costs(k.file, a)[0][f"{k.name}<{t}>"] for a in ARCHITECTURES] for t in types]
        registers = "".join(f"{_slashed(c.registers for c in pair):^12}" for pair in zip(*by_type))
        shared = _slashed(max(c.shared for c in own) for own in by_type)
        spilled = max(c.spilled for own in by_type for c in own)
        rows.append(f"{k.name:22}{registers}{shared:>16}{spilled:>10}")
    return "\n".join(row.rstrip() for row in rows)


def _slashed(values: Iterable[int]) -> str:
    return " / ".join(map(str, values))


if __name__ == "__main__":
    print(report() if library() else ABSENT)
