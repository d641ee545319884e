// Sums over all but the last axis: of x, or of x * y. The gradient of a bias, and of batch norm's scale in eval mode.
#include "common.cuh"
#include "columns.cuh"

// parts[chunk, c] = sum over the chunk's rows of x[row, c] * y[row, c]; without y of x alone.
template <typename T>
__global__ void channel_sums_part(const T* __restrict__ x, const T* __restrict__ y, T* __restrict__ parts,
                                  int rows, int C, int chunk) {
    const int c = column(), end = min(rows, (int(blockIdx.y) + 1) * chunk);
    Sums<T> own = {0, 0};
    if (c < C)
        for (int r = blockIdx.y * chunk + threadIdx.y; r < end; r += LANES)
            own.a += y ? x[r * C + c] * y[r * C + c] : x[r * C + c];
    const Sums<T> total = meet(own);
    if (threadIdx.x == 0 && column_met() < C) parts[blockIdx.y * C + column_met()] = total.a;
}

// sums[c] = the sum of the chunks' parts.
template <typename T>
__global__ void channel_sums_total(const T* __restrict__ parts, T* __restrict__ sums, int C, int chunks) {
    const int c = column();
    Sums<T> own = {0, 0};
    if (c < C)
        for (int p = threadIdx.y; p < chunks; p += LANES) own.a += parts[p * C + c];
    const Sums<T> total = meet(own);
    if (threadIdx.x == 0 && column_met() < C) sums[column_met()] = total.a;
}
