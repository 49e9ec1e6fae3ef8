// Which instruction sets were built, which this processor has, and which is in use.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

// name::kernels(): the tables of all families of an instruction set as one.
#define ISA_TABLE(name)                                               \
  namespace name {                                                    \
  FAMILIES(DECLARE_FAMILY)                                            \
  inline Kernels kernels() { return {FAMILIES(NAME_FAMILY){#name}}; } \
  }
#define DECLARE_FAMILY(family) extern const family##_kernels family;
#define NAME_FAMILY(family) family,

std::vector<std::string> built_isas();               // best first
std::vector<std::string> supported_isas();           // those of them that run here
const Kernels* kernels_of(const std::string& name);  // nullptr when unknown or not supported here
const Kernels& active();                             // those that this thread chose, or the best supported ones
