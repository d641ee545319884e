"""The words that wrappers put before a network's names: DataParallel's "module.", torch.compile's "_orig_mod." ..."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from minisatm.errors import InputError

Tensors = dict[str, np.ndarray]
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # they can also stand inside a name
USUAL = {"state_dict", "model_state_dict", "model_state", "model", "net", "network", "backbone", "module", "encoder"}


def without_wrappers(tensors: Tensors) -> tuple[Tensors, list[str]]:
    """Return the tensors without the wrappers' words in their names, and a note of each word."""
    notes = []
    for word in WRAPPERS:
        shorter = {f".{name}".replace(f".{word}", ".")[1:] for name in tensors}
        if any(f".{word}" in f".{name}" for name in tensors) and len(shorter) == len(tensors):
            tensors = {f".{name}".replace(f".{word}", ".")[1:]: array for name, array in tensors.items()}
            notes.append(f'the word "{word}" was removed from the names')
    return tensors, notes


def candidates(names: Iterable[str], fewest: int) -> list[str]:
    """Return the prefixes (up to a "." or "/") that at least `fewest` of the names have, the shortest first."""
    counts: Counter[str] = Counter()
    for name in names:
        counts.update(name[: i + 1] for i, letter in enumerate(name) if letter in "./")
    return ["", *sorted((p for p, count in counts.items() if count >= fewest), key=len)]


def under(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors with this prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def chosen(tensors: Tensors, fits: dict[str, int], wanted: str | None, fitting: Callable[[str], Tensors]) -> str:
    """Return the prefix to take; fits: how many of the network's names each has, fitting(prefix): those tensors.

    Of several that fit equally (an exponential mean of the weights, an attacker's copy), the one of usual words is
    taken, or the shortest if all hold the same numbers; else the user has to choose.
    """
    if wanted is not None:
        return wanted
    best = [prefix for prefix, count in fits.items() if count == max(fits.values())]
    usual = [prefix for prefix in best if set(words(prefix)) <= USUAL] or best
    if len(usual) > 1 and not all(same(fitting(usual[0]), fitting(prefix)) for prefix in usual[1:]):
        shown = ", ".join(prefix or '"" (none)' for prefix in usual)
        raise InputError(f"the file holds several sets of weights that fit ({shown}): choose one with --prefix.")
    return usual[0]


def words(prefix: str) -> list[str]:
    return [word for word in prefix.replace("/", ".").split(".") if word]


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
