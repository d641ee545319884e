// Checks each load and store, for cuda_cpu.h: does it race, is it out of bounds? With g++ -fsanitize=thread they call
// __tsan_readN and __tsan_writeN; those functions are here (libtsan is not linked). Two accesses to one place race when
// different threads make them, one of them writes, not both are atomic, and no barrier or warp primitive lies between
// them.
#pragma once
#include <unordered_map>
#define CU_UNTRACED __attribute__((no_sanitize("thread"), noinline))

namespace cu {
static bool race_on, race_atomic;  // inside kernel code; inside an atomic function
static CU_UNTRACED void race_set(bool on) { race_on = on; }
struct Atomic {
    CU_UNTRACED Atomic() { race_atomic = true; }
    CU_UNTRACED ~Atomic() { race_atomic = false; }
};
struct Access { int block = -1, thread; unsigned block_epoch, warp_epoch; bool atomic; };
struct Cell { Access write, reads[2]; };
static unsigned block_epoch, warp_epoch[MAX_THREADS / 32];
static int block_number;
static std::unordered_map<uintptr_t, Cell>* cells;

static CU_UNTRACED void race_start() {
    delete cells;
    cells = new std::unordered_map<uintptr_t, Cell>;
    race_on = race_atomic = false;
}
static CU_UNTRACED bool races(const Access& a, bool in_shared) {
    if (a.block < 0 || (a.atomic && race_atomic)) return false;
    if (a.block != block_number) return !in_shared;
    if (a.thread == current || a.block_epoch != block_epoch) return false;
    return a.thread >> 5 != current >> 5 || a.warp_epoch == warp_epoch[current >> 5];
}
struct Argument { uintptr_t low, first, last, high; };  // an array from first to last, inside its guard zones
static Argument arguments[64];
static int argument_count;
static CU_UNTRACED bool outside(uintptr_t p, size_t size) {
    for (int i = 0; i < argument_count; ++i) {
        const Argument& a = arguments[i];
        if (p >= a.low && p < a.high) return p < a.first || p + size > a.last;
    }
    const uintptr_t base = uintptr_t(shared);
    for (size_t i = 0; i < zone_count; ++i)
        if (p + size > base + zones[i].start && p < base + zones[i].stop) return true;
    return false;
}
static CU_UNTRACED void race_report(const char* what, uintptr_t p, const Access& other, uintptr_t pc) {
    CU_FAIL("race: %s at 0x%zx by %s and thread %d of block %d; pc 0x%zx", what, size_t(p), who(), other.thread,
            other.block, offset_in_library(pc - 1));
}
static CU_UNTRACED void access(void* pointer, size_t size, bool write, void* caller) {
    const uintptr_t p = uintptr_t(pointer);
    if (!race_on || p - uintptr_t(stacks[0].memory) < size_t(MAX_THREADS) * STACK) return;  // or a local variable
    race_on = false;
    const uintptr_t pc = uintptr_t(caller);
    const bool in_shared = p - uintptr_t(shared) < sizeof shared;
    const Access me{block_number, current, block_epoch, warp_epoch[current >> 5], race_atomic};
    if (outside(p, size)) {
        CU_FAIL("out of bounds: %s at 0x%zx by %s; pc 0x%zx", write ? "write" : "read", size_t(p), who(),
                offset_in_library(pc - 1));
    }
    const uintptr_t step = size < 4 ? size : 4;
    for (uintptr_t at = p / step * step; at < p + size; at += step) {
        Cell& c = (*cells)[at];
        if (races(c.write, in_shared)) race_report(write ? "write/write" : "write/read", at, c.write, pc);
        if (write) {
            for (auto& r : c.reads) if (races(r, in_shared)) race_report("read/write", at, r, pc);
            c.write = me;
        } else {
            const Access& last = c.reads[0];
            const bool again = last.block == me.block && last.thread == me.thread && last.block_epoch == me.block_epoch;
            if (!again) c.reads[1] = last;
            c.reads[0] = me;
        }
    }
    race_on = true;
}
}  // namespace cu
#define CU_HOOKS(n)                                                                                               \
    extern "C" CU_UNTRACED void __tsan_read##n(void* p) { cu::access(p, n, false, __builtin_return_address(0)); }  \
    extern "C" CU_UNTRACED void __tsan_write##n(void* p) { cu::access(p, n, true, __builtin_return_address(0)); }  \
    extern "C" CU_UNTRACED void __tsan_unaligned_read##n(void* p) __attribute__((alias("__tsan_read" #n)));        \
    extern "C" CU_UNTRACED void __tsan_unaligned_write##n(void* p) __attribute__((alias("__tsan_write" #n)));
CU_HOOKS(1) CU_HOOKS(2) CU_HOOKS(4) CU_HOOKS(8) CU_HOOKS(16)
extern "C" CU_UNTRACED void __tsan_read_range(void* p, size_t n) {
    cu::access(p, n, false, __builtin_return_address(0));
}
extern "C" CU_UNTRACED void __tsan_write_range(void* p, size_t n) {
    cu::access(p, n, true, __builtin_return_address(0));
}
extern "C" void cu_arguments(int n, const cu::Argument* a) {
    cu::argument_count = n < 64 ? n : 64;
    memcpy(cu::arguments, a, cu::argument_count * sizeof *a);
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
