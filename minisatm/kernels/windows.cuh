// The first and the last of `count` windows that hold the pixel at `place` (counted with the padding before it): each
// window has `kernel` pixels, and one starts every `stride` pixels. If there is no such window, last < first.
__device__ inline int first_window(int place, int kernel, int stride) {
    return place < kernel ? 0 : (place - kernel) / stride + 1;
}
__device__ inline int last_window(int place, int stride, int count) { return min(place / stride, count - 1); }
