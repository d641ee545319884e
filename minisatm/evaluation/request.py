"""What the options of the evaluate command ask for: which attacks, with which settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..attacks import ATTACKS
from ..errors import InputError
from ..inputs import did_you_mean
from ..units import epsilon_text, fraction
from .setting import AttackSetting

HANDED = ("epsilon", "alpha", "rng", "noise", "mask")  # never given with --set
# How --set reads an option of this type, and what its value must be.
READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "bool": ({"true": True, "false": False}.__getitem__, "true or false"), "int": (int, "a whole number"),
    "float": (fraction, "a number"), "str": (str, "a text"),
}  # fmt: skip


def attack_list() -> str:
    """Every attack with its norm, its own options and where it comes from."""
    lines = [f"{'attack':<22}{'norm':<6}reference; options with their defaults"]
    for attack in ATTACKS.values():
        options = {k: v for k, v in attack.defaults.items() if k not in ("rng", "noise", "mask", "craft_mode")}
        shown = ", ".join(f"{k}={epsilon_text(v) if k == 'epsilon' else v}" for k, v in options.items())
        lines += [f"{attack.name:<22}{attack.norm:<6}{attack.reference}", f"{'':<28}{shown or '-'}"]
    return "\n".join(lines)


def kinds(attack: str) -> dict[str, str]:
    """The options of an attack that --set may give, with the names of their types."""
    parameters = inspect.signature(ATTACKS[attack].function).parameters
    types = {name: str(parameters[name].annotation).split(" ")[0] for name in ATTACKS[attack].defaults}
    return {name: kind for name, kind in types.items() if kind in READERS and name not in HANDED}


def settings_of(
    names: Sequence[str], epsilons: Sequence[float] | None, alpha: float | None, options: Sequence[str],
    own: AttackSetting, shape: tuple[int, int, int],
) -> list[AttackSetting]:  # fmt: skip
    """Every attack at every epsilon that was asked for, each tried first on a small stand-in for a network.

    names, epsilons, alpha and options as --attack, --epsilon, --alpha and --set give them. own: the first run's
    attack, whose epsilon stands in where none is given, and whose alpha does where neither is. shape: of an image.
    """
    _check(names, epsilons, alpha, options)
    sizes = [own.epsilon] if epsilons is None else epsilons
    random_part = own.alpha if alpha is None and epsilons is None else alpha
    if epsilons is not None and not any(ATTACKS[name].takes("epsilon") for name in names):
        raise InputError(f"--epsilon has no effect: {', '.join(names)} has no epsilon, so leave it out.")
    settings = []
    for name in dict.fromkeys(names):
        attack, chosen = ATTACKS[name], own_options(name, options)
        for epsilon in dict.fromkeys(sizes if attack.takes("epsilon") else sizes[:1]):
            setting = AttackSetting(name, epsilon, random_part if attack.takes("alpha") else None, chosen)
            if setting.has_epsilon and setting.unit and epsilons is None:
                raise InputError(f"with these options epsilon of {name} is a {setting.unit}, but the run's epsilon is "
                                 "per pixel: give one, like --epsilon 1.")  # fmt: skip
            _try_out(setting, shape)
            settings.append(setting)
    return settings


def _check(names: Sequence[str], epsilons: Sequence[float] | None, alpha: float | None, options: Sequence[str]) -> None:
    """An InputError for attacks and options that do not exist."""
    for name in names:
        if name not in ATTACKS:
            choice = f"choose from {', '.join(ATTACKS)} (--list describes them)"
            raise InputError(f"unknown attack {name!r}: {choice}{did_you_mean(name, ATTACKS)}.")
    if not names:
        raise InputError("--attack is empty: name one or several, like --attack fgsm,pgd.")
    if epsilons is not None and not epsilons:
        raise InputError("--epsilon is empty: give one or several, like --epsilon 16/256,32/256.")
    known = {option for name in names for option in kinds(name)}
    for entry in options:
        if "=" not in entry or entry.partition("=")[0] not in known:
            have, choices = "has" if len(names) == 1 else "have", ", ".join(f"{option}=..." for option in sorted(known))
            near = did_you_mean(entry.partition("=")[0], known)
            raise InputError(f"--set {entry}: {', '.join(names)} {have} no such option: give {choices}{near}.")
    if alpha is not None and not any(ATTACKS[name].takes("alpha") for name in names):
        raise InputError(f"--alpha is the size of a random step, and {', '.join(names)} has none: leave it out.")


def own_options(attack: str, given: Sequence[str]) -> dict[str, Any]:
    """{option: value} of those texts like `steps=20` that this attack has."""
    options, known = {}, kinds(attack)
    for name, _, text in (entry.partition("=") for entry in given):
        if name in known:
            read, what = READERS[known[name]]
            try:
                options[name] = read(text)
            except (ValueError, KeyError) as problem:
                raise InputError(f"--set {name}={text}: {name} of {attack} must be {what}.") from problem
    return options


def _try_out(setting: AttackSetting, shape: tuple[int, int, int]) -> None:
    """Attack a linear network with two grey images: an option that the attack refuses fails before the long work."""

    def network(x: Any) -> Any:
        w = np.linspace(-1, 1, 3 * x[0].size, dtype=x.dtype).reshape(-1, 3)
        return x.reshape(len(x), -1) @ w, lambda g: (g @ w.T).reshape(x.shape)

    setting(network, np.full((2, *shape), 0.5, np.float32), np.array([0, 1]), rng=np.random.default_rng(0))
