// SPDX-License-Identifier: Apache-2.0
#include "service/watchdog.hpp"

#include <systemd/sd-daemon.h>

#include <cstddef>
#include <utility>

namespace vtap::service {
namespace {

std::chrono::microseconds asked_by_systemd() {
  std::uint64_t limit_us = 0;
  return std::chrono::microseconds(sd_watchdog_enabled(0, &limit_us) > 0 ? limit_us : 0);
}

}  // namespace

Watchdog::Watchdog() : Watchdog(asked_by_systemd(), [] { sd_notify(0, "WATCHDOG=1"); }) {}

Watchdog::Watchdog(std::chrono::microseconds limit, Ping ping)
    : interval_(limit / 4), ping_(std::move(ping)) {}

bool Watchdog::due(Clock::time_point now) const noexcept {
  return interval_.count() != 0 && now - looked_ >= interval_;
}

bool Watchdog::progress(Clock::time_point now, std::span<const std::uint64_t> rounds) {
  if (interval_.count() == 0) return false;
  looked_ = now;
  if (rounds.size() == at_last_ping_.size()) {
    // Unequal, not greater: a worker that was started anew counts from zero.
    for (std::size_t i = 0; i < rounds.size(); ++i) {
      if (rounds[i] == at_last_ping_[i]) return false;
    }
  }
  at_last_ping_.assign(rounds.begin(), rounds.end());
  ping_();
  return true;
}

}  // namespace vtap::service
