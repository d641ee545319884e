"""Run folders for tests: rows of results, logs, tables and pairs of images, all made up."""

from __future__ import annotations

import csv
import json

import numpy as np

from minisatm.metrics import interval
from minisatm.results.rows import Difference, Leak, Row
from minisatm.results.tables import write_rows

NETWORKS = ("vgg<16>", "resnet50")
GROUPS = ("(0, 2)", "(4, 6)", "(8, 12)", "(15, 20)", "<25>", "(38, 43)", "(48, 53)", "(60, 100)")
RATES = {
    "undefended": (0.610, 0.022, 0.425, None, 0.408),
    "control": (0.660, 0.025, 0.451, 0.390, 0.422),
    "ensemble": (0.642, 0.020, 0.570, 0.585, 0.512),
    "satm": (0.653, 0.024, 0.545, 0.662, 0.501),
}
CONDITIONS = ("clean", "white-box", "partner old", "partner new", "hold-out")


def result(method, network, condition, rate, near, source="", **more):
    return Row(method, network, condition, source, 800, rate, *interval(rate, 800), near, *interval(near, 800), **more)


def result_rows():
    rows = []
    for method, rates in RATES.items():
        for shift, network in enumerate(NETWORKS):
            for condition, rate in zip(CONDITIONS, rates):
                if rate is not None:
                    source = (
                        "undefended/resnet101" if condition == "hold-out" else "" if condition == "clean" else "x/y"
                    )
                    rows.append(result(method, network, condition, rate - 0.01 * shift, rate + 0.25, source))
    rows.append(result("undefended", "resnet101", "clean", 0.601, 0.85))
    return [*rows, result("always (15, 20)", "", "clean", 0.29, 0.51)]


def compared(other="control", condition="hold-out", difference=0.079, low=0.051, high=0.107):
    return Difference("satm", other, condition, "vgg<16>", 800, difference, low, high)


COMPARED = [compared(), compared("ensemble", "hold-out", -0.011, -0.03, 0.008),
            compared("ensemble", "clean", -0.1, -0.14, -0.06)]  # fmt: skip


def leak(network="vgg<16>", source="x/y", low=0.002, predicted=0.588):
    rate, clean = {"vgg<16>": (0.662, 0.653), "resnet50": (0.652, 0.643)}[network]
    return Leak("satm", network, "partner new", source, 800, rate, clean, 0.009, low, 0.016, predicted)


LEAKS = [leak(), leak("resnet50", low=-0.004, predicted=None)]
CONFIG = {"method": "compare", "networks": list(NETWORKS), "holdout": "resnet101", "epsilon": 0.125}


def save_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def make_run(folder, seed=0):
    rng = np.random.default_rng(seed)
    config = {"networks": list(NETWORKS), "holdout": "resnet101", "epsilon": 0.125, "method": "all",
              "seed": 7, "data": "drawn <faces>", "n_test": 800}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = (*NETWORKS, "resnet101")
    terms = ("loss", "clean", "adversarial", "domain")
    kinds = ("train_clean", "train_adversarial", "validation_clean", "validation_adversarial", "validation_loss")
    log, epochs = [], []
    for phase, steps in (("clean", 400), ("control", 250), ("ensemble", 250), ("satm", 250)):
        both, domain = phase in ("ensemble", "satm"), phase == "satm"
        for i in range(1, steps + 1):
            row = [phase, i, 0.1 * i, 0.05]
            for name in names:
                if name == "resnet101" and phase != "clean":
                    row += [""] * 4
                    continue
                clean = (2.1 if phase == "clean" else 1.1) * np.exp(-i / 200) + 0.6 + 0.1 * rng.normal()
                adversarial = 1.4 * np.exp(-i / 120) + 0.8 + 0.1 * rng.normal()
                row += [clean + both * adversarial, clean, adversarial if both else "", 0.69 if domain else ""]
            log.append(row)
            if i == 1 or i % 25 == 0:
                rate = 0.62 - (0.45 if phase == "clean" else 0.05) * np.exp(-i / 100) + 0.01 * rng.normal()
                near = rate - (0.2 if phase in ("clean", "control") else 0.2 * np.exp(-i / 60))
                cells = ("" if phase == "clean" else near, rate - 0.02, near - 0.02, 1.1)
                epochs.append([phase, i, i / 200] + [rate, *cells] * len(names))
    save_csv(folder / "log.csv", ["phase", "iteration", "seconds", "learning_rate"]
             + [f"{n}.{t}" for n in names for t in terms], log)  # fmt: skip
    save_csv(
        folder / "epochs.csv", ["phase", "iteration", "epoch"] + [f"{n}.{k}" for n in names for k in kinds], epochs
    )
    (folder / "tables").mkdir(exist_ok=True)
    for name, rows in (("results", result_rows()), ("differences", COMPARED), ("leaks", LEAKS)):
        write_rows(folder / "tables" / f"{name}.csv", rows)
    distance = abs(np.subtract.outer(np.arange(8), np.arange(8)))
    for method in ("undefended", "satm"):
        counts = rng.poisson(60 * np.exp(-distance))
        save_csv(folder / "tables" / f"confusion_{method}_resnet50.csv", GROUPS, counts.tolist())
    return folder


def make_pairs(channels=3, side=48):
    rng = np.random.default_rng(1)
    slope = np.linspace(0.2, 0.8, side)
    pairs = []
    for k, epsilon in enumerate((64 / 256, 32 / 256, 16 / 256, 8 / 256)):
        clean = np.repeat(np.multiply.outer(slope, slope)[..., None], channels, 2).astype(np.float32)
        adversarial = np.clip(clean + epsilon * rng.choice([-1, 1], clean.shape), 0, 1).astype(np.float32)
        pairs.append({"clean": clean, "adversarial": adversarial, "true": k, "predicted_clean": k,
                      "predicted_adversarial": 7 - k, "epsilon": epsilon, "network": "vgg16"})  # fmt: skip
    return pairs
