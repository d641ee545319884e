"""The settings of a run, their presets, and reading them from the command line's words and from config.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from . import models
from .attacks import ATTACKS, resolve_alpha
from .errors import InputError

METHODS = ("compare", "clean", "ensemble", "satm")
LEARNING_RATES = {"vgg16": 0.05}  # of the toy and smoke presets; 0.1 for residual networks


@dataclass
class Settings:
    """Everything that decides a run's numbers; config.json holds it. Units: pixels in [0, 1], sides in pixels."""

    preset: str = "toy"
    method: str = "compare"
    networks: tuple[str, ...] = ("vgg16", "resnet50")  # each "kind" or "name=kind"
    weights: tuple[str, ...] = ()
    holdout: str = "resnet101"
    width: float = 0.125
    size: int = 48
    dropout: float = 0.0
    data: str = "faces"
    data_dir: str = ""
    augment: bool = True
    faces: int = 7000
    fold: int = 0
    labels: str = "strict"
    epsilon: float = 16 / 256
    alpha: float | None = None
    attack: str = "r_fgsm"
    r_adv: float = 1.0
    r_da: float = 0.1
    domain: str = "reversal"
    loss_norm: str = "sum"
    craft_mode: str = "eval"
    bn_batches: str = "joint"
    optimizer: str = "sgd"
    learning_rate: tuple[float, ...] = ()  # one for all networks, or one each; empty: LEARNING_RATES
    da_learning_rate: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup: int = 20
    clip: float | None = 1.0
    batch: int = 32
    clean_iterations: int = 400
    iterations: int = 250
    patience: int = 5
    evaluate_every: int = 0  # iterations; 0: once an epoch
    evaluate_images: int = 256
    test_images: int = 0  # 0: all
    backend: str = "numpy"
    seed: int = 0

    def check(self) -> Settings:
        """Raise an InputError for a value that cannot work; returns the settings themselves."""
        _choice("method", self.method, METHODS)
        _choice("attack", self.attack, tuple(ATTACKS))
        _choice("domain", self.domain, ("none", "reversal"))
        _choice("loss norm", self.loss_norm, ("sum", "half"))
        _choice("craft mode", self.craft_mode, ("eval", "train"))
        _choice("bn batches", self.bn_batches, ("joint", "separate"))
        _choice("schedule", self.schedule, ("constant", "cosine"))
        resolve_alpha(self.epsilon, self.alpha)
        for kind in [*self.named_networks().values(), *([self.holdout] if self.holdout != "none" else [])]:
            _choice("network", kind, models.NAMES)
        count = len(self.networks)
        if self.method != "clean" and count < 2:
            raise InputError(
                f"{self.method} trains networks on one another's examples and needs two or more, got {count}."
            )
        if len(self.weights) not in (0, count):
            raise InputError(
                f"--weights names {len(self.weights)} files for {count} networks: name one each, with commas."
            )
        if len(self.learning_rate) not in (0, 1, count):
            raise InputError(
                f"--learning-rate has {len(self.learning_rate)} values for {count} networks: give one, or one each."
            )
        for name in ("width", "size", "batch", "evaluate_images"):
            _at_least(name, getattr(self, name), 1e-6)
        for name in (
            "clean_iterations",
            "iterations",
            "warmup",
            "patience",
            "evaluate_every",
            "r_adv",
            "r_da",
            "momentum",
            "seed",
        ):
            _at_least(name, getattr(self, name), 0)
        if not 0 <= self.dropout < 1:
            raise InputError(f"--dropout {self.dropout:g} must lie in [0, 1).")
        return self

    def named_networks(self) -> dict[str, str]:
        """{name: kind}; a kind that comes twice without names is numbered."""
        named: dict[str, str] = {}
        for entry in self.networks:
            name, _, kind = entry.rpartition("=")
            name = name or kind
            if name in named and "=" in entry:
                raise InputError(
                    f"two networks are called {name!r}: give each a name of its own, like a=resnet50,b=resnet50."
                )
            while name in named:
                name = f"{kind}-{len([k for k in named.values() if k == kind]) + 1}"
            named[name] = kind
        return named

    def rate(self, k: int, kind: str) -> float:
        """The learning rate of network number k (the hold-out has number -1)."""
        if not self.learning_rate:
            return LEARNING_RATES.get(kind, 0.1)
        return self.learning_rate[0 if len(self.learning_rate) == 1 else k]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


PRESETS: dict[str, dict[str, Any]] = {
    "toy": dict(evaluate_every=50),
    "smoke": dict(
        method="satm", holdout="none", width=1 / 16, size=32, batch=16, faces=600, clean_iterations=40, iterations=20,
        warmup=5, evaluate_every=20, evaluate_images=64, test_images=200,
    ),
    "paper": dict(
        method="satm", width=1.0, size=224, batch=8, dropout=0.5, learning_rate=(1e-5,), schedule="constant", warmup=0,
        clip=None, clean_iterations=10_000, iterations=10_000, faces=8000,
    ),
}  # fmt: skip

# Digits are easy: more steps on smaller images reach 98 % and more in the same time. Epsilon is Tramer's.
MNIST = dict(size=32, epsilon=0.3, clean_iterations=1200, iterations=400)


def from_preset(name: str, changes: dict[str, Any]) -> Settings:
    """A preset with some fields changed, checked."""
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}: choose {', '.join(PRESETS)}.")
    for_data = MNIST if name == "toy" and changes.get("data") == "mnist" else {}
    return Settings(**{"preset": name, **PRESETS[name], **for_data, **changes}).check()


def read(path: Path) -> dict[str, Any]:
    """The settings in a config.json, as changes to a preset; a field that no run has is an InputError."""
    try:
        values = json.loads(path.read_text())
    except OSError as problem:
        raise InputError(f"cannot read {path}: {problem.strerror}.") from problem
    except ValueError as problem:
        raise InputError(f"{path} is not valid JSON ({problem}).") from problem
    known = {f.name for f in fields(Settings)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(f"{path} has unknown settings {', '.join(unknown)}: known are {', '.join(sorted(known))}.")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def fraction(text: str) -> float:
    """A number or a fraction: "16/256" -> 0.0625."""
    return float(Fraction(text))


def _choice(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"unknown {what} {value!r}: choose {', '.join(known)}.")


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise InputError(f"--{name.replace('_', '-')} {value:g} is too small.")
