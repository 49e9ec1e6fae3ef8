// Codebooks with the least squared error: k values, or a magnitude and its threshold.
#pragma once
#include <cstdint>

#include "../kernels.h"

// w: rows x cols. codebooks: rows x groups x k, ascending. Returns whether every weight was finite.
bool best_clusters(const Kernels& kernels, Weights w, int64_t rows, int64_t cols, int64_t group_size, int k,
                   float* codebooks);

// edges: rows x groups x 2, scales: rows x groups: -scale up to the lower edge, scale above the upper one, 0 between.
bool best_ternary(const Kernels& kernels, Weights w, int64_t rows, int64_t cols, int64_t group_size, float* edges,
                  float* scales);
