// The columns of an image: a row for each output pixel, with all numbers of its window, zero outside the image.
// conv2d is then one matrix product, columns (N*P*Q, kh*kw*C) @ w (kh*kw*C, F), as in im2col.py.
#include "common.cuh"
#include "windows.cuh"

// x (N, H, W, C) -> columns (N*P*Q, kh*kw*C); n = N*P*Q*C threads, one for each output pixel and channel.
template <typename T>
__global__ void im2col(const T* __restrict__ x, T* __restrict__ columns, int H, int W, int C, int P, int Q,
                       int kh, int kw, int sh, int sw, int top, int left, int n) {
    const int e = element();
    if (e >= n) return;
    const int c = e % C, pixel = e / C, q = pixel % Q, p = pixel / Q % P, image = pixel / Q / P;
    for (int i = 0; i < kh; ++i)
        for (int j = 0; j < kw; ++j) {
            const int row = p * sh + i - top, col = q * sw + j - left;
            const bool inside = row >= 0 && row < H && col >= 0 && col < W;
            columns[((pixel * kh + i) * kw + j) * C + c] = inside ? x[((image * H + row) * W + col) * C + c] : T(0);
        }
}

// Its adjoint, columns (N*P*Q, kh*kw*C) -> gx (N, H, W, C): each pixel is the sum of its copies in all windows.
template <typename T>
__global__ void col2im(const T* __restrict__ columns, T* __restrict__ gx, int H, int W, int C, int P, int Q,
                       int kh, int kw, int sh, int sw, int top, int left, int n) {
    const int e = element();
    if (e >= n) return;
    const int c = e % C, w = e / C % W + left, h = e / C / W % H + top, image = e / C / W / H;
    const int p_last = last_window(h, sh, P), q_first = first_window(w, kw, sw), q_last = last_window(w, sw, Q);
    T sum = 0;
    for (int p = first_window(h, kh, sh); p <= p_last; ++p)
        for (int q = q_first; q <= q_last; ++q)
            sum += columns[((((image * P + p) * Q + q) * kh + h - p * sh) * kw + w - q * sw) * C + c];
    gx[e] = sum;
}
