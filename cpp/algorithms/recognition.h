// Scales of weights that have been on a grid before.
#pragma once
#include <cstdint>

#include "../kernels.h"

// w: rows x cols. scales, low, high: rows x groups. The largest scale of which every weight of the group is a whole
// multiple of at most 255, as far as the dtype shows, and the range of those multiples; high < low where there is none.
// Returns whether every weight was finite.
bool best_grids(const Kernels& kernels, Weights w, int64_t rows, int64_t cols, int64_t group_size, float* scales,
                int32_t* low, int32_t* high);
