// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vtap/abi.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>

/// Counters as they go on from plan to plan, by names (docs/decisions/0023).
namespace vtap::engine {

struct PairTotals {
  std::uint64_t sent_frames = 0, sent_bytes = 0, already_sent = 0;
  /// What the policy had let through when it got this monitor.
  std::uint64_t before_joining = 0;
  PairTotals& operator+=(const PairTotals& other) noexcept;
};

struct PolicyTotals {
  std::uint64_t matched_frames = 0, matched_bytes = 0;
  std::uint64_t sample = 0, meter = 0, once = 0, head = 0;  ///< dropped
  std::uint64_t green = 0, yellow = 0, red = 0;
  std::map<std::string, PairTotals> monitors;
  [[nodiscard]] std::uint64_t let_through() const noexcept {
    return matched_frames - sample - meter - once - head;
  }
  PolicyTotals& operator+=(const PolicyTotals& other);
};

struct MonitorTotals {
  std::uint64_t ring_full = 0, queue_full = 0, down = 0;  ///< dropped by the broker
  std::uint64_t sent_frames = 0, sent_bytes = 0;      ///< by the broker, as the kernel completed
  std::uint64_t cloned_frames = 0, cloned_bytes = 0;  ///< by the kernel, before what was lost
  std::array<std::uint64_t, VTAP_LOST_REASONS> lost_frames{}, lost_bytes{};  ///< of cloned
  std::uint64_t device = 0;                                                  ///< lost behind both
  bool in_kernel = false;                               ///< the kernel serves it, or has
  std::uint64_t removed_frames = 0, removed_bytes = 0;  ///< sent by policies that are gone
  MonitorTotals& operator+=(const MonitorTotals& other) noexcept;
};

/// Of what is gone, by the names of what is there.
struct Ledger {
  std::map<std::string, PolicyTotals> policies;
  std::map<std::string, MonitorTotals> monitors;
};

}  // namespace vtap::engine
