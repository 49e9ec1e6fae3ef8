// Compiled once per instruction set and family with -DISA=<name> -DFAMILY=<name>; exports exactly one symbol, the table
// ISA::FAMILY.
#define STRING_(x) #x
#define STRING(x) STRING_(x)
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
// clang-format off
#define FILE_OF_FAMILY(suffix) STRING(kernels/FAMILY.suffix)
// clang-format on

#include FILE_OF_FAMILY(h)

#define KERNEL(result, name, args) name,
namespace ISA {
extern const JOIN(FAMILY, _kernels) FAMILY;
const JOIN(FAMILY, _kernels) FAMILY = {
#include FILE_OF_FAMILY(inc)
};
}  // namespace ISA
