// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vtap/abi.h>

#include <array>
#include <cstdint>

namespace vtap::plan {

/// A frame's key as it is in memory, word by word.
using KeyWords = std::array<std::uint64_t, VTAP_KEY_WORDS>;

/// The bits of a key that a plan with these dimensions (VTAP_DIM_*, VTAP_ENDS_*) reads.
KeyWords key_mask(std::uint32_t dims) noexcept;

}  // namespace vtap::plan
