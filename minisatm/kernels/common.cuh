// What the kernels share. T is float or double; arrays are contiguous, images (N, H, W, C), channels last.
// No kernel uses atomics: each output has one thread that gathers what belongs to it, and sums are added up in a
// fixed order, so that the same input gives the same bits. No array has 2^31 elements or more (launch.py looks).

#define LANES 32
#define ALL_LANES 0xffffffffu

// The element that belongs to this thread, where each thread makes one.
__device__ inline int element() { return blockIdx.x * blockDim.x + threadIdx.x; }

// Every lane of the warp gets the sum, or the largest, of all lanes' values.
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
