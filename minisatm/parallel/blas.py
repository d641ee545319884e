"""BLAS with one thread: the kernels share out the cores themselves, and small products gain from that."""

from __future__ import annotations

import threading
from contextlib import ContextDecorator
from typing import Any


class OneBlasThread(ContextDecorator):
    """`with one_blas_thread:` or `@one_blas_thread`; it nests, and may be open in several threads at once.

    After one product on several threads, BLAS keeps those threads awake for a while: they take a core's time.
    """

    def __init__(self) -> None:
        self.start_afresh()

    def start_afresh(self) -> None:
        """A forked child has none of its parent's threads, so nothing is limited there yet."""
        self.lock, self.open = threading.Lock(), 0
        self.controller: Any = None

    def __enter__(self) -> None:
        with self.lock:
            self.open += 1
            if self.open == 1:
                self._take_control()
                self.limit = self.controller.limit(limits=1, user_api="blas")

    def __exit__(self, *problem: Any) -> None:
        with self.lock:
            self.open -= 1
            if self.open == 0:
                self._take_control()
                self.limit.restore_original_limits()

    def _take_control(self) -> None:
        """Newer threadpoolctl lets only one thread set limits; here any thread may enter first or leave last."""
        import threadpoolctl  # here, so that minisatm.doctor can say that it is missing

        self.controller = self.controller or threadpoolctl.ThreadpoolController()
        if hasattr(threadpoolctl.OpenBLASController, "clear_controlling_thread"):
            threadpoolctl.OpenBLASController.clear_controlling_thread(force=True)


one_blas_thread = OneBlasThread()
