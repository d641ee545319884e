"""Runs that take half a second, and what is compared of them."""

import csv
import json

import h5py
import pytest

from minisatm.run import monitor as monitors

SIZE = 32
TINY = {
    "networks": ("a=vgg16", "b=resnet20"),
    "width": 1 / 64,
    "size": SIZE,
    "dropout": 0.5,
    "clean_iterations": 4,
    "iterations": 5,
    "batch": 8,
    "evaluate_every": 2,
    "evaluate_images": 8,
    "test_images": 16,
    "warmup": 2,
    "patience": 0,
}


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def arrays(path):
    """Every data set of an .h5 file as bytes."""
    found = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: found.update({name: item[()].tobytes()}) if hasattr(item, "shape") else None)
    return found


def at(checkpoint):
    """How far the run was."""
    with h5py.File(checkpoint) as h5:
        return json.loads(h5.attrs["position"])


def outcome(run):
    """All that a run is: its networks, its rows but for their timing, its results."""
    log = [{k: v for k, v in row.items() if k != "seconds"} for row in table(run / "log.csv")]
    networks = {file.name: arrays(file) for file in (run / "networks").iterdir()}
    tables = {file.name: file.read_text() for file in (run / "tables").iterdir()}
    return dict(log=log, epochs=table(run / "epochs.csv"), networks=networks, tables=tables)


class PowerCut(Exception):
    pass


def stopping(monkeypatch, phase, iteration, how):
    """Break the run off at this step: "ctrl-c" is noticed during it, "cut" hits right after it."""
    real = monitors.Monitor.stop

    def stop(self, done, losses):
        here = (self.position.phase, done) == (phase, iteration)
        if here and how == "ctrl-c":
            self._interrupted = True
        answer = real(self, done, losses)
        if here and how == "cut":
            raise PowerCut
        return answer

    patch = pytest.MonkeyPatch()
    patch.setattr(monitors.Monitor, "stop", stop)
    return patch
