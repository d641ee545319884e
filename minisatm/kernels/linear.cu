// Dense layers as matrix products in tiles; cuBLAS is faster, this can be read. x (N, D), w (D, F), g and out (N, F).
#include "common.cuh"
#include "tile.cuh"

// out = x @ w + bias.
template <typename T>
__global__ void __launch_bounds__(THREADS)
linear(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ bias, T* __restrict__ out,
       int N, int D, int F) {
    tile_product<true, false, T>(
        N, F, 0, D, [=](int n, int d) { return x[n * D + d]; }, [=](int f, int d) { return w[d * F + f]; },
        [=](int n, int f, T sum) { out[n * F + f] = bias ? sum + bias[f] : sum; });
}

// gx = g @ w^T.
template <typename T>
__global__ void __launch_bounds__(THREADS)
linear_gx(const T* __restrict__ g, const T* __restrict__ w, T* __restrict__ gx, int N, int D, int F) {
    tile_product<true, true, T>(
        N, D, 0, F, [=](int n, int f) { return g[n * F + f]; }, [=](int d, int f) { return w[d * F + f]; },
        [=](int n, int d, T sum) { gx[n * D + d] = sum; });
}

// gw = x^T @ g.
template <typename T>
__global__ void __launch_bounds__(THREADS)
linear_gw(const T* __restrict__ x, const T* __restrict__ g, T* __restrict__ gw, int N, int D, int F) {
    tile_product<false, false, T>(
        D, F, 0, N, [=](int d, int n) { return x[n * D + d]; }, [=](int f, int n) { return g[n * F + f]; },
        [=](int d, int f, T sum) { gw[d * F + f] = sum; });
}
