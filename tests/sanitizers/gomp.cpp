// The OpenMP runtime in builds with ThreadSanitizer: what gcc calls for the one region of cpp/parallel.h, by std::thread.
//
// TSan does not see how libgomp's threads wait for one another (futexes, in a library built without TSan): it would
// report every region as a race with what the caller did before and does after. It does see threads that begin and are
// joined. So parallel.h is compiled as always, -fopenmp and all; only what its region runs on is another.
#include <thread>
#include <vector>

namespace {
thread_local int thread_number = 0, team_size = 1;
}

extern "C" {
int omp_get_thread_num() { return thread_number; }
int omp_get_num_threads() { return team_size; }

void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
  const auto run = [=](unsigned k) {
    thread_number = static_cast<int>(k), team_size = static_cast<int>(threads);
    body(data);
    thread_number = 0, team_size = 1;
  };
  std::vector<std::thread> others;
  for (unsigned k = 1; k < threads; ++k) others.emplace_back(run, k);
  run(0);
  for (std::thread& other : others) other.join();
}
}
