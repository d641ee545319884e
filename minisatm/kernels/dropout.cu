// Dropout and its gradient: x * scale where keep is 1, else 0. The host draws the mask: the same on every backend.
#include "common.cuh"

template <typename T>
__global__ void dropout(const T* __restrict__ x, const unsigned char* __restrict__ keep, T* __restrict__ out, T scale,
                        int n) {
    const int i = element();
    if (i < n) out[i] = keep[i] ? x[i] * scale : T(0);
}
