"""Adversarial examples as files that need nothing of minisatm: an .npz for each source, and some of them as PNGs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from .crossing import Crossing

PICTURES = 8  # of each source


def check_empty(folder: Path) -> None:
    """Make the folder; an InputError if it is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} holds files already: name a new folder for --save-examples.")
    folder.mkdir(parents=True, exist_ok=True)


def export(folder: Path, crossing: Crossing, classes: Sequence[str]) -> None:
    """Write <attack>[-epsilon]-<source>.npz for each source, and a folder of that name with PNGs.

    An .npz has x and x_adv (n, H, W, C) uint8, y (n,), predicted_clean and predicted (targets, n), the names targets
    and classes, and attack, source, norm, epsilon (nan where the attack has none). Pixels / 255 are what was measured.
    """
    targets, setting = crossing.targets, crossing.setting
    clean = np.stack([crossing.answers[target, ""] for target in targets])
    for k, source in enumerate(crossing.sources):
        size = f"-{setting.epsilon:g}" if setting.unit else f"-{256 * setting.epsilon:g}of256"
        name = f"{setting.attack}{size * setting.has_epsilon}-{_safe(source)}"
        if any(_safe(source) == _safe(before) for before in crossing.sources[:k]):
            name = f"{name}-{k + 1}"  # its number in the table
        predicted = np.stack([crossing.answers[target, source] for target in targets])
        np.savez_compressed(
            folder / f"{name}.npz", x=crossing.images[""], x_adv=crossing.images[source], y=crossing.true,
            predicted_clean=clean, predicted=predicted, targets=np.array(targets), classes=np.array(classes),
            attack=setting.attack, source=source, norm=setting.norm,
            epsilon=setting.epsilon if setting.has_epsilon else np.nan,
        )  # fmt: skip
        _pictures(folder / name, crossing, source, classes)


def _pictures(folder: Path, crossing: Crossing, source: str, classes: Sequence[str]) -> None:
    """Pairs of PNGs, first of images that fool the source; a file's name has the true class and the source's answer."""
    from PIL import Image

    folder.mkdir()
    fooled = crossing.right(source, "") & ~crossing.right(source, source)
    chosen = np.sort(np.argsort(~fooled, kind="stable")[:PICTURES])
    for i in chosen.tolist():
        for kind, shown in (("clean", ""), ("adversarial", source)):
            pixels = crossing.images[shown][i]
            true, answer = (_safe(classes[answers[i]]) for answers in (crossing.true, crossing.answers[source, shown]))
            name = f"{i:05d}_true_{true}_answer_{answer}_{kind}.png"
            Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(folder / name)


def _safe(text: str) -> str:
    """A name that any file system takes: (0, 2) is 0-2."""
    return re.sub(r"[^\w.+]+", "-", text).strip("-") or "_"
