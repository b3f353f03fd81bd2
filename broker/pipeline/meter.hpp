// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

#include "config/config.hpp"
#include "pipeline/burst.hpp"

namespace vtap::pipeline {

/// Single-rate token bucket, shared by all workers: the rate holds over all of them together.
///
/// Kept as a generic cell rate algorithm (ITU-T I.371): one number, the time at which the bucket
/// would be full again. A frame conforms while that time is less than the burst's worth ahead of
/// now. So a whole burst of frames is judged locally and made known by one compare-and-swap.
class alignas(64) Meter {
 public:
  explicit Meter(const config::Meter& config) noexcept;

  /// Which of the frames conform. `now`: monotonic ns since the broker started.
  FrameSet conforming(FrameSet frames, const Burst& burst, std::uint64_t now) noexcept;

 private:
  double ticks_per_unit_;  ///< a unit is a byte or a packet
  std::int64_t depth_;     ///< ticks in a full bucket
  bool by_packets_;
  /// Ticks of 2^-5 ns since the broker started: a 64-byte frame at 100 Gbit/s is 164 of them, and
  /// the number lasts for nine years.
  std::atomic<std::int64_t> full_at_{0};
};

}  // namespace vtap::pipeline
