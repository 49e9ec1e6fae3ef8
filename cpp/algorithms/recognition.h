// Scales and codes of weights that have been on a grid before.
#pragma once
#include <cstdint>

#include "../kernels.h"

// w: rows x cols. scales, low, high: rows x groups; codes: rows x cols. The largest scale of either sign for which
// every weight of the group is what its dtype makes of a whole multiple of it, rounded to float32 first; low <= 0 <=
// high are the ends of those multiples, at most 255 apart, and codes are multiples less low. high < low where there is
// no such scale. Of scales that give the same multiples the one with the fewest digits is taken. It is negative where 0
// is a minus zero (where both zeros and others are there, there is none), and where no 0 is there and the most positive
// multiple is a power of two that no negative one reaches: -8..7 are fewer bits than -7..8. Returns whether every
// weight was finite.
bool best_grids(const Kernels& kernels, Weights w, int64_t rows, int64_t cols, int64_t group_size, float* scales,
                int32_t* low, int32_t* high, uint8_t* codes);
