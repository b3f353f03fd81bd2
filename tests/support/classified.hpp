// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "plan/classifier.hpp"

namespace vtap::test {

/// What a classifier finds for one frame.
class Found {
 public:
  /// `cached`: frames that are remembered; few, as there are many of these.
  explicit Found(const plan::Classifier& classifier, std::uint32_t cached = 256)
      : classifier_(classifier), scratch_(classifier, cached) {}

  /// Whether any policy of the tap takes the frame with this key.
  bool classify(const vtap_key& key, std::uint32_t tap) {
    hits_ = classifier_.classify({&key, 1}, {&tap, 1}, scratch_);
    return !hits_.empty();
  }

  /// The policies that do, each once, in file order.
  [[nodiscard]] std::vector<std::uint32_t> policies() const {
    std::vector<std::uint32_t> policies;
    for (const plan::Hit& hit : hits_)
      classifier_.for_each_policy(hit, [&](std::uint32_t p) { policies.push_back(p); });
    std::sort(policies.begin(), policies.end());
    policies.erase(std::unique(policies.begin(), policies.end()), policies.end());
    return policies;
  }

  /// The top bits of a word.
  [[nodiscard]] std::uint64_t operator[](std::uint32_t word) const {
    std::uint64_t bits = 0;
    for (const plan::Hit& hit : hits_) bits |= hit.word == word ? hit.bits : 0;
    return bits;
  }

 private:
  const plan::Classifier& classifier_;
  plan::Classifier::Scratch scratch_;
  std::span<const plan::Hit> hits_;
};

}  // namespace vtap::test
