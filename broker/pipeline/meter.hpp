// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vtap/meter.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "config/config.hpp"
#include "pipeline/burst.hpp"
#include "pipeline/flow_table.hpp"
#include "pipeline/sample.hpp"

namespace vtap::pipeline {

/// The bucket of a meter's rate and burst, for either side of the kernel boundary.
vtap_bucket bucket_of(const config::Meter& config) noexcept;

/// The peak rate of a meter that has one, as a rate of its own.
config::Meter peak_of(const config::Meter& config) noexcept;

/// The size of a token bucket, and what a frame takes out of it (vtap/meter.h).
class Bucket {
 public:
  /// Of the rate and the burst alone.
  explicit Bucket(const config::Meter& config) noexcept : bucket_(bucket_of(config)) {}

  /// Ticks since the broker started.
  static std::int64_t tick(std::uint64_t ns) noexcept {
    return static_cast<std::int64_t>(ns << VTAP_TICK_SHIFT);
  }

  /// Takes a frame's tokens out, if there are so many: moves `full_at`, the time at which the
  /// bucket is full, or leaves it. Precondition: full_at >= now.
  bool take(std::int64_t& full_at, std::int64_t now, std::uint32_t length) const noexcept {
    __s64 next = full_at;
    const __u64 units = bucket_.by_packets != 0 ? 1 : length;
    if (vtap_bucket_take(&bucket_, &next, now, vtap_bucket_cost(&bucket_, units)) == 0)
      return false;
    full_at = next;
    return true;
  }

 private:
  vtap_bucket bucket_;
};

/// Single-rate token bucket, shared by all workers: the rate holds over all of them together. A
/// whole burst of frames is judged locally and made known by one compare-and-swap.
class alignas(64) Meter {
 public:
  explicit Meter(const config::Meter& config) noexcept : bucket_(config) {}

  /// Which of the frames conform. `now`: monotonic ns since the broker started.
  FrameSet conforming(FrameSet frames, const Burst& burst, std::uint64_t now) noexcept;

 private:
  Bucket bucket_;
  std::atomic<std::int64_t> full_at_{0};
};

/// A token bucket for each host or flow, all of the same size, shared by all workers. Where there
/// is no room for another, the fullest of some gives way: one that is full says nothing that an
/// absent one does not say.
class HostMeter {
 public:
  /// Precondition: config.per is not the policy.
  explicit HostMeter(const config::Meter& config, std::uint64_t seed = random_seed())
      : bucket_(config), per_(config.per), full_at_(config.entries, seed) {}

  /// As Meter. A host is an IP address, or the MAC of frames that are not IP.
  FrameSet conforming(FrameSet frames, const Burst& burst, std::uint64_t now) noexcept;

 private:
  [[nodiscard]] std::uint64_t owner(const Burst& burst, std::uint32_t frame) const noexcept;

  Bucket bucket_;
  config::Per per_;
  FlowTable full_at_;
};

/// The meter of one policy: colours frames, and says what becomes of those that exceed the rate.
///
/// With a peak rate these are the two rates and three colours of RFC 2698, colour-blind. Whether a
/// frame is red depends on the peak bucket alone, and only frames that are not red take from it;
/// whether it is green, then on the other bucket alone. So two buckets one behind the other do what
/// the RFC says, and need no operation on both.
class Marker {
 public:
  explicit Marker(const config::Meter& config);

  struct Marked {
    FrameSet green = 0;   ///< within the rate
    FrameSet yellow = 0;  ///< above the rate, within the peak rate if there is one
    FrameSet red = 0;     ///< above the peak rate
    FrameSet passed = 0;  ///< go on: all green ones, yellow ones as the config has it
    FrameSet cut = 0;     ///< of these, to exceed_slice bytes
  };

  /// `now`: monotonic ns since the broker started.
  Marked mark(FrameSet frames, const Burst& burst, std::uint64_t now) noexcept;

 private:
  /// One bucket, or one for each host or flow.
  class Limit {
   public:
    explicit Limit(const config::Meter& config);
    FrameSet conforming(FrameSet frames, const Burst& burst, std::uint64_t now) noexcept {
      return one_ ? one_->conforming(frames, burst, now) : each_->conforming(frames, burst, now);
    }

   private:
    std::unique_ptr<Meter> one_;
    std::unique_ptr<HostMeter> each_;
  };

  Limit rate_;
  std::unique_ptr<Limit> peak_;    ///< null: one rate
  std::unique_ptr<Sampler> thin_;  ///< of the yellow ones; null: none or all
  bool cuts_;                      ///< the yellow ones
};

}  // namespace vtap::pipeline
