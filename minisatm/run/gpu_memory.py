"""Does a batch fit the GPU? Where it does not, smaller ones are measured, so that the user hears which does."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from ..backend import placed
from ..errors import InputError
from ..satm import Learner, Rules, examples, learn_from


def check_a_step(
    learners: Sequence[Learner], rules: Rules, shape: tuple[int, int, int], batch: int, *, crafting: int,
    adversarial: Collection[str], copies: int,
) -> None:  # fmt: skip
    """Try out the most that a run will ask of the GPU's memory; raises the InputError of `check`.

    The learners (throw-away ones: they change) craft from `crafting` batches of images (H, W, C) at once, then learn
    from one batch, those named in `adversarial` from examples too. So many copies of their weights are kept.
    """

    def step(count: int) -> None:
        kept = [a.copy() for _ in range(copies) for k in learners for a in k.network.state().values()]
        x, y = placed(np.zeros((crafting * count, *shape), np.float32), "cupy"), np.zeros(crafting * count, np.int64)
        for learner in learners:
            examples(learner, x, y, rules, 0)
        x, y = x[:count].copy(), y[:count]
        crafted = [examples(k, x, y, rules, 0) if k.name in adversarial else None for k in learners]
        for learner, x_adv in zip(learners, crafted):
            learn_from(learner, x, y, x_adv, rules, 0)
        del kept

    check(step, batch, f"a step with {shape[0]}x{shape[1]} images")


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
    pool = _emptied_pool()
    free, _ = importlib.import_module("cupy").cuda.runtime.memGetInfo()
    have = int(pool.get_limit() or free + pool.total_bytes())  # what this process could have
    if most is None:
        raise InputError(
            f"{what} does not fit the GPU even with --batch 1 ({size(have)} of memory): use a smaller --size "
            "or --width."
        )
    less = _peak(step, fits // 2) if fits > 1 else None
    each = max(1.0, most if less is None else (most - less) / (fits - fits // 2))  # where one image fits: at most that
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
    pool = _emptied_pool()
    try:
        step(batch)
    except MemoryError:
        return None
    return int(pool.total_bytes())


def _emptied_pool() -> Any:
    pool = importlib.import_module("cupy").get_default_memory_pool()
    pool.free_all_blocks()
    return pool
