"""Random numbers: one generator for each (seed, name, purpose, iteration); nobody's draws depend on anybody else's."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, *key: str | int) -> np.random.Generator:
    """The generator that belongs to this seed and key, such as stream(0, "vgg16", "craft", 17); always the same one."""
    return np.random.default_rng([seed, *(zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key)])


def random_signs(rng: np.random.Generator, shape: tuple[int, ...], dtype: type | np.dtype) -> np.ndarray:
    """sign(N(0, I)) drawn as random bits: an array of -1 and +1."""
    count = int(np.prod(shape))
    bits = np.unpackbits(np.frombuffer(rng.bytes(-(-count // 8)), np.uint8), count=count)
    return (bits.astype(np.int8) * 2 - 1).astype(dtype).reshape(shape)
