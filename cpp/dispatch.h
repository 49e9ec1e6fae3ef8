// Which instruction sets were built, which this processor has, and which is in use.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

std::vector<std::string> built_isas();      // best first
std::vector<std::string> supported_isas();  // those of them that run here
bool use_isa(const std::string& name);      // false when unknown or not supported here
const Kernels& active();                    // the best supported one, until use_isa
