// Sums over all rows of a matrix (rows, C), column by column: images whose last axis is the channel.
//
// A block of 32 x 32 threads takes 32 columns and a chunk of rows. Neighbouring threads read neighbouring columns of a
// row, so that reads come in one piece. That leaves 32 partial results of each column, one in each row of threads, and
// a row of threads is a warp: transposed through shared memory, one warp holds all that belong to one column, and
// shuffles bring them together. Each block leaves its results in `parts`; a second launch sums those the same way.

// Two sums at once.
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

__device__ inline int column() { return blockIdx.x * LANES + threadIdx.x; }        // whose rows this thread reads
__device__ inline int column_met() { return blockIdx.x * LANES + threadIdx.y; }    // whose total meet() gives it

// The total of column_met() over the block's rows of threads, in each lane of a warp.
template <typename R>
__device__ R meet(R own) {
    __shared__ R table[LANES][LANES + 1];    // one more: a column of the table lies in 32 different memory banks
    table[threadIdx.y][threadIdx.x] = own;
    __syncthreads();
    R total = table[threadIdx.x][threadIdx.y];
    for (int o = LANES / 2; o > 0; o /= 2) total = merged(total, from_lane(total, o));
    return total;
}
