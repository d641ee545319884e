"""Optimisers that change weights in place, the learning-rate schedule, and clipping by gradient norm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .backend import copied_to, kernels
from .errors import InputError
from .tensor import Tensor

Array = Any


class Optimiser:
    """Steps the given {name: Tensor}; a weight without a gradient is left alone.

    Slots are arrays that the rule keeps per weight (momentum and the like); state() and set_state() carry them through
    a checkpoint.
    """

    slot_names: tuple[str, ...] = ()

    def __init__(self, parameters: dict[str, Tensor], learning_rate: float, *, weight_decay: float = 0.0) -> None:
        self.parameters, self.learning_rate, self.weight_decay = parameters, learning_rate, weight_decay
        self.slots = {name: {s: np.zeros_like(t.data) for s in self.slot_names} for name, t in parameters.items()}
        self.steps = 0

    def step(self, factor: float = 1.0, clip: float | None = None) -> Any:
        """One update at learning_rate * factor; gradients are first scaled to a joint norm of at most `clip`.

        Returns the gradient norm before clipping (on a GPU an array of no dimensions, which nobody has waited for);
        where that is not finite, no weight changes. Clears the gradients.
        """
        moved = [(w, self.slots[name].values()) for name, w in self.parameters.items() if w.grad is not None]
        self.steps += 1
        if not moved:
            return 0.0
        k = kernels(moved[0][0].data)
        norm, scale = k.clip_by_norm([weight.grad for weight, _ in moved], clip)
        for weight, slots in moved:
            self.update(k, weight.data, weight.grad, *slots, scale=scale, rate=self.learning_rate * factor)
            weight.data = weight.data  # a new version
            weight.grad = None
        return norm

    def update(self, k: Any, weight: Array, g: Array, *slots: Array, scale: Any, rate: float) -> None:
        """Change a weight and its slots in place, by a kernel of k that takes the step for g * scale."""
        raise NotImplementedError

    def state(self) -> dict[str, Array]:
        slots = {f"{name}:{s}": array for name, own in self.slots.items() for s, array in own.items()}
        return {**slots, "steps": np.asarray(self.steps)}

    def set_state(self, state: dict[str, Array]) -> None:
        self.steps = int(state["steps"])
        for name, own in self.slots.items():
            for s in own:
                own[s] = copied_to(own[s], state[f"{name}:{s}"])


class SGD(Optimiser):
    """v = momentum * v + g;  w = w - rate * v."""

    slot_names = ("velocity",)

    def __init__(
        self, parameters: dict[str, Tensor], learning_rate: float, *, momentum: float = 0.9, **rest: Any
    ) -> None:
        super().__init__(parameters, learning_rate, **rest)
        self.momentum = momentum

    def update(self, k: Any, weight: Array, g: Array, *slots: Array, scale: Any, rate: float) -> None:
        k.sgd_step(weight, g, *slots, scale, rate=rate, momentum=self.momentum, weight_decay=self.weight_decay)


class Adam(Optimiser):
    """Kingma and Ba 2015, Algorithm 1, with bias correction."""

    slot_names = ("first", "second")

    def __init__(
        self,
        parameters: dict[str, Tensor],
        learning_rate: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        **rest: Any,
    ) -> None:
        super().__init__(parameters, learning_rate, **rest)
        self.betas, self.eps = betas, eps

    def update(self, k: Any, weight: Array, g: Array, *slots: Array, scale: Any, rate: float) -> None:
        k.adam_step(
            weight, g, *slots, scale, rate=rate, betas=self.betas, steps=self.steps, eps=self.eps,
            weight_decay=self.weight_decay,
        )  # fmt: skip


OPTIMISERS = {"sgd": SGD, "adam": Adam}


def build(
    name: str, parameters: dict[str, Tensor], learning_rate: float, *, momentum: float = 0.9, **rest: Any
) -> Optimiser:
    """An optimiser by name, "sgd" (with momentum) or "adam"."""
    if name not in OPTIMISERS:
        raise InputError(f"unknown optimiser {name!r}: choose {' or '.join(OPTIMISERS)}.")
    return (
        SGD(parameters, learning_rate, momentum=momentum, **rest)
        if name == "sgd"
        else Adam(parameters, learning_rate, **rest)
    )


def schedule(kind: str, iteration: int, iterations: int, warmup: int = 0) -> float:
    """The factor on the learning rate at an iteration (from 0): linear warm-up, then "constant" or half a "cosine"."""
    if iteration < warmup:
        return (iteration + 1) / warmup
    if kind == "constant":
        return 1.0
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / max(1, iterations - warmup)))
    raise InputError(f"unknown schedule {kind!r}: choose constant or cosine.")
