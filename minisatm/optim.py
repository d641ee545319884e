"""Optimisers that change weights in place, the learning-rate schedule, and clipping by gradient norm."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .backend import copied_to, kernels
from .errors import InputError
from .inputs import PythonNumbers, check_choice, python_number, unknown
from .tape import Array
from .tensor import Tensor


class Optimiser(PythonNumbers):
    """Updates the weights {name: Tensor}; a weight without a gradient does not change.

    Slots are arrays that the rule keeps for each weight, such as the momentum; state() and set_state() save and restore
    them.
    """

    slot_names: tuple[str, ...] = ()

    def __init__(self, parameters: dict[str, Tensor], learning_rate: float, **settings: Any) -> None:
        self.parameters, self.learning_rate, self.settings = parameters, learning_rate, settings
        self.slots = {name: {s: np.zeros_like(t.data) for s in self.slot_names} for name, t in parameters.items()}
        self.steps = 0

    def step(self, factor: float = 1.0, clip: float | None = None) -> Any:
        """One update at learning_rate * factor; first the gradients are scaled to a joint norm of at most `clip`.

        Returns the norm of the gradients before clipping (on a GPU a 0-dimensional array, so that the host need not
        wait). If it is not finite, no weight changes. The gradients are cleared.
        """
        updates = [(w, self.slots[name].values()) for name, w in self.parameters.items() if w.grad is not None]
        self.steps += 1
        if not updates:
            return 0.0
        k = kernels(updates[0][0].data)
        rate, clip = self.learning_rate * python_number(factor), python_number(clip)
        norm, scale = k.clip_by_norm([weight.grad for weight, _ in updates], clip)
        for weight, slots in updates:
            self.update(k, weight.data, weight.grad, *slots, scale, rate=rate)
            weight.version += 1  # it was changed in place: a backward pass from an earlier forward pass must fail
            weight.grad = None
        return norm

    def update(self, k: Any, *arrays: Array, rate: float) -> None:
        """Change a weight and its slots in place, with a kernel of k; arrays: weight, gradient, slots and scale."""
        raise NotImplementedError

    def state(self) -> dict[str, Array]:
        """Everything that a checkpoint must hold: the slots by "weight:slot", and the number of steps."""
        slots = {f"{name}:{s}": array for name, arrays in self.slots.items() for s, array in arrays.items()}
        return {**slots, "steps": np.asarray(self.steps)}

    def set_state(self, state: dict[str, Array]) -> None:
        """Copy in what state() returned."""
        self.steps = int(state["steps"])
        for name, arrays in self.slots.items():
            for s in arrays:
                arrays[s] = copied_to(arrays[s], state[f"{name}:{s}"])


class SGD(Optimiser):
    """Gradient descent with momentum: v = momentum * v + g, then w = w - rate * v."""

    slot_names = ("velocity",)

    def __init__(
        self, parameters: dict[str, Tensor], learning_rate: float, *, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, learning_rate, momentum=momentum, weight_decay=weight_decay)

    def update(self, k: Any, *arrays: Array, rate: float) -> None:
        k.sgd_step(*arrays, rate=rate, **self.settings)


class Adam(Optimiser):
    """Adam with bias correction: Kingma and Ba 2015, Algorithm 1."""

    slot_names = ("first", "second")

    def __init__(
        self, parameters: dict[str, Tensor], learning_rate: float, *, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(parameters, learning_rate, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, k: Any, *arrays: Array, rate: float) -> None:
        k.adam_step(*arrays, rate=rate, steps=self.steps, **self.settings)


OPTIMISERS: dict[str, Callable[..., Optimiser]] = {"sgd": SGD, "adam": Adam}


def build(
    name: str, parameters: dict[str, Tensor], learning_rate: float, *, momentum: float = 0.9, **rest: Any
) -> Optimiser:
    """An optimiser by name, "sgd" (with momentum) or "adam"."""
    check_choice("optimiser", name, OPTIMISERS)
    if name == "sgd":
        rest["momentum"] = momentum
    return OPTIMISERS[name](parameters, learning_rate, **rest)


def schedule(kind: str, iteration: int, iterations: int, warmup: int = 0) -> float:
    """The factor on the learning rate at an iteration (from 0): a linear warm-up, then "constant" or "cosine".

    "cosine" falls from 1 to 0 along half a cosine wave.
    """
    if iteration < warmup:
        return (iteration + 1) / warmup
    if kind == "constant":
        return 1.0
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / max(1, iterations - warmup)))
    raise InputError(unknown("schedule", kind, ("constant", "cosine")))
