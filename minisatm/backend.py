"""Which array library and which kernels serve an array, and whether a GPU can be used."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

import numpy as np

from .errors import InputError
from .kernels import numpy_kernels


def array_module(array: Any) -> ModuleType:
    """numpy for a NumPy array, cupy for a CuPy array."""
    return (
        np
        if isinstance(array, np.ndarray | np.generic)
        else importlib.import_module(type(array).__module__.split(".")[0])
    )


def kernels(array: Any) -> ModuleType:
    """The module of kernels that works on this array."""
    if isinstance(array, np.ndarray | np.generic):
        return numpy_kernels
    raise InputError(f"no kernels for {type(array).__name__}: arrays must be NumPy arrays.")


def cupy_problem() -> str | None:
    """Why CuPy cannot be used here, in one sentence with what to do; None when it can."""
    if importlib.util.find_spec("minisatm.kernels.cupy_kernels") is None:
        return "this version of minisatm has no CUDA kernels yet: use --backend numpy."
    if importlib.util.find_spec("cupy") is None:
        return (
            "CuPy is not installed: run pip install -e '.[cupy]' where there is an NVIDIA GPU, or use --backend numpy."
        )
    try:
        cupy = importlib.import_module("cupy")
        devices = cupy.cuda.runtime.getDeviceCount()
    except Exception as problem:
        return f"CuPy finds no usable GPU ({problem}): install the NVIDIA driver, or use --backend numpy."
    if not devices:
        return "CuPy finds no GPU on this machine: use --backend numpy."
    return None


def check(name: str) -> str:
    """The backend's name, if it can be used here; an InputError with the reason if not."""
    if name not in ("numpy", "cupy"):
        raise InputError(f"unknown backend {name!r}: choose numpy or cupy.")
    problem = cupy_problem() if name == "cupy" else None
    if problem:
        raise InputError(problem)
    return name
