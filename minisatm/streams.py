"""Random numbers: one generator for each (seed, name, purpose, iteration), so that no draw depends on other draws."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np


def stream(seed: int, *key: str | int) -> np.random.Generator:
    """A new generator for this seed and key, such as stream(0, "vgg16", "craft", 17): same key, same numbers."""
    return np.random.default_rng([seed, *(zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key)])


def random_bits(rng: np.random.Generator, count: int) -> Any:
    """sign(N(0, I)) as random bits, eight to a byte (uint8): 1 is +, 0 is -, in the order of numpy.unpackbits."""
    return np.frombuffer(rng.bytes(-(-count // 8)), np.uint8)
