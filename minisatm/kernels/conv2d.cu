// Convolution as a matrix product with the columns of im2col.cu, which are not stored: each number is read from the
// image when it is needed. x (N, H, W, C), w (kh, kw, C, F), g and out (N, P, Q, F); a row of a matrix is a pixel.
#include "common.cuh"
#include "tile.cuh"

struct Shape {
    int H, W, C, P, Q, F, kh, kw, sh, sw, top, left;
};
#define SHAPE int H, int W, int C, int P, int Q, int F, int kh, int kw, int sh, int sw, int top, int left
#define SHAPE_OF {H, W, C, P, Q, F, kh, kw, sh, sw, top, left}

// The columns of x: the number under tap k = (i, j, c) of the window of output pixel (n, p, q), zero outside the image.
template <typename T>
struct Columns {
    const T* x;
    Shape s;
    __device__ T operator()(int pixel, int k) const {
        const int c = k % s.C, tap = k / s.C;
        const int row = pixel / s.Q % s.P * s.sh + tap / s.kw - s.top, col = pixel % s.Q * s.sw + tap % s.kw - s.left;
        const bool inside = row >= 0 && row < s.H && col >= 0 && col < s.W;
        return inside ? x[((pixel / s.Q / s.P * s.H + row) * s.W + col) * s.C + c] : T(0);
    }
};

// For image pixel (n, h, w): the g of the output pixel whose tap k = (i, j, f) lies on it, zero if there is none.
template <typename T>
struct Windows {
    const T* g;
    Shape s;
    __device__ T operator()(int pixel, int k) const {
        const int f = k % s.F, tap = k / s.F;
        const int row = pixel / s.W % s.H + s.top - tap / s.kw, col = pixel % s.W + s.left - tap % s.kw;
        if (row < 0 || col < 0 || row % s.sh || col % s.sw || row / s.sh >= s.P || col / s.sw >= s.Q) return 0;
        return g[((pixel / s.W / s.H * s.P + row / s.sh) * s.Q + col / s.sw) * s.F + f];
    }
};

// out = columns @ w + bias, (N*P*Q, kh*kw*C) @ (kh*kw*C, F); with relu, max(out, 0).
template <typename T>
__global__ void __launch_bounds__(THREADS)
conv2d(const T* __restrict__ x, const T* __restrict__ w, const T* __restrict__ bias, T* __restrict__ out,
       int N, SHAPE, int relu) {
    const Columns<T> columns = {x, SHAPE_OF};
    tile_product<true, false, T>(
        N * P * Q, F, 0, kh * kw * C, columns, [=](int f, int k) { return w[k * F + f]; },
        [=](int pixel, int f, T sum) {
            const T v = bias ? sum + bias[f] : sum;
            out[pixel * F + f] = relu && v < 0 ? T(0) : v;
        });
}

// gx = windows @ (w with C and F exchanged), (N*H*W, kh*kw*F) @ (kh*kw*F, C).
template <typename T>
__global__ void __launch_bounds__(THREADS)
conv2d_gx(const T* __restrict__ g, const T* __restrict__ w, T* __restrict__ gx, int N, SHAPE) {
    const Windows<T> windows = {g, SHAPE_OF};
    tile_product<true, true, T>(
        N * H * W, C, 0, kh * kw * F, windows, [=](int c, int k) { return w[(k / F * C + c) * F + k % F]; },
        [=](int pixel, int c, T sum) { gx[pixel * C + c] = sum; });
}

// parts[z] = columns^T @ g over the z-th chunk of output pixels: (kh*kw*C, chunk) @ (chunk, F). A gradient to w has few
// rows and a long sum, so several blocks compute a part of the sum each; the parts are summed afterwards.
template <typename T>
__global__ void __launch_bounds__(THREADS)
conv2d_gw(const T* __restrict__ x, const T* __restrict__ g, T* __restrict__ parts, int N, SHAPE, int chunk) {
    const Columns<T> columns = {x, SHAPE_OF};
    const int first = blockIdx.z * chunk, taps = kh * kw * C;
    tile_product<false, false, T>(
        taps, F, first, min(N * P * Q, first + chunk), [=](int k, int pixel) { return columns(pixel, k); },
        [=](int f, int pixel) { return g[pixel * F + f]; },
        [=](int k, int f, T sum) { parts[(blockIdx.z * taps + k) * F + f] = sum; });
}
