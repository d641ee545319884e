"""An attack with its settings, and the one way in which evaluation crafts examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..attacks import ATTACKS, craft, rounded
from ..attacks.arguments import ForEachImage
from ..inputs import python_number
from ..streams import stream
from ..units import epsilon_text

Array = Any
LENGTH, FACTOR = "length", "factor on the gradient"


@dataclass(frozen=True)
class AttackSetting:
    """An attack and all its arguments but the network and the images.

    epsilon and alpha are in pixels of [0, 1]; `unit` says where epsilon is something else.
    """

    attack: str
    epsilon: float
    alpha: float | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, python_number(value))

    def __call__(self, network: Any, x: Array, y: Array, *, rng: Any = None, **noise: Array) -> Array:
        """Adversarial x, (N, H, W, C), as the attack returns it."""
        options = self.options | noise
        return craft(self.attack, network, x, y, epsilon=self.epsilon, alpha=self.alpha, rng=rng, **options)

    def rounded(self, x_adv: Array, x: Array) -> Array:
        """x_adv as 8-bit pixels; an attack that keeps to a ball of radius epsilon still does."""
        in_ball = self.has_epsilon and self.unit != FACTOR
        return rounded(x_adv, x, epsilon=self.epsilon if in_ball else None, norm=self.norm)

    @property
    def norm(self) -> str:
        return "linf" if self._option("scale") == "max" else str(self._option("norm") or ATTACKS[self.attack].norm)

    @property
    def unit(self) -> str:
        """What epsilon is: an L2 length, a factor on the gradient, or the largest change of a pixel ("")."""
        if self._option("scale") == "none":
            return FACTOR
        return LENGTH if "l2" in (self._option("norm"), self._option("scale")) else ""

    def _option(self, name: str) -> Any:
        return (ATTACKS[self.attack].defaults | self.options).get(name)

    @property
    def has_epsilon(self) -> bool:
        return ATTACKS[self.attack].takes("epsilon")

    def at(self, epsilon: float) -> AttackSetting:
        """The same attack at another epsilon; alpha and step, where given, are scaled with it."""
        factor = epsilon / self.epsilon if self.epsilon else 1.0
        options = {k: v * factor if k == "step" else v for k, v in self.options.items()}
        return replace(self, epsilon=epsilon, alpha=self.alpha and self.alpha * factor, options=options)

    def __str__(self) -> str:
        size = f"{self.epsilon:g} ({self.unit})" if self.unit else epsilon_text(self.epsilon)
        parts = [f"epsilon {size}"] if self.has_epsilon else []
        parts += [] if self.alpha is None else [f"alpha {epsilon_text(self.alpha)}"]
        return ", ".join([self.attack, *parts, *(f"{k} {v}" for k, v in self.options.items())])


def examples(
    network: Any, x: Array, y: Array, setting: AttackSetting, *, seed: int, source: str, places: Iterable[int]
) -> tuple[Array, Array]:
    """The adversarial examples of a batch, as the attack returns them and as 8-bit pixels, (N, H, W, C) both.

    source: the name of the crafting network, such as "satm/vgg16". places (N,): where the images stand in the test
    order. What a random attack draws for an image depends on seed, source, attack and place alone, so that neither the
    batch size nor the choice of images changes an example.
    """
    attack, drawn = ATTACKS[setting.attack], dict[str, Any]()
    if attack.takes("rng"):
        generators = [stream(seed, "examples", source, setting.attack, int(place)) for place in places]
        if attack.draw is None:
            drawn["rng"] = ForEachImage(generators)
        else:
            image = np.empty((1, *x.shape[1:]), x.dtype)  # in main memory: the noise is sent to a GPU once, not N times
            wanted = {k: v for k, v in (attack.defaults | setting.options).items() if k in ("restarts", "norm")}
            drawn["noise"] = np.concatenate([attack.draw(image, rng=rng, **wanted) for rng in generators])
    x_adv = setting(network, x, y, **drawn)
    return x_adv, setting.rounded(x_adv, x)


def with_places(batches: Any, limit: int | None) -> Iterator[tuple[Array, Array, Array]]:
    """Yield (x, y, places) for each batch of `batches.in_order(limit)`."""
    places, start = batches.places(limit), 0
    for x, y in batches.in_order(limit):
        yield x, y, places[start : start + len(x)]
        start += len(x)
