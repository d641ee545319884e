"""The rows of a run's tables, typed: evaluation computes them, the folder stores them, results/ shows them.

Rates are fractions of 1; intervals are 95 %.
"""

from __future__ import annotations

from dataclasses import dataclass

CLEAN, WHITE_BOX, PARTNER_OLD, PARTNER_NEW, HOLD_OUT = "clean", "white-box", "partner old", "partner new", "hold-out"
OTHER = "other"  # of an evaluation: any other network's examples


@dataclass(frozen=True)
class Row:
    """How one network classifies clean images, or the examples that one source crafted.

    method and network name the target, such as "satm" and "vgg16"; source is like "satm/vgg16", "" for clean images.
    attack, norm and epsilon are those of the examples ("" and None for clean images; epsilon None where the attack has
    none). rate_before_rounding: on the examples as the attack returned them, before they became 8-bit pixels
    (a run's table asks about its first images only, and takes the change from those).
    perturbation and largest_perturbation: mean and largest size of the perturbations in the attack's norm. run: the
    run's label where an evaluation has networks of several runs.
    """

    method: str
    network: str
    condition: str
    source: str
    n: int
    rate: float
    rate_low: float
    rate_high: float
    one_off: float
    one_off_low: float
    one_off_high: float
    attack: str = ""
    norm: str = ""
    epsilon: float | None = None
    rate_before_rounding: float | None = None
    perturbation: float | None = None
    largest_perturbation: float | None = None
    run: str = ""


@dataclass(frozen=True)
class Difference:
    """A paired difference of two rates on the same images: `method` minus `other`, for one network and condition."""

    method: str
    other: str
    condition: str
    network: str
    n: int
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Leak:
    """An adversarial rate above the clean one: the true label may have leaked into the examples.

    difference, low, high: adversarial minus clean rate, paired over the same images. rate_from_predicted_labels: on
    examples crafted from the source's own answers, which cannot leak the true label.
    """

    method: str
    network: str
    condition: str
    source: str
    n: int
    rate: float
    clean_rate: float
    difference: float
    low: float
    high: float
    rate_from_predicted_labels: float | None = None
    run: str = ""
