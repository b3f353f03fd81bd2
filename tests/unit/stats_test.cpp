// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>

#include "stats/snapshot.hpp"

namespace vtap::stats {
namespace {

/// Every field has a value of its own, so that two that are swapped show.
Snapshot full_snapshot() {
  Snapshot s;
  s.name = "npb1";
  s.generation = 7;
  s.uptime_s = 12.5;
  TapPort port;
  port.name = "eth1";
  port.hook = "xdp";
  port.state = "up";
  port.rx_frames = 1;
  port.rx_bytes = 2;
  port.passed_frames = 3;
  port.consumed_frames = 4;
  port.matched_frames = 5;
  port.copied_frames = 6;
  port.own_copies_frames = 17;
  port.missed = {{"super_packet", 10}, {"too_long", 9}, {"no_free_frame", 7}, {"ring_full", 8}};
  port.not_passed = {{"tx_failed", 11},     {"too_long", 12}, {"rx_ring_full", 13},
                     {"no_free_frame", 14}, {"stale", 15},    {"link_lost", 16}};
  port.queues = {{0, "rx+tx", true}, {1, "tx", false}};
  s.taps = {{"wan", "inline", "tee", "xdp", {port}}};
  s.policies = {{"web",
                 "broker",
                 20,
                 21,
                 {{"sample", 22}, {"meter", 23}},
                 {{"ids", 24, 25, 26, 19}},
                 {27, 28, 29}}};
  Monitor monitor;
  monitor.name = "ids";
  monitor.port = "eth3";
  monitor.state = "up";
  monitor.tx_frames = 30;
  monitor.tx_bytes = 31;
  monitor.arrived_frames = 33;
  monitor.dropped = {{"ring_full", 32}};
  monitor.queues = {{2, "tx", true}};
  monitor.waiting_frames = 34;
  monitor.removed_policies_frames = 45;
  monitor.removed_policies_bytes = 46;
  monitor.latency = {35, 36, {{37, 38}, {39, 35}}};
  s.monitors = {monitor};
  s.workers = {{1, 40, 41, 42, 0.25, 43, 44, 0.5}};
  s.umem = {50, 51, 52};
  return s;
}

TEST(StatsJson, HasTheKeysAndTheOrderOfTheDesign) {
  const std::string expected =
      R"({"name":"npb1","plan":{"generation":7},"uptime_s":12.5,)"
      R"("taps":[{"name":"wan","mode":"inline","capture":"tee","hook":"xdp",)"
      R"("ports":[{"name":"eth1","rx_frames":1,"rx_bytes":2,"passed_frames":3,)"
      R"("consumed_frames":4,"matched_frames":5,"copied_frames":6,)"
      R"("missed":{"no_free_frame":7,"ring_full":8,"too_long":9,"super_packet":10},)"
      R"("not_passed":{"tx_failed":11,"too_long":12,"rx_ring_full":13,"no_free_frame":14,)"
      R"("stale":15,"link_lost":16},"hook":"xdp","state":"up",)"
      R"("own_copies_frames":17,"queues":[{"queue":0,"direction":"rx+tx","zero_copy":true},)"
      R"({"queue":1,"direction":"tx","zero_copy":false}]}]}],)"
      R"("policies":[{"name":"web","placement":"broker","matched_frames":20,"matched_bytes":21,)"
      R"("dropped":{"sample":22,"meter":23},)"
      R"("monitors":[{"name":"ids","sent_frames":24,"sent_bytes":25,"already_sent":26,)"
      R"("before_joining":19}],)"
      R"("metered":{"green_frames":27,"yellow_frames":28,"red_frames":29}}],)"
      R"("monitors":[{"name":"ids","state":"up","tx_frames":30,"tx_bytes":31,)"
      R"("dropped":{"ring_full":32,"queue_full":0,"down":0},"port":"eth3","arrived_frames":33,)"
      R"("queues":[{"queue":2,"direction":"tx","zero_copy":true}],"waiting_frames":34,)"
      R"("removed_policies":{"sent_frames":45,"sent_bytes":46},)"
      R"("latency":{"count":35,"sum_ns":36,"buckets":[{"le_ns":37,"count":38},)"
      R"({"le_ns":39,"count":35}]}}],)"
      R"("workers":[{"cpu":1,"bursts":40,"frames":41,"wakeups":42,"idle_ratio":0.25,)"
      R"("teed_bytes":43,"copied_bytes":44,"last_round_age_s":0.5}],)"
      R"("umem":{"frames":50,"frame_size":51,"free":52}})";
  EXPECT_EQ(to_json(full_snapshot()), expected);
}

TEST(StatsJson, AnEmptySnapshotHasEmptyLists) {
  EXPECT_EQ(to_json(Snapshot{}),
            R"({"name":"","plan":{"generation":1},"uptime_s":0.0,"taps":[],"policies":[],)"
            R"("monitors":[],"workers":[],"umem":{"frames":0,"frame_size":0,"free":0}})");
}

TEST(StatsJson, AbsentReasonsAreZero) {
  Snapshot s;
  s.taps = {{"wan", "span", "redirect", "xdp", {TapPort{}}}};
  s.policies = {Policy{}};
  s.monitors = {Monitor{}};
  const std::string json = to_json(s);
  for (const char* part :
       {R"("missed":{"no_free_frame":0,"ring_full":0,"too_long":0})",
        R"("not_passed":{"tx_failed":0,"too_long":0,"rx_ring_full":0,"no_free_frame":0,"stale":0})",
        R"("dropped":{"sample":0,"meter":0})",
        R"("dropped":{"ring_full":0,"queue_full":0,"down":0})"}) {
    EXPECT_NE(json.find(part), std::string::npos) << part << "\nin " << json;
  }
}

TEST(StatsJson, AReasonGivenTwiceIsAddedUp) {
  Snapshot s;
  s.monitors.resize(1);
  s.monitors[0].dropped = {{"down", 2}, {"cut", 5}, {"down", 3}, {"cut", 1}};
  EXPECT_NE(to_json(s).find(R"("dropped":{"ring_full":0,"queue_full":0,"down":5,"cut":6})"),
            std::string::npos);
}

TEST(StatsJson, CountersKeepAllTheirBits) {
  Snapshot s;
  s.workers = {{0, std::numeric_limits<std::uint64_t>::max(), 0, 0, 0.0}};
  EXPECT_NE(to_json(s).find(R"("bursts":18446744073709551615)"), std::string::npos);
}

TEST(StatsJson, OddNamesAndRatiosStayValidJson) {
  Snapshot s;
  s.name = "a\"b\n\xff";
  s.workers = {{0, 0, 0, 0, std::numeric_limits<double>::quiet_NaN()}};
  const std::string json = to_json(s);
  EXPECT_EQ(json.find('\n'), std::string::npos);
  EXPECT_NE(json.find(R"("name":"a\"b\n)"), std::string::npos);
  EXPECT_NE(json.find(R"("idle_ratio":0.0)"), std::string::npos);
}

}  // namespace
}  // namespace vtap::stats
