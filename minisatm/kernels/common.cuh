// What the kernels share. T is float or double; arrays are contiguous, images (N, H, W, C), channels last.
// No kernel uses atomics: one thread computes each output, and sums have a fixed order, so that the same input gives
// the same bits. No array has 2^31 elements or more (launch.py checks it).

#define LANES 32
#define ALL_LANES 0xffffffffu

// The number of this thread's element, in kernels where each thread computes one element.
__device__ inline int element() { return blockIdx.x * blockDim.x + threadIdx.x; }

// The sum, or the largest, of the values of all lanes of the warp; every lane gets it.
template <typename T>
__device__ T warp_sum(T v) {
    for (int o = LANES / 2; o > 0; o /= 2) v += __shfl_xor_sync(ALL_LANES, v, o);
    return v;
}

template <typename T>
__device__ T warp_max(T v) {
    for (int o = LANES / 2; o > 0; o /= 2) {
        const T other = __shfl_xor_sync(ALL_LANES, v, o);
        v = other > v ? other : v;
    }
    return v;
}
