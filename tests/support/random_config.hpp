// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "config/config.hpp"
#include "support/frames.hpp"

namespace vtap::test {

/// A valid config with up to four taps, one monitor, and policies over the values that corpus()
/// uses: mostly a few, for some seeds hundreds, with long match and except lists among them.
config::Config random_config(std::uint64_t seed);

/// Gives the config so many monitors, and each policy some of them, in any order.
void scatter_monitors(config::Config& config, std::uint32_t monitors, Random& random);

}  // namespace vtap::test
