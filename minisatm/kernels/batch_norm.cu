// Batch norm in train mode, forward and backward (Ioffe and Szegedy 2015). For eval mode see scale_shift.cu.
#include "common.cuh"
#include "columns.cuh"

// The moments of some values: their number, their mean, and the sum of squared distances from the mean.
template <typename T>
struct Moments {
    T count, mean, m2;
};

// The moments of two sets together, from the moments of each (Chan et al. 1983). No large squares are subtracted, so
// the variance keeps its digits even if the mean is a thousand standard deviations.
template <typename T>
__device__ Moments<T> merged(Moments<T> u, Moments<T> v) {
    const T count = u.count + v.count;
    if (count == 0) return u;
    const T distance = v.mean - u.mean, share = v.count / count;
    return {count, u.mean + distance * share, u.m2 + v.m2 + distance * distance * u.count * share};
}

template <typename T>
__device__ Moments<T> from_lane(Moments<T> v, int o) {
    return {__shfl_xor_sync(ALL_LANES, v.count, o), __shfl_xor_sync(ALL_LANES, v.mean, o),
            __shfl_xor_sync(ALL_LANES, v.m2, o)};
}

// The mean and m2 of each chunk of rows: means, m2s (chunks, C). Each thread uses Welford's update.
template <typename T>
__global__ void batch_norm_moments(const T* __restrict__ x, T* __restrict__ means, T* __restrict__ m2s,
                                   int rows, int C, int chunk) {
    const int c = column(), end = min(rows, (int(blockIdx.y) + 1) * chunk);
    Moments<T> part = {0, 0, 0};
    if (c < C)
        for (int r = blockIdx.y * chunk + threadIdx.y; r < end; r += LANES) {
            const T v = x[r * C + c], distance = v - part.mean;
            part.count += 1;
            part.mean += distance / part.count;
            part.m2 += distance * (v - part.mean);
        }
    const Moments<T> total = meet(part);
    if (threadIdx.x == 0 && column_met() < C) {
        means[blockIdx.y * C + column_met()] = total.mean;
        m2s[blockIdx.y * C + column_met()] = total.m2;
    }
}

// From the moments of all chunks: mean, variance (over n, not n - 1) and 1 / sqrt(variance + eps), each (C,).
template <typename T>
__global__ void batch_norm_statistics(const T* __restrict__ means, const T* __restrict__ m2s, T* __restrict__ mean,
                                      T* __restrict__ variance, T* __restrict__ inverse,
                                      int rows, int C, int chunk, int chunks, T eps) {
    const int c = column();
    Moments<T> part = {0, 0, 0};
    if (c < C)
        for (int p = threadIdx.y; p < chunks; p += LANES)
            part = merged(part, {T(min(chunk, rows - p * chunk)), means[p * C + c], m2s[p * C + c]});
    const Moments<T> total = meet(part);
    if (threadIdx.x == 0 && column_met() < C) {
        mean[column_met()] = total.mean;
        variance[column_met()] = total.m2 / rows;
        inverse[column_met()] = 1 / sqrt(total.m2 / rows + eps);
    }
}

// out = (x - mean) / std * gamma + beta; with relu, max(out, 0).
template <typename T>
__global__ void batch_norm_train(const T* __restrict__ x, const T* __restrict__ mean, const T* __restrict__ inverse,
                                 const T* __restrict__ gamma, const T* __restrict__ beta, T* __restrict__ out,
                                 int C, int relu, int n) {
    const int i = element(), c = i % C;
    if (i >= n) return;
    const T v = (x[i] - mean[c]) * (inverse[c] * gamma[c]) + beta[c];
    out[i] = relu && v < 0 ? T(0) : v;
}

// The sums of g and of g * (x - mean) over each chunk of rows, (chunks, C) each; with relu, g is 0 where `out` is 0.
template <typename T>
__global__ void batch_norm_sums(const T* __restrict__ g, const T* __restrict__ x, const T* __restrict__ mean,
                                const T* __restrict__ out, T* __restrict__ g_sums, T* __restrict__ gx_sums,
                                int rows, int C, int chunk) {
    const int c = column(), end = min(rows, (int(blockIdx.y) + 1) * chunk);
    Sums<T> part = {0, 0};
    if (c < C)
        for (int r = blockIdx.y * chunk + threadIdx.y; r < end; r += LANES) {
            const int i = r * C + c;
            const T cut = !out || out[i] > 0 ? g[i] : T(0);
            part.a += cut;
            part.b += cut * (x[i] - mean[c]);
        }
    const Sums<T> total = meet(part);
    if (threadIdx.x == 0 && column_met() < C) {
        g_sums[blockIdx.y * C + column_met()] = total.a;
        gx_sums[blockIdx.y * C + column_met()] = total.b;
    }
}

// The gradients to beta (sum of g) and to gamma (sum of g * (x - mean) / std), from the sums of all chunks.
template <typename T>
__global__ void batch_norm_gradients(const T* __restrict__ g_sums, const T* __restrict__ gx_sums,
                                     const T* __restrict__ inverse, T* __restrict__ ggamma, T* __restrict__ gbeta,
                                     int C, int chunks) {
    const int c = column();
    Sums<T> part = {0, 0};
    if (c < C)
        for (int p = threadIdx.y; p < chunks; p += LANES) part = merged(part, {g_sums[p * C + c], gx_sums[p * C + c]});
    const Sums<T> total = meet(part);
    if (threadIdx.x == 0 && column_met() < C) {
        gbeta[column_met()] = total.a;
        ggamma[column_met()] = total.b * inverse[column_met()];
    }
}

// gx = gamma / std * (g - share * (gbeta + (x - mean) / std * ggamma)), share = 1 / rows. The second term is there
// because the mean depends on x, the third because the variance does.
template <typename T>
__global__ void batch_norm_train_gx(const T* __restrict__ g, const T* __restrict__ x, const T* __restrict__ mean,
                                    const T* __restrict__ inverse, const T* __restrict__ gamma,
                                    const T* __restrict__ ggamma, const T* __restrict__ gbeta,
                                    const T* __restrict__ out, T* __restrict__ gx, T share, int C, int n) {
    const int i = element(), c = i % C;
    if (i >= n) return;
    const T cut = !out || out[i] > 0 ? g[i] : T(0);
    gx[i] = gamma[c] * inverse[c] * (cut - share * (gbeta[c] + (x[i] - mean[c]) * inverse[c] * ggamma[c]));
}

// A running statistic: out = (1 - share) * running + share * factor * batch.
template <typename T>
__global__ void running_average(const T* __restrict__ running, const T* __restrict__ batch, T* __restrict__ out,
                                T share, T factor, int n) {
    const int i = element();
    if (i < n) out[i] = running[i] + share * (factor * batch[i] - running[i]);
}
