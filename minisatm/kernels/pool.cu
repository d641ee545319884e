// Max and average pooling, x (N, H, W, C) -> out (N, P, Q, C). A gradient sums over the windows that hold a pixel.
#include "common.cuh"
#include "windows.cuh"

// The largest pixel of each window, and the number i * kw + j of its tap; of equal pixels the first.
template <typename T>
__global__ void max_pool(const T* __restrict__ x, T* __restrict__ out, unsigned char* __restrict__ place,
                         int H, int W, int C, int P, int Q, int kh, int kw, int sh, int sw, int top, int left, int n) {
    const int e = element();
    if (e >= n) return;
    const int c = e % C, q = e / C % Q, p = e / C / Q % P, image = e / C / Q / P;
    T best = 0;
    int where = -1;    // no pixel yet: padding is never the largest
    for (int i = 0; i < kh; ++i)
        for (int j = 0; j < kw; ++j) {
            const int row = p * sh + i - top, col = q * sw + j - left;
            if (row < 0 || row >= H || col < 0 || col >= W) continue;
            const T v = x[((image * H + row) * W + col) * C + c];
            if (where < 0 || v > best || (v != v && best == best)) {    // the first NaN counts as the largest
                best = v;
                where = i * kw + j;
            }
        }
    out[e] = best;
    place[e] = where;
}

// Each g goes to the pixel that was the largest of its window.
template <typename T>
__global__ void max_pool_gx(const T* __restrict__ g, const unsigned char* __restrict__ place, T* __restrict__ gx,
                            int H, int W, int C, int P, int Q, int kh, int kw, int sh, int sw, int top, int left,
                            int n) {
    const int e = element();
    if (e >= n) return;
    const int c = e % C, w = e / C % W + left, h = e / C / W % H + top, image = e / C / W / H;
    const int p_last = last_window(h, sh, P), q_first = first_window(w, kw, sw), q_last = last_window(w, sw, Q);
    T sum = 0;
    for (int p = first_window(h, kh, sh); p <= p_last; ++p)
        for (int q = q_first; q <= q_last; ++q) {
            const int window = ((image * P + p) * Q + q) * C + c;
            if (place[window] == (h - p * sh) * kw + w - q * sw) sum += g[window];
        }
    gx[e] = sum;
}

// The number of image pixels under a window along one axis; `start` is the window's first pixel.
__device__ inline int covered(int start, int kernel, int size) { return min(start + kernel, size) - max(start, 0); }

// The mean of each window; with count_padding, pixels outside the image count as zeros.
template <typename T>
__global__ void avg_pool(const T* __restrict__ x, T* __restrict__ out, int H, int W, int C, int P, int Q,
                         int kh, int kw, int sh, int sw, int top, int left, int count_padding, int n) {
    const int e = element();
    if (e >= n) return;
    const int c = e % C, q = e / C % Q, p = e / C / Q % P, image = e / C / Q / P;
    const int y = p * sh - top, x0 = q * sw - left;
    T sum = 0;
    for (int row = max(y, 0); row < min(y + kh, H); ++row)
        for (int col = max(x0, 0); col < min(x0 + kw, W); ++col) sum += x[((image * H + row) * W + col) * C + c];
    out[e] = sum / (count_padding ? kh * kw : covered(y, kh, H) * covered(x0, kw, W));
}

// Each g is shared equally by the pixels of its window.
template <typename T>
__global__ void avg_pool_gx(const T* __restrict__ g, T* __restrict__ gx, int H, int W, int C, int P, int Q,
                            int kh, int kw, int sh, int sw, int top, int left, int count_padding, int n) {
    const int e = element();
    if (e >= n) return;
    const int c = e % C, w = e / C % W + left, h = e / C / W % H + top, image = e / C / W / H;
    const int p_last = last_window(h, sh, P), q_first = first_window(w, kw, sw), q_last = last_window(w, sw, Q);
    T sum = 0;
    for (int p = first_window(h, kh, sh); p <= p_last; ++p)
        for (int q = q_first; q <= q_last; ++q) {
            const int count = count_padding ? kh * kw : covered(p * sh - top, kh, H) * covered(q * sw - left, kw, W);
            sum += g[((image * P + p) * Q + q) * C + c] / count;
        }
    gx[e] = sum;
}
