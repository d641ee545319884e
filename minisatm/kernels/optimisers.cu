// The optimisers' steps, in place, and the norm of the gradient that limits them. `scale` is a number on the device,
// which the host need not wait for: what clipping leaves of the gradient. Where the norm is not finite it is NaN, and
// nothing is changed.
#include "common.cuh"

// The block's first thread gets the sum over all of its threads.
template <typename T>
__device__ T block_sum(T own) {
    __shared__ T warps[LANES];
    own = warp_sum(own);
    if (threadIdx.x % LANES == 0) warps[threadIdx.x / LANES] = own;
    __syncthreads();
    return threadIdx.x < LANES ? warp_sum(threadIdx.x < blockDim.x / LANES ? warps[threadIdx.x] : T(0)) : own;
}

// parts[first + block] = sum of x^2 over this block's chunk of x.
template <typename T>
__global__ void squares(const T* __restrict__ x, T* __restrict__ parts, int first, int chunk, int n) {
    const int start = blockIdx.x * chunk;
    T own = 0;
    for (int i = threadIdx.x; i < chunk && start + i < n; i += blockDim.x) own += x[start + i] * x[start + i];
    own = block_sum(own);
    if (threadIdx.x == 0) parts[first + blockIdx.x] = own;
}

// norm = sqrt(sum of parts), and scale = min(1, clip / norm), 1 where clip is 0, NaN where the norm is not finite.
// One block.
template <typename T>
__global__ void clip_scale(const T* __restrict__ parts, T* __restrict__ norm, T* __restrict__ scale, T clip, int n) {
    T own = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) own += parts[i];
    own = sqrt(block_sum(own));
    if (threadIdx.x > 0) return;
    *norm = own;
    *scale = !isfinite(own) ? T(nan("")) : clip > 0 && own > clip ? clip / own : T(1);
}

// v = momentum * v + g;  w = w - rate * v.
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
    const T own = g[i] * *scale + weight_decay * w[i];
    m[i] += (1 - b1) * (own - m[i]);
    v[i] += (1 - b2) * (own * own - v[i]);
    w[i] -= rate * (m[i] / correct1) / (sqrt(v[i] / correct2) + eps);
}
