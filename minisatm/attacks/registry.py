"""The table of attacks by name, with their norms and references."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import array_module
from ..inputs import check_choice
from .arguments import check_images, checked_labels, required_rng
from .carlini_wagner import carlini_wagner_l0, carlini_wagner_l2, carlini_wagner_linf
from .iterative import draw_starts, iterative_fgsm, iterative_ll, momentum_fgsm, pgd
from .minimal import deepfool
from .search import hot_cold, square
from .single_step import draw_signs, fast_gradient_value, fgsm, r_fgsm, r_step_ll, random_noise, step_ll

Array = Any


@dataclass(frozen=True)
class Attack:
    """One attack: ATTACKS[name](network, x, y, **options) calls its function.

    norm: the norm of the ball in which the examples stay, or of the perturbation that the attack makes small.
    reads_label: the attack uses y, so its examples can show the true class to a network that learns from them.
    draw: draws the noise of all images at once, so that random examples do not depend on the size of the batches.
    """

    function: Callable[..., Array]
    norm: str
    reference: str
    reads_label: bool = True
    draw: Callable[..., Array] | None = None

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def defaults(self) -> dict[str, Any]:
        """Every option of the function with its default."""
        options = inspect.signature(self.function).parameters.values()
        return {o.name: o.default for o in options if o.default is not inspect.Parameter.empty}

    def takes(self, option: str) -> bool:
        return option in self.defaults

    def __call__(
        self, network: Any, x: Array, y: Array, *, batch: int | None = None, tick: Callable[[int], Any] | None = None,
        **options: Any,
    ) -> Array:  # fmt: skip
        """Adversarial x, (N, H, W, C), crafted `batch` images at a time, or all at once.

        tick: called after each batch with the number of its images, for a progress bar.
        """
        tick = tick or (lambda images: None)
        if batch is None or batch >= len(x):
            whole = self.function(network, x, y, **options)
            tick(len(x))
            return whole
        check_images(x, network)  # all of it before the first batch
        y = checked_labels(y, x)
        if options.get("rng") is not None:
            options["rng"] = required_rng(options["rng"])  # one generator for all batches
        if self.draw is not None and options.get("noise") is None:
            wanted = {k: v for k, v in (self.defaults | options).items() if k in ("rng", "restarts", "norm")}
            options = {k: v for k, v in options.items() if k != "rng"} | {"noise": self.draw(x, **wanted)}
        by_image = {k: options.pop(k) for k in ("noise", "mask") if options.get(k) is not None}
        crafted = []
        for start in range(0, len(x), batch):
            part = slice(start, start + batch)
            sliced = {k: v[part] for k, v in by_image.items()}
            crafted.append(self.function(network, x[part], y[part], **options, **sliced))
            tick(len(crafted[-1]))
        return array_module(x).concatenate(crafted)


_ALL = (
    Attack(fgsm, "linf", "Goodfellow et al. 2015; Eq. 1 of the paper"),
    Attack(step_ll, "linf", "Kurakin et al. 2017; Eq. 2 of the paper, which prints the other sign", reads_label=False),
    Attack(r_fgsm, "linf", "Tramer et al. 2018; Eq. 3 of the paper, there called R+Step-LL", draw=draw_signs),
    Attack(r_step_ll, "linf", "after Tramer et al. 2018", reads_label=False, draw=draw_signs),
    Attack(fast_gradient_value, "l2", "Rozsa et al. 2016"),
    Attack(iterative_fgsm, "linf", "Kurakin et al. 2017"),
    Attack(iterative_ll, "linf", "Kurakin et al. 2017", reads_label=False),
    Attack(pgd, "linf", "Madry et al. 2018", draw=draw_starts),
    Attack(momentum_fgsm, "linf", "Dong et al. 2018"),
    Attack(deepfool, "l2", "Moosavi-Dezfooli et al. 2016"),
    Attack(carlini_wagner_l2, "l2", "Carlini and Wagner 2017, Section V.A"),
    Attack(carlini_wagner_linf, "linf", "Carlini and Wagner 2017, Section V.C"),
    Attack(carlini_wagner_l0, "l0", "Carlini and Wagner 2017, Section V.B"),
    Attack(hot_cold, "linf", "Rozsa et al. 2016"),
    Attack(square, "linf", "after Andriushchenko et al. 2020"),
    Attack(random_noise, "linf", "a control", reads_label=False, draw=draw_signs),
)
ATTACKS = {attack.name: attack for attack in _ALL}


def craft(
    name: str, network: Any, x: Array, y: Array, *, epsilon: float, alpha: float | None,
    rng: np.random.Generator | None, craft_mode: str = "eval", **options: Any,
) -> Array:  # fmt: skip
    """Adversarial x by the attack of this name; it gets epsilon, alpha and rng only if it has these options."""
    check_choice("attack", name, ATTACKS)
    attack = ATTACKS[name]
    shared: dict[str, Any] = dict(epsilon=epsilon, alpha=alpha, rng=rng, craft_mode=craft_mode)
    return attack(network, x, y, **{k: v for k, v in shared.items() if attack.takes(k)}, **options)
