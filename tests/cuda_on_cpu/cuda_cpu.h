// Runs CUDA device source on one CPU thread: included before the kernels' source, for tests and not for speed.
// Each CUDA thread of a block is a fiber, which runs until it reaches a barrier, a warp primitive or its end. Blocks
// run one after another. What CUDA leaves undefined ends the launch with a message.
#pragma once
#include <dlfcn.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <type_traits>
#include <utility>

// ---- keywords; runner.py rewrites every __shared__ to a call of cu::shared_array or cu::dynamic_array ---------------
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ static

// ---- vector types -------------------------------------------------------------------------------------------------
struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
#define CU_VECTOR(T, N)                                                        \
    struct alignas(2 * sizeof(T)) N##2 { T x, y; };                            \
    struct alignas(sizeof(T) > 4 ? 16 : 4 * sizeof(T)) N##4 { T x, y, z, w; }; \
    static inline N##2 make_##N##2(T x, T y) { return {x, y}; }                \
    static inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CU_VECTOR(float, float) CU_VECTOR(int, int) CU_VECTOR(unsigned, uint) CU_VECTOR(double, double)

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static const int warpSize = 32;

namespace cu {
enum { MAX_THREADS = 1024, STACK = 64 << 10, ARRAYS = 256, GUARD = 64 };
enum : size_t { STATIC_SHARED = 48 << 10, ALL_SHARED = 227 << 10 };  // CUDA's limits in bytes
enum State : uint8_t { FRESH, READY, AT_BARRIER, AT_WARP, DONE };
struct Stack { jmp_buf context; char* memory; bool made; };
struct Fiber { Stack* stack; State state; uint3 index; int line; };
struct Meeting { unsigned mask, arrived, out_mask; int line; uint64_t slot[32], out[32]; };

static Fiber fibers[MAX_THREADS + 32];
static Stack stacks[MAX_THREADS];
static Meeting meetings[MAX_THREADS / 32][4];  // up to 4 masks in flight per warp
static int current, threads, alive;
static jmp_buf scheduler;
static void (*body)(void*);
static void* body_argument;
static char error[512];

#define CU_FAIL(...) (cu::error[0] ? 0 : snprintf(cu::error, sizeof cu::error, __VA_ARGS__))
static const char* where() {
    static char text[48];
    snprintf(text, sizeof text, "block (%u,%u,%u)", blockIdx.x, blockIdx.y, blockIdx.z);
    return text;
}
static const char* who() {
    static char text[96];
    snprintf(text, sizeof text, "%s thread (%u,%u,%u)", where(), threadIdx.x, threadIdx.y, threadIdx.z);
    return text;
}

static size_t offset_in_library(uintptr_t pc) {  // what addr2line wants
    Dl_info info;
    return dladdr(reinterpret_cast<void*>(pc), &info) ? pc - uintptr_t(info.dli_fbase) : 0;
}

struct Zone { size_t start, stop; };
alignas(128) static char shared[ALL_SHARED + ARRAYS * 2 * GUARD];
static Zone zones[ARRAYS];  // between the arrays in it
static size_t dynamic_size, static_size, zone_count;
#if defined(__SANITIZE_THREAD__)
}  // namespace cu
#include "cuda_race.h"
namespace cu {
#define RACE(...) __VA_ARGS__
#else
#define RACE(...)
#define CU_UNTRACED
#endif

// ---- shared memory: at its first use in a block an array gets its place, with a guard zone behind it ---------------
struct Site { uint64_t block; char* place; };  // one declaration, in one instance of its template
static uint64_t block_count;
static CU_UNTRACED char guard(size_t i) { return char(i % 4 ? 0xff : 0xfe); }  // NaN, as unwritten memory, but another

static CU_UNTRACED void add_shared(size_t start, size_t size) {
    for (size_t i = zone_count ? zones[zone_count - 1].stop : start; i < start; ++i) shared[i] = guard(i);
    if (zone_count) zones[zone_count - 1].stop = start;
    const Zone z = zones[zone_count++] = {start + size, start + size + GUARD};
    for (size_t i = z.start; i < z.stop; ++i) shared[i] = guard(i);
    memset(shared + start, 0xff, size);
}
static CU_UNTRACED void* shared_place(Site* site, size_t size, size_t alignment) {
    if (site->block == block_count) return site->place;
    static_size += size;
    if (static_size > STATIC_SHARED || static_size + dynamic_size > ALL_SHARED || zone_count == ARRAYS) {
        CU_FAIL("%zu bytes of static and %zu of dynamic shared memory", static_size, dynamic_size);
        _longjmp(scheduler, 1);
    }
    size_t start = (zones[zone_count - 1].stop + alignment - 1) / alignment * alignment;
    if (start % (2 * alignment) == 0) start += alignment;  // aligned no better than was asked for
    add_shared(start, size);
    *site = {block_count, shared + start};
    return site->place;
}
template <class T, size_t alignment> static inline T& shared_array(Site& site) {
    return *static_cast<T*>(shared_place(&site, sizeof(T), alignof(T) > alignment ? alignof(T) : alignment));
}
template <class T> static inline T* dynamic_array() { return reinterpret_cast<T*>(shared); }

static void check_shared() {
    for (size_t k = 0; k < zone_count; ++k)
        for (size_t i = zones[k].start; i < zones[k].stop; ++i)
            if (shared[i] != guard(i)) CU_FAIL("%s: shared memory written out of bounds", where());
}

// ---- switching: makecontext enters a stack once, then _setjmp and _longjmp (no system call) -------------------------
static __attribute__((noinline)) void to_scheduler() {
    RACE(race_set(false);)
    if (!_setjmp(fibers[current].stack->context)) _longjmp(scheduler, 1);
    RACE(race_set(true);)
}
static void stack_main() {
    for (;;) {  // a stack serves one CUDA thread after another
        RACE(race_set(true);)
        body(body_argument);
        RACE(race_set(false);)
        fibers[current].state = DONE;
        --alive;
        to_scheduler();
    }
}
static __attribute__((noinline)) void run(Stack* s) {
    if (_setjmp(scheduler)) return;
    if (s->made) _longjmp(s->context, 1);
    s->made = true;
    ucontext_t u;
    getcontext(&u);
    u.uc_link = nullptr;
    u.uc_stack.ss_sp = s->memory;
    u.uc_stack.ss_size = STACK - 64 * ((s - stacks) % 61);  // spread the stacks over cache sets
    makecontext(&u, stack_main, 0);
    setcontext(&u);
}

// ---- primitives ---------------------------------------------------------------------------------------------------
static void wait_as(State state, int line) {
    RACE(race_set(false);)
    fibers[current].state = state;
    fibers[current].line = line;
    to_scheduler();
}
// Rendezvous of the lanes named in `mask`; returns the record of what they brought.
static Meeting* meet(unsigned mask, uint64_t value, int line) {
    RACE(race_set(false);)
    auto& places = meetings[current >> 5];
    const int lane = current & 31;
    if (!(mask >> lane & 1)) CU_FAIL("%s: line %d: lane %d is not in its own mask 0x%08x", who(), line, lane, mask);
    Meeting* m = nullptr;
    for (auto& p : places) if (p.mask == mask) { m = &p; break; }
    if (!m) for (auto& p : places) if (!p.arrived) { m = &p; m->mask = mask; break; }
    if (!m) { CU_FAIL("%s: line %d: more than 4 masks in flight", who(), line); m = places; }
    if (m->arrived && m->line != line) CU_FAIL("%s: warp primitives at lines %d and %d meet", who(), m->line, line);
    m->line = line;
    m->slot[lane] = value;
    m->arrived |= 1u << lane;
    wait_as(AT_WARP, line);  // until the scheduler finds that all have come
    return m;
}
template <class T> static uint64_t pack(T v) { uint64_t u = 0; memcpy(&u, &v, sizeof v); return u; }
template <class T> static T unpack(uint64_t u) { T v; memcpy(&v, &u, sizeof v); return v; }
template <class T> static T shuffle(int line, unsigned mask, T v, int from, int width, bool in_range) {
    static_assert(sizeof(T) <= 8, "a shuffle carries at most 8 bytes");
    Meeting* m = meet(mask, pack(v), line);
    if (!in_range) return v;
    const int s = (current & 31 & ~(width - 1)) + (from & (width - 1));
    return unpack<T>(m->out_mask >> s & 1 ? m->out[s] : ~uint64_t(0));  // of an absent lane: NaN
}
#define CU_SHUFFLE(name, X, from, in_range)                                                           \
    template <class T> static T name(int line, unsigned mask, T v, X x, int width = 32) {             \
        const int own = current & (width - 1);                                                        \
        return shuffle(line, mask, v, from, width, in_range); }
CU_SHUFFLE(shfl, int, x, true)
CU_SHUFFLE(shfl_down, unsigned, own + int(x), own + int(x) < width)
CU_SHUFFLE(shfl_up, unsigned, own - int(x), own - int(x) >= 0)
CU_SHUFFLE(shfl_xor, int, own ^ x, (own ^ x) < width)
static unsigned ballot(int line, unsigned mask, bool vote) {
    Meeting* m = meet(mask, vote, line);
    unsigned votes = 0;
    for (int i = 0; i < 32; ++i) if (m->out_mask >> i & 1 && m->out[i]) votes |= 1u << i;
    return votes;
}
static inline unsigned mask_or_all(unsigned mask = 0xffffffffu) { return mask; }

// ---- scheduler ----------------------------------------------------------------------------------------------------
static bool release_warp(int warp) {  // ends every meeting to which all its living lanes have come
    bool any = false;
    unsigned living = 0;
    for (int l = 0; l < 32 && warp * 32 + l < threads; ++l)
        if (fibers[warp * 32 + l].state != DONE) living |= 1u << l;
    for (auto& m : meetings[warp]) {
        if (!m.arrived || (m.mask & living) & ~m.arrived) continue;
        memcpy(m.out, m.slot, sizeof m.out);
        m.out_mask = std::exchange(m.arrived, 0);
        for (int l = 0; l < 32; ++l) if (m.out_mask >> l & 1) fibers[warp * 32 + l].state = READY;
        RACE(++warp_epoch[warp];)
        any = true;
    }
    return any;
}
static bool release_barrier() {
    int n = 0, line = 0;
    for (int i = 0; i < threads; ++i) {
        const Fiber& f = fibers[i];
        if (f.state != AT_BARRIER) continue;
        if (n++ && f.line != line) CU_FAIL("divergent __syncthreads: lines %d and %d, %s", line, f.line, who());
        line = f.line;
    }
    if (!n || n != alive) return false;
    if (alive != threads) CU_FAIL("__syncthreads at line %d reached by %d of %d threads (others returned), %s", line,
                                  alive, threads, who());
    for (int i = 0; i < threads; ++i) if (fibers[i].state == AT_BARRIER) fibers[i].state = READY;
    RACE(++block_epoch;)
    return true;
}
// order: 0 ascending, 1 descending, else the seed of a new random order at every step
static uint64_t random_state;
static unsigned random_below(unsigned n) {
    random_state ^= random_state << 13; random_state ^= random_state >> 7; random_state ^= random_state << 17;
    return unsigned(random_state >> 33) % n;
}
static void permute(int* p, int n, int order) {
    for (int i = 0; i < n; ++i) p[i] = order == 1 ? n - 1 - i : i;
    for (int i = n - 1; order > 1 && i > 0; --i) std::swap(p[i], p[random_below(unsigned(i) + 1)]);
}
// A warp runs as far as it can, to the block's barrier or its end, before the next one starts: the least fair schedule
// that is legal, so that a missing barrier shows.
static void run_block(int order) {
    int used = 0, warp_order[MAX_THREADS / 32], lane_order[32];
    const int warps = (threads + 31) / 32;
    Stack* spare = nullptr;
    alive = threads;
    memset(meetings, 0, sizeof meetings[0] * warps);
    for (int i = 0; i < threads; ++i) {
        fibers[i].state = FRESH;
        fibers[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    }
    while (alive && !error[0]) {
        permute(warp_order, warps, order);
        for (int k = 0; k < warps; ++k) do {
            permute(lane_order, 32, order);
            for (int l = 0; l < 32 && !error[0]; ++l) {
                current = warp_order[k] * 32 + lane_order[l];
                Fiber& f = fibers[current];
                if (current >= threads || f.state > READY) continue;
                if (f.state == FRESH) { f.stack = spare ? spare : &stacks[used++]; spare = nullptr; f.state = READY; }
                threadIdx = f.index;
                run(f.stack);
                if (f.state == DONE && used == 1) spare = f.stack;  // no barrier so far: one stack serves all
            }
        } while (!error[0] && release_warp(warp_order[k]));
        if (alive && !error[0] && !release_barrier())
            CU_FAIL("deadlock in %s: %d of %d threads wait", where(), alive, threads);
    }
    check_shared();
    if (error[0]) for (auto& s : stacks) s.made = false;  // abandon half-run threads
}

// ---- launching ----------------------------------------------------------------------------------------------------
static void on_signal(int number, siginfo_t* info, void* context) {
    uintptr_t pc = 0;
#if defined(__x86_64__)
    pc = uintptr_t(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
    pc = static_cast<ucontext_t*>(context)->uc_mcontext.pc;
#endif
    const char* what = number == SIGILL ? "undefined behaviour (index, alignment or overflow)" : strsignal(number);
    CU_FAIL("%s: %s, address %p; pc 0x%zx", who(), what, info->si_addr, offset_in_library(pc));
    _longjmp(scheduler, 1);
}
static bool prepare(const unsigned* grid, const unsigned* block, size_t dynamic, int order) {
    error[0] = 0;
    random_state = 0x9E3779B97F4A7C15ull * (unsigned(order) + 1u) | 1;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    dynamic_size = dynamic;
    const uint64_t n = uint64_t(block[0]) * block[1] * block[2];
    if (n < 1 || n > MAX_THREADS || block[2] > 64)
        CU_FAIL("a block of (%u,%u,%u) threads", block[0], block[1], block[2]);
    if (!grid[0] || !grid[1] || !grid[2] || grid[0] >> 31 || grid[1] >> 16 || grid[2] >> 16)
        CU_FAIL("a grid of (%u,%u,%u) blocks", grid[0], grid[1], grid[2]);
    if (dynamic > ALL_SHARED) CU_FAIL("%zu bytes of dynamic shared memory", dynamic);
    threads = int(n);
    if (!stacks[0].memory) {
        char* m = static_cast<char*>(mmap(nullptr, size_t(MAX_THREADS) * STACK, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        for (auto& s : stacks) { s.memory = m; m += STACK; }
    }
    return !error[0];
}
static void run_grid(int order) {
    const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    struct sigaction action = {}, old[4];
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    for (int i = 0; i < 4; ++i) sigaction(signals[i], &action, &old[i]);
    RACE(race_start();)
    const uint64_t blocks = uint64_t(gridDim.x) * gridDim.y * gridDim.z, first = order > 1 ? random_below(blocks) : 0;
    for (uint64_t i = 0; i < blocks && !error[0]; ++i) {
        const uint64_t b = order == 1 ? blocks - 1 - i : (first + i) % blocks;
        blockIdx = {unsigned(b % gridDim.x), unsigned(b / gridDim.x % gridDim.y), unsigned(b / gridDim.x / gridDim.y)};
        RACE(block_number = int(b); ++block_epoch;)
        ++block_count;
        static_size = zone_count = 0;
        add_shared(0, dynamic_size);
        run_block(order);
    }
    for (int i = 0; i < 4; ++i) sigaction(signals[i], &old[i], nullptr);
}
template <class... A, size_t... I>
static int launch(void (*kernel)(A...), const unsigned* grid, const unsigned* block, size_t dynamic, void** arguments,
                  int order, std::index_sequence<I...>) {
    struct Call { void (*kernel)(A...); void** a; } call{kernel, arguments};
    body = [](void* p) { static_cast<Call*>(p)->kernel(*static_cast<A*>(static_cast<Call*>(p)->a[I])...); };
    body_argument = &call;
    if (prepare(grid, block, dynamic, order)) run_grid(order);
    return error[0] != 0;
}
// A letter of NumPy's dtype per parameter, after P for a pointer and p for a pointer to const.
template <class T> static char letter() {
    using U = std::remove_cv_t<T>;
    if (std::is_same_v<U, bool>) return '?';
    if (std::is_floating_point_v<U>) return sizeof(U) == 4 ? 'f' : 'd';
    return !std::is_integral_v<U> ? 'v' : (std::is_signed_v<U> ? "?bh?i???q" : "?BH?I???Q")[sizeof(U)];
}
template <class... A> static const char* signature(void (*)(A...)) {
    static char text[256];  // zeros: they end the string
    char* p = text;
    ((std::is_pointer_v<A> ? void(*p++ = std::is_const_v<std::remove_pointer_t<A>> ? 'p' : 'P') : void(),
      *p++ = letter<std::remove_pointer_t<A>>()), ...);
    return text;
}
template <class... A> static constexpr std::index_sequence_for<A...> indices(void (*)(A...)) { return {}; }
}  // namespace cu
#define CU_EXPORT(i, ...)                                                                                      \
    extern "C" int cu_launch_##i(const unsigned* g, const unsigned* b, size_t dynamic, void** a, int order) { \
        return cu::launch(__VA_ARGS__, g, b, dynamic, a, order, cu::indices(__VA_ARGS__)); }                   \
    extern "C" const char* cu_signature_##i() { return cu::signature(__VA_ARGS__); }
extern "C" const char* cu_error() { return cu::error; }

// ---- names that kernels use ---------------------------------------------------------------------------------------
#define __syncthreads() cu::wait_as(cu::AT_BARRIER, __LINE__)
#define __syncwarp(...) ((void)cu::meet(cu::mask_or_all(__VA_ARGS__), 0, __LINE__))
#define __shfl_sync(...) cu::shfl(__LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) cu::shfl_down(__LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) cu::shfl_up(__LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) cu::shfl_xor(__LINE__, __VA_ARGS__)
#define __ballot_sync(mask, p) cu::ballot(__LINE__, mask, p)
#define __any_sync(mask, p) (cu::ballot(__LINE__, mask, p) != 0)
#define __all_sync(mask, p) (cu::ballot(__LINE__, mask, !(p)) == 0)
#define CU_ATOMIC(name, change)                                              \
    template <class T, class U> static inline T name(T* p, U v) {            \
        RACE(cu::Atomic atomic;)                                             \
        const T old = *p; change; return old; }
CU_ATOMIC(atomicAdd, *p = old + T(v))
CU_ATOMIC(atomicMax, if (T(v) > old) *p = T(v))
CU_ATOMIC(atomicMin, if (T(v) < old) *p = T(v))
#define __threadfence() ((void)0)
template <class T> static inline T __ldg(const T* p) { return *p; }

template <class A, class B> using CuCommon = std::enable_if_t<
    std::is_same_v<A, B> || (std::is_floating_point_v<A> && std::is_floating_point_v<B>) ||
    (std::is_integral_v<A> && std::is_integral_v<B> && sizeof(A) == sizeof(B)), std::common_type_t<A, B>>;
#define CU_EXTREME(name, floating, less)                                                           \
    template <class A, class B> static inline CuCommon<A, B> name(A a, B b) {                      \
        using C = CuCommon<A, B>;                                                                  \
        if constexpr (std::is_floating_point_v<C>) return floating(C(a), C(b));                    \
        else return C(a) less C(b) ? C(a) : C(b); }
CU_EXTREME(min, fmin, <)  // of a NaN and a number: the number
CU_EXTREME(max, fmax, >)
static inline float rsqrt(float x) { return 1.f / sqrtf(x); }
static inline double rsqrt(double x) { return 1. / sqrt(x); }
#define __expf(x) expf(x)  // macros: glibc declares functions of these names
#define __logf(x) logf(x)

// NVRTC, which includes no headers, knows none of these: neither may the kernels here.
#undef INFINITY
#undef NAN
#undef M_PI
#pragma GCC poison INFINITY NAN M_PI FLT_MAX DBL_MAX INT_MAX std
#pragma GCC poison int8_t uint8_t int16_t uint16_t int32_t uint32_t int64_t uint64_t
