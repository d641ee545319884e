// A matrix product in tiles. The matrices need not be in memory: a(m, k) and b(n, k) are functions that return one
// element. A block of 256 threads computes 64 x 64 outputs. It copies both factors to shared memory, 16 values of k at
// a time; there each number is used in 64 products. A thread computes 4 x 4 outputs, 16 apart, so that neighbouring
// threads write neighbouring outputs.

#define SIDE 64
#define DEPTH 16
#define THREADS 256
#define PER_THREAD 4

// tile[k][r] = at(first + r, k0 + k), zero outside. ALONG_K: neighbours in k are neighbours in memory, so neighbouring
// threads read neighbours in k.
template <bool ALONG_K, typename T, typename At>
__device__ void fill(T (&tile)[DEPTH][SIDE + 1], const At& at, int first, int rows, int k0, int K) {
    #pragma unroll
    for (int e = threadIdx.x; e < SIDE * DEPTH; e += THREADS) {
        const int r = ALONG_K ? e / DEPTH : e % SIDE, k = ALONG_K ? e % DEPTH : e / SIDE;
        tile[k][r] = first + r < rows && k0 + k < K ? at(first + r, k0 + k) : T(0);
    }
}

// put(m, n, sum over k in [k0, K) of a(m, k) * b(n, k)) for this block's tile of (M, N).
template <bool A_ALONG_K, bool B_ALONG_K, typename T, typename A, typename B, typename Put>
__device__ void tile_product(int M, int N, int k0, int K, const A& a, const B& b, const Put& put) {
    __shared__ T as[DEPTH][SIDE + 1], bs[DEPTH][SIDE + 1];
    const int m0 = blockIdx.x * SIDE, n0 = blockIdx.y * SIDE;
    const int row = threadIdx.x / DEPTH, col = threadIdx.x % DEPTH;
    T sums[PER_THREAD][PER_THREAD] = {};
    for (; k0 < K; k0 += DEPTH) {
        fill<A_ALONG_K>(as, a, m0, M, k0, K);
        fill<B_ALONG_K>(bs, b, n0, N, k0, K);
        __syncthreads();    // both tiles are complete
        #pragma unroll
        for (int k = 0; k < DEPTH; ++k)
            #pragma unroll
            for (int i = 0; i < PER_THREAD; ++i)
                #pragma unroll
                for (int j = 0; j < PER_THREAD; ++j) sums[i][j] += as[k][row + 16 * i] * bs[k][col + 16 * j];
        __syncthreads();    // all threads have read them
    }
    for (int i = 0; i < PER_THREAD; ++i)
        for (int j = 0; j < PER_THREAD; ++j) {
            const int m = m0 + row + 16 * i, n = n0 + col + 16 * j;
            if (m < M && n < N) put(m, n, sums[i][j]);
        }
}
