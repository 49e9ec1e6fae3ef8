// What this machine's memory can do: read, copy and fill, with plain stores and past the caches, ahead of itself or not.
//
// Every function takes n bytes (a multiple of 4096 per thread is best) at addresses that are multiples of 64.
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>

typedef struct {
  const char* name;
  float (*read)(const float*, size_t);
  float (*read_ahead)(const float*, size_t);
  void (*copy)(const float*, float*, size_t);
  void (*stream_copy)(const float*, float*, size_t);
  void (*stream_copy_ahead)(const float*, float*, size_t);
  void (*fill)(float*, size_t);
  void (*stream_fill)(float*, size_t);
} Loops;

enum { kAhead = 1024, kPage = 1024 };  // bytes that reading looks ahead; floats of a page that copying fetches first

// V holds `lanes` floats. Four of them are in flight; n counts floats.
#define LOOPS(isa, V, lanes, load, store, stream, add, zero, one)                                                   \
  __attribute__((target(#isa))) static float isa##_sum(V a) {                                                       \
    float lane[lanes], total = 0;                                                                                   \
    memcpy(lane, &a, sizeof a);                                                                                     \
    for (int i = 0; i < lanes; ++i) total += lane[i];                                                               \
    return total;                                                                                                   \
  }                                                                                                                 \
  __attribute__((target(#isa))) static float isa##_read(const float* x, size_t n) {                                 \
    V a = zero, b = zero, c = zero, d = zero;                                                                       \
    for (size_t i = 0; i + 4 * lanes <= n; i += 4 * lanes) {                                                        \
      a = add(a, load(x + i));                                                                                      \
      b = add(b, load(x + i + lanes));                                                                              \
      c = add(c, load(x + i + 2 * lanes));                                                                          \
      d = add(d, load(x + i + 3 * lanes));                                                                          \
    }                                                                                                               \
    return isa##_sum(add(add(a, b), add(c, d)));                                                                    \
  }                                                                                                                 \
  __attribute__((target(#isa))) static float isa##_read_ahead(const float* x, size_t n) {                           \
    V a = zero, b = zero, c = zero, d = zero;                                                                       \
    for (size_t i = 0; i + 64 <= n; i += 64) {                                                                      \
      for (int k = 0; k < 4; ++k) _mm_prefetch((const char*)(x + i + 16 * k) + kAhead, _MM_HINT_T0);                \
      for (size_t j = i; j < i + 64; j += 4 * lanes) {                                                              \
        a = add(a, load(x + j));                                                                                    \
        b = add(b, load(x + j + lanes));                                                                            \
        c = add(c, load(x + j + 2 * lanes));                                                                        \
        d = add(d, load(x + j + 3 * lanes));                                                                        \
      }                                                                                                             \
    }                                                                                                               \
    return isa##_sum(add(add(a, b), add(c, d)));                                                                    \
  }                                                                                                                 \
  __attribute__((target(#isa))) static void isa##_copy(const float* x, float* y, size_t n) {                        \
    for (size_t i = 0; i + 64 <= n; i += 64)                                                                        \
      for (size_t j = i; j < i + 64; j += lanes) store(y + j, load(x + j));                                         \
  }                                                                                                                 \
  __attribute__((target(#isa))) static void isa##_stream_copy(const float* x, float* y, size_t n) {                 \
    for (size_t i = 0; i + 64 <= n; i += 64)                                                                        \
      for (size_t j = i; j < i + 64; j += lanes) stream(y + j, load(x + j));                                        \
    _mm_sfence();                                                                                                   \
  }                                                                                                                 \
  __attribute__((target(#isa))) static void isa##_stream_copy_ahead(const float* x, float* y, size_t n) {           \
    for (size_t i = 0; i + kPage <= n; i += kPage) {                                                                \
      for (size_t j = i; j < i + kPage; j += 16) _mm_prefetch((const char*)(x + j), _MM_HINT_T0);                   \
      for (size_t j = i; j < i + kPage; j += lanes) stream(y + j, load(x + j));                                     \
    }                                                                                                               \
    _mm_sfence();                                                                                                   \
  }                                                                                                                 \
  __attribute__((target(#isa))) static void isa##_fill(float* y, size_t n) {                                        \
    for (size_t i = 0; i + 16 <= n; i += 16)                                                                        \
      for (size_t j = i; j < i + 16; j += lanes) store(y + j, one);                                                 \
  }                                                                                                                 \
  __attribute__((target(#isa))) static void isa##_stream_fill(float* y, size_t n) {                                 \
    for (size_t i = 0; i + 16 <= n; i += 16)                                                                        \
      for (size_t j = i; j < i + 16; j += lanes) stream(y + j, one);                                                \
    _mm_sfence();                                                                                                   \
  }                                                                                                                 \
  static const Loops isa = {#isa,                    isa##_read, isa##_read_ahead, isa##_copy, isa##_stream_copy,   \
                            isa##_stream_copy_ahead, isa##_fill, isa##_stream_fill};

LOOPS(sse2, __m128, 4, _mm_load_ps, _mm_store_ps, _mm_stream_ps, _mm_add_ps, _mm_setzero_ps(), _mm_set1_ps(1))
LOOPS(avx2, __m256, 8, _mm256_load_ps, _mm256_store_ps, _mm256_stream_ps, _mm256_add_ps, _mm256_setzero_ps(), _mm256_set1_ps(1))
LOOPS(avx512f, __m512, 16, _mm512_load_ps, _mm512_store_ps, _mm512_stream_ps, _mm512_add_ps, _mm512_setzero_ps(), _mm512_set1_ps(1))

static const Loops* loops(void) {
  if (__builtin_cpu_supports("avx512f")) return &avx512f;
  return __builtin_cpu_supports("avx2") ? &avx2 : &sse2;
}
#else
#error "bandwidth.c knows x86-64 alone"
#endif

const char* isa_name(void) { return loops()->name; }

// Slices of whole pages, one per thread.
#define EACH_SLICE(body)                                                     \
  const Loops* with = loops();                                               \
  const size_t pages = bytes / 4096;                                         \
  _Pragma("omp parallel for num_threads(threads) schedule(static, 1)")       \
  for (int s = 0; s < threads; ++s) {                                        \
    const size_t i = pages * s / threads * 1024, n = pages * (s + 1) / threads * 1024 - i; \
    body;                                                                    \
  }

static volatile float sink;  // so that sums are not thrown away

void read_plain(const float* x, float* y, size_t bytes, int threads) { (void)y; EACH_SLICE(sink = with->read(x + i, n)) }
void read_ahead(const float* x, float* y, size_t bytes, int threads) { (void)y; EACH_SLICE(sink = with->read_ahead(x + i, n)) }
void copy_plain(const float* x, float* y, size_t bytes, int threads) { EACH_SLICE(with->copy(x + i, y + i, n)) }
void copy_stream(const float* x, float* y, size_t bytes, int threads) { EACH_SLICE(with->stream_copy(x + i, y + i, n)) }
void copy_stream_ahead(const float* x, float* y, size_t bytes, int threads) { EACH_SLICE(with->stream_copy_ahead(x + i, y + i, n)) }
void fill_plain(const float* x, float* y, size_t bytes, int threads) { (void)x; EACH_SLICE(with->fill(y + i, n)) }
void fill_stream(const float* x, float* y, size_t bytes, int threads) { (void)x; EACH_SLICE(with->stream_fill(y + i, n)) }
