"""The .cu files as text: the kernels that they declare, their parameters, and the text that a compiler gets."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FOLDER = Path(__file__).parent
OPTIONS = ("--std=c++17",)
NAMES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}  # the types that T can be

KERNEL = re.compile(r"template <typename T>\s+__global__ void(?: \w+\(\w+\))?\s+(\w+)\((.*?)\) *\{", re.S)
MACRO = re.compile(r"^#define (\w+) (int .*)$", re.M)  # parameters that several kernels share


class Parameter(NamedTuple):
    """One parameter of a kernel: `type` is "T", "int" or "unsigned char"; a pointer is an array."""

    name: str
    type: str
    pointer: bool


class Kernel(NamedTuple):
    name: str
    file: str
    parameters: tuple[Parameter, ...]


def source(file: str, changed: dict[str, str] | None = None) -> str:
    """The text of a .cu file with its include files; changed: {file name: text} to use in place of a file's text."""
    text = (changed or {}).get(file) or (FOLDER / file).read_text()
    return re.sub(r'#include "(\w+\.cuh)"\n', lambda include: source(include[1], changed), text)


@cache
def catalogue() -> dict[str, Kernel]:
    """Every kernel by name, as the .cu files declare them."""
    kernels = {}
    for path in sorted(FOLDER.glob("*.cu")):
        text = path.read_text()
        for macro, parameters in MACRO.findall(text):
            text = re.sub(rf"(?<!#define )\b{macro}\b", parameters, text)
        for name, parameters in KERNEL.findall(text):
            kernels[name] = Kernel(name, path.name, tuple(_parameter(p) for p in parameters.split(",")))
    return kernels


def _parameter(text: str) -> Parameter:
    """ "const T* __restrict__ x" -> Parameter("x", "T", True)."""
    *words, name = text.replace("const ", "").replace("__restrict__", "").replace("*", " * ").split()
    return Parameter(name, " ".join(words).replace(" *", ""), "*" in words)


def instances(file: str, dtype: Any) -> list[str]:
    """The names of a file's kernels as they are compiled for this dtype, such as "relu<float>"."""
    return [f"{k.name}<{NAMES[dtype]}>" for k in catalogue().values() if k.file == file]
