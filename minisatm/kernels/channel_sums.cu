// The sums of x, or of x * y, over all axes but the last: the gradients to a bias, and to gamma in eval mode.
#include "common.cuh"
#include "columns.cuh"

// parts[chunk, c] = sum over the chunk's rows of x[row, c] * y[row, c], or of x[row, c] if there is no y.
template <typename T>
__global__ void channel_sums_part(const T* __restrict__ x, const T* __restrict__ y, T* __restrict__ parts,
                                  int rows, int C, int chunk) {
    const int c = column(), end = min(rows, (int(blockIdx.y) + 1) * chunk);
    Sums<T> part = {0, 0};
    if (c < C)
        for (int r = blockIdx.y * chunk + threadIdx.y; r < end; r += LANES)
            part.a += y ? x[r * C + c] * y[r * C + c] : x[r * C + c];
    const Sums<T> total = meet(part);
    if (threadIdx.x == 0 && column_met() < C) parts[blockIdx.y * C + column_met()] = total.a;
}

// sums[c] = the sum of parts[chunk, c] over all chunks.
template <typename T>
__global__ void channel_sums_total(const T* __restrict__ parts, T* __restrict__ sums, int C, int chunks) {
    const int c = column();
    Sums<T> part = {0, 0};
    if (c < C)
        for (int p = threadIdx.y; p < chunks; p += LANES) part.a += parts[p * C + c];
    const Sums<T> total = meet(part);
    if (threadIdx.x == 0 && column_met() < C) sums[column_met()] = total.a;
}
