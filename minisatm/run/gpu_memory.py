"""Does a batch fit the GPU? Where it does not, smaller ones are measured, so that the user hears which does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import InputError


def check(step: Callable[[int], Any], batch: int, what: str) -> None:
    """Run step(batch) once. Raises InputError, with what it needs and which batch fits, where the memory is too small.

    The need is a straight line through two smaller batches that fit, as measured by CuPy's memory pool.
    """
    if _peak(step, batch) is not None:
        return
    fits, most = batch, None
    while fits > 1 and most is None:
        fits //= 2
        most = _peak(step, fits)
    have = _room()
    if most is None:
        raise InputError(
            f"{what} does not fit the GPU even with --batch 1 ({size(have)} of memory): use a smaller --size "
            "or --width."
        )
    less = _peak(step, fits // 2) if fits > 1 else None
    each = (most - less) / (fits - fits // 2) if less is not None else most  # with one image alone: at most that
    each = max(each, 1.0)
    need = most + each * (batch - fits)
    fitting = min(batch - 1, fits + max(0, int((have - most) / each)))
    while fitting > fits and _peak(step, fitting) is None:
        fitting -= 1
    raise InputError(
        f"{what} and --batch {batch} needs about {size(need)} of GPU memory, of {size(have)}: use --batch {fitting}, "
        "which fits."
    )


def size(count: float) -> str:
    """Bytes in words: 2**30 -> "1.0 GiB"."""
    unit, name = next((u, n) for u, n in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")) if count >= u or u == 2**10)
    return f"{count / unit:.1f} {name}"


def _peak(step: Callable[[int], Any], batch: int) -> int | None:
    """The bytes that CuPy's pool grew to, None where they could not be had."""
    import cupy

    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    try:
        step(batch)
    except MemoryError:
        return None
    return int(pool.total_bytes())


def _room() -> int:
    """Bytes that this process could have."""
    import cupy

    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    free, _ = cupy.cuda.runtime.memGetInfo()
    return int(pool.get_limit() or free + pool.total_bytes())
