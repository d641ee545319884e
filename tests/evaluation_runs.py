"""A run folder of five tiny networks, and the evaluate command called in this process: for the tests of evaluation."""

from __future__ import annotations

import contextlib
import csv
import io

import numpy as np
import pytest

from minisatm import attacks, data, evaluate, models
from minisatm.evaluation import masking
from minisatm.run import lineup
from minisatm.run import settings as config

SIZE, CLASSES = 16, 8
NETWORKS = {"undefended": "xyh", "satm": "xy"}  # h is the hold-out
LABELS = ["undefended/x", "undefended/y", "undefended/h", "satm/x", "satm/y"]
THREE = ["undefended/x", "satm/x", "undefended/h"]


def lively(x, seed, **variant):
    """A random network whose answers differ from image to image; std far below 1: small changes matter."""
    network = models.build("resnet20", classes=CLASSES, width=1 / 4, size=SIZE, rng=seed, std=(0.1,) * 3, **variant)
    top = network.parameters()[f"{network.top}.weight"], network.parameters()[f"{network.top}.bias"]
    logits = attacks.logits_of(network, x)
    top[0].data[:] /= logits.std(axis=0)
    top[1].data[:] = -(attacks.logits_of(network, x)).mean(axis=0)
    return network


@pytest.fixture(scope="module")
def run(drawn, tmp_path_factory):
    """A run folder with five networks, as training leaves it."""
    path = tmp_path_factory.mktemp("runs") / "run"
    settings = config.from_preset(
        "smoke",
        dict(networks=("x=resnet20", "y=resnet20"), holdout="none", size=SIZE, data_dir=str(drawn), epsilon=8 / 256,
             batch=4),
    )  # fmt: skip
    (path / "networks").mkdir(parents=True)
    settings.save(path / "config.json")
    x = np.concatenate([x for x, _ in batches_of(settings).in_order()])
    for seed, (method, name) in enumerate((m, n) for m, names in NETWORKS.items() for n in names):
        lively(x, seed).save(path / "networks" / f"{method}-{name}.h5")
    return path


def batches_of(settings, batch=16):
    dataset = data.load("faces", settings.data_dir)
    return data.Batches(dataset, dataset.split(fold=0, seed=0).test, batch=batch, size=SIZE, seed=0)


@pytest.fixture(scope="module")
def networks(run):
    return {label: models.build(None, weights=str(run / "networks" / f"{label.replace('/', '-')}.h5"))
            for label in LABELS}  # fmt: skip


@pytest.fixture(scope="module")
def batches(run):
    return batches_of(lineup.settings_of(run))


def call(*argv):
    """Exit status, stdout and stderr of the command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = evaluate.main([str(a) for a in argv])
        except SystemExit as leave:
            status = leave.code
    return status, out.getvalue(), err.getvalue()


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def few_questions():
    """The search without gradients asks little here; test_masking.py has it as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masking, "QUESTIONS", 5)
        yield


def target(row):
    """What the network of a row of matrix.csv is called, where there is one run."""
    return "/".join(filter(None, (row["method"], row["network"])))
