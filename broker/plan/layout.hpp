// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "config/config.hpp"
#include "vtap/result.hpp"

namespace vtap::plan {

/// Which bit every rule has: segments, words, limits (vtap/abi.h).
struct Layout {
  struct Rule {
    const config::Match* match;
    std::uint32_t policy;
    std::uint32_t bit;  ///< among the match words, or the except words if `except`
    bool except;
  };
  struct Segment {
    std::uint32_t policy;
    std::uint32_t top;  ///< highest bit
  };

  std::vector<Rule> rules;
  std::vector<Segment> segments;  ///< in file order of the policies
  std::uint32_t match_words = 0;
  std::uint32_t except_words = 0;
};

/// The layout points into `config`. Error (usage): more rules than the tables hold.
Result<Layout> lay_out(const config::Config& config);

}  // namespace vtap::plan
