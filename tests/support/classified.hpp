// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "plan/classifier.hpp"

namespace vtap::test {

/// The policies of a set, each once, in file order.
inline std::vector<std::uint32_t> policies_in(const plan::Classifier& classifier,
                                              const plan::PolicySet& set) {
  std::vector<std::uint32_t> policies;
  set.for_each_word([&](std::uint32_t word, std::uint64_t bits) {
    classifier.for_each_policy(word, bits, [&](std::uint32_t p) { policies.push_back(p); });
  });
  std::ranges::sort(policies);
  const auto again = std::ranges::unique(policies);
  policies.erase(again.begin(), again.end());
  return policies;
}

}  // namespace vtap::test
