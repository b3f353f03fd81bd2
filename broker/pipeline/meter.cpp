// SPDX-License-Identifier: Apache-2.0
#include "pipeline/meter.hpp"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <limits>

#include "pipeline/flow.hpp"

namespace vtap::pipeline {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr std::uint64_t kShortestFrame = 64;
constexpr std::uint64_t kTicksPerSecond = std::uint64_t{1'000'000'000} << VTAP_TICK_SHIFT;

std::uint64_t host_hash(const vtap_key& key, bool source, std::uint64_t seed) noexcept {
  if (key.family == VTAP_L3_NONE) {
    return XXH3_64bits_withSeed(source ? key.smac : key.dmac, sizeof(key.smac), seed);
  }
  // An IPv4 address is not the IPv6 address of the same bytes.
  return XXH3_64bits_withSeed(source ? key.src : key.dst, sizeof(key.src), seed + key.family);
}

}  // namespace

/// Ticks for a unit are a quotient of whole numbers: nothing is rounded before its last digit. A
/// frame's ticks are rounded; the bucket is deeper by half a tick for each frame that it holds, so
/// that a whole burst passes.
vtap_bucket bucket_of(const config::Meter& config) noexcept {
  const bool by_packets = config.packets_per_second != 0;
  const std::uint64_t rate = by_packets ? config.packets_per_second : config.bits_per_second;
  const std::uint64_t ticks = by_packets ? kTicksPerSecond : kTicksPerSecond * 8;
  const std::uint64_t frames = by_packets ? config.burst : config.burst / kShortestFrame;
  const Wide depth = (Wide{config.burst} * ticks * 2 + Wide{frames} * rate) / (Wide{rate} * 2);
  const Wide deepest = Wide{1} << VTAP_DEPTH_SHIFT;
  return {.whole = ticks / rate,
          .fraction = static_cast<__u64>((Wide{ticks % rate} << VTAP_FRACTION_SHIFT) / rate),
          .depth = static_cast<__s64>(std::min(depth, deepest)),
          .by_packets = by_packets ? 1U : 0U,
          .reserved = 0};
}

config::Meter peak_of(const config::Meter& config) noexcept {
  config::Meter peak = config;
  (config.packets_per_second != 0 ? peak.packets_per_second : peak.bits_per_second) =
      config.peak_per_second;
  peak.burst = config.peak_burst;
  return peak;
}

FrameSet Meter::conforming(FrameSet frames, const Burst& burst, std::uint64_t now) noexcept {
  const std::int64_t tick = Bucket::tick(now);
  std::int64_t seen = full_at_.load(std::memory_order_relaxed);
  while (true) {
    std::int64_t full_at = std::max(seen, tick);
    FrameSet passed = 0;
    for_each_frame(frames, [&](std::uint32_t i) {
      if (bucket_.take(full_at, tick, burst.length[i])) passed |= FrameSet{1} << i;
    });
    if (passed == 0 || full_at_.compare_exchange_weak(seen, full_at, std::memory_order_relaxed)) {
      return passed;
    }
  }
}

FrameSet HostMeter::conforming(FrameSet frames, const Burst& burst, std::uint64_t now) noexcept {
  std::array<std::uint64_t, Burst::kCapacity> owners;
  for_each_frame(frames, [&](std::uint32_t i) {
    owners[i] = owner(burst, i);
    full_at_.prefetch(owners[i]);
  });
  const std::int64_t tick = Bucket::tick(now);
  const auto fullness = [](std::uint64_t full_at) {
    return static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) - full_at;
  };
  FrameSet passed = 0;
  for_each_frame(frames, [&](std::uint32_t i) {
    bool conforms = false;
    const auto take = [&](std::optional<std::uint64_t> seen) {
      std::int64_t full_at = std::max(static_cast<std::int64_t>(seen.value_or(0)), tick);
      conforms = bucket_.take(full_at, tick, burst.length[i]);
      return static_cast<std::uint64_t>(full_at);
    };
    full_at_.update(owners[i], take, fullness);
    if (conforms) passed |= FrameSet{1} << i;
  });
  return passed;
}

std::uint64_t HostMeter::owner(const Burst& burst, std::uint32_t frame) const noexcept {
  const vtap_key& key = burst.key[frame];
  if (per_ == config::Per::flow) {
    return flow_hash(key, burst.transport[frame], full_at_.seed());
  }
  return host_hash(key, per_ == config::Per::src, full_at_.seed());
}

Marker::Limit::Limit(const config::Meter& config) {
  if (config.per == config::Per::policy) {
    one_ = std::make_unique<Meter>(config);
  } else {
    each_ = std::make_unique<HostMeter>(config);
  }
}

Marker::Marker(const config::Meter& config) : rate_(config), cuts_(config.exceed_slice != 0) {
  if (config.peak_per_second != 0) peak_ = std::make_unique<Limit>(peak_of(config));
  if (config.exceed_one_in != 0) {
    thin_ = std::make_unique<Sampler>(config::Sample{.one_in = config.exceed_one_in, .flows = {}});
  }
}

Marker::Marked Marker::mark(FrameSet frames, const Burst& burst, std::uint64_t now) noexcept {
  Marked marked;
  const FrameSet within_peak = peak_ ? peak_->conforming(frames, burst, now) : frames;
  marked.red = frames & ~within_peak;
  marked.green = rate_.conforming(within_peak, burst, now);
  marked.yellow = within_peak & ~marked.green;
  marked.passed = marked.green;
  if (marked.yellow == 0) return marked;
  if (cuts_) marked.cut = marked.yellow;
  if (thin_) marked.passed |= thin_->chosen(marked.yellow, burst);
  marked.passed |= marked.cut;
  return marked;
}

}  // namespace vtap::pipeline
