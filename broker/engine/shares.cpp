// SPDX-License-Identifier: Apache-2.0
#include "engine/shares.hpp"

#include <spdlog/spdlog.h>
#include <vtap/abi.h>

#include <algorithm>
#include <bit>
#include <numeric>

#include "worker/monitor_queue.hpp"

namespace vtap::engine {
namespace {

constexpr std::uint32_t kLargestRxRing = 2048;
constexpr std::uint32_t kSmallestRing = 64;

/// Of each worker's frames, the monitors may hold so many as `target` leaves for them: what their
/// queues ask for, or less in proportion where that is too much.
std::vector<Shares::Monitor> share_queues(const config::Config& config, const Resolved& resolved,
                                          std::uint32_t workers, std::uint32_t target) {
  const auto& monitors = config.monitors;
  std::vector<Shares::Monitor> shares;
  std::vector<std::uint64_t> wanted;
  for (std::uint32_t i = 0; i < monitors.size(); ++i) {
    Shares::Monitor share;
    share.schedule = pipeline::schedule_of(config, i);
    if (!share.schedule) {
      share.owners = std::min<std::uint32_t>(workers, resolved.monitors[i].link.tx_queues);
    }
    const bool holds_none = resolved.in_kernel(config, i);
    wanted.push_back(holds_none       ? 1U
                     : share.schedule ? monitors[i].queue + worker::MonitorQueue::kInRing
                                      : std::max(monitors[i].queue / share.owners, 1U));
    shares.push_back(std::move(share));
  }
  const std::uint64_t sum = std::accumulate(wanted.begin(), wanted.end(), std::uint64_t{0});
  const std::uint64_t budget = std::uint64_t{target} * monitors.size();
  for (std::uint32_t i = 0; i < monitors.size(); ++i) {
    Shares::Monitor& share = shares[i];
    const auto frames = static_cast<std::uint32_t>(
        sum <= budget ? wanted[i] : std::max<std::uint64_t>(wanted[i] * budget / sum, 1));
    share.ring = frames;
    if (!share.schedule) continue;
    share.ring = std::bit_floor(std::clamp(frames / 2, 1U, worker::MonitorQueue::kInRing));
    share.schedule->capacity = std::clamp(frames - share.ring, 1U, monitors[i].queue);
    if (share.schedule->capacity == monitors[i].queue) continue;
    spdlog::warn(
        "monitor {}: its queue has {} frames, not {}, as half of the memory is for what "
        "arrives; make queues smaller or umem.frames larger",
        monitors[i].name, share.schedule->capacity, monitors[i].queue);
  }
  return shares;
}

}  // namespace

std::uint32_t ring_size(std::uint32_t frames, std::uint32_t largest) noexcept {
  return std::bit_floor(std::clamp(frames, kSmallestRing, largest));
}

Shares Shares::of(const config::Config& config, const Resolved& resolved, std::uint32_t workers) {
  Shares shares;
  const std::uint32_t mine = config.broker.frames / workers;
  std::uint32_t queues = 0;
  std::uint32_t outputs = 0;
  bool tee = false;
  for (std::size_t tap = 0; tap < resolved.taps.size(); ++tap) {
    const ResolvedTap& how = resolved.taps[tap];
    if (how.capture != config::Capture::redirect) {
      tee = true;
      continue;
    }
    for (const host::Link& link : how.links) {
      queues += std::min<std::uint32_t>(link.rx_queues, VTAP_MAX_QUEUES);
      outputs += config.taps[tap].mode == config::Mode::inline_pair ? 1 : 0;
    }
  }
  const std::uint32_t receiving = mine / 2;
  shares.tee = !tee ? 0 : queues == 0 ? receiving : receiving / 2;
  const std::uint32_t queues_here = (queues + workers - 1) / workers;
  if (queues_here != 0) {
    shares.rx_ring = ring_size((receiving - shares.tee) / queues_here, kLargestRxRing);
  }
  const auto targets =
      std::max<std::uint32_t>(static_cast<std::uint32_t>(config.monitors.size()) + outputs, 1);
  shares.target = std::max(mine / 2 / targets, 1U);
  shares.monitors = share_queues(config, resolved, workers, shares.target);
  return shares;
}

}  // namespace vtap::engine
