// SPDX-License-Identifier: Apache-2.0
#include "pipeline/meter.hpp"

#include <algorithm>

namespace vtap::pipeline {
namespace {

constexpr unsigned kTickShift = 5;
constexpr double kTicksPerSecond = 1e9 * (1U << kTickShift);
/// Ticks in a bucket at most, for a low rate with a huge burst: two years.
constexpr double kDeepest = 0x1p61;
constexpr std::uint64_t kShortestFrame = 64;

double units_per_second(const config::Meter& config) noexcept {
  return config.packets_per_second != 0 ? static_cast<double>(config.packets_per_second)
                                        : static_cast<double>(config.bits_per_second) / 8;
}

/// A frame's ticks are rounded; the bucket is deeper by half a tick for each frame that it holds,
/// so that a whole burst passes.
double depth(const config::Meter& config, double ticks_per_unit) noexcept {
  const std::uint64_t frames =
      config.packets_per_second != 0 ? config.burst : config.burst / kShortestFrame;
  return ticks_per_unit * static_cast<double>(config.burst) + static_cast<double>(frames) / 2;
}

}  // namespace

Meter::Meter(const config::Meter& config) noexcept
    : ticks_per_unit_(kTicksPerSecond / units_per_second(config)),
      depth_(static_cast<std::int64_t>(std::min(depth(config, ticks_per_unit_), kDeepest))),
      by_packets_(config.packets_per_second != 0) {}

FrameSet Meter::conforming(FrameSet frames, const Burst& burst, std::uint64_t now) noexcept {
  const auto tick = static_cast<std::int64_t>(now << kTickShift);
  std::int64_t seen = full_at_.load(std::memory_order_relaxed);
  while (true) {
    std::int64_t full_at = std::max(seen, tick);
    FrameSet passed = 0;
    for_each_frame(frames, [&](std::uint32_t i) {
      const double units = by_packets_ ? 1.0 : static_cast<double>(burst.length[i]);
      const auto next = full_at + static_cast<std::int64_t>(units * ticks_per_unit_ + 0.5);
      if (next - tick > depth_) return;
      full_at = next;
      passed |= FrameSet{1} << i;
    });
    if (passed == 0 || full_at_.compare_exchange_weak(seen, full_at, std::memory_order_relaxed)) {
      return passed;
    }
  }
}

}  // namespace vtap::pipeline
