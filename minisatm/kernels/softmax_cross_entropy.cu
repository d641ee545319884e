// Softmax cross-entropy of logits and soft labels (N, C), loss and gradient together: a warp for each row.
#include "common.cuh"

// loss_n = sum_c t_nc * (log sum_k exp z_nk - z_nc) and gradient_nc = softmax(z_n)_c * sum_k t_nk - t_nc. The row's
// largest logit is subtracted first, so that exp does not overflow. A class whose label is 0 adds nothing to the loss.
template <typename T>
__global__ void softmax_cross_entropy(const T* __restrict__ logits, const T* __restrict__ labels,
                                      T* __restrict__ loss, T* __restrict__ gradient, int N, int C) {
    const int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= N) return;    // the whole warp
    const T *z = logits + row * C, *t = labels + row * C;
    T top = z[0], total = 0, weight = 0, part = 0;
    for (int c = threadIdx.x; c < C; c += LANES) top = z[c] > top ? z[c] : top;
    top = warp_max(top);
    for (int c = threadIdx.x; c < C; c += LANES) {
        total += exp(z[c] - top);
        weight += t[c];
    }
    total = warp_sum(total);
    weight = warp_sum(weight);
    const T log_total = log(total);
    for (int c = threadIdx.x; c < C; c += LANES) {
        gradient[row * C + c] = exp(z[c] - top) / total * weight - t[c];
        if (t[c] != 0) part += t[c] * (log_total - (z[c] - top));    // 0 times infinity would be NaN
    }
    part = warp_sum(part);
    if (threadIdx.x == 0) loss[row] = part;
}
