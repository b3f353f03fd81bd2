// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace vtap::plan {

/// Frames that are classified together, at most.
inline constexpr std::uint32_t kBurst = 64;

/// Policies that take a frame, of one word of the rules: top bits of their segments.
struct Hit {
  std::uint32_t frame;  ///< index in the burst
  std::uint32_t word;
  std::uint64_t bits;
};

}  // namespace vtap::plan
