"""Optimisers that change weights in place, the learning-rate schedule, and clipping by gradient norm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .backend import kernels
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

    def step(self, factor: float = 1.0, clip: float | None = None) -> float:
        """One update at learning_rate * factor; gradients are first scaled to a joint norm of at most `clip`.

        Returns the gradient norm before clipping. Clears the gradients.
        """
        norm = gradient_norm(self.parameters)
        scale = min(1.0, clip / norm) if clip and norm > 0 else 1.0
        self.steps += 1

        def part(weight: Array, gradient: Array, *slots: Array) -> None:
            g = gradient * scale
            if self.weight_decay:
                g += self.weight_decay * weight
            self.update(weight, g, *slots, rate=self.learning_rate * factor)

        for name, weight in self.parameters.items():
            if weight.grad is not None:
                kernels(weight.data).in_blocks(part, weight.data, weight.grad, *self.slots[name].values())
                weight.data = weight.data  # a new version
                weight.grad = None
        return norm

    def update(self, weight: Array, g: Array, *slots: Array, rate: float) -> None:
        """Change a part of a weight and of its slots in place; g may be written over. No temporary exceeds the part."""
        raise NotImplementedError

    def state(self) -> dict[str, Array]:
        slots = {f"{name}:{s}": array for name, own in self.slots.items() for s, array in own.items()}
        return {**slots, "steps": np.asarray(self.steps)}

    def set_state(self, state: dict[str, Array]) -> None:
        self.steps = int(state["steps"])
        for name, own in self.slots.items():
            for s in own:
                own[s] = state[f"{name}:{s}"].astype(own[s].dtype, copy=True)


class SGD(Optimiser):
    """v = momentum * v + g;  w = w - rate * v."""

    slot_names = ("velocity",)

    def __init__(
        self, parameters: dict[str, Tensor], learning_rate: float, *, momentum: float = 0.9, **rest: Any
    ) -> None:
        super().__init__(parameters, learning_rate, **rest)
        self.momentum = momentum

    def update(self, weight: Array, g: Array, *slots: Array, rate: float) -> None:
        (v,) = slots
        v *= self.momentum
        v += g
        weight -= rate * v


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

    def update(self, weight: Array, g: Array, *slots: Array, rate: float) -> None:
        (b1, b2), (m, v) = self.betas, slots
        m += (1 - b1) * (g - m)
        v += (1 - b2) * (g * g - v)
        m_hat, v_hat = m / (1 - b1**self.steps), v / (1 - b2**self.steps)
        weight -= rate * m_hat / (np.sqrt(v_hat) + self.eps)


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


def gradient_norm(parameters: dict[str, Tensor]) -> float:
    """The L2 norm of all gradients together."""
    flat = [t.grad.reshape(-1) for t in parameters.values() if t.grad is not None]
    return math.sqrt(sum(float(g @ g) for g in flat))


def schedule(kind: str, iteration: int, iterations: int, warmup: int = 0) -> float:
    """The factor on the learning rate at an iteration (from 0): linear warm-up, then "constant" or half a "cosine"."""
    if iteration < warmup:
        return (iteration + 1) / warmup
    if kind == "constant":
        return 1.0
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / max(1, iterations - warmup)))
    raise InputError(f"unknown schedule {kind!r}: choose constant or cosine.")
