"""The tool that runs CUDA source on this CPU: what it compiles and keeps, and the data races that it reports."""

import functools
import subprocess

import numpy as np
import pytest
from cuda_on_cpu import runner
from cuda_on_cpu.runner import KernelError, Module

if not runner.available():
    pytest.skip("g++ is not installed: the CUDA kernels are not run on this CPU", allow_module_level=True)

f32, i32 = np.float32, np.int32


def zeros(n=128, dtype=f32):
    return np.zeros(n, dtype)


FILL = "template <class T> __global__ void fill(T* o) { __shared__ T v; v = %s; o[threadIdx.x] = v; }"


def test_variants_are_told_apart_and_a_broken_one_spoils_no_other():
    values = ["1", "2", "INFINITY", "int64_t(4)", "3; {", "5"]  # names that NVRTC does not know, and a syntax error
    made = runner.variants([FILL % value for value in values], ["fill<float>"], filename="fill.cu")
    for value, module in zip(values, made):
        if value.isdigit():
            o = zeros(1)
            module.get_function("fill<float>")((1,), (1,), (o,))
            assert o[0] == int(value)
        else:
            with pytest.raises(KernelError, match=r"does not compile: (?s:.*)fill.cu:\d+:\d+: error"):
                module.get_function("fill<float>")


def test_what_is_compiled_is_kept_and_so_is_a_failure(monkeypatch, tmp_path):
    monkeypatch.setattr(runner.tempfile, "gettempdir", lambda: str(tmp_path))
    compilations = [functools.partial(Module, FILL % what, ["fill<float>"]) for what in ("nonsense", "7")]
    runner.ahead(compilations).join()  # the first does not compile, and the second is not held up by that
    assert not [path for path in tmp_path.glob("*/*") if path.is_dir()]  # nothing half made is left

    def no_compiler(*_, **__):
        raise FileNotFoundError("g++ was started")

    monkeypatch.setattr(subprocess, "run", no_compiler)
    o = zeros(1)
    Module(FILL % "7", ["fill<float>"]).get_function("fill<float>")((1,), (1,), (o,))
    assert o[0] == 7
    with pytest.raises(KernelError, match="does not compile"):
        Module(FILL % "nonsense", ["fill<float>"])
    with pytest.raises(FileNotFoundError, match="was started"):
        Module(FILL % "8", ["fill<float>"])
    with pytest.raises(KernelError, match=r"there is no kernel 'fill', only fill<float>"):
        Module(FILL % "7", ["fill<float>"]).get_function("fill")


def test_available_says_whether_there_is_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not runner.available()


# --- races -----------------------------------------------------------------------------------------------------------

RACE = "__global__ void k(float* o, int* n) { __shared__ float s[64]; const int i = threadIdx.x; %s }"
BODIES = {
    "s[i] = i; __syncthreads(); o[64 * blockIdx.x + i] = s[63 - i];": False,
    "s[i] = i; o[64 * blockIdx.x + i] = s[63 - i];": True,
    "s[i] = i; __syncwarp(); o[64 * blockIdx.x + i] = s[i ^ 1];": False,
    "s[i] = i; __syncwarp(); o[64 * blockIdx.x + i] = s[i ^ 32];": True,
    "atomicAdd(n, 1);": False,
    "*n += 1;": True,
    "if (i == 0) *n = 1;": True,
    "if (i == 0 && blockIdx.x == 0) *n = 1;": False,
    "atomicAdd(n, 1); if (i == 5) *n = 3;": True,
    "o[i] = i;": True,
    "if (!blockIdx.x) o[i] = i;": False,
    "if (i < 63) o[64 * blockIdx.x + i] = s[i + 1]; s[i] = 1;": True,
    "((unsigned char*)s)[i] = 1;": False,
    "((unsigned char*)s)[i / 2] = 1;": True,
    "s[i] = 1; s[i] += __shfl_xor_sync(~0u, s[i], 1); s[i ^ 1] += 1;": True,
}


@pytest.fixture(scope="module")
def race_kernels():
    return runner.variants([RACE % body for body in BODIES], ["k"], filename="race.cu", race=True)


@pytest.mark.parametrize("place", range(len(BODIES)), ids=list(BODIES))
def test_races_are_found_and_nothing_else(race_kernels, place):
    launch = race_kernels[place].get_function("k")
    for order in (0, 3):
        if list(BODIES.values())[place]:
            with pytest.raises(KernelError, match="race: "):
                launch((2,), (64,), (zeros(), zeros(1, i32)), order=order)
        else:
            launch((2,), (64,), (zeros(), zeros(1, i32)), order=order)


def test_every_access_has_bounds_where_races_are_watched():
    code = """
__global__ void k(const float* x, float* o, int at) { __shared__ float s[4]; float* p = s; o[1] = 0 * x[at];
    if (at == 1) p[at + 3] = 1; if (at == 2) o[0] = p[at + 2]; }"""
    launch, x = Module(code, ["k"], filename="bounds.cu", race=True).get_function("k"), np.ones(3, f32)
    launch((1,), (1,), (x, zeros(2), i32(0)))
    for at, line, place in ((3, 2, "argument 0 element 3"), (-1, 2, "argument 0 element -1"), (1, 3, ""), (2, 3, "")):
        kind = "write" if at == 1 else "read"
        with pytest.raises(KernelError, match=rf"out of bounds: {kind} at {place}.* by block .*; bounds.cu:{line}"):
            launch((1,), (1,), (x, zeros(2), i32(at)))


def test_a_race_is_told_with_its_argument_and_line(race_kernels):
    with pytest.raises(KernelError, match=r"race: write/write at argument 0 element 0 by block .*; race.cu:1"):
        race_kernels[list(BODIES).index("o[i] = i;")].get_function("k")((2,), (64,), (zeros(), zeros(1, i32)))
