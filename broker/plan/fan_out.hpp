// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.hpp"
#include "plan/plan.hpp"
#include "vtap/result.hpp"

namespace vtap::plan {

/// Numbers below 64 (monitors, taps) as the bits of a set.
std::uint64_t set_of(const std::vector<std::uint32_t>& numbers);

/// What the programs at XDP need to serve policies in the kernel (docs/decisions/0021).
struct FanOut {
  /// By tap: each set of monitors that one frame may have to go to, that of the first policy first;
  /// none where nothing is broadcast.
  std::vector<std::vector<std::uint64_t>> sets;
  /// Monitors to which parts of frames are sent, at most VTAP_EDIT_SLOTS.
  std::vector<std::uint32_t> sliced;
};

/// For the policies that the kernel serves at the taps `at_xdp` (by tap). Error: a limit of abi.h
/// is exceeded, as a reason ("...").
Result<FanOut> fan_out(const config::Config& config, const std::vector<Placement>& placements,
                       const std::vector<bool>& at_xdp);

}  // namespace vtap::plan
