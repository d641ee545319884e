// Which windows of `kernel` pixels, one every `stride` pixels, hold the pixel at `place` (counted with the padding
// before it): from the first to the last, of `count` in all. There may be none: then the last is before the first.
__device__ inline int first_window(int place, int kernel, int stride) {
    return place < kernel ? 0 : (place - kernel) / stride + 1;
}
__device__ inline int last_window(int place, int stride, int count) { return min(place / stride, count - 1); }
