// The k lowest of many scores, exactly and in few passes, without sorting.
#pragma once
#include <cstdint>

#include "../kernels.h"

// scores: sets x n. mask: sets x n bytes, 0 for the `count` lowest of each set (the lower index first among equals), 1
// for the rest. Returns whether every score was finite.
bool lowest_mask(const Kernels& kernels, Weights scores, int64_t sets, int64_t n, int64_t count, bool absolute,
                 uint8_t* mask);

// The same, as weights: those that fall become 0.
bool prune_lowest(const Kernels& kernels, Weights w, Weights scores, int64_t sets, int64_t n, int64_t count,
                  bool absolute, MutableWeights out, bool streamed);
