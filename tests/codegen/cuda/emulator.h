// Runs CUDA C on the CPU: the threads of a block are fibers that take turns at barriers, blocks follow each other.
//
// Asynchronous copies are done when the code waits for them and not before, so that a missing wait is seen; shared
// memory begins as NaN in every block; a barrier that some threads never reach ends the process. HASTE_EMULATOR_ORDER=
// reversed runs the threads from the last to the first, so that code which needs a barrier it hasn't got gives another
// result.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <ucontext.h>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)

#define CUDART_INF_F INFINITY
#define CUDART_NAN_F NAN

using std::fabs;

template <class T> T max(T a, T b) { return a > b ? a : b; }
template <class T> T min(T a, T b) { return a < b ? a : b; }
template <> inline float max(float a, float b) { return fmaxf(a, b); }
template <> inline float min(float a, float b) { return fminf(a, b); }
inline int __float_as_int(float x) { int y; memcpy(&y, &x, 4); return y; }
inline float __int_as_float(int x) { float y; memcpy(&y, &x, 4); return y; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
template <class T> T __ldg(const T* x) { return *x; }
inline unsigned __activemask() { return 0xffffffffu; }

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

namespace emulator {

struct Index { int x = 0, y = 0, z = 0; };

struct Barrier {
  int arrived = 0, alive = 0;
  long turn = 0;
};

struct Copy { void* to; const void* from; int bytes, valid; };

struct Fiber {
  ucontext_t start;
  jmp_buf state;
  bool begun = false, done = false;
  Index thread;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
  std::unique_ptr<char[]> stack;
};

constexpr int kStackBytes = 96 << 10;
inline std::vector<Fiber> fibers;
inline Fiber* current = nullptr;
inline jmp_buf scheduler;
inline ucontext_t scheduler_start;
inline Barrier block_barrier;
inline std::vector<Barrier> warp_barriers;
inline std::vector<std::array<double, 32>> warp_values;
inline std::function<void()> body;
inline bool progress = false;
inline Index block;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulator: %s\n", what);
  std::abort();
}

inline int rank() { return current->thread.x; }
inline Barrier& warp() { return warp_barriers[rank() / 32]; }
inline std::array<double, 32>& values() { return warp_values[rank() / 32]; }

inline void yield() {
  if (_setjmp(current->state) == 0) _longjmp(scheduler, 1);
}

inline void release(Barrier& barrier) {
  if (barrier.alive > 0 && barrier.arrived == barrier.alive) {
    barrier.arrived = 0;
    ++barrier.turn;
    progress = true;
  }
}

inline void wait(Barrier& barrier) {
  long turn = barrier.turn;
  ++barrier.arrived;
  progress = true;
  release(barrier);
  while (barrier.turn == turn) yield();
}

inline int barrier_line = 0;

inline void wait_at(int line) {
  if (block_barrier.arrived == 0) barrier_line = line;
  if (barrier_line != line) fail("threads of a block wait at different barriers");
  wait(block_barrier);
}

inline void finish_group(Fiber& fiber) {
  for (const Copy& copy : fiber.groups.front()) {
    if (copy.valid) memcpy(copy.to, copy.from, copy.bytes);
    else memset(copy.to, 0, copy.bytes);
  }
  fiber.groups.erase(fiber.groups.begin());
}

inline void enter() {
  body();
  current->done = true;
  progress = true;
  --block_barrier.alive;
  release(block_barrier);
  --warp().alive;
  release(warp());
  _longjmp(scheduler, 1);
}

inline void run_block(int threads, bool reversed) {
  if ((int)fibers.size() < threads) fibers.resize(threads);
  block_barrier = Barrier{0, threads, 0};
  warp_barriers.assign((threads + 31) / 32, Barrier{});
  warp_values.resize(warp_barriers.size());
  for (int t = 0; t < threads; ++t) {
    Fiber& fiber = fibers[t];
    fiber.begun = fiber.done = false;
    fiber.thread = {t, 0, 0};
    fiber.open.clear();
    fiber.groups.clear();
    if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
    ++warp_barriers[t / 32].alive;
  }
  for (int left = threads; left > 0;) {
    progress = false;
    for (int i = 0; i < threads; ++i) {
      Fiber& fiber = fibers[reversed ? threads - 1 - i : i];
      if (fiber.done) continue;
      current = &fiber;
      if (_setjmp(scheduler) == 0) {
        if (fiber.begun) _longjmp(fiber.state, 1);
        fiber.begun = progress = true;
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.get();
        fiber.start.uc_stack.ss_size = kStackBytes;
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, enter, 0);
        setcontext(&fiber.start);
      }
      if (current->done) --left;
    }
    if (!progress && left > 0) fail("some threads wait at a barrier that the others never reach");
  }
  for (int t = 0; t < threads; ++t)
    if (!fibers[t].open.empty() || !fibers[t].groups.empty()) {
      // Copies of nothing may be left over by a pipeline's last steps.
      for (auto& group : fibers[t].groups)
        if (!group.empty()) fail("a block ends with copies under way");
    }
}

template <class Kernel> void launch(const int* grid, int threads, void (*poison)(), Kernel kernel) {
  const char* order = std::getenv("HASTE_EMULATOR_ORDER");
  bool reversed = order && std::string(order) == "reversed";
  body = kernel;
  for (block.z = 0; block.z < grid[2]; ++block.z)
    for (block.y = 0; block.y < grid[1]; ++block.y)
      for (block.x = 0; block.x < grid[0]; ++block.x) {
        poison();
        run_block(threads, reversed);
      }
}

// A value from every lane of the warp, then the one that `source` holds.
template <class T> T shuffle(T value, int source, bool keep) {
  int lane = rank() % 32;
  double stored = 0;
  memcpy(&stored, &value, sizeof(T));
  values()[lane] = stored;
  wait(warp());
  double found = values()[source & 31];
  wait(warp());
  T result;
  memcpy(&result, &found, sizeof(T));
  return keep ? value : result;
}

inline float rounded(float value, int bits, bool ties_away) {
  if (!std::isfinite(value)) return value;
  uint32_t word;
  memcpy(&word, &value, 4);
  uint32_t half = 1u << (bits - 1);
  uint32_t add = ties_away ? half : half - 1 + ((word >> bits) & 1);
  word = (word + add) & ~((1u << bits) - 1);
  memcpy(&value, &word, 4);
  return value;
}

inline unsigned bits_of(float value) {
  unsigned bits;
  memcpy(&bits, &value, 4);
  return bits;
}
inline float value_of(unsigned bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

struct Fragments { float a[8], b[4]; };
inline std::vector<std::array<Fragments, 32>> warp_fragments;

// A word is a TF32 number, whose last bits are ignored, or two bfloat16 ones, the first in the low half.
template <int depth> void unpack(float* values, const unsigned* words, int count) {
  for (int i = 0; i < count; ++i) {
    if (depth == 8) {
      values[i] = value_of(words[i] & ~0x1fffu);
    } else {
      values[2 * i] = value_of(words[i] << 16);
      values[2 * i + 1] = value_of(words[i] & 0xffff0000u);
    }
  }
}

// d += a b for one warp, a row by row 16 × depth, b column by column depth × 8; the layouts of the PTX manual.
template <int depth> void mma(float* d, const unsigned* a, const unsigned* b) {
  warp_fragments.resize(warp_barriers.size());
  auto& held = warp_fragments[rank() / 32];
  int lane = rank() % 32;
  unpack<depth>(held[lane].a, a, 4);
  unpack<depth>(held[lane].b, b, 2);
  wait(warp());
  auto left = [&](int row, int k) {
    if (depth == 8) return held[row % 8 * 4 + k % 4].a[row / 8 + 2 * (k / 4)];
    return held[row % 8 * 4 + k % 8 / 2].a[k % 2 + 2 * (row / 8) + 4 * (k / 8)];
  };
  auto right = [&](int k, int column) {
    if (depth == 8) return held[column * 4 + k % 4].b[k / 4];
    return held[column * 4 + k % 8 / 2].b[k % 2 + 2 * (k / 8)];
  };
  for (int i = 0; i < 4; ++i) {
    int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < depth; ++k) d[i] += left(row, k) * right(k, column);
  }
  wait(warp());
}

}  // namespace emulator

#define threadIdx (emulator::current->thread)
#define blockIdx (emulator::block)

// All threads must come to the same barrier in the code, not just to any.
#define __syncthreads() emulator::wait_at(__LINE__)
inline void __syncwarp(unsigned = 0) { emulator::wait(emulator::warp()); }
template <class T> T __shfl_down_sync(unsigned, T value, int offset, int width = 32) {
  int lane = emulator::rank() % 32, source = lane + offset;
  return emulator::shuffle(value, source, source / width != lane / width || source > 31);
}
template <class T> T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
  return emulator::shuffle(value, (emulator::rank() % 32) ^ mask, false);
}
template <class T> T __shfl_sync(unsigned, T value, int source, int width = 32) {
  int lane = emulator::rank() % 32;
  return emulator::shuffle(value, lane / width * width + source % width, false);
}

inline void haste_copy_16(const float* to, int index, const float* from, int valid) {
  if ((uintptr_t)(to + index) % 16 || (valid && (uintptr_t)from % 16)) emulator::fail("a 16-byte copy isn't aligned");
  emulator::current->open.push_back({(void*)(to + index), from, 16, valid});
}
inline void haste_copy_4(const float* to, int index, const float* from, int valid) {
  emulator::current->open.push_back({(void*)(to + index), from, 4, valid});
}
inline void haste_copies_commit() {
  emulator::current->groups.push_back(std::move(emulator::current->open));
  emulator::current->open.clear();
}
inline void haste_copies_wait(int pending) {
  while ((int)emulator::current->groups.size() > pending) emulator::finish_group(*emulator::current);
}
inline float haste_round_tf32(float value) { return emulator::rounded(value, 13, true); }
inline unsigned haste_tf32(float value) { return emulator::bits_of(haste_round_tf32(value)); }
inline unsigned haste_bits(float value) { return emulator::bits_of(value); }
inline unsigned haste_bf16x2(float low, float high) {
  return emulator::bits_of(emulator::rounded(high, 16, false)) | emulator::bits_of(emulator::rounded(low, 16, false)) >> 16;
}
inline void haste_mma_tf32(float* d, const unsigned* a, const unsigned* b) { emulator::mma<8>(d, a, b); }
inline void haste_mma_bf16(float* d, const unsigned* a, const unsigned* b) { emulator::mma<16>(d, a, b); }

// What TVM passes to a packed function: a tag, and a value of eight bytes.
struct Argument {
  int32_t kind;
  uint32_t padding;
  union { int64_t integer; double real; void* pointer; };
};
