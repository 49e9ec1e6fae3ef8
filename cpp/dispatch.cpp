#include "dispatch.h"

#include "parallel.h"

namespace {
struct Isa {
  Kernels kernels;
  bool supported;
};
}  // namespace

// __builtin_cpu_supports reads CPUID and, for everything wider than SSE, XGETBV: what the operating system has not
// enabled does not count.
#if defined(__x86_64__)
ISA_TABLE(x86_v4)
ISA_TABLE(x86_v3)
ISA_TABLE(x86_v2)
static std::vector<Isa> detect() {
  __builtin_cpu_init();
  return {
      {x86_v4::kernels(), __builtin_cpu_supports("x86-64-v4") != 0},
      {x86_v3::kernels(), __builtin_cpu_supports("x86-64-v3") != 0},
      {x86_v2::kernels(), __builtin_cpu_supports("x86-64-v2") != 0},
  };
}
#elif defined(__aarch64__)
ISA_TABLE(arm_neon)
static std::vector<Isa> detect() { return {{arm_neon::kernels(), true}}; }
#else
#error "quantrim builds for x86-64 and aarch64"
#endif

static const std::vector<Isa>& isas() {
  static const std::vector<Isa> rows = detect();
  return rows;
}

static const Kernels* find(const std::string& name) {
  for (const Isa& row : isas())
    if (row.supported && (name.empty() || name == row.kernels.isa)) return &row.kernels;
  return nullptr;
}

std::vector<std::string> built_isas() {
  std::vector<std::string> names;
  for (const Isa& row : isas()) names.push_back(row.kernels.isa);
  return names;
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Isa& row : isas())
    if (row.supported) names.push_back(row.kernels.isa);
  return names;
}

const Kernels* kernels_of(const std::string& name) { return name.empty() ? nullptr : find(name); }

const Kernels& active() {
  const auto* own = static_cast<const Kernels*>(own_choice.kernels);
  return own ? *own : *find("");
}
