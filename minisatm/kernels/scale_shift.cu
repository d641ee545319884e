// x * scale + shift per channel: batch norm in eval mode, whose statistics are constants. Without shift: its gradient.
#include "common.cuh"

template <typename T>
__global__ void scale_shift(const T* __restrict__ x, const T* __restrict__ scale, const T* __restrict__ shift,
                            T* __restrict__ out, int C, int n) {
    const int i = element(), c = i % C;
    if (i < n) out[i] = x[i] * scale[c] + (shift ? shift[c] : T(0));
}
