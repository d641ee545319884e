"""Every attack by name, with what commands and readers must know of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import array_module
from ..errors import InputError
from ..progress import bar
from .carlini_wagner import carlini_wagner_l0, carlini_wagner_l2, carlini_wagner_linf
from .iterative import iterative_fgsm, iterative_ll, momentum_fgsm, pgd, starts
from .minimal import deepfool
from .search import hot_cold, square
from .single_step import fast_gradient_value, fgsm, r_fgsm, r_step_ll, random_noise, signs, step_ll

Array = Any


@dataclass(frozen=True)
class Attack:
    """One attack: ATTACKS[name](network, x, y, **options) is the function itself.

    norm: that of the ball it stays in, or of the perturbation that it makes small. reads_label: does it look at y?
    Where it does, an example can give the true class away.
    """

    function: Callable[..., Array]
    norm: str
    reference: str
    reads_label: bool = True
    draw: Callable[..., Array] | None = None  # all images' noise, where it is drawn for all of them together

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def defaults(self) -> dict[str, Any]:
        """Every option with its default, as the function itself declares them."""
        options = inspect.signature(self.function).parameters.values()
        return {o.name: o.default for o in options if o.default is not inspect.Parameter.empty}

    def takes(self, option: str) -> bool:
        return option in self.defaults

    @property
    def random(self) -> bool:
        return self.takes("rng")

    def __call__(self, network: Any, x: Array, y: Array, *, batch: int | None = None, **options: Any) -> Array:
        """Adversarial x, (N, H, W, C). batch: so many images at a time, with a bar on a terminal; all at once unless
        given."""
        if batch is None or batch >= len(x):
            return self.function(network, x, y, **options)
        if self.draw is not None and options.get("noise") is None:
            wanted = {k: v for k, v in (self.defaults | options).items() if k in ("rng", "restarts", "norm")}
            options = {k: v for k, v in options.items() if k != "rng"} | {"noise": self.draw(x, **wanted)}
        by_image = {k: options.pop(k) for k in ("noise", "mask") if options.get(k) is not None}
        crafted = []
        with bar(len(x), self.name, "image") as shown:
            for start in range(0, len(x), batch):
                part = slice(start, start + batch)
                own = {k: v[part] for k, v in by_image.items()}
                crafted.append(self.function(network, x[part], y[part], **options, **own))
                shown.update(len(crafted[-1]))
        return array_module(x).concatenate(crafted)


_KNOWN = (
    Attack(fgsm, "linf", "Goodfellow et al. 2015; Eq. 1 of the paper"),
    Attack(step_ll, "linf", "Kurakin et al. 2017; Eq. 2 of the paper, which prints the other sign", reads_label=False),
    Attack(r_fgsm, "linf", "Tramer et al. 2018; Eq. 3 of the paper, there called R+Step-LL", draw=signs),
    Attack(r_step_ll, "linf", "after Tramer et al. 2018", reads_label=False, draw=signs),
    Attack(fast_gradient_value, "l2", "Rozsa et al. 2016"),
    Attack(iterative_fgsm, "linf", "Kurakin et al. 2017"),
    Attack(iterative_ll, "linf", "Kurakin et al. 2017", reads_label=False),
    Attack(pgd, "linf", "Madry et al. 2018", draw=starts),
    Attack(momentum_fgsm, "linf", "Dong et al. 2018"),
    Attack(deepfool, "l2", "Moosavi-Dezfooli et al. 2016"),
    Attack(carlini_wagner_l2, "l2", "Carlini and Wagner 2017, Section V.A"),
    Attack(carlini_wagner_linf, "linf", "Carlini and Wagner 2017, Section V.C"),
    Attack(carlini_wagner_l0, "l0", "Carlini and Wagner 2017, Section V.B"),
    Attack(hot_cold, "linf", "Rozsa et al. 2016"),
    Attack(square, "linf", "after Andriushchenko et al. 2020"),
    Attack(random_noise, "linf", "a control", reads_label=False, draw=signs),
)
ATTACKS = {attack.name: attack for attack in _KNOWN}


def craft(
    name: str,
    network: Any,
    x: Array,
    y: Array,
    *,
    epsilon: float,
    alpha: float | None,
    rng: np.random.Generator | None,
    craft_mode: str = "eval",
    **options: Any,
) -> Array:
    """The attack of this name; epsilon, alpha and rng go to those that have them, other options as they are."""
    if name not in ATTACKS:
        raise InputError(f"unknown attack {name!r}: choose one of {', '.join(ATTACKS)}.")
    attack, shared = ATTACKS[name], dict(epsilon=epsilon, alpha=alpha, rng=rng, craft_mode=craft_mode)
    return attack(network, x, y, **{k: v for k, v in shared.items() if attack.takes(k)}, **options)
