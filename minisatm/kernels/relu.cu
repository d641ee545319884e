// max(x, 0) and its gradient, also after the sum of a residual block or after a bias. NaN stays NaN.
#include "common.cuh"

template <typename T>
__global__ void relu(const T* __restrict__ x, T* __restrict__ out, int n) {
    const int i = element();
    if (i < n) out[i] = x[i] < 0 ? T(0) : x[i];
}

// gx = g where the output is above zero, else 0.
template <typename T>
__global__ void relu_gx(const T* __restrict__ g, const T* __restrict__ out, T* __restrict__ gx, int n) {
    const int i = element();
    if (i < n) gx[i] = out[i] > 0 ? g[i] : T(0);
}

template <typename T>
__global__ void add_relu(const T* __restrict__ a, const T* __restrict__ b, T* __restrict__ out, int n) {
    const int i = element();
    if (i >= n) return;
    const T v = a[i] + b[i];
    out[i] = v < 0 ? T(0) : v;
}

// In place, out (..., F): add the bias (F,) if there is one; then max(out, 0) if relu is 1.
template <typename T>
__global__ void bias_relu(T* __restrict__ out, const T* __restrict__ bias, int F, int relu, int n) {
    const int i = element();
    if (i >= n) return;
    const T v = bias ? out[i] + bias[i % F] : out[i];
    out[i] = relu && v < 0 ? T(0) : v;
}
