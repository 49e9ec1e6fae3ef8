// What every kernel header begins with. Their contents are compiled anew for each instruction set, in a namespace of
// its name, and in an anonymous one within it: objects share no symbol that a linker could merge.
#pragma once
#include <cstddef>
#include <type_traits>

#include "../kernels.h"

#ifndef ISA  // in an editor
#define ISA any_isa
#endif

#define FLATTEN __attribute__((flatten))             // helpers and lambdas become tail of the function's loop
#define NOINLINE __attribute__((flatten, noinline))  // except these, which would be compiled again in every caller
