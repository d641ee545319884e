// A matrix product in tiles, of matrices that need not exist: a(m, k) and b(n, k) are functions that find an element.
//
// A block of 256 threads makes 64 x 64 outputs. It brings 16 k's of both factors into shared memory at a time; there
// each number is read by 64 products. A thread makes 4 x 4 outputs, 16 apart, so that neighbours write neighbours.

#define SIDE 64
#define DEPTH 16
#define THREADS 256
#define OWN 4

// tile[k][r] = at(first + r, k0 + k), zero outside. ALONG_K: do neighbours in k lie side by side in memory? Then
// neighbouring threads take them.
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
    T sums[OWN][OWN] = {};
    for (; k0 < K; k0 += DEPTH) {
        fill<A_ALONG_K>(as, a, m0, M, k0, K);
        fill<B_ALONG_K>(bs, b, n0, N, k0, K);
        __syncthreads();    // both tiles are whole
        #pragma unroll
        for (int k = 0; k < DEPTH; ++k)
            #pragma unroll
            for (int i = 0; i < OWN; ++i)
                #pragma unroll
                for (int j = 0; j < OWN; ++j) sums[i][j] += as[k][row + 16 * i] * bs[k][col + 16 * j];
        __syncthreads();    // nobody reads them any more
    }
    for (int i = 0; i < OWN; ++i)
        for (int j = 0; j < OWN; ++j) {
            const int m = m0 + row + 16 * i, n = n0 + col + 16 * j;
            if (m < M && n < N) put(m, n, sums[i][j]);
        }
}
