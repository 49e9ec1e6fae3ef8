// A function that converts k elements, called on as many equal slices as there are threads: how its own scheduler would.
#include <stddef.h>
#include <stdint.h>

typedef void (*Convert)(const void* from, void* to, int64_t k);

// blocks: of `size` elements, each `from_bytes` long at the source and `to_bytes` at the target
void convert_slices(Convert convert, const char* from, char* to, int64_t blocks, int64_t size, int64_t from_bytes,
                    int64_t to_bytes, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int s = 0; s < threads; ++s) {
    const int64_t i = blocks * s / threads, n = blocks * (s + 1) / threads - i;
    convert(from + i * from_bytes, to + i * to_bytes, n * size);
  }
}
