"""The CUDA kernels, compiled to machine code for real GPUs by NVIDIA's own compiler; none is run here."""

import re

import pytest
from cuda_on_cpu import nvrtc

from minisatm.kernels.cuda_source import FOLDER, catalogue, source

if nvrtc.library() is None:
    pytest.skip(nvrtc.ABSENT, allow_module_level=True)

SHARED = 48 << 10  # bytes that a block may have without asking
REGISTERS = 64  # of a thread, where a block may have 1024 of them: a multiprocessor has 65,536
ADD_ONE = """
template <typename T>
__global__ void add_one(T* x, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] += T(1);
}
"""


@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
@pytest.mark.parametrize("file", nvrtc.files())
def test_every_kernel_compiles_and_fits(file, architecture):
    costs, size = nvrtc.costs(file, architecture)
    declared = {k.name for k in catalogue().values() if k.file == file}
    assert source(file).count("__global__ void") == len(declared), "a kernel is not declared as cuda_source.py reads it"
    assert size > 0 and costs.keys() == {f"{name}<{t}>" for name in declared for t in ("float", "double")}
    for name, cost in costs.items():
        assert cost.spilled == 0, f"{name} on {architecture} keeps {cost.spilled} bytes of registers in memory"
        assert cost.shared <= SHARED, f"{name} on {architecture} wants {cost.shared} bytes of shared memory"
        bounded = re.search(rf"__launch_bounds__\(\w+\)\s+{name.partition('<')[0]}\(", source(file))
        assert bounded or cost.registers <= REGISTERS, f"{name} on {architecture}: {cost.registers} registers a thread"


def test_no_file_is_left_out():
    assert {path.name for path in FOLDER.glob("*.cu")} == set(nvrtc.files())


def test_what_is_right_passes():
    costs, size = nvrtc.compiled(ADD_ONE, ["add_one<float>"], "sm_80")
    assert size > 0 and costs["add_one<float>"].registers > 0 and costs["add_one<float>"].shared == 0


def test_spills_and_shared_memory_are_seen():
    spilling = ADD_ONE.replace("void", "void __launch_bounds__(1024)").replace(
        "x[i] += T(1);", "{ T a[99];\n#pragma unroll\nfor (int k = 0; k < 99; ++k) a[k] = x[k * n];\n"
        "__syncthreads();\n#pragma unroll\nfor (int k = 0; k < 99; ++k) x[i + k * k] = a[k] * a[98 - k]; }",
    )  # fmt: skip
    sharing = ADD_ONE.replace(
        "x[i] +=", "{ __shared__ T t[512]; t[i % 512] = x[i]; __syncthreads(); x[i] = t[1]; } x[i] +="
    )
    assert nvrtc.compiled(spilling, ["add_one<double>"], "sm_80")[0]["add_one<double>"].spilled > 0
    assert nvrtc.compiled(sharing, ["add_one<float>"], "sm_80")[0]["add_one<float>"].shared == 2048


@pytest.mark.parametrize(
    "old, new, complaint",
    [
        ("T(1);", "T(1)", "expected a"),
        ("__global__ ", "", "host functions are not allowed"),
        ("__global__ ", "__device__ ", "non-__global__"),
        ("{\n", "{\n    __shared__ char table[49 << 10];\n    table[threadIdx.x] = n;\n    __syncthreads();\n"
         "    n = table[n];\n", "too much shared data"),
        ("+= T(1)", "+= T(1) + warp_sum(x[i])", "undefined"),
    ],
)  # fmt: skip
def test_what_is_wrong_does_not(old, new, complaint):
    code = ADD_ONE.replace(old, new, 1)
    assert code != ADD_ONE
    with pytest.raises(nvrtc.CompileError, match=complaint):
        nvrtc.compiled(code, ["add_one<float>"], "sm_80")
