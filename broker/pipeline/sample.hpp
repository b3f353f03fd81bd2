// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

#include "config/config.hpp"
#include "pipeline/burst.hpp"

namespace vtap::pipeline {

/// Sampling of one policy, shared by all workers.
class alignas(64) Sampler {
 public:
  explicit Sampler(const config::Sample& config) noexcept;

  /// `one_in`: the first frame that any worker offers, then each Nth. `flows`: the frames of a
  /// fixed part of all flows.
  FrameSet chosen(FrameSet frames, const Burst& burst) noexcept;

 private:
  std::uint64_t one_in_;
  std::uint64_t flow_limit_;  ///< a flow is chosen if the upper 32 bits of its hash are below this
  std::atomic<std::uint64_t> offered_{0};
};

}  // namespace vtap::pipeline
