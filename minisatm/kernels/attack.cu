// The steps of an attack, clipped to pixels in [0, 1]. An input pixel outside [0, 1], or NaN, gives NaN: to check the
// image first, the host would have to wait for the GPU.
#include "common.cuh"

template <typename T>
__device__ T in_box(T pixel, T moved) {
    if (!(pixel >= 0 && pixel <= 1)) return nan("");
    return moved < 0 ? T(0) : moved > 1 ? T(1) : moved;
}

// clip(x + step * sign(g)): the last line of every single-step attack.
template <typename T>
__global__ void sign_step(const T* __restrict__ x, const T* __restrict__ g, T* __restrict__ out, T step, int n) {
    const int i = element();
    if (i >= n) return;
    const T sign = g[i] > 0 ? T(1) : g[i] < 0 ? T(-1) : g[i];    // so that 0 stays 0 and NaN stays NaN
    out[i] = in_box(x[i], x[i] + step * sign);
}

// clip(x + alpha * sign(N(0, I))): the random signs come as bits, eight to a byte, the highest first.
template <typename T>
__global__ void random_step(const T* __restrict__ x, const unsigned char* __restrict__ bits, T* __restrict__ out,
                            T alpha, int n) {
    const int i = element();
    if (i < n) out[i] = in_box(x[i], x[i] + (bits[i / 8] >> (7 - i % 8) & 1 ? alpha : -alpha));
}
