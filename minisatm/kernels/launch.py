"""Launch a kernel on the GPU: each .cu file is compiled once per dtype, and the arguments of every launch are checked.

CUDA itself checks nothing: it would read a float64 array as float32 numbers, and the result would be noise. So a launch
here takes only contiguous CuPy arrays of the kernel's dtype, and Python numbers.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cupy
import numpy as np

from ..errors import InputError
from .cuda_source import NAMES, OPTIONS, Parameter, catalogue, instances, source

THREADS = 256  # in a block, where each thread computes one element
LARGEST = 2**31 - 2**16  # elements in an array: the kernels count with 32-bit integers


@cache
def _module(file: str, dtype: Any) -> Any:
    return cupy.RawModule(code=source(file), options=OPTIONS, name_expressions=instances(file, dtype))


@cache
def _function(name: str, dtype: Any) -> Any:
    return _module(catalogue()[name].file, dtype).get_function(f"{name}<{NAMES[dtype]}>")


def launch(name: str, grid: tuple[int, ...], block: tuple[int, ...], *args: Any) -> None:
    """Start a kernel on arrays of one dtype (T in the .cu file); None is a null pointer. An empty grid does nothing.

    Raises TypeError for an argument that does not fit the kernel's declaration.
    """
    kernel = catalogue()[name]
    if len(args) != len(kernel.parameters):
        raise TypeError(f"{name} takes {len(kernel.parameters)} arguments, got {len(args)}.")
    dtype = next(a.dtype for a, p in zip(args, kernel.parameters) if p.type == "T" and isinstance(a, cupy.ndarray))
    if dtype not in NAMES:
        raise TypeError(f"{name} works on float32 or float64, not on {dtype}.")
    if 0 not in grid:
        passed = tuple(_checked(a, p, dtype, name) for a, p in zip(args, kernel.parameters))
        _function(name, dtype)(grid, block, passed)


def each(name: str, count: int, *args: Any) -> None:
    """Start a kernel with one thread for each of `count` elements."""
    launch(name, (-(-count // THREADS),), (THREADS,), *args)


def _checked(value: Any, parameter: Parameter, dtype: Any, kernel: str) -> Any:
    """The argument as CuPy takes it: an array, a null pointer for None, or a number of the parameter's type."""
    name, kind, pointer = parameter
    if pointer:
        if value is None:
            return np.uint64(0)  # the null pointer; CuPy 13 would pass None as 0xffffffff
        wanted = dtype if kind == "T" else np.dtype(np.uint8)
        if not isinstance(value, cupy.ndarray):
            raise TypeError(f"{kernel}: {name} must be a CuPy array, got {type(value).__name__}.")
        if value.dtype != wanted or not value.flags.c_contiguous:
            raise TypeError(
                f"{kernel}: {name} must be contiguous {wanted}, got {value.dtype} {value.shape} with strides "
                f"{value.strides}."
            )
        if value.size > LARGEST:
            raise InputError(
                f"{kernel}: {name} has {value.size:,} elements, more than the kernels can count: use a smaller batch."
            )
        return value
    if kind == "int" and isinstance(value, int | np.integer) and -(2**31) <= value < 2**31:
        return np.int32(value)
    if kind == "T" and isinstance(value, float | int):
        return dtype.type(value)
    raise TypeError(f"{kernel}: {name} must be a Python number that fits {kind}, got {value!r}.")
