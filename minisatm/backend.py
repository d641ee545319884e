"""Which array library and which kernels serve an array, and whether a GPU can be used."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import distributions
from types import ModuleType
from typing import Any

import numpy as np

from .errors import InputError
from .kernels import numpy_kernels

NUMPY = "or use --backend numpy"
DRIVER = f"install the NVIDIA driver (on Ubuntu: sudo ubuntu-drivers install), {NUMPY}"


def on_gpu(array: Any) -> bool:
    """Is it CuPy's?"""
    return type(array).__module__.partition(".")[0] == "cupy"


def array_module(array: Any) -> ModuleType:
    """numpy for a NumPy array, cupy for a CuPy array."""
    return importlib.import_module("cupy") if on_gpu(array) else np


def kernels(array: Any) -> ModuleType:
    """The module of kernels that works on this array."""
    if on_gpu(array):
        return importlib.import_module(".kernels.cupy_kernels", __package__)
    if isinstance(array, np.ndarray | np.generic):
        return numpy_kernels
    raise InputError(f"no kernels for {type(array).__name__}: arrays must be NumPy or CuPy arrays.")


def placed(array: Any, name: str) -> Any:
    """The array in main memory ("numpy") or on the GPU ("cupy"); one that is there already is not copied."""
    if name == "cupy":
        return importlib.import_module("cupy").asarray(array)
    return array.get() if on_gpu(array) else np.asarray(array)


def copied_to(old: Any, new: Any) -> Any:
    """A copy of `new` with the dtype of `old` and where `old` is."""
    return array_module(old).array(placed(new, "cupy" if on_gpu(old) else "numpy"), old.dtype)


def number(value: Any) -> Any:
    """A float; on the GPU the array of no dimensions itself, since a float would make the host wait for it."""
    return value if on_gpu(value) else float(value)


def numbers(terms: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The same with floats: the host waits once for all that are on the GPU."""
    waiting = [v for own in terms.values() for v in own.values() if on_gpu(v)]
    fetched = iter(array_module(waiting[0]).stack(waiting).get().tolist() if waiting else ())
    return {
        name: {term: next(fetched) if on_gpu(v) else float(v) for term, v in own.items()} for name, own in terms.items()
    }


def cupy_problem() -> str | None:
    """Why CuPy cannot be used here, in one sentence with the command that mends it; None when it can."""
    if importlib.util.find_spec("cupy") is None:
        return (
            "CuPy is not installed: run pip install -e '.[cupy]' where nvidia-smi names CUDA 12 "
            f"('.[cupy13]' for CUDA 13 and later), {NUMPY}."
        )
    try:
        cupy: Any = importlib.import_module("cupy")
    except Exception as problem:  # a CUDA library that is missing, another NumPy than it was built for
        return f"CuPy cannot be imported ({_one_line(problem)}): pip install --force-reinstall -e '.[cupy]', {NUMPY}."
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except Exception as problem:
        if "NoDevice" in str(problem):
            devices = 0
        else:
            return f"CuPy finds no NVIDIA driver that fits ({_one_line(problem)}): {DRIVER}."
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


def check(name: str) -> str:
    """The backend's name, if it can be used here; an InputError with the reason if not."""
    if name not in ("numpy", "cupy"):
        raise InputError(f"unknown backend {name!r}: choose numpy or cupy.")
    problem = cupy_problem() if name == "cupy" else None
    if problem:
        raise InputError(problem)
    return name


def use(name: str, *, tf32: bool = False) -> None:
    """Check the backend, and choose how its convolutions round: plain float32, or TF32 on a GPU that has it."""
    if check(name) == "numpy":
        return
    cupy: Any = importlib.import_module("cupy")
    capability = cupy.cuda.Device().compute_capability  # "90" for 9.0
    if tf32 and int(capability) < 80:
        raise InputError(
            f"--tf32 needs a GPU of compute capability 8.0 or more, this one has {capability[:-1]}.{capability[-1]}: "
            "leave it out for plain float32."
        )
    cupy_kernels: Any = importlib.import_module(".kernels.cupy_kernels", __package__)
    cupy_kernels.use_tf32(tf32)


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
