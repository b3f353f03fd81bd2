// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace vtap::service {

/// The watchdog of systemd (WatchdogSec=), fed by the progress of the workers: a control thread
/// that still turns says nothing about them. One that stands still, by a fault of ours or of the
/// kernel, is found after WatchdogSec and the broker is started anew; originals pass meanwhile.
///
/// Belongs to the control thread, not thread-safe. Idle workers make rounds too (each sleep of a
/// worker is bounded), so an idle broker keeps it fed.
class Watchdog {
 public:
  using Clock = std::chrono::steady_clock;
  using Ping = std::function<void()>;

  /// What systemd asks for in the environment (sd_watchdog_enabled(3)); off where it asks nothing.
  explicit Watchdog();
  /// `limit`: no ping for so long means death; 0: off. `ping` is called for each one that is
  /// earned.
  Watchdog(std::chrono::microseconds limit, Ping ping);

  /// A loop that looks at `due` must turn at least this often; 0: off. A quarter of the limit, so
  /// that a worker may be slow for half of it without being called dead.
  [[nodiscard]] std::chrono::microseconds interval() const noexcept { return interval_; }
  /// Whether it is time for `progress`: the interval has gone since the last look.
  [[nodiscard]] bool due(Clock::time_point now) const noexcept;
  /// `rounds`: of each worker since it started, in the same order each time. Pings if every worker
  /// has made a round since the last ping. Another number of workers is another set of workers (a
  /// reload): they get their first ping for being there. True: it pinged.
  bool progress(Clock::time_point now, std::span<const std::uint64_t> rounds);

 private:
  std::chrono::microseconds interval_;
  Ping ping_;
  Clock::time_point looked_;
  std::vector<std::uint64_t> at_last_ping_;
};

}  // namespace vtap::service
