// SPDX-License-Identifier: Apache-2.0
#include "pipeline/sample.hpp"

#include <bit>
#include <cmath>

#include "pipeline/flow.hpp"

namespace vtap::pipeline {

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
    // No seed: the same flows at every start, and at every broker that they pass.
    if (flow_hash(burst.key[i], burst.transport[i], 0) >> 32 < flow_limit_) {
      chosen |= FrameSet{1} << i;
    }
  });
  return chosen;
}

}  // namespace vtap::pipeline
