"""Settings and fixtures for all tests."""

import contextlib
import functools
import importlib
import multiprocessing
import os
import signal
from pathlib import Path

# Before NumPy: on matrices as small as these a second BLAS thread only waits, and starves what else is running.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import numpy as np
import pytest
from attack_cases import GOLDEN, Dense, thin_resnet
from cuda_on_cpu import cupy_standin, runner
from hypothesis import settings
from tiny_runs import TINY, outcome

from minisatm import backend, parallel
from minisatm.data import faces
from minisatm.kernels import cuda_source
from minisatm.run import experiment
from minisatm.run import settings as config

# Derandomised: a run that fails on one machine fails on all. No deadline: a busy machine is not a failure.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """What is remembered of the images that tests make goes with the tests."""
    os.environ["MINISATM_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def torch():
    """PyTorch, the optional peer."""
    return pytest.importorskip("torch", reason="PyTorch is not installed; it is only an optional peer of these tests")


@pytest.fixture(scope="session")
def data_dir():
    """The folder with the data sets, for tests on real data."""
    folder = os.environ.get("MINISATM_DATA")
    if not folder:
        pytest.skip("set MINISATM_DATA to the folder with the data sets to run the tests on real data")
    return Path(folder)


class Device:
    """CuPy for a test: on the GPU, or its stand-in, whose kernels run on this CPU in an order that can be chosen."""

    def __init__(self, module, stand_in):
        self.module, self.stand_in = module, stand_in

    def schedule(self, order):
        return runner.schedule(order) if self.stand_in else contextlib.nullcontext()

    def waiting(self):
        """A block that lists where the host waits for the device; on a GPU nobody counts."""
        return self.module.waiting() if self.stand_in else contextlib.nullcontext([])


GPU_PROBLEM = backend.cupy_problem()


def pytest_collection_modifyitems(config, items):
    """Without a GPU one skipped test says so (in test_gpu.py), for all that are marked gpu."""
    left_out = [i for i in items if GPU_PROBLEM and "gpu" in i.keywords and i.name != "test_the_kernels_run_on_a_gpu"]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [i for i in items if i not in left_out]


def pytest_collection_finish(session):
    """g++ has a core of its own meanwhile: let it begin with the kernels that the tests chosen will ask for."""
    compilations = []
    if runner.available() and any("cupy" in getattr(item, "fixturenames", ()) for item in session.items):
        for file in sorted({k.file for k in cuda_source.catalogue().values()}):
            for dtype in cuda_source.NAMES:
                names = cuda_source.instances(file, dtype)
                compilations.append(functools.partial(runner.Module, cuda_source.source(file), names))
    mutants = {item.module for item in session.items if item.path.stem == "test_cuda_mutants"}
    for module in mutants if runner.available() else ():
        compilations += [functools.partial(module.compiled, f, module.versions(f).values()) for f in module.FILES]
    runner.ahead(compilations)


def pytest_generate_tests(metafunc):
    """Tests that take `cupy` run wherever kernels can: on this CPU, and on a GPU. test_gpu.py says where they don't."""
    if "cupy" in metafunc.fixturenames:
        places = ["cpu"] if runner.available() else []
        places += [pytest.param("gpu", marks=pytest.mark.gpu)] if GPU_PROBLEM is None else []
        metafunc.parametrize("cupy", places or [pytest.param("nowhere", marks=pytest.mark.skip)], indirect=True,
                             scope="module")  # fmt: skip


@pytest.fixture(scope="module")
def cupy(request):
    if request.param == "gpu":
        yield Device(importlib.import_module("cupy"), stand_in=False)
    else:
        with cupy_standin.standing_in() as module:
            yield Device(module, stand_in=True)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A folder of 160 drawn faces of 16 pixels."""
    directory = tmp_path_factory.mktemp("faces") / "drawn"
    faces.write(directory, images=160, size=16, seed=0)
    return directory


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


# --- runs


@pytest.fixture(scope="session")
def faces32(tmp_path_factory):
    directory = tmp_path_factory.mktemp("faces32") / "drawn"
    faces.write(directory, images=160, size=32, seed=0)
    return directory


@pytest.fixture
def tiny(faces32, tmp_path, monkeypatch):
    """Settings of a run that takes half a second; the report, which draws figures, is left out."""
    monkeypatch.setattr(experiment.Experiment, "report", lambda self, run, *measured: run.path)
    monkeypatch.chdir(tmp_path)
    return lambda **changes: config.from_preset("smoke", {**TINY, "data_dir": str(faces32), **changes})


@pytest.fixture(scope="session")
def whole(faces32, tmp_path_factory):
    """Uninterrupted runs, one per method."""
    done = {}

    def run(method):
        if method not in done:
            out = tmp_path_factory.mktemp("whole") / method
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(experiment.Experiment, "report", lambda self, run, *measured: run.path)
                experiment.run_new(
                    config.from_preset("smoke", {**TINY, "data_dir": str(faces32), "method": method}), out
                )
            done[method] = outcome(out)
        return done[method]

    return run


# --- processes and threads


@pytest.fixture
def cores(monkeypatch):
    """Pretend to have so many cores, so that the tests mean the same everywhere."""
    return lambda count: monkeypatch.setattr(parallel.threads, "cores", lambda: count)


class TooLate(BaseException):  # no Exception, or map would wait for the others before raising it
    pass


@pytest.fixture
def time_limit():
    """End a test that waits for ever."""

    def too_late(*_):
        raise TooLate

    before = signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, 60, 5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def pids():
    """The processes that a test notes here must all be gone at its end, and not even be zombies."""
    noted = []
    yield noted
    assert len(noted) > 1, "the test noted nothing"
    left = [pid for pid in noted if pid != os.getpid() and os.path.exists(f"/proc/{pid}")]
    assert not left and not multiprocessing.active_children()


@pytest.fixture(scope="module")
def golden():
    """Published adversarial examples, with the network, images and noise that they were crafted from."""
    with np.load(GOLDEN) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def dense(golden):
    """The network of the published examples."""
    return Dense(golden)


@pytest.fixture(scope="module")
def resnet():
    """A thin ResNet20 that is not at its start."""
    return thin_resnet()
