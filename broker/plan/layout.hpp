// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "config/config.hpp"
#include "plan/plan.hpp"
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
  std::vector<Segment> segments;
  std::uint32_t match_words = 0;
  std::uint32_t except_words = 0;
  std::vector<bool> judged;       ///< by policy: it has a filter that the kernel judges
  std::uint32_t early_words = 0;  ///< those with policies that the kernel tells apart

  [[nodiscard]] bool paged() const noexcept { return match_words > VTAP_FLAT_WORDS; }
};

/// The layout points into `config`. First the policies that the kernel serves, in file order, and
/// those with a filter; then all others: in flat plans in file order, in paged ones such that rules
/// are neighbours that ask the same keys for near values. Error (usage): more rules than the tables
/// hold. `placements`: by policy.
Result<Layout> lay_out(const config::Config& config, std::span<const Placement> placements);

}  // namespace vtap::plan
