"""Which array library and which kernels serve an array, and whether a GPU can be used.

There are three backends: "numpy" and "plain" are two sets of kernels for NumPy arrays, "cupy" is the GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import distributions
from types import ModuleType
from typing import Any

import numpy as np

from .errors import InputError
from .inputs import check_choice
from .kernels import numpy_kernels, plain

NAMES = ("numpy", "plain", "cupy")
FOR_NUMPY: dict[str, Any] = {"numpy": numpy_kernels, "plain": plain}
NUMPY = "or use --backend numpy"
DRIVER = f"install the NVIDIA driver (on Ubuntu: sudo ubuntu-drivers install), {NUMPY}"

_of_process: Any = numpy_kernels  # the kernels for NumPy arrays: use() sets them for the process,
_of_block: ContextVar[Any] = ContextVar("kernels", default=None)  # using() for a block, where on_cores' threads see it


def on_gpu(array: Any) -> bool:
    """Is it a CuPy array?"""
    return type(array).__module__.partition(".")[0] == "cupy"


def array_module(array: Any) -> ModuleType:
    """numpy for a NumPy array, cupy for a CuPy array."""
    return importlib.import_module("cupy") if on_gpu(array) else np


def kernels(array: Any) -> Any:
    """The module of kernels that works on this array."""
    if on_gpu(array):
        return importlib.import_module(".kernels.cupy_kernels", __package__)
    if isinstance(array, np.ndarray | np.generic):
        chosen = _of_block.get()
        return _of_process if chosen is None else chosen
    raise InputError(f"no kernels for {type(array).__name__}: arrays must be NumPy or CuPy arrays.")


@contextmanager
def using(chosen: Any) -> Iterator[None]:
    """Use these kernels for NumPy arrays in this block: "plain", "numpy", or a module (or object) of your own.

    Your own must have every name in numpy_kernels.__all__, with the signatures of kernels/plain.py; start it with
    `from minisatm.kernels.plain import *`. CuPy arrays keep their kernels.
    """
    if isinstance(chosen, str):
        if chosen not in FOR_NUMPY:
            raise InputError(
                f"backend.using({chosen!r}) is for NumPy arrays: give {' or '.join(map(repr, FOR_NUMPY))}, or a module "
                'with kernels of your own (for the GPU it is network.to("cupy")).'
            )
        chosen = FOR_NUMPY[chosen]
    missing = [name for name in numpy_kernels.__all__ if not callable(getattr(chosen, name, None))]
    if missing:
        name = getattr(chosen, "__name__", type(chosen).__name__)
        raise InputError(f"{name} has no {', '.join(missing)}: kernels need every function of minisatm.kernels.plain.")
    token = _of_block.set(chosen)
    try:
        yield
    finally:
        _of_block.reset(token)


def placed(array: Any, name: str) -> Any:
    """The array on the GPU ("cupy") or in main memory ("numpy", "plain"); it is copied only if it is elsewhere."""
    if name == "cupy":
        return importlib.import_module("cupy").asarray(array)
    return array.get() if on_gpu(array) else np.asarray(array)


def copied_to(old: Any, new: Any) -> Any:
    """A copy of `new` with the dtype of `old`, in the memory where `old` is."""
    return array_module(old).array(placed(new, "cupy" if on_gpu(old) else "numpy"), old.dtype)


def scalar(value: Any) -> Any:
    """A float; of a CuPy array the 0-dimensional array itself, since float() would make the host wait for the GPU."""
    return value if on_gpu(value) else float(value)


def as_floats(table: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The table with every scalar as a float: the host waits only once for all that are on the GPU."""
    on_device = [v for row in table.values() for v in row.values() if on_gpu(v)]
    fetched = iter(array_module(on_device[0]).stack(on_device).get().tolist() if on_device else ())
    return {
        name: {key: next(fetched) if on_gpu(v) else float(v) for key, v in row.items()} for name, row in table.items()
    }


def cupy_problem() -> str | None:
    """Why CuPy cannot be used here, in one sentence with the command that repairs it; None if it can be used."""
    if importlib.util.find_spec("cupy") is None:
        return (
            "CuPy is not installed: run pip install -e '.[cupy]' where nvidia-smi names CUDA 12 "
            f"('.[cupy13]' for CUDA 13 and later), {NUMPY}."
        )
    try:
        cupy: Any = importlib.import_module("cupy")
    except Exception as problem:  # a CUDA library is missing, or CuPy was built for another NumPy
        return f"CuPy cannot be imported ({_one_line(problem)}): pip install --force-reinstall -e '.[cupy]', {NUMPY}."
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except Exception as problem:
        if "NoDevice" not in str(problem):
            return f"CuPy finds no NVIDIA driver that fits ({_one_line(problem)}): {DRIVER}."
        devices = 0
    if not devices:
        return f"CuPy finds no GPU: unset CUDA_VISIBLE_DEVICES if nvidia-smi lists one, {NUMPY}."
    try:
        cupy.cuda.nvrtc.getVersion()
        importlib.import_module("cupy.cublas")
    except Exception as problem:
        return f"CuPy has no NVRTC or cuBLAS ({_one_line(problem)}): run pip install '{_wheel()}[ctk]', {NUMPY}."
    return None


def _wheel() -> str:
    """The name under which CuPy is installed: cupy-cuda12x, cupy-cuda13x ..."""
    names = ((d.metadata["Name"] or "").lower().replace("_", "-") for d in distributions())
    return next((n for n in names if n.startswith("cupy-cuda")), "cupy-cuda12x")


def _one_line(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}".split("\n")[0].rstrip(".")


def require(name: str) -> None:
    """Raise an InputError with the reason if this backend cannot be used here."""
    check_choice("backend", name, NAMES)
    if name == "cupy" and (problem := cupy_problem()):
        raise InputError(problem)


def use(name: str, *, tf32: bool = False) -> None:
    """Use this backend in the whole process; tf32: on a GPU, convolutions round their factors to TF32."""
    global _of_process
    require(name)
    _of_process = FOR_NUMPY.get(name, numpy_kernels)
    if name != "cupy":
        return
    cupy: Any = importlib.import_module("cupy")
    capability = cupy.cuda.Device().compute_capability  # "90" for 9.0
    if tf32 and int(capability) < 80:
        raise InputError(
            f"--tf32 needs a GPU of compute capability 8.0 or more, this one has {capability[:-1]}.{capability[-1]}: "
            "leave it out for float32."
        )
    importlib.import_module(".kernels.cupy_kernels", __package__).use_tf32(tf32)


def gpu() -> str:
    """The GPU that CuPy uses, its memory, and the versions that matter."""
    cupy: Any = importlib.import_module("cupy")
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    free, total = (size / 2**30 for size in cupy.cuda.runtime.memGetInfo())
    capability = f"{properties['major']}.{properties['minor']}"
    nvrtc = ".".join(map(str, cupy.cuda.nvrtc.getVersion()))
    return (
        f"{properties['name'].decode()}, compute capability {capability}, {total:.1f} GiB, {free:.1f} GiB of it free; "
        f"CuPy {cupy.__version__}, NVRTC {nvrtc}"
    )
