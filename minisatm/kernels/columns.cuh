// Sums over all rows of a matrix (rows, C) for each column: images whose last axis is the channel.
//
// A block of 32 x 32 threads takes 32 columns and a chunk of rows. Neighbouring threads read neighbouring columns of a
// row, so that a warp reads one piece of memory. Then there are 32 partial results of each column, one in each warp.
// They are transposed in shared memory: now one warp has all partial results of one column, and sums them by shuffles.
// Each block writes its results to `parts`; a second launch sums the parts in the same way.

// Two sums at the same time.
template <typename T>
struct Sums {
    T a, b;
};

template <typename T>
__device__ Sums<T> merged(Sums<T> u, Sums<T> v) {
    return {u.a + v.a, u.b + v.b};
}

template <typename T>
__device__ Sums<T> from_lane(Sums<T> v, int o) {
    return {__shfl_xor_sync(ALL_LANES, v.a, o), __shfl_xor_sync(ALL_LANES, v.b, o)};
}

__device__ inline int column() { return blockIdx.x * LANES + threadIdx.x; }        // this thread reads it
__device__ inline int column_met() { return blockIdx.x * LANES + threadIdx.y; }    // meet() returns its total

// The total of column_met() over the block's warps; each lane of a warp gets it.
template <typename R>
__device__ R meet(R part) {
    __shared__ R table[LANES][LANES + 1];    // + 1: so the entries of a column are in 32 different memory banks
    table[threadIdx.y][threadIdx.x] = part;
    __syncthreads();
    R total = table[threadIdx.x][threadIdx.y];
    for (int o = LANES / 2; o > 0; o /= 2) total = merged(total, from_lane(total, o));
    return total;
}
