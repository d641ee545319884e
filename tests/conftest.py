"""Settings and fixtures for all tests."""

import os
from pathlib import Path

# Before NumPy: on matrices as small as these a second BLAS thread only waits, and starves what else is running.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# Derandomised: a run that fails on one machine fails on all. No deadline: a busy machine is not a failure.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci")


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
