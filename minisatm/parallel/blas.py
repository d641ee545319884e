"""BLAS with one thread: the kernels share out the cores themselves, and small products gain from that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

Result = TypeVar("Result")


def one_blas_thread() -> _OneBlasThread:
    """A block in which BLAS uses one thread. It nests, and may be open in several threads at once."""
    return _one_blas_thread


def with_one_blas_thread(function: Callable[..., Result]) -> Callable[..., Result]:
    """The function, run in such a block.

    After one product on several threads, BLAS keeps those threads awake for a while: they take a core's time.
    """

    @wraps(function)
    def call(*args: Any, **settings: Any) -> Result:
        with _one_blas_thread:
            return function(*args, **settings)

    return call


class _OneBlasThread:
    def __init__(self) -> None:
        self.lock, self.open = threading.Lock(), 0
        self.controller: Any = None
        self.limit: Any = None
        self.owner: Any = None

    def __enter__(self) -> None:
        with self.lock:
            self.open += 1
            if self.open == 1:
                if self.controller is None:
                    import threadpoolctl

                    self.controller = threadpoolctl.ThreadpoolController()
                    self.owner = threadpoolctl.OpenBLASController
                self._free()
                self.limit = self.controller.limit(limits=1, user_api="blas")

    def __exit__(self, *problem: Any) -> None:
        with self.lock:
            self.open -= 1
            if self.open == 0:
                self._free()
                self.limit.restore_original_limits()

    def _free(self) -> None:
        """Newer threadpoolctl lets only one thread set limits; here any thread may enter first or leave last."""
        if hasattr(self.owner, "clear_controlling_thread"):
            self.owner.clear_controlling_thread(force=True)


_one_blas_thread = _OneBlasThread()


def start_afresh() -> None:
    """A forked child has none of its parent's threads, so nothing is limited there yet."""
    global _one_blas_thread
    _one_blas_thread = _OneBlasThread()
