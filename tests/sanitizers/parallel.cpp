// Four threads that each cut work into slices with parallel.h, each with its own limit of threads.
#include "parallel.h"

#include <cstdio>
#include <thread>
#include <vector>

static bool in_slices(int limit) {
  const Chosen here(Choice{nullptr, limit});
  constexpr int64_t rows = 64, cols = 1 << 13;
  std::vector<float> x(rows * cols, 1.0f), sums(rows);
  bool good = true;
  for (int turn = 0; turn < 8; ++turn) {
    good &= parallel_rows(rows, cols, [&](int64_t first, int64_t count, int) {
      for (int64_t r = first; r < first + count; ++r) {
        sums[r] = 0;
        for (int64_t c = 0; c < cols; ++c) sums[r] += x[r * cols + c];
      }
      return thread_limit() == limit;
    });
    good &= parallel_elements(rows * cols, [&](int64_t first, int64_t count, int) {
      for (int64_t i = first; i < first + count; ++i) x[i] += 1;
      return true;
    });
    good &= !parallel_slices(rows, 4, [&](int64_t, int64_t, int slice) { return slice != 2; });
    for (const float sum : sums) good &= sum == static_cast<float>(cols * (turn + 1));
  }
  return good;
}

int main() {
  std::atomic<bool> good{true};
  std::vector<std::thread> callers;
  for (const int limit : {1, 2, 3, 5})
    callers.emplace_back([&good, limit] {
      if (!in_slices(limit)) good = false;
    });
  for (std::thread& caller : callers) caller.join();
  std::puts(good ? "good" : "wrong");
  return good ? 0 : 1;
}
