"""Compile CUDA device source with g++ and run its kernels on NumPy arrays.

    module = Module(code, ["add<float>"])
    module.get_function("add<float>")((blocks,), (256,), (x, y, out, np.int32(n)))

A launch raises KernelError for what CUDA leaves undefined, and TypeError for arguments of another type than the
kernel's parameters. Compiled code is kept under the temporary folder, by its content.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
FLAGS = [
    *("-std=c++17", "-O2", "-g1", "-fPIC", "-w", "-U_FORTIFY_SOURCE", "-fno-strict-aliasing", "-ffp-contract=off"),
    *("-fsanitize=bounds,alignment,shift,signed-integer-overflow", "-fsanitize-undefined-trap-on-error"),
]
RACE_FLAGS = ["-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"]  # the runtime is cuda_race.h
STATIC_AND_DYNAMIC = 48 << 10  # bytes of shared memory that a launch may use without asking for more


class KernelError(RuntimeError):
    """A kernel that does not compile, or did what CUDA leaves undefined."""


def compiler() -> str:
    return os.environ.get("CXX", "g++")


def available() -> bool:
    """Is there a compiler?"""
    return os.name == "posix" and shutil.which(compiler()) is not None


# --- the order in which threads run -------------------------------------------------------------------------------

_order = 0


@contextlib.contextmanager
def schedule(order: int) -> Iterator[None]:
    """Launches that name no order use this one: 0 ascending, 1 descending, above 1 random with this seed."""
    global _order
    before, _order = _order, order
    try:
        yield
    finally:
        _order = before


# --- from CUDA source to a shared library -------------------------------------------------------------------------


def _blank(comment: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", comment[0])


def _shared(declaration: re.Match[str]) -> str:
    """`__shared__ T a[2], b;` as calls of cu::shared_array, `extern __shared__ T a[];` of cu::dynamic_array."""
    extern, text = declaration.groups()
    alignment = re.search(r"(?:__align__|alignas)\((.*?)\)", text)
    if alignment:
        text = text.replace(alignment[0], "")
    first, *others = re.split(r",(?![^<([]*[>)\]])", text)
    kind, first = re.fullmatch(r"(.*?)(\b\w+\s*(?:\[.*)?)", first, re.DOTALL).groups()
    calls = []
    for item in (first, *others):
        name, size = re.fullmatch(r"\s*(\w+)\s*(.*)", item, re.DOTALL).groups()
        if extern:
            calls.append(f"{kind}* const {name} = cu::dynamic_array<{kind}>();")
        else:
            calls.append(
                f"static cu::Site cu_site_{name}; using cu_type_{name} = {kind} {size}; "
                f"auto& {name} = cu::shared_array<cu_type_{name}, {alignment[1] if alignment else 1}>(cu_site_{name});"
            )
    return " ".join(calls)


def _prepared(code: str) -> str:
    code = re.sub(r"//[^\n]*|/\*.*?\*/", _blank, code, flags=re.DOTALL)
    code = re.sub(r'extern\s+"C"', "", code)  # several versions in one library would share such a name
    return re.sub(r"(extern\s+)?\b__shared__\s+([^;]+);", _shared, code)


def _unit(codes: Sequence[str], names: Sequence[str], filename: str) -> str:
    """The source of one library: each version in a namespace of its own, its kernels exported by number."""
    parts = ['#include "cuda_cpu.h"']
    for v, code in enumerate(codes):
        parts += [
            f"namespace cu_v{v} {{ namespace {{",
            f'#line 1 "{f"v{v}:" if len(codes) > 1 else ""}{filename}"',
            _prepared(code),
        ]
        parts += ["}", *(f"CU_EXPORT({v}_{i}, {name})" for i, name in enumerate(names)), "}"]
    return "\n".join(parts) + "\n"


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"cuda_on_cpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise KernelError(f"{folder} belongs to somebody else: set TMPDIR to a folder of your own")
    return folder


_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


def _compiled(unit: str, race: bool) -> Path:
    """The shared library of this source, compiled unless it is there; a failure is remembered, too."""
    flags = [*FLAGS, *(RACE_FLAGS if race else ())]
    headers = [(HERE / name).read_text() for name in ("cuda_cpu.h", "cuda_race.h")]
    key = hashlib.sha256("\0".join([unit, *headers, *flags, compiler(), platform.machine()]).encode()).hexdigest()[:24]
    library, failure = (_folder() / (key + ending) for ending in (".so", ".txt"))
    with _locks[key]:  # who comes while it is being compiled waits
        if failure.exists():
            raise KernelError(failure.read_text())
        if not library.exists():
            _compile(unit, flags, library, failure)
    return library


def _compile(unit: str, flags: list[str], library: Path, failure: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        source, made, built = (Path(scratch) / name for name in ("kernels.cpp", "kernels.o", "kernels.so"))
        source.write_text(unit)
        link = [flag for flag in flags if not flag.startswith("-fsanitize")]
        for command in (
            [compiler(), *flags, f"-I{HERE}", "-c", source, "-o", made],
            [compiler(), "-shared", *link, made, "-o", built],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                problem = f"does not compile: {done.stderr}"
                if "fatal error" not in done.stderr:  # as when memory ran out
                    built.write_text(problem)
                    os.replace(built, failure)
                raise KernelError(problem)
        os.replace(built, library)


# --- modules and kernels ------------------------------------------------------------------------------------------


class Module:
    """Like cupy.RawModule: get_function(name) of one of the kernels that `names` lists, as "add<float>"."""

    def __init__(self, code: str, names: Sequence[str], *, filename: str = "kernel.cu", race: bool = False) -> None:
        self._open(_compiled(_unit([code], names, filename), race), names, 0, race)

    def _open(self, path: Path, names: Sequence[str], version: int, race: bool) -> Module:
        self.path, self.names, self.version, self.race = path, list(names), version, race
        self.library = ctypes.PyDLL(str(path))  # PyDLL keeps the GIL: the library's state is global
        self.library.cu_error.restype = ctypes.c_char_p
        return self

    def get_function(self, name: str) -> Kernel:
        if name not in self.names:
            raise KernelError(f"there is no kernel {name!r}, only {', '.join(self.names)}")
        return Kernel(self, name)


class Broken:
    """Stands for a version that does not compile."""

    def __init__(self, problem: str) -> None:
        self.problem = problem

    def get_function(self, name: str) -> Kernel:
        raise KernelError(self.problem)


def variants(
    codes: Sequence[str], names: Sequence[str], *, filename: str = "kernel.cu", race: bool = False
) -> list[Module | Broken]:
    """Versions of one source, compiled together: starting g++ and reading the header costs more than a few kernels.

    Those that the compiler complains of are compiled once more, each by itself, and the others together.
    """
    try:
        path = _compiled(_unit(codes, names, filename), race)
    except KernelError as problem:
        if len(codes) == 1:
            return [Broken(str(problem))]
        blamed = {int(v) for v in re.findall(r"^v(\d+):", str(problem), re.MULTILINE)} or set(range(len(codes)))
        good = [v for v in range(len(codes)) if v not in blamed]
        found = dict(zip(good, variants([codes[v] for v in good], names, filename=filename, race=race) if good else ()))
        for v in blamed:
            found[v] = variants([codes[v]], names, filename=filename, race=race)[0]
        return [found[v] for v in range(len(codes))]
    return [Module.__new__(Module)._open(path, names, v, race) for v in range(len(codes))]


def ahead(compilations: Sequence[Callable[[], Any]]) -> threading.Thread:
    """Start these in a thread of their own, one after the other; what does not compile is told to those who need it."""

    def work() -> None:
        for compilation in compilations:
            with contextlib.suppress(KernelError):
                compilation()

    thread = threading.Thread(target=work, name="compiles ahead", daemon=True)
    thread.start()
    return thread


class Kernel:
    """A compiled kernel: kernel(grid, block, arguments, shared_mem=bytes)."""

    def __init__(self, module: Module, name: str) -> None:
        number = f"{module.version}_{module.names.index(name)}"
        self.module, self.name = module, name
        self.function: Callable[..., int] = getattr(module.library, f"cu_launch_{number}")
        signature = getattr(module.library, f"cu_signature_{number}")
        signature.restype = ctypes.c_char_p
        self.parameters: list[str] = re.findall(r"[pP]?[^pP]", signature().decode())
        self.max_dynamic_shared_size_bytes = STATIC_AND_DYNAMIC

    def __call__(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        shared_mem: int = 0,
        order: int | None = None,
    ) -> None:
        if len(args) != len(self.parameters):
            raise TypeError(f"{self.name}: {len(args)} arguments for {len(self.parameters)} parameters")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise KernelError(f"{self.name}: {shared_mem} bytes of shared memory: set max_dynamic_shared_size_bytes")
        guarded: dict[tuple[int, int], Guarded] = {}
        values = [self._value(n, *pair, guarded) for n, pair in enumerate(zip(args, self.parameters))]
        self._refuse_overlaps(list(guarded.values()))
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        if self.module.race:
            ranges = [n for buffer in guarded.values() for n in buffer.addresses()]
            self.module.library.cu_arguments(len(guarded), (ctypes.c_size_t * len(ranges))(*ranges))
        order = _order if order is None else order
        if self.function(_triple(grid), _triple(block), ctypes.c_size_t(shared_mem), pointers, ctypes.c_int(order)):
            message = self.module.library.cu_error().decode()
            raise KernelError(f"{self.name}: {self._explained(message, list(guarded.values()))}")
        for buffer in guarded.values():
            if not buffer.intact():
                raise KernelError(f"{self.name}: argument {buffer.place}: written out of bounds")
            if buffer.written:
                buffer.copy_back()

    def _value(self, place: int, given: Any, parameter: str, guarded: dict[tuple[int, int], Guarded]) -> Any:
        """The argument as the bytes of a C value: that of a scalar, or the address of a guarded copy of an array."""
        kind = getattr(given, "dtype", np.dtype(object)).char.translate({ord("l"): "q", ord("L"): "Q"})
        if parameter[0] in "pP":
            if given is None:
                return ctypes.c_void_p(None)
            if isinstance(given, np.ndarray) and kind == parameter[1] and given.flags.c_contiguous:
                key = (given.ctypes.data, given.nbytes) if given.nbytes else (-1, place)
                if key not in guarded:
                    guarded[key] = Guarded(place, given)
                buffer = guarded[key]
                buffer.written |= parameter[0] == "P"
                return ctypes.c_void_p(buffer.address)
        elif isinstance(given, np.generic) and kind == parameter:
            return ctypes.create_string_buffer(given.tobytes())
        contiguous = "" if not isinstance(given, np.ndarray) or given.flags.c_contiguous else ", not contiguous"
        raise TypeError(
            f"{self.name}: argument {place}: the parameter is {_in_words(parameter)}, "
            f"given is {type(given).__name__} {getattr(given, 'dtype', '')}{contiguous}"
        )

    def _refuse_overlaps(self, buffers: list[Guarded]) -> None:
        """Each argument is copied to a place of its own, so one that is part of another would go wrong unseen."""
        for i, a in enumerate(buffers):
            for b in buffers[:i]:
                if (a.written or b.written) and np.may_share_memory(a.array, b.array):
                    raise KernelError(f"{self.name}: arguments {b.place} and {a.place} overlap in part")

    def _explained(self, message: str, buffers: list[Guarded]) -> str:
        """The message with the argument's index for an address, and the source line for a program counter."""
        if found := re.search(r"at (0x[0-9a-f]+) by", message):
            for buffer in buffers:
                low, first, _, high = buffer.addresses()
                if low <= int(found[1], 16) < high:
                    element = (int(found[1], 16) - first) // buffer.array.itemsize
                    message = message.replace(found[1], f"argument {buffer.place} element {element}")
        if found := re.search(r"pc (0x[0-9a-f]+)", message):
            command = ["addr2line", "-e", str(self.module.path), found[1]]
            line = (
                subprocess.run(command, capture_output=True, text=True).stdout.strip()
                if shutil.which("addr2line")
                else ""
            )
            message = message.replace(found[0], re.sub(r".*/|v\d+:| \(.*", "", line) or found[0])
        return message


class Guarded:
    """A copy of an array between zones that show stray writes. A stray read finds NaN there; not the same for each
    argument, since a kernel may copy what lies beyond one array to beyond another.
    """

    def __init__(self, place: int, array: np.ndarray) -> None:
        self.place, self.array, self.written = place, array, False
        self.zone = min(4 << 20, 4096 + array.nbytes + -array.nbytes % 16)
        self.nan = np.uint32(0xFFFFFFFD - place)
        self.words = np.full((2 * self.zone + array.nbytes + 3) // 4 + 4, self.nan)
        self.words = self.words[-self.words.ctypes.data % 16 // 4 :]
        self.address = self.words.ctypes.data + self.zone
        self.inner = self.words.view(np.uint8)[self.zone :][: array.nbytes]
        self.inner[:] = array.reshape(-1).view(np.uint8)

    def addresses(self) -> tuple[int, int, int, int]:
        """Where the zone before the array begins, the array itself, the zone after it, and where that ends."""
        low = self.words.ctypes.data
        return low, self.address, self.address + self.array.nbytes, low + self.words.nbytes

    def intact(self) -> bool:
        end, over = divmod(self.zone + self.array.nbytes, 4)  # the array may end in the middle of a word
        rest = self.words[end:].view(np.uint8)[over:4] == self.nan.reshape(1).view(np.uint8)[over:]
        zones = self.words[: self.zone // 4] == self.nan, self.words[end + 1 :] == self.nan
        return all(bool(part.all()) for part in (rest, *zones))

    def copy_back(self) -> None:
        self.array.reshape(-1).view(np.uint8)[:] = self.inner


def _triple(dimensions: Sequence[int]) -> Any:
    return (ctypes.c_uint * 3)(*(*dimensions, 1, 1)[:3])


def _in_words(parameter: str) -> str:
    kind = "a type that is not known here" if parameter[-1] == "v" else np.dtype(parameter[-1]).name
    return {"P": f"a pointer to {kind}", "p": f"a pointer to const {kind}"}.get(parameter[:-1], f"a {kind}")
