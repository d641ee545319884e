"""Whether CUDA kernels are tested here and where; how a GPU that cannot be used is reported; networks at full size."""

import importlib
import importlib.util
import re
import subprocess
import sys
import types
from pathlib import Path

import cuda_checks
import numpy as np
import pytest
import test_cupy_backend
from commands import mistake
from cuda_on_cpu import runner

from minisatm import Tensor, attacks, backend, models, ops
from minisatm.kernels import cuda_source
from minisatm.tape import no_grad
from minisatm.tensor import grad

BENCHMARK = Path(__file__).parent / "benchmarks" / "gpu.py"


@pytest.mark.gpu
def test_the_kernels_run_on_a_gpu():
    """Where there is none, the other tests marked gpu are left out (conftest.py), and this line says so."""
    problem = backend.cupy_problem()
    if problem:
        pytest.skip(f"NO GPU: nothing was tested on one. {problem}")


def test_the_kernels_run_on_this_cpu():
    if not runner.available():
        pytest.skip("NO g++: no CUDA kernel was run on this CPU. Install it (on Debian and Ubuntu: apt install g++).")


# --- a GPU that cannot be used ----------------------------------------------------------------------------------------


def failing(problem):
    def call(*_):
        raise problem

    return call


def fake(devices=lambda: 1, nvrtc=lambda: (12, 9)):
    module = types.ModuleType("cupy")
    module.__spec__ = importlib.util.spec_from_loader("cupy", None)
    runtime = types.SimpleNamespace(getDeviceCount=devices)
    module.cuda = types.SimpleNamespace(runtime=runtime, nvrtc=types.SimpleNamespace(getVersion=nvrtc))
    return module


OLD_DRIVER = RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version")
NO_NVRTC = RuntimeError("CuPy failed to load libnvrtc.so.12: cannot open shared object file\nmore of it")
WAYS = {
    "no CuPy": (None, r"CuPy is not installed: run pip install -e '\.\[cupy\]' where .* CUDA 12 \('\.\[cupy13\]'"),
    "broken CuPy": (ImportError("libcudart"), r"CuPy cannot be imported \(ImportError: libcudart\): pip install --"),
    "no driver": (fake(failing(OLD_DRIVER)), r"no NVIDIA driver that fits \(.*runtime version\): .* ubuntu-drivers"),
    "no device": (fake(lambda: 0), r"CuPy finds no GPU: unset CUDA_VISIBLE_DEVICES if nvidia-smi lists one"),
    "hidden device": (fake(failing(RuntimeError("cudaErrorNoDevice: no CUDA-capable device"))), r"CuPy finds no GPU: "),
    "no NVRTC": (fake(nvrtc=failing(NO_NVRTC)), r"no NVRTC or cuBLAS \(.*object file\): run pip install 'cupy-"),
    "no cuBLAS": (fake(), r"no NVRTC or cuBLAS \(ModuleNotFoundError: .*\): run pip install 'cupy-cuda12x\[ctk\]'"),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_gpu_that_cannot_be_used(here, monkeypatch, way):
    """One sentence with the command that mends it, exit 2, and nothing was drawn or written."""
    found, message = WAYS[way]
    if isinstance(found, types.ModuleType):
        monkeypatch.setitem(sys.modules, "cupy", found)
        monkeypatch.delitem(sys.modules, "cupy.cublas", raising=False)
    else:
        spec = None if found is None else importlib.util.spec_from_loader("cupy", None)
        find, load = importlib.util.find_spec, importlib.import_module
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: spec if name == "cupy" else find(name, *a))
        monkeypatch.setattr(
            importlib, "import_module", lambda name, *a: failing(found)() if name == "cupy" else load(name, *a)
        )
    monkeypatch.setattr(backend, "distributions", lambda: [])
    sentence = mistake("--backend", "cupy", "--preset", "smoke", "--out", "run")
    assert sentence.endswith(", or use --backend numpy.")
    assert re.search(message, sentence), sentence
    assert list(here.iterdir()) == []


def test_the_wheel_to_mend_is_the_one_installed(monkeypatch):
    for name in ("cupy-cuda13x", "cupy_cuda11x", "CuPy-CUDA12x"):
        other, own = (types.SimpleNamespace(metadata={"Name": n}) for n in ("numpy", name))
        monkeypatch.setattr(backend, "distributions", lambda found=(other, own): found)
        assert backend._wheel() == name.lower().replace("_", "-")


def test_tf32_is_a_matter_of_gpus(here):
    assert mistake("--tf32", "--preset", "smoke") == (
        "--tf32 is a way of computing on a GPU: give --backend cupy too, or leave it out."
    )


@pytest.mark.slow
@pytest.mark.skipif(not runner.available(), reason="g++ is not installed")
def test_the_benchmark_measures_everything_on_a_stand_in():
    """Its figures mean nothing there; but no row fails, and none is left out."""
    options = ["--stand-in", "--batch", "2", "--rounds", "1", "--no-tests", "--quick", "--no-peer"]
    found = [
        subprocess.run([sys.executable, BENCHMARK, *o], capture_output=True, text=True, check=True).stdout
        for o in (options, ["--no-tests", "--no-peer"])
    ]
    assert "failed" not in found[0] and "not measured" not in found[0]
    for kernel in cuda_source.catalogue():
        assert all(re.search(rf"^{kernel} ", text, re.M) for text in found), kernel
    if backend.cupy_problem():
        assert "NOT MEASURED: " in found[1] and not re.search(r"GFLOP/s +\d|\d GB/s", found[1])


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["vgg16", "resnet50"])
def test_networks_at_full_size(kind):
    """224x224, full width: logits, features and the gradient to the image, in float32, against the NumPy backend."""
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 224, 224, 3), np.float32), np.array([1, 5])
    answers = []
    for where in ("numpy", "cupy"):
        network = models.build(kind, rng=0, exact=True).to(where).eval()
        own = backend.placed(x, where)
        with no_grad():
            values = network(Tensor(own))
        g = attacks.input_gradient(network, own, y)
        answers.append([backend.placed(a, "numpy") for a in (*(v.data for v in values), g)])
    for found, expected, tolerance in zip(answers[1], answers[0], (1e-4, 1e-4, 1e-2)):
        assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_training_step_at_full_size_agrees_with_both_ways_of_convolution(dtype):
    """Our own products against cuBLAS: the gradients to all weights of a ResNet50."""
    network = models.build("resnet50", rng=0, size=96).astype(dtype).to("cupy")
    x = backend.placed(np.random.default_rng(0).random((2, 96, 96, 3)).astype(dtype), "cupy")
    found = []
    for cublas in (True, False):
        with cuda_checks.ways(cublas=cublas):
            loss = ops.softmax_cross_entropy(network(Tensor(x))[0], Tensor(np.array([1, 2])))
            found.append([g.get() for g in grad(loss, list(network.parameters().values()))])
    for one, other in zip(*found):
        size = max(np.abs(g).max() for g in found[0])
        np.testing.assert_allclose(one, other, rtol=0, atol=(1e-3 if dtype == np.float32 else 1e-10) * size)


@pytest.mark.gpu
def test_a_hundred_steps_of_a_thin_pair():
    test_cupy_backend.hundred_steps()
