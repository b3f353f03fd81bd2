// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace vtap::plan {

/// Segments in which any bit is set, as their top bits (vtap/abi.h).
inline std::uint64_t any_of_segments(std::uint64_t rules, std::uint64_t top) noexcept {
  return (rules | ((rules & ~top) + ~top)) & top;
}

}  // namespace vtap::plan
