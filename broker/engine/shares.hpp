// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "config/config.hpp"
#include "engine/resolve.hpp"
#include "pipeline/scheduler.hpp"

namespace vtap::engine {

/// Who may hold how many frames of each worker, so that no monitor, however dead, can hold them
/// all: half of them are for what waits to be received, half for what waits to be sent.
struct Shares {
  std::uint32_t tee = 0;      ///< the tee rings together; 0: no tap has a tee
  std::uint32_t rx_ring = 0;  ///< size of an RX ring
  std::uint32_t target = 0;   ///< an inline port's output

  /// What a monitor's copies may hold.
  struct Monitor {
    std::uint32_t owners = 1;  ///< workers with a TX queue of it: one, if it is scheduled
    std::uint32_t ring = 1;    ///< frames in each ring at most
    std::optional<pipeline::Scheduler::Spec> schedule;
  };
  std::vector<Monitor> monitors;  ///< by index in the config

  /// Warns (log) where a monitor gets less than it asks for.
  static Shares of(const config::Config& config, const Resolved& resolved, std::uint32_t workers);
};

/// Descriptors of a ring that is to hold so many frames.
std::uint32_t ring_size(std::uint32_t frames, std::uint32_t largest) noexcept;

}  // namespace vtap::engine
