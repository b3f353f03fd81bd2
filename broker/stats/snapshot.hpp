// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

/// What the counters say at one moment, in the words of DESIGN 7.3. Plain data: the broker fills
/// it, the control socket writes it as JSON, tests build it by hand.
namespace vtap::stats {

/// A reason and how many frames met it, in the order in which they are shown.
using Reasons = std::vector<std::pair<std::string, std::uint64_t>>;

/// What the kernel granted for one AF_XDP socket.
struct QueueInfo {
  std::uint32_t queue = 0;
  std::string direction;  ///< "rx", "tx" or "rx+tx"
  bool zero_copy = false;
};

struct TapPort {
  std::string name;
  std::string hook;   ///< "xdp" or "tc"
  std::string state;  ///< "up", "down" or "absent"
  std::uint64_t rx_frames = 0, rx_bytes = 0;
  std::uint64_t passed_frames = 0, consumed_frames = 0;
  std::uint64_t matched_frames = 0, copied_frames = 0;
  std::uint64_t own_copies_frames = 0;  ///< copies that came by: passed on, not looked at
  Reasons missed, not_passed;
  std::vector<QueueInfo> queues;
};

struct Tap {
  std::string name, mode, capture, hook;
  std::vector<TapPort> ports;
};

struct PolicyMonitor {
  std::string name;
  std::uint64_t sent_frames = 0, sent_bytes = 0, already_sent = 0;
  std::uint64_t before_joining = 0;  ///< let through before the policy had this monitor
};

/// What a policy's meter was asked about; without a peak rate none is red.
struct Metered {
  std::uint64_t green_frames = 0, yellow_frames = 0, red_frames = 0;
};

struct Policy {
  std::string name, placement;
  std::uint64_t matched_frames = 0, matched_bytes = 0;
  Reasons dropped;
  std::vector<PolicyMonitor> monitors;
  Metered metered{};
};

/// How long some of the copies took, from their making until the kernel said that they were sent.
struct Latency {
  struct Bucket {
    std::uint64_t le_ns = 0;
    std::uint64_t count = 0;  ///< copies that took so long or less
  };
  std::uint64_t count = 0;  ///< copies that were timed
  std::uint64_t sum_ns = 0;
  std::vector<Bucket> buckets;  ///< shortest first
};

struct Monitor {
  std::string name, port;
  std::string state;  ///< "up" or "down"
  std::uint64_t tx_frames = 0, tx_bytes = 0;
  std::uint64_t arrived_frames = 0;  ///< came in on the port, which is output only: dropped
  std::uint64_t waiting_frames = 0;  ///< at this moment, in its queue
  Reasons dropped;
  std::vector<QueueInfo> queues;
  /// Sent by policies that are gone, or that no longer have this monitor.
  std::uint64_t removed_policies_frames = 0, removed_policies_bytes = 0;
  Latency latency{};
};

struct Worker {
  std::uint32_t cpu = 0;
  std::uint64_t bursts = 0, frames = 0, wakeups = 0;
  double idle_ratio = 0.0;         ///< share of its life spent asleep, 0..1
  std::uint64_t teed_bytes = 0;    ///< of frames, copied out of packets by the tap programs
  std::uint64_t copied_bytes = 0;  ///< of frames, copied by the worker itself
  double last_round_age_s = 0.0;   ///< more than a moment: it hangs
};

struct Umem {
  std::uint64_t frames = 0, frame_size = 0, free = 0;
};

struct Snapshot {
  std::string name;
  std::uint32_t generation = 1;
  double uptime_s = 0.0;
  std::vector<Tap> taps;
  std::vector<Policy> policies;
  std::vector<Monitor> monitors;
  std::vector<Worker> workers;
  Umem umem;
};

/// JSON of DESIGN 7.3; further keys ("queues", "state", "hook" of a port, "umem") are additions.
std::string to_json(const Snapshot& snapshot, int indent = -1);

}  // namespace vtap::stats
