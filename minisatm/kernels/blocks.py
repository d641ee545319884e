"""Work in blocks that stay in a core's cache, on all free cores: what the fast NumPy kernels share."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

from ..parallel import cores, on_cores, shares
from .plain import Array, Pair

Block = tuple[slice, slice]  # (images, rows): a few whole images, or a few rows of one image

CACHE = 2**19  # bytes of each array in a block of element-wise work: a few arrays fit a core's second-level cache
FEW = 2**16  # elements: a matrix smaller than this gains nothing from a second core
WORTH = 2**23  # products of two numbers, a tenth of a millisecond: more gain from a second core
SMALL = 2**21  # bytes: cutting up a smaller array costs more time than it saves
ROW = 2**14  # elements: the start of each row costs NumPy as much time as hundreds of elements


# Let the C library keep the memory of freed arrays (up to 32 MB each, 256 MB in all) for the next arrays. By default it
# gives such memory back to the operating system, which fills every page with zeros before it lends it again: that takes
# a tenth of the time of a thin network's step. It must happen before the first large array, so it happens at import.
with suppress(OSError, AttributeError):  # only glibc has this setting
    ctypes.CDLL(None).mallopt(-3, 2**25)  # M_MMAP_THRESHOLD
    ctypes.CDLL(None).mallopt(-1, 2**28)  # M_TRIM_THRESHOLD


def image_blocks(images: int, rows: int, most: float, products: float = 0) -> list[Block]:
    """Cut (images, rows) into blocks of at most `most` rows (at least one): whole images if one fits, else rows.

    The blocks have about equal size. Where there are several, there are enough for all cores. products: how many
    products of two numbers all blocks need; if they are more than WORTH, there is at least one block for each core.
    """
    if products > WORTH:
        most = min(most, images * rows / cores())
    elif most >= images * rows:
        return [(slice(0, images), slice(0, rows))]
    if most >= rows:
        return [(part, slice(0, rows)) for part in _equal(images, images * rows / (most - most % rows))]
    parts = _equal(rows, rows / max(1, most // 1), alone=images == 1)
    return [(slice(n, n + 1), part) for n in range(images) for part in parts]


def _equal(count: int, blocks: float, alone: bool = True) -> list[slice]:
    """Cut range(count) into at least this many slices; alone: there is no other work, so make enough for all cores."""
    number = math.ceil(blocks)
    if alone and number > 1:
        number = -(-number // cores()) * cores()
    number = min(number, count)
    ends = [count * i // number for i in range(number + 1)]
    return [slice(a, b) for a, b in zip(ends, ends[1:])]


def largest(blocks: Sequence[Block]) -> Pair:
    """The largest number of images and the largest number of rows in one of these blocks."""
    return max(i.stop - i.start for i, _ in blocks), max(r.stop - r.start for _, r in blocks)


def frames(
    x: Array, blocks: Sequence[Block], stride: int, kernel: int, top: int, left: int, width: int
) -> Iterator[tuple[slice, slice, Array]]:
    """Yield (images, rows, the padded rows of these images that lie under these rows of windows) for each block.

    x (N, H, W, C). The padded image is `width` pixels wide and zero outside x. All blocks share one buffer: use the
    padded rows before the next block.
    """
    H, W, C = x.shape[1:]
    whole = left == 0 and width == W and x.flags.c_contiguous  # then rows inside x need no copy
    most_images, most_rows = largest(blocks)
    buffer = np.zeros((most_images, stride * (most_rows - 1) + kernel, width, C), x.dtype)
    for images, rows in blocks:
        first, count = rows.start * stride - top, (rows.stop - rows.start - 1) * stride + kernel
        low, high = max(first, 0), min(first + count, H)
        if whole and low == first and high == first + count:
            yield images, rows, x[images, low:high]
            continue
        out = buffer[: images.stop - images.start, :count]
        above, inside = max(low - first, 0), max(high - low, 0)
        out[:, :above] = 0
        out[:, above : above + inside, left : left + W] = x[images, low : low + inside]
        out[:, above + inside :] = 0
        yield images, rows, out


def slices(count: int, size: int) -> list[slice]:
    """Cut an axis of length count into a slice for each core; one slice if the matrix has few elements (size)."""
    return [slice(part[0], part[-1] + 1) for part in shares(range(count))] if size > FEW else [slice(0, count)]


def add_up(parts: list[Array]) -> Array:
    """The sum of all arrays, written into the first one."""
    for part in parts[1:]:
        parts[0] += part
    return parts[0]


def on_rows(work: Callable[[slice], Any], x: Array, longer: int = 1) -> list[Any]:
    """[work(rows), ...] for each block of rows of x, on all free cores if x is large; longer: so many times CACHE.

    The blocks and the order of the results depend on x alone, so sums of them are always the same to the bit.
    """
    if x.nbytes <= SMALL:
        return [work(slice(0, len(x)))]
    step = max(1, longer * CACHE // max(1, x[:1].nbytes))
    blocks = [slice(a, a + step) for a in range(0, len(x), step)]
    return [result for part in on_cores(lambda share: [work(b) for b in share], shares(blocks)) for result in part]


@cache
def fold(C: int, pixels: int) -> int:
    """How many pixels make one row of as_rows: NumPy's inner loop runs along a row, and should be long.

    A vector per channel must be repeated as often (tiled), which for a small array would cost more than it saves.
    """
    count, row = 1, min(ROW, max(ROW // 16, C * pixels // 16))
    while count * C < row and pixels % (2 * count) == 0:
        count *= 2
    return count


def as_rows(x: Array) -> Array:
    """x as a matrix with several pixels in a row: (..., C) -> (pixels / fold, fold * C); a view if x is contiguous."""
    C = x.shape[-1]
    return x.reshape(-1, fold(C, x.size // C) * C)


def tiled(x: Array, vector: Array) -> Array:
    """The vector (C,) repeated to fit the rows of as_rows(x)."""
    count = fold(len(vector), x.size // len(vector))
    return vector if count == 1 else vector[None].repeat(count, axis=0).reshape(-1)


def zeros(count: int, dtype: Any) -> Array:
    """Zeros to take a maximum with (read only): NumPy is several times faster with an array than with the number 0."""
    return _zeros(dtype)[:count] if count * dtype.itemsize <= SMALL else np.zeros(count, dtype)


@cache
def _zeros(dtype: Any) -> Array:
    return np.zeros(SMALL // dtype.itemsize, dtype)


def finish(block: Array, b: Array | None, relu: bool) -> None:
    """Add the bias (F,) to a block of outputs (..., F), then take max(block, 0): in place, while it is in the cache."""
    if b is not None:
        rows = as_rows(block.reshape(-1, len(b)))
        np.add(rows, tiled(block, b), out=rows)
    if relu:
        rows = as_rows(block)
        np.maximum(rows, zeros(rows.shape[1], rows.dtype), out=rows)
