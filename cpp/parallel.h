// The only OpenMP, and the only place that touches the floating-point environment.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// What the calling thread computes with, set before each call (bindings/choice.cpp): kernels (dispatch.h says which),
// nullptr for the best, and how many threads it may use.
struct Choice {
  const void* kernels = nullptr;
  int threads = 1;
};
inline thread_local Choice own_choice;

// Threads that a call may use.
inline int thread_limit() { return own_choice.threads; }

// The choice of the thread for which this one computes for a while.
class Chosen {
  Choice saved_ = own_choice;

 public:
  explicit Chosen(Choice choice) { own_choice = choice; }
  ~Chosen() { own_choice = saved_; }
  Chosen(const Chosen&) = delete;
  Chosen& operator=(const Chosen&) = delete;
};

inline std::atomic<bool> forked_child{false};  // libgomp's threads do not survive fork: a child computes serially

// How this thread rounds and flushes: its control register, less the default and the flags of exceptions that happened.
// 0 is the default: to nearest, subnormals kept, no traps.
#if defined(__x86_64__)
using FloatMode = uint32_t;
constexpr FloatMode kDefaultFloats = 0x1f80, kFloatFlags = 0x3f, kFloatControls = 0xffc0;  // others must stay 0
inline FloatMode float_mode() { return (_mm_getcsr() & kFloatControls) ^ kDefaultFloats; }
inline void set_float_mode(FloatMode mode) {
  _mm_setcsr((_mm_getcsr() & kFloatFlags) | ((mode & kFloatControls) ^ kDefaultFloats));
}
#elif defined(__aarch64__)
using FloatMode = uint64_t;
inline FloatMode float_mode() {
  FloatMode mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
inline void set_float_mode(FloatMode mode) { asm volatile("msr fpcr, %0" ::"r"(mode)); }
#endif

// Kernels compute in the default mode, whatever the caller's thread is set to.
class DefaultFloats {
  FloatMode saved_ = float_mode();

 public:
  DefaultFloats() { set_float_mode(0); }
  ~DefaultFloats() { set_float_mode(saved_); }
  DefaultFloats(const DefaultFloats&) = delete;
  DefaultFloats& operator=(const DefaultFloats&) = delete;
};

// How many slices `count` items of `size` elements each are worth.
inline int slice_count(int64_t count, int64_t size) {
  constexpr int64_t grain = 1 << 16;  // elements per slice worth waking a thread for
  if (forked_child.load(std::memory_order_relaxed)) return 1;
  const int64_t most = std::min<int64_t>(count, thread_limit());
  return static_cast<int>(std::clamp<int64_t>(count * size / grain, 1, std::max<int64_t>(most, 1)));
}

// Calls body(first, count, slice) over `slices` slices of [0, count); whether all of them returned true.
// The body must not throw.
template <class Body>
bool parallel_slices(int64_t count, int slices, const Body& body) {
  if (slices == 1) {  // without OpenMP and what other threads have to be told, which a small call would notice
    const DefaultFloats guard;
    return body(0, count, 0);
  }
  bool all = true;
  const Choice choice = own_choice;
#pragma omp parallel for num_threads(slices) schedule(static, 1) reduction(&& : all)
  for (int s = 0; s < slices; ++s) {
    const DefaultFloats guard;
    const Chosen as_caller(choice);
    const int64_t first = count * s / slices;
    const bool good = body(first, count * (s + 1) / slices - first, s);
    all = all && good;
  }
  return all;
}

// The same over rows of `size` elements, with as many slices as they are worth.
template <class Body>
bool parallel_rows(int64_t rows, int64_t size, const Body& body) {
  return parallel_slices(rows, slice_count(rows, size), body);
}

// The same over single elements, in slices of whole cache lines.
template <class Body>
bool parallel_elements(int64_t count, const Body& body) {
  constexpr int64_t block = 1024;
  const int64_t blocks = (count + block - 1) / block;
  return parallel_rows(blocks, block, [&](int64_t first, int64_t some, int slice) {
    return body(first * block, std::min(some * block, count - first * block), slice);
  });
}
