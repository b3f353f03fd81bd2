// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "stats/snapshot.hpp"

namespace vtap::test {

/// Every number of a snapshot is another one, and no zero, so that one that is swapped or forgotten
/// shows. Who adds a field fills it in here: unit.metrics_test asks for it.
inline stats::Snapshot full_snapshot() {
  stats::Snapshot s;
  s.name = "npb1";
  s.generation = 7;
  s.uptime_s = 12.5;
  stats::TapPort port;
  port.name = "eth1";
  port.hook = "xdp";
  port.state = "up";
  port.rx_frames = 101;
  port.rx_bytes = 102;
  port.passed_frames = 103;
  port.consumed_frames = 104;
  port.matched_frames = 105;
  port.copied_frames = 106;
  port.own_copies_frames = 107;
  port.missed = {
      {"super_packet", 111}, {"too_long", 112}, {"no_free_frame", 113}, {"ring_full", 114}};
  port.not_passed = {{"tx_failed", 121},     {"too_long", 122}, {"rx_ring_full", 123},
                     {"no_free_frame", 124}, {"stale", 125},    {"link_lost", 126}};
  port.queues = {{131, "rx+tx", true}, {132, "tx", false}};
  s.taps = {{"wan", "inline", "tee", "tc", {port}}};
  s.policies = {{"web",
                 "broker",
                 201,
                 202,
                 {{"sample", 211}, {"meter", 212}},
                 {{"ids", 221, 222, 223, 224}},
                 {231, 232, 233}}};
  stats::Monitor monitor;
  monitor.name = "ids";
  monitor.port = "eth3";
  monitor.state = "up";
  monitor.tx_frames = 301;
  monitor.tx_bytes = 302;
  monitor.arrived_frames = 303;
  monitor.waiting_frames = 304;
  monitor.removed_policies_frames = 305;
  monitor.removed_policies_bytes = 306;
  monitor.dropped = {{"ring_full", 311}, {"queue_full", 312}, {"down", 313}, {"device", 314}};
  monitor.queues = {{321, "tx", true}};
  // In seconds, as the exposition has them, another number each, too.
  monitor.latency = {332, 341'000'000'000, {{351'000'000'000, 330}, {352'000'000'000, 331}}};
  s.monitors = {monitor};
  s.workers = {{401, 402, 403, 404, 0.25, 405, 406, 0.75}};
  s.umem = {501, 502, 503};
  return s;
}

}  // namespace vtap::test
