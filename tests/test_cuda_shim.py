"""The tool that runs CUDA source on this CPU: it does what CUDA defines and reports what CUDA leaves undefined."""

import re

import numpy as np
import pytest
from cuda_on_cpu import runner
from cuda_on_cpu.runner import KernelError, Module

if not runner.available():
    pytest.skip("g++ is not installed: the CUDA kernels are not run on this CPU", allow_module_level=True)

f32, i32, u8 = np.float32, np.int32, np.uint8
ALL = range(4)  # schedules: ascending, descending, two random ones

SOURCE = r"""
extern "C" __global__ void shuffles(const int* v, int* o, int d, int w) {
    const int i = threadIdx.x, x = v[i];
    o[i] = __shfl_down_sync(0xffffffff, x, d, w);
    o[64 + i] = __shfl_up_sync(~0u, x, d, w);
    o[128 + i] = __shfl_xor_sync(~0u, x, d, w);
    o[192 + i] = __shfl_sync(~0u, x, d, w);
    o[256 + i] = __ballot_sync(~0u, x & 1);
    o[320 + i] = __any_sync(~0u, x > 900);
    o[384 + i] = __all_sync(~0u, x >= 0);
}
__global__ void half_warps(float* o) {
    const int i = threadIdx.x;
    float v = i;
    if (i < 8) { for (int s = 4; s; s >>= 1) v += __shfl_down_sync(0xffu, v, s); }
    else if (i >= 16) { for (int s = 8; s; s >>= 1) v += __shfl_xor_sync(0xffff0000u, v, s, 16); }
    __syncwarp();
    o[i] = v;
}
__global__ void divergent_barrier(float* o) {
    if (threadIdx.x < 5) __syncthreads();
    else
        __syncthreads();
}
__global__ void barrier_after_return(float* o) { if (threadIdx.x >= 20) return; __syncthreads(); o[threadIdx.x] = 1; }
__global__ void lane_not_in_mask(float* o) { o[threadIdx.x] = __shfl_down_sync(0xffu, 1.f, 1); }
__global__ void two_primitives(float* o) {
    if (threadIdx.x < 16) o[0] = __shfl_down_sync(~0u, 1.f, 1);
    else
        o[1] = __shfl_down_sync(~0u, 2.f, 1);
}
__global__ void deadlock(float* o) {
    if (threadIdx.x < 16) o[0] = __shfl_down_sync(~0u, 1.f, 1); else __syncthreads();
}
__global__ void mirrored(float* o) {
    o[threadIdx.x] = threadIdx.x;
    __syncthreads();
    o[64 + threadIdx.x] = o[63 - threadIdx.x];
}
__global__ void whole_warp_sum(float* o) {
    float v = 1;
    for (int s = 16; s; s >>= 1) v += __shfl_down_sync(~0u, v, s);
    o[threadIdx.x] = v;
}
__global__ void running_order(int* o, int* n) { o[atomicAdd(n, 1)] = threadIdx.x; }
__global__ void no_barrier(float* o) {
    __shared__ float s[64];
    s[threadIdx.x] = 1;
    o[threadIdx.x] = s[63 - threadIdx.x];
}

// __shared__ memory, and what is in it before
template <class A, class B> struct Pair { A a; B b; };
template <class T, int N> __device__ T unwritten(int i, T put) {
    __shared__ T s[N];
    const T found = s[i];
    __syncthreads();
    s[i] = put;
    return found;
}
template <class T> __global__ void shared_memory(T* o) {
    extern __shared__ T all[];
    __shared__ float s[32], t[2][16];
    __shared__ Pair<int, T> one;
    const int i = threadIdx.x;
    if (i) s[i] = 1;
    o[i] = s[i];
    o[32 + i] = all[i];
    o[64 + i] = t[i / 16][i % 16];
    o[96 + i] = unwritten<T, 32>(i, T(i)) + unwritten<T, 32>(i, T(i)) + one.b;
    if (i == 0) one.b = 0;
}
__global__ void shared_bounds(float* o, int at, int from) {
    __shared__ float s[32], t[32];
    float* p = s;
    p[at] = from < 0 ? 1 : (t + 0)[from];
    o[0] = p[at];
}
__global__ void aligned_shared(float* o) {
    __shared__ __align__(16) float s[4];
    *reinterpret_cast<float4*>(s) = make_float4(1, 2, 3, 4);
    o[0] = s[3];
}
__global__ void unaligned_shared(float* o, int) { __shared__ float s[4]; *reinterpret_cast<float4*>(s) = float4(); }
template <int N> __global__ void much_shared(float* o) { __shared__ float s[N]; s[threadIdx.x] = 1; o[0] = s[0]; }
__global__ void dynamic_shared(float* o, int last) { extern __shared__ float s[]; s[last] = 3; o[0] = s[last]; }

__global__ void types(const float* x, float* o, int n, float a, unsigned char c, bool yes, long long big) {
    if (threadIdx.x == 0) o[0] = (x ? x[0] : -1) + n + a + c + yes + big;
}
__global__ void nothing(const float* x, float* o, int n) { for (int i = 0; i < n; ++i) o[i] = x[i]; }
__global__ void shifted(const float* x, float* o) { o[threadIdx.x] = x[(threadIdx.x + 1) % 32]; }
__global__ void total(const float* a, const float* b, float* o) { o[0] = a[0] + b[0]; }
__global__ void one_byte(unsigned char* o, int at) { o[at] = 1; }
__global__ void counted(int* c, float* s) {
    const int i = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    const int b = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    atomicAdd(&c[b * 24 + i], 1);
    atomicAdd(s, 1.f);
    atomicMax(&c[600], b);
}
__global__ void moved(const float* x, float* o, int r, int w) { const int i = threadIdx.x; o[i + w] = x[i + r]; }
__global__ void wild(float* o, int w) { o[threadIdx.x + w] = 1; }    // unsigned: -1 is 16 GiB away
__global__ void local_index(float* o, int at) { float a[4] = {}; a[at] = o[0]; o[0] = a[1] + a[at & 3]; }
__global__ void as_float4(float* o, int at) { *reinterpret_cast<float4*>(o + at) = make_float4(1, 2, 3, 4); }
__global__ void overflow(int* o, int a) { o[0] = a + 1; }
__global__ void divided(int* o, int a) { o[0] = 7 / a; }

template <class T, class F> __host__ __device__ __forceinline__ T twice(T x, F f) { return f(f(x)); }
struct Half { template <class T> __device__ T operator()(T x) const { return x / 2; } };
template <class T> __global__ void __launch_bounds__(32) mathematics(const T* __restrict__ x, T* __restrict__ o) {
    const T v = __ldg(x);
    int n = 0;
    #pragma unroll
    for (int i = 0; i < 4; ++i) n += 1;
    const T none = nan("");
    const T values[] = {T(sizeof(exp(v))), exp(v * 100), log(v), sqrt(v), rsqrt(v), pow(v, v), fabs(-v),
                        copysign(v, T(-1)), fmax(v, none), max(v, none) + max(v, T(3)), T(isfinite(exp(v * 100))),
                        T(isnan(none)), twice(v, [=](T y) { return y * v; }), twice(v, Half()),
                        T(min(n, 3) * max(2, n)), -fmin(v, T(1))};
    for (int i = 0; i < 16; ++i) o[i] = values[i];
}
"""
INSTANCES = {name: ["<float>", "<double>"] for name in ("shared_memory", "mathematics")}
INSTANCES["much_shared"] = ["<12288>", "<12289>"]
DECLARED = re.findall(r"__global__ void (?:__launch_bounds__\(32\) )?(\w+)", SOURCE)
NAMES = [name + instance for name in DECLARED for instance in INSTANCES.get(name, [""])]


@pytest.fixture(scope="module")
def kernel():
    return Module(SOURCE, NAMES).get_function


def zeros(n=128, dtype=f32):
    return np.zeros(n, dtype)


# --- warps and barriers ---------------------------------------------------------------------------------------------


def test_shuffles_against_their_definition(kernel):
    v, lane = np.random.default_rng(0).integers(0, 1000, 64).astype(i32), np.arange(32)
    for w, d, order in [(width, delta, n) for width in (32, 16, 4, 2) for delta in range(width) for n in (0, 1, 5)]:
        o, base, place = zeros(448, i32), lane // w * w, lane % w
        kernel("shuffles")((1,), (64,), (v, o, i32(d), i32(w)), order=order)
        for x, found in zip(v.reshape(2, 32), o.reshape(7, 2, 32).transpose(1, 0, 2)):
            ballot = np.full(32, np.sum((x & 1).astype(np.uint32) << lane.astype(np.uint32), dtype=np.uint32)).view(i32)
            down, up = x[np.where(place + d < w, lane + d, lane)], x[np.where(place - d >= 0, lane - d, lane)]
            wanted = [down, up, x[base + (place ^ d)], x[base + d % w], ballot, [(x > 900).any()] * 32, [1] * 32]
            np.testing.assert_array_equal(found, wanted)


def test_parts_of_a_warp_shuffle_by_themselves(kernel):
    for order in ALL:
        o = zeros(32)
        kernel("half_warps")((1,), (32,), (o,), order=order)
        assert o[0] == sum(range(8)) and (o[16:] == sum(range(16, 32))).all() and (o[8:16] == range(8, 16)).all()


@pytest.mark.parametrize(
    "name, report",
    {
        "divergent_barrier": r"divergent __syncthreads: lines \d+ and \d+",
        "barrier_after_return": "reached by 20 of 32",
        "lane_not_in_mask": "lane 8 is not in its own mask 0x000000ff",
        "two_primitives": r"warp primitives at lines \d+ and \d+ meet",
        "deadlock": r"deadlock in block \(0,0,0\): 32 of 32 threads wait",
    }.items(),
)
def test_a_meeting_that_fails_is_reported_and_the_next_launch_works(kernel, name, report):
    with pytest.raises(KernelError, match=report):
        kernel(name)((1,), (32,), (zeros(),), order=0)
    o = zeros()
    kernel("mirrored")((1,), (64,), (o,))
    assert (o[64:] == np.arange(64)[::-1]).all()


def test_a_lane_that_does_not_exist_gives_nan(kernel):
    o = zeros()
    kernel("whole_warp_sum")((1,), (20,), (o,))
    assert np.isnan(o[0])
    kernel("whole_warp_sum")((1,), (32,), (o,))
    assert o[0] == 32


def running_order(kernel, **order):
    o, n = zeros(64, i32), zeros(1, i32)
    kernel("running_order")((1,), (64,), (o, n), **order)
    return o.tolist()


def test_the_schedule_orders_the_threads(kernel):
    up, down, drawn = (running_order(kernel, order=n) for n in (0, 1, 2))
    assert up == list(range(64)) and down == up[::-1] and sorted(drawn) == up
    assert drawn not in (up, down) and drawn == running_order(kernel, order=2) != running_order(kernel, order=3)
    with runner.schedule(1):
        assert running_order(kernel) == down and running_order(kernel, order=2) == drawn
    assert running_order(kernel) == up


def test_a_missing_barrier_shows(kernel):
    for order in ALL:
        o = zeros(64)
        kernel("no_barrier")((1,), (64,), (o,), order=order)
        assert np.isnan(o).any()


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, dtype", [("shared_memory<float>", f32), ("shared_memory<double>", np.float64)])
def test_shared_memory_is_nan_in_each_block_until_written(kernel, name, dtype):
    o = zeros(128, dtype)
    kernel(name)((3,), (32,), (o,), shared_mem=32 * o.itemsize)
    assert np.isnan(o[0]) and (o[1:32] == 1).all() and np.isnan(o[32:]).all()


def test_shared_memory_has_bounds(kernel):
    for value in (-1, 3, 32):  # what is written: 1, unwritten memory, what lies beyond the other array
        kernel("shared_bounds")((1,), (1,), (zeros(), i32(31), i32(value)))
    for at, value in ((-1, -1), (32, -1), (32, 3)):
        with pytest.raises(KernelError, match=r"block \(0,0,0\): shared memory written out of bounds"):
            kernel("shared_bounds")((1,), (1,), (zeros(), i32(at), i32(value)))
    kernel("much_shared<12288>")((1,), (1,), (zeros(),))
    with pytest.raises(KernelError, match="49156 bytes of static"):
        kernel("much_shared<12289>")((1,), (1,), (zeros(),))


def test_much_dynamic_shared_memory_must_be_asked_for(kernel):
    k, o, most = kernel("dynamic_shared"), zeros(1), 227 << 10
    k((1,), (1,), (o, i32(12287)), shared_mem=48 << 10)
    assert o[0] == 3
    with pytest.raises(KernelError, match="set max_dynamic_shared_size_bytes"):
        k((1,), (1,), (o, i32(0)), shared_mem=most)
    k.max_dynamic_shared_size_bytes = most + 1
    k((1,), (1,), (o, i32(most // 4 - 1)), shared_mem=most)
    with pytest.raises(KernelError, match="bytes of dynamic shared memory"):
        k((1,), (1,), (o, i32(0)), shared_mem=most + 1)


def test_reading_out_of_bounds_gives_nan_and_writing_is_reported(kernel):
    x, o = np.ones(32, f32), zeros(32)
    kernel("moved")((1,), (32,), (x, o, i32(3), i32(0)))
    assert np.isnan(o[29:]).all() and (o[:29] == 1).all()
    one = np.zeros(5, u8)
    kernel("one_byte")((1,), (1,), (one, i32(4)))
    assert one.tolist() == [0, 0, 0, 0, 1]
    for at in (-1, 5, 6, 7, 8):
        with pytest.raises(KernelError, match="one_byte: argument 0: written out of bounds"):
            kernel("one_byte")((1,), (1,), (one, i32(at)))
    for r, w in ((0, 1), (0, -1), (0, 40), (40, 40)):
        with pytest.raises(KernelError, match="moved: argument 1: written out of bounds"):
            kernel("moved")((1,), (32,), (x, o, i32(r), i32(w)))


@pytest.mark.parametrize(
    "name, args, report",
    [
        ("wild", (zeros(), i32(-1)), r"thread \(0,0,0\): Segmentation fault, .*kernel.cu:\d+"),
        ("local_index", (zeros(), i32(4)), r"undefined behaviour .*kernel.cu:\d+"),
        ("as_float4", (zeros(), i32(1)), r"undefined behaviour .*kernel.cu:\d+"),
        ("unaligned_shared", (zeros(), i32(1)), r"undefined behaviour .*kernel.cu:\d+"),
        ("overflow", (zeros(1, i32), i32(2**31 - 1)), r"undefined behaviour .*kernel.cu:\d+"),
        ("divided", (zeros(1, i32), i32(0)), r"thread \(0,0,0\): .*kernel.cu:\d+"),
    ],
)
def test_what_would_crash_is_reported_with_its_line(kernel, name, args, report):
    for _ in range(2):
        with pytest.raises(KernelError, match=report) as problem:
            kernel(name)((1,), (32,), args, order=0)
    line = int(str(problem.value).rpartition(":")[2].split()[0])
    assert f"void {name}(" in SOURCE.splitlines()[line - 1]
    if name == "unaligned_shared":
        kernel("aligned_shared")((1,), (32,), args[:1])
        assert args[0][0] == 4
    else:
        kernel(name)((1,), (32,), (args[0], i32(3 if name == "local_index" else 4)))


# --- arguments -------------------------------------------------------------------------------------------------------


def test_arguments_have_the_parameters_types(kernel):
    x, o = np.full(1, 0.5, f32), zeros(1)
    good = (x, o, i32(1), f32(2), u8(3), np.bool_(True), np.int64(2**20))
    kernel("types")((1,), (1,), good)
    assert o[0] == 7.5 + 2**20
    bad = {
        0: (None, [0.5], x.astype(np.float64), np.ones(4, f32)[::2]),
        1: (o.astype(i32),),
        2: (1, np.int64(1), np.uint32(1), np.ones(1, i32), f32(1)),
        3: (2.0, np.float64(2)),
        4: (np.int8(3),),
        5: (True, u8(1)),
        6: (i32(1),),
    }
    for place, value in ((place, value) for place, values in bad.items() for value in values if value is not None):
        with pytest.raises(TypeError, match=f"types: argument {place}: the parameter is a"):
            kernel("types")((1,), (1,), good[:place] + (value,) + good[place + 1 :])
    with pytest.raises(TypeError, match="6 arguments for 7 parameters"):
        kernel("types")((1,), (1,), good[:-1])
    with pytest.raises(TypeError, match="a pointer to const float32, given is ndarray float32, not contiguous"):
        kernel("types")((1,), (1,), (np.ones((4, 4), f32).T, *good[1:]))


def test_none_is_a_null_pointer(kernel):
    o = zeros(1)
    kernel("types")((1,), (1,), (None, o, i32(1), f32(2), u8(3), np.bool_(False), np.int64(0)))
    assert o[0] == 5
    with pytest.raises(KernelError, match="Segmentation fault"):
        kernel("nothing")((1,), (1,), (None, o, i32(1)))


def test_empty_arrays(kernel):
    kernel("nothing")((1,), (1,), (zeros(0), zeros((0, 3)), i32(0)))
    with pytest.raises(KernelError, match="argument 1: written out of bounds"):
        kernel("nothing")((1,), (1,), (zeros(0), zeros((0, 3)), i32(1)))


def test_one_array_twice_is_one_memory_and_half_of_it_is_refused(kernel):
    x = np.arange(64, dtype=f32)
    kernel("shifted")((1,), (32,), (x[:32], x[:32]), order=0)
    assert x[0] == 1 and x[31] == 1 and x[32] == 32  # the last thread reads what the first has written
    kernel("shifted")((1,), (32,), (x[32:], x[:32]), order=0)
    assert x[31] == 32
    with pytest.raises(KernelError, match="arguments 0 and 1 overlap in part"):
        kernel("shifted")((1,), (32,), (x[16:48], x[:32]))
    kernel("total")((1,), (1,), (x[32:48], x[40:], x[:32]))  # inputs may overlap
    assert x[0] == 32 + 40


def test_only_what_the_kernel_may_write_is_written(kernel):
    x, o = np.ones(32, f32), zeros(32)
    x.flags.writeable = False
    kernel("shifted")((1,), (32,), (x, o))
    with pytest.raises(ValueError, match="read-only"):
        kernel("shifted")((1,), (32,), (o, x))


def test_indices_and_atomics(kernel):
    for order in ALL:
        c, s = zeros(601, i32), zeros(1)
        kernel("counted")((2, 3, 4), (2, 3, 4), (c, s), order=order)
        assert (c[:576] == 1).all() and s[0] == 576 and c[600] == 23


@pytest.mark.parametrize(
    "grid, block",
    [((0,), (32,)), ((1, 2**16), (1,)), ((1,), (0,)), ((1,), (1025,)), ((1,), (32, 33)), ((1,), (1, 1, 65))],
)
def test_grids_and_blocks_have_limits(kernel, grid, block):
    with pytest.raises(KernelError, match=r"a (grid|block) of \(\d+,\d+,\d+\)"):
        kernel("nothing")(grid, block, (zeros(), zeros(), i32(0)))


@pytest.mark.parametrize("name, dtype", [("mathematics<float>", f32), ("mathematics<double>", np.float64)])
def test_mathematics_is_that_of_the_type(kernel, name, dtype):
    v, o, size = dtype(1.7), zeros(16, dtype), dtype().itemsize
    kernel(name)((1,), (1,), (np.array([v]), o))
    with np.errstate(over="ignore"):
        big = np.exp(v * 100)  # infinite as a float
    wanted = [size, big, np.log(v), np.sqrt(v), 1 / np.sqrt(v), v**v, v, -v, v, v + 3, size == 8, 1]
    wanted += [v * v * v, v / 4, 12, -1]
    np.testing.assert_allclose(o, wanted, rtol=4 * np.finfo(dtype).eps if size == 8 else 1e-6)
