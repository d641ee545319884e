"""The settings of a run, their presets, and reading them from the command line's words and from config.json."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any

from .. import models
from ..attacks import ATTACKS, resolve_alpha
from ..domain import DOMAINS
from ..errors import InputError
from ..optim import OPTIMISERS
from .phases import PLANS

ON_ONE_ANOTHER = ("compare", "ensemble", "cascade", "satm")  # these need two networks or more
CHOICES: dict[str, Sequence[Any]] = {
    "method": tuple(PLANS),
    "attack": tuple(ATTACKS),
    "domain": ("none", *DOMAINS),
    "loss_norm": ("sum", "half"),
    "craft_mode": ("eval", "train"),
    "bn_batches": ("joint", "separate"),
    "schedule": ("constant", "cosine"),
    "optimizer": tuple(OPTIMISERS),
    "data": ("faces", "adience", "mnist", "folder"),
    "labels": ("strict", "strict+fix", "mapped"),
    "fold": range(5),
    "backend": ("numpy", "plain", "cupy"),
}
LIMITS: dict[str, tuple[float, float]] = {
    "width": (1 / 512, 16), "size": (8, 2048), "batch": (1, math.inf), "faces": (1, math.inf), "dropout": (0, 0.99),
    "momentum": (0, 0.999), "weight_decay": (0, math.inf), "da_learning_rate": (0, math.inf), "clip": (0, math.inf),
    "r_adv": (0, math.inf), "r_da": (0, math.inf), "r_embedding": (0, math.inf), "r_penalty": (0, math.inf),
    "temperature": (1, 1000), "warmup": (0, math.inf), "patience": (0, math.inf),
    "clean_iterations": (0, math.inf), "iterations": (0, math.inf), "evaluate_every": (0, math.inf),
    "evaluate_images": (1, math.inf), "test_images": (0, math.inf), "seed": (0, math.inf),
}  # fmt: skip
LEARNING_RATES = {"vgg16": 0.05}  # of sgd; 0.1 for residual networks
ADAM_RATE = 1e-3


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# What a setting of each annotated type may hold; config.json can bring anything.
KINDS: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    "str": ("a text", lambda v: isinstance(v, str)),
    "bool": ("true or false", lambda v: isinstance(v, bool)),
    "int": ("a whole number", lambda v: isinstance(v, int) and not isinstance(v, bool)),
    "float": ("a finite number", _finite),
    "float | None": ("a finite number or null", lambda v: v is None or _finite(v)),
    "tuple[str, ...]": ("a list of texts", lambda v: isinstance(v, tuple) and all(isinstance(w, str) for w in v)),
    "tuple[float, ...]": ("a list of finite numbers", lambda v: isinstance(v, tuple) and all(map(_finite, v))),
}


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
    own_examples: bool = False
    r_embedding: float = 0.01
    temperature: float = 20.0
    r_penalty: float = 0.03
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
    tf32: bool = False
    seed: int = 0

    def check(self) -> Settings:
        """Raise an InputError for a value that cannot work; returns the settings themselves."""
        for field in fields(self):
            what, fits = KINDS[field.type]
            value = getattr(self, field.name)
            if not fits(value):
                raise InputError(f"{_option(field.name)} must be {what}, not {value!r}.")
        for name, known in CHOICES.items():
            _choice(name.replace("_", " "), getattr(self, name), known)
        for kind in [*self.named_networks().values(), *([self.holdout] if self.holdout != "none" else [])]:
            _choice("network", kind, models.NAMES)
        for name, (least, most) in LIMITS.items():
            _in_range(name, getattr(self, name), least, most)
        for rate in self.learning_rate:
            _in_range("learning_rate", rate, 0, math.inf)
        resolve_alpha(self.epsilon, self.alpha)
        if self.alpha is not None and not ATTACKS[self.attack].takes("alpha"):
            raise InputError(f"--alpha is the size of a random step, and {self.attack} has none: leave it out.")
        if self.tf32 and self.backend != "cupy":
            raise InputError("--tf32 is a way of computing on a GPU: give --backend cupy too, or leave it out.")
        self._check_counts()
        return self

    def _check_counts(self) -> None:
        given = len(self.networks)
        if self.method in ON_ONE_ANOTHER and given < 2:
            raise InputError(
                f"{self.method} trains networks on one another's examples and needs two or more, got {given}."
            )
        if len(self.weights) not in (0, given, given + (self.holdout != "none")):
            raise InputError(
                f"--weights names {len(self.weights)} files for {given} networks: name one each, with commas, and one "
                "more for the hold-out if you have it."
            )
        if len(self.learning_rate) not in (0, 1, given):
            raise InputError(
                f"--learning-rate has {len(self.learning_rate)} values for {given} networks: give one, or one each."
            )

    def named_networks(self) -> dict[str, str]:
        """{name: kind}; a kind that comes twice without names is numbered."""
        named: dict[str, str] = {}
        for entry in self.networks:
            name, _, kind = entry.rpartition("=")
            name = name or kind
            if not re.fullmatch(r"\w[\w.+-]*", name) or name.startswith("hold-out"):
                raise InputError(
                    f"--networks: {name!r} cannot be the name of a network's files: use letters, digits and . _ + -"
                    " (and no name that begins with hold-out)."
                )
            if name in named and "=" in entry:
                raise InputError(
                    f"two networks are called {name!r}: give each a name of its own, like a=resnet50,b=resnet50."
                )
            if name in named:
                name = next(numbered for n in count(2) if (numbered := f"{kind}-{n}") not in named)
            named[name] = kind
        return named

    def rate(self, k: int, kind: str) -> float:
        """The learning rate of network number k; the hold-out, number -1, takes the last one given."""
        if not self.learning_rate:
            return ADAM_RATE if self.optimizer == "adam" else LEARNING_RATES.get(kind, 0.1)
        return self.learning_rate[0 if len(self.learning_rate) == 1 else k]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


PRESETS: dict[str, dict[str, Any]] = {
    # One and a half times the paper's epsilon, at a fifth of its image side; too few epochs for augmentation to pay.
    "toy": dict(
        epsilon=24 / 256, augment=False, clean_iterations=500, iterations=200, evaluate_every=50, evaluate_images=96,
    ),
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
MNIST = dict(
    size=32, epsilon=0.3, clean_iterations=1800, iterations=400, evaluate_every=200, evaluate_images=256,
)  # fmt: skip


def from_preset(name: str, changes: dict[str, Any]) -> Settings:
    """A preset with some fields changed, checked."""
    if not isinstance(name, str) or name not in PRESETS:
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
    if not isinstance(values, dict):
        raise InputError(f"{path} does not hold settings by name: give a config.json of a run.")
    known = {f.name for f in fields(Settings)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(f"{path} has unknown settings {', '.join(unknown)}: known are {', '.join(sorted(known))}.")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _choice(what: str, value: Any, known: Sequence[Any]) -> None:
    if value not in known:
        raise InputError(f"unknown {what} {value!r}: choose {', '.join(map(str, known))}.")


def _in_range(name: str, value: float | None, least: float, most: float) -> None:
    if value is None:
        return
    if value < least:
        raise InputError(f"{_option(name)} {value:g} is too small: {least:g} at least.")
    if value > most:
        raise InputError(f"{_option(name)} {value:g} is too large: {most:g} at most.")
