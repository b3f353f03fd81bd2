// SPDX-License-Identifier: Apache-2.0
#include "pipeline/sample.hpp"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

namespace vtap::pipeline {
namespace {

/// Finalizer of splitmix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
std::uint64_t mix(std::uint64_t x) noexcept {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

/// Hash of one end of the flow. Both ends are mixed alike and then added, so that the direction
/// does not matter.
template <std::size_t N>
std::uint64_t end_hash(const __u8 (&address)[N], std::uint64_t port) noexcept {
  static_assert(N % 8 == 0);
  std::uint64_t hash = port;
  for (std::size_t i = 0; i < N; i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, address + i, sizeof(word));
    hash = mix(hash ^ word);
  }
  return hash;
}

}  // namespace

std::uint64_t flow_hash(const vtap_key& key) noexcept {
  if (key.family == VTAP_L3_NONE) {
    return mix(end_hash(key.smac, 0) + end_hash(key.dmac, 0) + key.ethertype);
  }
  const bool has_ports = key.fragment == 0;  // a flow's fragments do not all have them
  const std::uint64_t ends =
      end_hash(key.src, has_ports ? key.sport : 0) + end_hash(key.dst, has_ports ? key.dport : 0);
  return mix(ends + key.proto);
}

Sampler::Sampler(const config::Sample& config) noexcept
    : one_in_(config.one_in),
      flow_limit_(config.flows ? static_cast<std::uint64_t>(std::llround(*config.flows * 0x1p32))
                               : 0) {}

FrameSet Sampler::chosen(FrameSet frames, const Burst& burst) noexcept {
  FrameSet chosen = 0;
  if (one_in_ != 0) {
    const auto count = static_cast<std::uint64_t>(std::popcount(frames));
    std::uint64_t number = offered_.fetch_add(count, std::memory_order_relaxed);
    for_each_frame(frames, [&](std::uint32_t i) {
      if (number++ % one_in_ == 0) chosen |= FrameSet{1} << i;
    });
    return chosen;
  }
  for_each_frame(frames, [&](std::uint32_t i) {
    if (flow_hash(burst.key[i]) >> 32 < flow_limit_) chosen |= FrameSet{1} << i;
  });
  return chosen;
}

}  // namespace vtap::pipeline
