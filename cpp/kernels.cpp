// Compiled once per instruction set with -DISA=<name>; exports exactly one symbol, ISA::kernels.
#include "kernels.h"

#include <cstddef>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#else
#include <arm_neon.h>
#endif

#define KERNEL __attribute__((flatten))           // its helpers and lambdas become part of its loop
#define APART __attribute__((flatten, noinline))  // except for these, which would be compiled again into every caller

namespace ISA {
namespace {
// clang-format off
#include "kernels/vec.h"
#include "kernels/stream.h"
#include "kernels/importance.h"
#include "kernels/pruning.h"
#include "kernels/selection.h"
#include "kernels/packing.h"
#include "kernels/quantization.h"
// clang-format on
}  // namespace

#define STRING_(x) #x
#define STRING(x) STRING_(x)
extern const Kernels kernels;
const Kernels kernels = {STRING(ISA),
#define X(result, name, args) name,
                         KERNELS(X)
#undef X
};
}  // namespace ISA
