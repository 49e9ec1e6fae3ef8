// The k lowest of many scores, exactly and in few passes, without sorting.
#pragma once
#include <cstdint>

#include "../kernels.h"

// scores: sets x n. mask: sets x n bytes, 0 for the `count` lowest of each set (the lower index first among equals), 1
// for the rest. Returns whether every score was finite.
bool lowest_mask(const Kernels& kernels, Weights scores, int64_t sets, int64_t n, int64_t count, bool absolute,
                 uint8_t* mask);

// The same, as weights: the pruned ones become 0.
bool prune_lowest(const Kernels& kernels, Weights w, Weights scores, int64_t sets, int64_t n, int64_t count,
                  bool absolute, MutableWeights out, bool nontemporal);

// Where the answer is known already, of a set that these scores are a piece of: keys under `cutoff.cut` are pruned, and
// the first `cutoff.ties` of those equal to it. Returns how many of these there were.
int64_t mask_below(const Kernels& kernels, Weights scores, int64_t n, bool absolute, Cutoff cutoff, uint8_t* mask);
int64_t prune_below(const Kernels& kernels, Weights w, Weights scores, int64_t n, bool absolute, Cutoff cutoff,
                    MutableWeights out, bool nontemporal);

// Adds to 65536 bins, as Kernels::count_keys does. Returns whether every score was finite.
bool count_keys(const Kernels& kernels, Weights scores, int64_t n, bool absolute, bool upper, int32_t prefix,
                int64_t* bins);
