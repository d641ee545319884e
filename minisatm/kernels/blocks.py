"""What the kernels share: windows over an image, and work in blocks that stay in a core's cache, on all free cores."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np

from ..parallel import cores, on_cores, shares

Array = np.ndarray[Any, Any]
Pair = tuple[int, int]
Pads = tuple[Pair, Pair]  # ((top, bottom), (left, right))
Block = tuple[slice, slice]  # a few images, or a few rows of one

CACHE = 2**19  # bytes of each array in a block of element-wise work: a few such fit a core's second-level cache
FEW = 2**16  # elements: a matrix smaller than this is not worth a second core
WORTH = 2**23  # products of two numbers: a tenth of a millisecond
SMALL = 2**21  # bytes: cutting up less than this costs more than it gains
ROW = 2**14  # elements: each row of a matrix costs NumPy as much as hundreds of elements


def _keep_freed_memory() -> None:
    """Let glibc keep freed arrays of up to 32 MB, 256 MB in all, for the next ones.

    It would hand them back to the kernel, which zeroes every page again: a tenth of a thin network's step.
    """
    with suppress(OSError, AttributeError):  # another C library has no such setting
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD
        mallopt(-1, 2**28)  # M_TRIM_THRESHOLD


_keep_freed_memory()


def output_size(n: int, kernel: int, stride: int, pads: Pair, ceil: bool = False) -> int:
    """How many windows fit; with `ceil`, a last one may hang over the edge if it starts inside."""
    room = n + sum(pads) - kernel
    size = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (size - 1) * stride >= n + pads[0]:
        size -= 1
    if room < 0 or size < 1:
        raise ValueError(f"a window of {kernel} does not fit into {n} pixels with padding {pads}; use a larger image.")
    return size


# --- images ------------------------------------------------------------------------------------------------------


def image_blocks(images: int, rows: int, most: float, products: float = 0) -> list[Block]:
    """Cut (images, rows) into blocks of at most `most` rows (at least one): whole images if one fits, else rows.

    The blocks are of about equal size and, where there are several, enough for every core; so they are also where all
    together take more `products` of two numbers than are WORTH a second core.
    """
    if products > WORTH:
        most = min(most, images * rows / cores())
    elif most >= images * rows:
        return [(slice(0, images), slice(0, rows))]
    if most >= rows:
        return [(own, slice(0, rows)) for own in _equal(images, images * rows / (most - most % rows))]
    return [
        (slice(n, n + 1), own)
        for n in range(images)
        for own in _equal(rows, rows / max(1, most // 1), alone=images == 1)
    ]


def _equal(count: int, blocks: float, alone: bool = True) -> list[slice]:
    """Cut range(count) into at least so many slices; if they are `alone`, as many as every core can share in."""
    number = math.ceil(blocks)
    if alone and number > 1:
        number = -(-number // cores()) * cores()
    number = min(number, count)
    ends = [count * i // number for i in range(number + 1)]
    return [slice(a, b) for a, b in zip(ends, ends[1:])]


def largest(blocks: Sequence[Block]) -> Pair:
    """The most images and the most rows that one of these blocks has."""
    return max(i.stop - i.start for i, _ in blocks), max(r.stop - r.start for _, r in blocks)


class Frame:
    """A few rows of a few images with zeros around them, in one buffer that is used again and again.

    x (N, H, W, C). Rows count in the padded image, whose width is `width`; what lies outside x reads as zero.
    """

    def __init__(self, x: Array, blocks: Sequence[Block], stride: int, kernel: int, top: int, left: int, width: int):
        self.x, self.stride, self.kernel, self.top, self.left = x, stride, kernel, top, left
        W, C = x.shape[2:]
        self.whole = left == 0 and width == W and x.flags.c_contiguous  # rows inside x need no copy
        images, rows = largest(blocks)
        self.buffer = np.zeros((images, stride * (rows - 1) + kernel, width, C), x.dtype)

    def rows(self, images: slice, rows: slice) -> Array:
        """The padded rows that windows `rows` (of the given stride and kernel) of these images look at."""
        first = rows.start * self.stride - self.top
        count = (rows.stop - rows.start - 1) * self.stride + self.kernel
        H, W = self.x.shape[1:3]
        low, high = max(first, 0), min(first + count, H)
        if self.whole and low == first and high == first + count:
            return self.x[images, low:high]
        out = self.buffer[: images.stop - images.start, :count]
        above, inside = max(low - first, 0), max(high - low, 0)
        out[:, :above] = 0
        out[:, above : above + inside, self.left : self.left + W] = self.x[images, low : low + inside]
        out[:, above + inside :] = 0
        return out


def on_images(work: Callable[[slice], Any], x: Array) -> None:
    """work(images) for each few images of x (N, H, W, C)."""
    per_block = max(1, 4 * CACHE // max(1, x[:1].nbytes))
    blocks = [slice(n, n + per_block) for n in range(0, len(x), per_block)]
    on_cores(lambda share: [work(b) for b in share], shares(blocks))


# --- matrices ----------------------------------------------------------------------------------------------------


def slices(count: int, size: int) -> list[slice]:
    """Cut an axis of a matrix of this size for the cores."""
    return [slice(part[0], part[-1] + 1) for part in shares(range(count))] if size > FEW else [slice(0, count)]


def add_up(parts: list[Array]) -> Array:
    """The sum of arrays, in the first one's place."""
    for part in parts[1:]:
        parts[0] += part
    return parts[0]


# --- arrays whose last axis is the channel -----------------------------------------------------------------------


def on_rows(work: Callable[[slice], Any], x: Array) -> list[Any]:
    """work(rows) for each block of rows of x; the blocks, and the order of the results, never change.

    On all free cores, if x is so large that this is worth the trouble.
    """
    if x.nbytes <= SMALL:
        return [work(slice(0, len(x)))]
    step = max(1, CACHE // max(1, x[:1].nbytes))
    blocks = [slice(a, a + step) for a in range(0, len(x), step)]
    return [result for own in on_cores(lambda share: [work(b) for b in share], shares(blocks)) for result in own]


@cache
def fold(C: int, pixels: int) -> int:
    """How many pixels to lay side by side, so that NumPy's inner loop is long however few the channels.

    A vector per channel is repeated as often: for a small array that would cost more than long rows gain.
    """
    count, row = 1, min(ROW, max(ROW // 16, C * pixels // 16))
    while count * C < row and pixels % (2 * count) == 0:
        count *= 2
    return count


def as_rows(x: Array) -> Array:
    """x as a matrix whose rows hold several pixels: (..., C) -> (pixels / fold, fold * C), a view where x allows it."""
    C = x.shape[-1]
    return x.reshape(-1, fold(C, x.size // C) * C)


def tiled(x: Array, vector: Array) -> Array:
    """The vector (C,) repeated to fit the rows of as_rows(x)."""
    count = fold(len(vector), x.size // len(vector))
    if count == 1:
        return vector
    row = np.empty((count, len(vector)), vector.dtype)
    row[:] = vector
    return row.reshape(-1)


def zeros(count: int, dtype: Any) -> Array:
    """Zeros to take a maximum with, not to be written: NumPy does that several times faster than with the number 0."""
    return _zeros(dtype)[:count] if count * dtype.itemsize <= SMALL else np.zeros(count, dtype)


@cache
def _zeros(dtype: Any) -> Array:
    return np.zeros(SMALL // dtype.itemsize, dtype)


def finish(block: Array, b: Array | None, relu: bool) -> None:
    """Add the bias (F,) to a block of outputs (..., F) and cut at zero, in place, while it is in the cache."""
    if b is not None:
        rows = as_rows(block.reshape(-1, len(b)))
        np.add(rows, tiled(block, b), out=rows)
    if relu:
        rows = as_rows(block)
        np.maximum(rows, zeros(rows.shape[1], rows.dtype), out=rows)
