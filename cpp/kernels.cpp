// Compiled once per instruction set and family with -DISA=<name> -DFAMILY=<name>; exports exactly one symbol, the table
// ISA::FAMILY.
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

#define STRING_(x) #x
#define STRING(x) STRING_(x)
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
// clang-format off
#define HEADER STRING(kernels/FAMILY.h)
// clang-format on

namespace ISA {
namespace {
// clang-format off
#include "kernels/vec.h"
#include "kernels/stream.h"
#include HEADER
// clang-format on
}  // namespace

#define NAME(result, name, args) name,
extern const JOIN(FAMILY, _kernels) FAMILY;
const JOIN(FAMILY, _kernels) FAMILY = {JOIN(FAMILY, _rows)(NAME)};
}  // namespace ISA
