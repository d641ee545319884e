"""The settings of a run, each declared once, and their presets; python -m minisatm.run.settings prints them all."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from .. import models
from ..attacks import ATTACKS, resolve_alpha
from ..defences.settings import RELATIVES, RelativeSettings
from ..domain import DOMAINS
from ..errors import InputError
from ..inputs import check_choice, did_you_mean
from ..optim import OPTIMISERS
from ..setting import OURS, PIXELS, Setting, When, declared, setting
from .phases import ADVERSARIAL, PLANS, WITH_DOMAIN

RUN, NETWORKS, DATA, LOSSES, TRAINING = "the run", "networks", "data", "attack and losses", "optimisation"
GROUPS = (RUN, NETWORKS, DATA, LOSSES, RELATIVES, TRAINING)
NEED_TWO = ("compare", "ensemble", "cascade", "satm")  # here networks learn from one another's examples
ON_ADVERSARIAL, ON_DOMAIN = (
    tuple(method for method, plan in PLANS.items() if set(plan) & set(those)) for those in (ADVERSARIAL, WITH_DOMAIN)
)
DRAWN = When("--data faces and no --data-dir", lambda s: s.data == "faces" and not s.data_dir)
FOLDS = When("--data faces or adience", lambda s: s.data in ("faces", "adience"))
VGG = When("a vgg16", lambda s: "vgg16" in (*s.named_networks().values(), s.holdout))
EPSILON = When("an --attack that has epsilon", lambda s: ATTACKS[s.attack].takes("epsilon"))
# Switching the domain classifier off in both ways is no mistake.
CLASSIFIER = When("a --domain other than none", lambda s: s.domain != "none" or not s.r_da)
WEIGHED = When("--r-da above 0", lambda s: s.r_da > 0 or s.domain == "none")
BOTH = When("a --domain other than none and --r-da above 0", lambda s: s.domain != "none" and s.r_da > 0)
SGD = When("--optimizer sgd", lambda s: s.optimizer == "sgd")
SGD_RATES = {"vgg16": 0.05}
SGD_RATE, ADAM_RATE = 0.1, 1e-3  # of all other networks, and of all networks


@dataclass
class Settings(RelativeSettings):
    """Everything that decides a run's numbers; config.json holds it. A new setting is one new field here."""

    # fmt: off
    preset: str = setting("toy", "the values to start from: toy takes minutes, smoke seconds, paper days on a CPU", RUN,
        choices=("toy", "smoke", "paper"))
    method: str = setting("compare", "what to train. compare: networks on clean images, and from there each "
        "of control (more clean images), ensemble and satm; any other method: clean images, then this method alone",
        RUN, choices=tuple(PLANS), paper="satm")
    seed: int = setting(0, "random seed: the same one gives the same run on the same machine", RUN, least=0)
    backend: str = setting("numpy", "numpy, plain (every kernel as its formula says, slow: for reading) or "
        "cupy (a GPU)", RUN, choices=("numpy", "plain", "cupy"))
    tf32: bool = setting(False, "convolve in TF32 on a GPU, faster and less exact than float32", RUN)

    networks: tuple[str, ...] = setting(("vgg16", "resnet50"), f"networks to train, each KIND or NAME=KIND; "
        f"KIND is one of {', '.join(models.NAMES)}", NETWORKS, paper=("vgg16", "resnet50"), metavar="A,B")
    holdout: str = setting("resnet101", "kind of the hold-out, which attacks the networks but never helps to "
        "train them; none: no hold-out", NETWORKS, paper="resnet101", metavar="KIND")
    weights: tuple[str, ...] = setting((), "weights files to start from: one for each network, then "
        "one for the hold-out if there is one", NETWORKS, unset="random weights", metavar="A.h5,B.h5")
    width: float = setting(0.125, "factor on every channel count", NETWORKS, least=1 / 512, most=16, paper=1.0)
    size: int = setting(48, "side of the input images", NETWORKS, least=8, most=2048, unit="pixels", paper=224)
    dropout: float = setting(0.0, "share of units that dropout sets to 0 in VGG's dense layers; the "
        "mnist_ networks have rates of their own", NETWORKS, least=0, most=0.99, source=OURS, when=VGG)

    data: str = setting("faces", "data set; without --data-dir the program draws the faces", DATA,
        choices=("faces", "adience", "mnist", "folder"), source="paper adience")
    data_dir: str = setting("", "folder of the data set", DATA, unset="none", metavar="DIR")
    faces: int = setting(7000, "number of faces to draw", DATA, least=1, when=DRAWN)
    fold: int = setting(0, "fold whose images are the test images", DATA, choices=range(5), when=FOLDS)
    labels: str = setting("strict", "Adience's age labels. strict: the eight groups; strict+fix: also (25, 23), "
        "read as (25, 32); mapped: every age, in the nearest group", DATA, choices=("strict", "strict+fix", "mapped"),
        source=OURS, when=FOLDS)
    augment: bool = setting(True, "mirror and shift the training images at random", DATA, source=OURS)

    attack: str = setting("r_fgsm", "attack that crafts the adversarial images, in training and in tests; "
        "the paper calls r_fgsm R+Step-LL", LOSSES, choices=tuple(ATTACKS), paper="r_fgsm", metavar="NAME")
    epsilon: float = setting(16 / 256, "largest change that the attack makes to a pixel", LOSSES, least=0, most=1,
        unit=PIXELS, paper=16 / 256, when=EPSILON)
    alpha: float | None = setting(None, "size of the random step before the gradient step, below epsilon", LOSSES,
        least=0, most=1, unit=PIXELS, source="paper epsilon/2", unset="epsilon/2")
    r_adv: float = setting(1.0, "weight of the adversarial loss", LOSSES, least=0, source=OURS, of=ON_ADVERSARIAL)
    r_da: float = setting(0.1, "weight of the domain loss", LOSSES, least=0, source=OURS, of=ON_DOMAIN, when=CLASSIFIER)
    domain: str = setting("reversal", "domain classifier, which makes clean and adversarial features alike. reversal: "
        "behind a gradient reversal (strength 1, width 256 and the choice of features, fc7 or the global average pool, "
        "are ours); adda: trained against the network; none: no classifier", LOSSES, choices=("none", *DOMAINS),
        paper="reversal", of=ON_DOMAIN, when=WEIGHED)
    loss_norm: str = setting("sum", "clean and adversarial loss together. sum: their sum; half: their mean, as "
        "Tramer et al. 2018", LOSSES, choices=("sum", "half"), paper="sum", of=ON_ADVERSARIAL)
    craft_mode: str = setting("eval", "batch norm while an attack crafts. eval: with running statistics; "
        "train: with those of the batch", LOSSES, choices=("eval", "train"), source=OURS, of=ON_ADVERSARIAL)
    bn_batches: str = setting("joint", "batch norm in training. joint: clean and adversarial images are one batch; "
        "separate: two batches", LOSSES, choices=("joint", "separate"), source=OURS, of=ON_ADVERSARIAL)

    optimizer: str = setting("sgd", "sgd (with momentum) or adam", TRAINING, choices=tuple(OPTIMISERS), paper="sgd")
    learning_rate: tuple[float, ...] = setting((), "one learning rate for all networks, or one each, "
        "the last also for the hold-out; the paper prints 1e-5 as e^-5", TRAINING, least=0, paper=(1e-5,),
        metavar="R[,R]", unset=f"sgd {SGD_RATES['vgg16']} for vgg16 and {SGD_RATE} for others, adam {ADAM_RATE}")
    da_learning_rate: float | None = setting(None, "learning rate of the domain classifier, whose loss is also "
        "multiplied by r_da", TRAINING, least=0, source=OURS, unset="its network's", of=ON_DOMAIN, when=BOTH)
    momentum: float = setting(0.9, "momentum of sgd", TRAINING, least=0, most=0.999, source=OURS, when=SGD)
    weight_decay: float = setting(0.0, "a weight times this is added to its gradient", TRAINING, least=0, source=OURS)
    schedule: str = setting("cosine", "learning rate over the steps: constant, or falling to 0 along a cosine",
        TRAINING, choices=("constant", "cosine"), source=OURS)
    warmup: int = setting(20, "number of steps at the start in which the learning rate rises linearly", TRAINING,
        least=0, source=OURS)
    clip: float | None = setting(1.0, "largest norm of a network's gradient, a longer gradient is scaled down to it; "
        "0: no limit", TRAINING, least=0, source=OURS, unset="no limit")
    batch: int = setting(32, "images in a batch", TRAINING, least=1, paper=8)
    iterations: int = setting(250, "steps of each method", TRAINING, least=0, paper=10_000)
    clean_iterations: int = setting(400, "clean steps before the method; 0: none", TRAINING, least=0, source=OURS)
    patience: int = setting(5, "training stops after so many evaluations in a row without a lower validation loss; "
        "0: never", TRAINING, least=0, source=OURS)
    evaluate_every: int = setting(0, "steps between evaluations on validation images; 0: an epoch", TRAINING, least=0)
    evaluate_images: int = setting(256, "number of training and of validation images for an evaluation", TRAINING,
        least=1)
    test_images: int = setting(0, "number of test images for the final table; 0: all", TRAINING, least=0)
    # fmt: on

    def check(self) -> Settings:
        """Raise an InputError for a value that cannot work; returns the settings themselves."""
        for s in declarations():
            s.check_type(getattr(self, s.name))
        resolve_alpha(self.epsilon, self.alpha)  # before the limits: its errors say more of these two
        for s in declarations():
            s.check_value(getattr(self, s.name))
        for kind in [*self.named_networks().values(), *([self.holdout] if self.holdout != "none" else [])]:
            check_choice("network", kind, models.NAMES)
        if self.alpha is not None and not ATTACKS[self.attack].takes("alpha"):
            raise InputError(f"--alpha is the size of a random step, and {self.attack} has none: leave it out.")
        if self.tf32 and self.backend != "cupy":
            raise InputError("--tf32 is a way of computing on a GPU: give --backend cupy too, or leave it out.")
        given = len(self.networks)
        if self.method in NEED_TWO and given < 2:
            why = "trains networks on one another's examples"
            raise InputError(f"{self.method} {why} and needs two or more, got {given}.")
        if len(self.weights) not in (0, given, given + (self.holdout != "none")):
            files = f"--weights names {len(self.weights)} files for {given} networks"
            raise InputError(f"{files}: name one each, with commas, and one more for the hold-out if you have it.")
        if (rates := len(self.learning_rate)) not in (0, 1, given):
            raise InputError(f"--learning-rate has {rates} values for {given} networks: give one, or one each.")
        return self

    def named_networks(self) -> dict[str, str]:
        """{name: kind}; a kind that comes twice without names is numbered."""
        named: dict[str, str] = {}
        for entry in self.networks:
            name, _, kind = entry.rpartition("=")
            name = name or kind
            if not re.fullmatch(r"\w[\w.+-]*", name) or name.startswith("hold-out"):
                wrong = f"--networks: {name!r} cannot be the name of a network's files"
                raise InputError(f"{wrong}: use letters, digits and . _ + - (but not hold-out at its beginning).")
            if name in named and "=" in entry:
                raise InputError(f"two networks are called {name!r}: give each a name of its own (a=vgg16,b=vgg16).")
            if name in named:
                name = next(numbered for n in count(2) if (numbered := f"{kind}-{n}") not in named)
            named[name] = kind
        return named

    def rate(self, k: int, kind: str) -> float:
        """The learning rate of network number k; the hold-out, number -1, takes the last one given."""
        if not self.learning_rate:
            return ADAM_RATE if self.optimizer == "adam" else SGD_RATES.get(kind, SGD_RATE)
        return self.learning_rate[0 if len(self.learning_rate) == 1 else k]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({s.name: getattr(self, s.name) for s in declarations()}, indent=1) + "\n")


def declarations() -> list[Setting]:
    """Every setting, in the order of --help and config.json."""
    return sorted(declared(Settings).values(), key=lambda s: GROUPS.index(s.group))


def choices(name: str) -> Sequence[Any]:
    return declared(Settings)[name].choices


PRESETS: dict[str, dict[str, Any]] = {
    # One and a half times the paper's epsilon, at a fifth of its image side; too few epochs for augmentation to pay.
    "toy": dict(
        epsilon=24 / 256, augment=False, clean_iterations=500, iterations=200, evaluate_every=50, evaluate_images=96),
    "smoke": dict(
        method="satm", holdout="none", width=1 / 16, size=32, batch=16, faces=600, clean_iterations=40, iterations=20,
        warmup=5, evaluate_every=20, evaluate_images=64, test_images=200),
    # The paper's values, and our choices where it gives none.
    "paper": {s.name: s.paper for s in declarations() if s.paper is not None} | dict(
        dropout=0.5, schedule="constant", warmup=0, clip=None, clean_iterations=10_000, faces=8000),
}  # fmt: skip

# Digits are easy: more steps on smaller images reach 98 % and more in the same time. Epsilon is Tramer's.
MNIST = dict(size=32, epsilon=0.3, clean_iterations=1800, iterations=400, evaluate_every=200, evaluate_images=256)


def from_preset(name: str, changes: dict[str, Any]) -> Settings:
    """A preset with some fields changed, checked."""
    check_choice("preset", name, tuple(PRESETS))
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
    known = declared(Settings)
    if unknown := sorted(set(values) - set(known)):
        near = did_you_mean(unknown[0], known)
        raise InputError(
            f"{path} has unknown settings {', '.join(unknown)}: known are {', '.join(sorted(known))}{near}."
        )
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def help_text(s: Setting) -> str:
    """A setting's line in --help: what it means, whose value it is, what the preset paper and the default are."""
    default, paper = (getattr(from_preset(name, {}), s.name) for name in ("toy", "paper"))
    listed = f"; one of {s.range}" if s.choices and s.metavar else ""  # where the metavar does not list them
    differs = s.paper is None and paper != default and s.name != "preset"
    facts = [s.origin, f"preset paper {s.text(paper)}" if differs else "", f"default {s.text(default)}"]
    return f"{s.meaning}{listed} ({'; '.join(filter(None, facts))})"


def table() -> str:
    """All settings as a table in Markdown: what each may be, whose value it is, and its value in every preset."""
    presets = {name: from_preset(name, {}) for name in PRESETS}
    rows = [["setting", "meaning", "values", "origin", *presets], ["---"] * (4 + len(presets))]
    for s in declarations():
        values = [s.text(getattr(preset, s.name)) for preset in presets.values()]
        rows.append([f"`{s.option}`", s.meaning, s.range, s.origin, *values])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(table())
