"""Random numbers: one generator for each (seed, name, purpose, iteration); nobody's draws depend on anybody else's."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, *key: str | int) -> np.random.Generator:
    """The generator that belongs to this seed and key, such as stream(0, "vgg16", "craft", 17); always the same one."""
    return np.random.default_rng([seed, *(zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key)])


def random_bits(rng: np.random.Generator, count: int) -> np.ndarray:
    """sign(N(0, I)) as random bits, eight to a byte; 1 is plus, 0 is minus (numpy.unpackbits gives them in order)."""
    return np.frombuffer(rng.bytes(-(-count // 8)), np.uint8)
