// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "config/config.hpp"
#include "vtap/result.hpp"

namespace vtap::plan {

/// Instructions of all filters that the kernel judges: each frame of a tap may have to go through
/// them, at a third of a nanosecond or so, and an original waits for that.
inline constexpr std::size_t kMostFilterInstructions = 4096;

/// By policy: whether the kernel judges its filter, too; if not, the error says why. In file order,
/// as long as the instructions last. Policies without a filter: no error.
std::vector<Result<void>> kernel_filters(const config::Config& config);

}  // namespace vtap::plan
