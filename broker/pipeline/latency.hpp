// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "pipeline/counters.hpp"

namespace vtap::pipeline {

/// How long copies took, counted in buckets. One writer, any number of readers.
class LatencyHistogram {
 public:
  /// Upper bounds of the buckets, ns, each included; one more bucket is for what took longer.
  static constexpr std::array<std::uint64_t, 19> kBounds = {
      1'000,      2'000,       5'000,       10'000,      20'000,       50'000,     100'000,
      200'000,    500'000,     1'000'000,   2'000'000,   5'000'000,    10'000'000, 20'000'000,
      50'000'000, 100'000'000, 200'000'000, 500'000'000, 1'000'000'000};

  void observe(std::uint64_t ns) noexcept {
    const auto bucket = std::lower_bound(kBounds.begin(), kBounds.end(), ns) - kBounds.begin();
    buckets_[static_cast<std::size_t>(bucket)].add(1);
    sum_ns_.add(ns);
  }

  /// Copies of one bucket alone; the last, kBounds.size(), has those above all bounds.
  [[nodiscard]] std::uint64_t read(std::size_t bucket) const noexcept {
    return buckets_[bucket].read();
  }
  [[nodiscard]] std::uint64_t sum_ns() const noexcept { return sum_ns_.read(); }

 private:
  std::array<Counter, kBounds.size() + 1> buckets_;
  Counter sum_ns_;
};

}  // namespace vtap::pipeline
