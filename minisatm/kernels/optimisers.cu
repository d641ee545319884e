// The steps of the optimisers, in place, and clipping by the norm of the gradient. The factor from clipping, `scale`,
// stays in the GPU's memory, so that the host need not wait for it. It is NaN if the norm is not finite: then no weight
// changes.
#include "common.cuh"

// The sum over all threads of the block; only the first thread gets it.
template <typename T>
__device__ T block_sum(T part) {
    __shared__ T warps[LANES];
    part = warp_sum(part);
    if (threadIdx.x % LANES == 0) warps[threadIdx.x / LANES] = part;
    __syncthreads();
    return threadIdx.x < LANES ? warp_sum(threadIdx.x < blockDim.x / LANES ? warps[threadIdx.x] : T(0)) : part;
}

// parts[first + block] = sum of x^2 over this block's chunk of x.
template <typename T>
__global__ void squares(const T* __restrict__ x, T* __restrict__ parts, int first, int chunk, int n) {
    const int start = blockIdx.x * chunk;
    T part = 0;
    for (int i = threadIdx.x; i < chunk && start + i < n; i += blockDim.x) part += x[start + i] * x[start + i];
    part = block_sum(part);
    if (threadIdx.x == 0) parts[first + blockIdx.x] = part;
}

// norm = sqrt(sum of parts) and scale = min(1, clip / norm); scale is 1 if clip is 0, NaN if the norm is not finite.
// The grid has one block.
template <typename T>
__global__ void clip_scale(const T* __restrict__ parts, T* __restrict__ norm, T* __restrict__ scale, T clip, int n) {
    T part = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) part += parts[i];
    part = sqrt(block_sum(part));
    if (threadIdx.x > 0) return;
    *norm = part;
    *scale = !isfinite(part) ? T(nan("")) : clip > 0 && part > clip ? clip / part : T(1);
}

// v = momentum * v + g, then w = w - rate * v.
template <typename T>
__global__ void sgd_step(T* __restrict__ w, const T* __restrict__ g, T* __restrict__ v, const T* __restrict__ scale,
                         T rate, T momentum, T weight_decay, int n) {
    const int i = element();
    if (i >= n || isnan(*scale)) return;
    v[i] = momentum * v[i] + (g[i] * *scale + weight_decay * w[i]);
    w[i] -= rate * v[i];
}

// Kingma and Ba 2015, Algorithm 1; correct1 and correct2 are 1 - b1^t and 1 - b2^t.
template <typename T>
__global__ void adam_step(T* __restrict__ w, const T* __restrict__ g, T* __restrict__ m, T* __restrict__ v,
                          const T* __restrict__ scale, T rate, T b1, T b2, T correct1, T correct2, T eps,
                          T weight_decay, int n) {
    const int i = element();
    if (i >= n || isnan(*scale)) return;
    const T decayed = g[i] * *scale + weight_decay * w[i];
    m[i] += (1 - b1) * (decayed - m[i]);
    v[i] += (1 - b2) * (decayed * decayed - v[i]);
    w[i] -= rate * (m[i] / correct1) / (sqrt(v[i] / correct2) + eps);
}
