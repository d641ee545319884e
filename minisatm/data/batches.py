"""Batches of images: an endless shuffled stream for training, one pass in order for evaluation."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np

from ..backend import placed
from ..errors import InputError
from ..streams import stream
from .dataset import Dataset
from .pixels import fit

Array = Any  # numpy.ndarray or cupy.ndarray
AHEAD = 4  # batches that are prepared while one is in use
THREADS = 2


class Batches:
    """The images `indices` of a Dataset, resized to (size, size) and cut into batches (x, y).

    x is float32 (N, size, size, channels) in [0, 1], y int64 (N,). Batch number i depends on (seed, i) alone, so that a
    resumed run sees the same bits. augment: mirror (where the data allows it) and shift by up to a twelfth of the side,
    with reflection at the border. Decoded images are kept until they fill `cache_bytes`; the others are decoded again.
    backend "cupy": x is on the GPU, sent as bytes while the GPU works on the batch before; y stays in main memory.
    """

    def __init__(
        self, dataset: Dataset, indices: Sequence[int] | np.ndarray, *, batch: int, size: int, seed: int = 0,
        augment: bool = False, cache_bytes: int = 256 * 2**20, backend: str = "numpy",
    ) -> None:  # fmt: skip
        if batch < 1 or size < 1:
            raise InputError(f"batches of {batch} images of {size} pixels: give 1 or more of both.")
        self.dataset, self.indices = dataset, np.asarray(indices, np.int64)
        self.batch, self.size, self.seed, self.augment = batch, size, seed, augment
        self.cache_bytes, self.cached_bytes, self.backend = cache_bytes, 0, backend
        self._cache: dict[int, np.ndarray] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def steps_per_epoch(self) -> int:
        """The number of full batches that the images make."""
        return len(self.indices) // self.batch

    def at(self, iteration: int) -> tuple[Array, np.ndarray]:
        """Return training batch number `iteration` (from 0) of endless shuffled epochs: (x, y), always full.

        Raises InputError when there are fewer images than one batch.
        """
        pixels, labels = self._bytes_at(iteration)
        return self._scaled(pixels), labels

    def _bytes_at(self, iteration: int) -> tuple[np.ndarray, np.ndarray]:
        if self.steps_per_epoch == 0:
            few = f"{len(self)} training images do not fill a batch of {self.batch}"
            raise InputError(f"{few}: use a smaller batch or more images.")
        epoch, step = divmod(iteration, self.steps_per_epoch)
        indices = self._shuffled(epoch)[step * self.batch : (step + 1) * self.batch]
        pixels = self._pixels(indices)
        if self.augment:
            pixels = self._augmented(pixels, stream(self.seed, "augment", iteration))
        return pixels, self.dataset.labels[indices]

    def stream(self, start: int, stop: int) -> Iterator[tuple[int, Array, np.ndarray]]:
        """Yield (iteration, x, y) for `at(start)` to `at(stop - 1)`; threads prepare a few batches ahead.

        An error in a thread is raised here, at the iteration it belongs to; leaving the loop early stops the threads.
        """
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="batches")
        try:
            ahead = deque(pool.submit(self._bytes_at, i) for i in range(start, min(start + AHEAD, stop)))
            for iteration in range(start, stop):
                pixels, y = ahead.popleft().result()
                if iteration + AHEAD < stop:
                    ahead.append(pool.submit(self._bytes_at, iteration + AHEAD))
                yield iteration, self._scaled(pixels), y
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def in_order(self, limit: int | None = None) -> Iterator[tuple[Array, np.ndarray]]:
        """Yield (x, y) for every image once, in order and not augmented; the last batch may be short.

        limit: only so many of the images, the same random choice every time (the first ones could all be of one class).
        """
        indices = self.indices[self.places(limit)]
        for start in range(0, len(indices), self.batch):
            chosen = indices[start : start + self.batch]
            yield self._scaled(self._pixels(chosen)), self.dataset.labels[chosen]

    def places(self, limit: int | None = None) -> np.ndarray:
        """The places of the images of `in_order(limit)` in the order of all, (n,): the same place in every subset."""
        if limit is None or limit >= len(self.indices):
            return np.arange(len(self.indices))
        places = stream(self.seed, "subset").choice(len(self.indices), limit, replace=False)
        return places[np.argsort(self.indices[places])]

    def _shuffled(self, epoch: int) -> np.ndarray:
        return stream(self.seed, "shuffle", epoch).permutation(self.indices)

    def _pixels(self, indices: np.ndarray) -> np.ndarray:
        return np.stack([self._image(index) for index in indices.tolist()])

    def _image(self, index: int) -> np.ndarray:
        image = self._cache.get(index)
        if image is None:
            near = self.dataset.read_near
            image = fit(near(index, self.size) if near else self.dataset.read(index), self.size)
            with self._lock:
                if index not in self._cache and self.cached_bytes + image.nbytes <= self.cache_bytes:
                    self._cache[index] = np.array(image)  # a copy: a view would keep a larger image in memory
                    self.cached_bytes += image.nbytes
        return image

    def _augmented(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return mirrored and shifted copies: each is a choice of rows and columns of an image padded by reflection."""
        n, size = len(pixels), self.size
        reach, last = size // 12, size - 1
        shifts = rng.integers(-reach, reach + 1, (n, 2, 1))
        mirrored = rng.random(n) < 0.5 if self.dataset.mirror else np.zeros(n, bool)
        picks = last - np.abs(last - np.abs(np.arange(size) + shifts))  # (n, 2, size): rows, columns
        picks[mirrored, 1] = picks[mirrored, 1, ::-1]
        out = np.empty_like(pixels)
        for image, copy, (rows, columns) in zip(pixels, out, picks):
            copy[:] = image[rows].take(columns, axis=1)
        return out

    def _scaled(self, pixels: np.ndarray) -> Array:
        return placed(pixels, self.backend).astype(np.float32) / 255
