// SPDX-License-Identifier: Apache-2.0
// Policies that the kernel serves at XDP: the set of monitors that the program finds and what it
// counts, for random plans against the classifier in C++; and broadcasts over real devices.
#include <vtap/parse.h>

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "bpf/netns.hpp"
#include "plan/classifier.hpp"
#include "plan/fan_out.hpp"
#include "support/classified.hpp"
#include "support/random_config.hpp"

namespace vtap::test {
namespace {

using io::ProgramHook;
using plan::Placement;

constexpr std::uint32_t kMonitors = 5;

/// Tables of a config whose taps are all at XDP, one port each.
struct FanPlan {
  explicit FanPlan(const config::Config& config, std::vector<Placement> placements)
      : tables(require(plan::compile(config, placements))),
        maps(require(io::ClassMaps::load(tables))),
        fan(require(
            plan::fan_out(config, placements, std::vector<bool>(config.taps.size(), true)))) {
    std::vector<std::uint32_t> ports(config.taps.size());
    for (std::uint32_t i = 0; i < ports.size(); ++i) ports[i] = i;
    clones.emplace(require(io::CloneMaps::load(config, tables, fan, ports)));
  }

  plan::Tables tables;
  io::ClassMaps maps;
  plan::FanOut fan;
  std::optional<io::CloneMaps> clones;
};

class Fan : public NetnsTest {
 protected:
  void SetUp() override {
    NetnsTest::SetUp();
    if (!IsSkipped() && !HasFatalFailure()) tee_ = std::make_unique<Tee>(8);
  }

  /// All frames through one tap of one random plan. Monitors: some can be reached, some are down,
  /// take nothing, or only short frames.
  void compare(std::uint64_t seed, std::uint32_t percent_kernel) {
    Random random(seed);
    config::Config config = random_config(seed);
    scatter_monitors(config, kMonitors, random);
    std::vector<Placement> placements;
    for (auto& policy : config.policies) {
      placements.push_back(random.percent(percent_kernel) ? Placement::kernel : Placement::broker);
      policy.slice.reset();
      if (random.percent(30)) policy.slice = static_cast<std::uint32_t>(random.between(14, 200));
    }
    FanPlan plan(config, placements);
    const plan::Classifier classifier(plan.tables);
    Found found(classifier);
    const auto tap = static_cast<std::uint32_t>(seed % config.taps.size());
    vtap_port_config constant = constants(plan.tables, tap, *tee_);
    constant.mode = VTAP_MODE_SPAN;
    constant.port = tap;
    plan.clones->fan().describe(tap, constant);
    const io::TapPrograms programs = require(
        io::TapPrograms::load(ProgramHook::xdp, constant, tee_->memory(), plan.maps, *plan.clones));
    const auto device = static_cast<__u32>(veth_.ifindex());
    constexpr std::array<__u32, kMonitors> kLongest{1514, 100, 0, 1514, 1514};
    for (std::uint32_t i = 0; i + 1 < kMonitors; ++i) {
      ASSERT_TRUE(succeeded(plan.clones->set_monitor(
          i, {.ifindex = device, .has_queue = 0, .longest = kLongest[i]})));
    }
    std::map<std::pair<std::uint32_t, std::uint32_t>, vtap_pair_counters> pairs;
    std::array<vtap_clone_counters, kMonitors> lost{};
    for (const Bytes& frame : corpus(seed, 300)) {
      if (!runnable(ProgramHook::xdp, frame) || frame.size() > tee_->frame_size()) continue;
      vtap_key key;
      const auto length = static_cast<__u32>(frame.size());
      vtap_parse(frame.data(), std::min<__u32>(length, VTAP_WINDOW), length, &key);
      found.classify(key, tap);
      bool for_broker = false;
      std::map<std::uint32_t, std::uint64_t> has_it;  // monitor → bytes
      std::ranges::for_each(found.policies(), [&](std::uint32_t number) {
        if (placements[number] == Placement::broker) {
          for_broker = true;
          return;
        }
        const config::Policy& policy = config.policies[number];
        const std::uint64_t bytes = std::min(policy.slice.value_or(length), length);
        for (std::uint32_t place = 0; place < policy.monitors.size(); ++place) {
          vtap_pair_counters& pair = pairs[{number, place}];
          if (!has_it.emplace(policy.monitors[place], bytes).second) {
            ++pair.already_sent;
            continue;
          }
          ++pair.sent_frames;
          pair.sent_bytes += bytes;
        }
      });
      bool sent = false;
      for (const auto& [monitor, bytes] : has_it) {
        const bool down = monitor + 1 == kMonitors;
        const __u32 longest = kLongest[monitor];
        if (!down && longest != 0 && length <= longest) {
          sent = true;
          ++sent_;
          continue;
        }
        const auto why = down           ? VTAP_LOST_DOWN
                         : longest == 0 ? VTAP_LOST_NO_XMIT
                                        : VTAP_LOST_TOO_LONG;
        ++lost[monitor].frames[why];
        lost[monitor].bytes[why] += bytes;
      }
      tee_->give(1);
      const vtap_port_counters before = tee_->counters(tap);
      const bool any = for_broker || !has_it.empty();
      ASSERT_EQ(run_program(programs.plan_fd(), ProgramHook::xdp, frame), sent  ? Fate::redirected
                                                                          : any ? Fate::dropped
                                                                                : Fate::passed);
      const vtap_port_counters after = tee_->counters(tap);
      EXPECT_EQ(after.matched - before.matched, any ? 1U : 0U);
      EXPECT_EQ(after.copied - before.copied, any ? 1U : 0U);
      EXPECT_EQ(after.consumed - before.consumed, any ? 1U : 0U);
      EXPECT_EQ(tee_->take().size(), for_broker ? 1U : 0U);
      ASSERT_FALSE(HasFailure()) << "config " << seed << ", frame " << hex(frame);
    }
    for (std::uint32_t number = 0; number < config.policies.size(); ++number) {
      if (placements[number] == Placement::broker) continue;
      for (std::uint32_t place = 0; place < config.policies[number].monitors.size(); ++place) {
        const vtap_pair_counters pair = plan.clones->pair(number, place);
        const vtap_pair_counters& want = pairs[{number, place}];
        EXPECT_EQ(pair.sent_frames, want.sent_frames);
        EXPECT_EQ(pair.sent_bytes, want.sent_bytes);
        EXPECT_EQ(pair.already_sent, want.already_sent);
      }
    }
    for (std::uint32_t monitor = 0; monitor < kMonitors; ++monitor) {
      const vtap_clone_counters counted = plan.clones->monitor(monitor);
      for (std::uint32_t why = 0; why < VTAP_LOST_REASONS; ++why) {
        EXPECT_EQ(counted.frames[why], lost[monitor].frames[why]) << monitor << ' ' << why;
        EXPECT_EQ(counted.bytes[why], lost[monitor].bytes[why]) << monitor << ' ' << why;
        lost_ += counted.frames[why];
      }
    }
    ASSERT_FALSE(HasFailure()) << "config " << seed;
  }

  std::unique_ptr<Tee> tee_;
  std::uint64_t sent_ = 0, lost_ = 0;

 private:
  struct Late {
    [[nodiscard]] int ifindex() {
      if (!veth) veth.emplace("mon", "far");
      return veth->ifindex();
    }
    std::optional<Veth> veth;
  } veth_;
};

TEST_F(Fan, RandomPlans) {
  for (std::uint64_t seed = 0; seed < 25; ++seed) {
    ASSERT_NO_FATAL_FAILURE(compare(seed, seed % 2 == 0 ? 100 : 60));
  }
  EXPECT_GT(sent_, 2000U);
  EXPECT_GT(lost_, 2000U);
}

/// gen → in, and from there to out → far and to both monitors.
TEST_F(Fan, WhatADeviceDoesNotTakeIsCountedAtItsMonitor) {
  const Veth in("in", "gen");
  const Veth out("out", "far");
  const Veth one("one", "far1");
  const Veth two("two", "far2");
  std::vector<io::MonitorProgram> far;
  for (const Veth* veth : {&out, &one, &two}) {
    far.push_back(require(io::MonitorProgram::load()));
    attach_native_xdp(veth->other_ifindex(), far.back().fd(ProgramHook::xdp));
  }
  config::Config config = one_policy();
  config.monitors.resize(2);
  config.policies[0].monitors = {0, 1};
  config.policies[0].slice = 60;
  FanPlan plan(config, {Placement::kernel});
  ASSERT_EQ(plan.fan.sets[0].size(), 1U);
  ASSERT_EQ(plan.fan.sliced.size(), 2U);
  vtap_port_config constant = constants(plan.tables, 0, *tee_);
  constant.mode = VTAP_MODE_INLINE;
  constant.out_ifindex = static_cast<__u32>(out.ifindex());
  io::FanMaps& fan = plan.clones->fan();
  fan.describe(0, constant);
  ASSERT_TRUE(succeeded(fan.set_output(0, out.ifindex())));
  ASSERT_TRUE(succeeded(fan.set_output_longest(0, 1518)));
  for (const auto& [monitor, veth] : {std::pair{0U, &one}, std::pair{1U, &two}}) {
    ASSERT_TRUE(succeeded(plan.clones->set_monitor(
        monitor,
        {.ifindex = static_cast<__u32>(veth->ifindex()), .has_queue = 0, .longest = 1518})));
  }
  io::TapPrograms programs = require(
      io::TapPrograms::load(ProgramHook::xdp, constant, tee_->memory(), plan.maps, *plan.clones));
  ASSERT_TRUE(succeeded(programs.engage()));
  attach_native_xdp(in.ifindex(), programs.stub_fd());
  io::RedirectErrors errors = require(io::RedirectErrors::attach());
  ASSERT_TRUE(succeeded(errors.add_port(in.ifindex(), 0)));
  ASSERT_TRUE(succeeded(errors.add_monitor(one.ifindex(), 0)));
  ASSERT_TRUE(succeeded(errors.add_monitor(two.ifindex(), 1)));

  const auto arrived = [&](std::uint64_t at_out, std::uint64_t at_one, std::uint64_t at_two) {
    return eventually([&] {
      return far[0].arrived() == at_out && far[1].arrived() == at_one && far[2].arrived() == at_two;
    });
  };
  run_live(programs.stub_fd(), in.ifindex(), udp_frame(100), 50);
  EXPECT_TRUE(arrived(50, 50, 50))
      << far[0].arrived() << ' ' << far[1].arrived() << ' ' << far[2].arrived();
  // Still marked as devices that take redirected frames, they refuse them at the flush.
  command("ip link set far2 down");
  run_live(programs.stub_fd(), in.ifindex(), udp_frame(100), 20);
  EXPECT_TRUE(arrived(70, 70, 50));
  EXPECT_EQ(errors.refused_copies(0), 0U);
  EXPECT_EQ(errors.refused_copies(1), 20U);
  EXPECT_EQ(errors.read(0).tx_failed, 0U);
  command("ip link set far down");
  run_live(programs.stub_fd(), in.ifindex(), udp_frame(100), 10);
  EXPECT_TRUE(arrived(70, 80, 50));
  EXPECT_EQ(errors.read(0).tx_failed, 10U);
  EXPECT_EQ(errors.refused_copies(1), 30U);
  EXPECT_EQ(tee_->counters().forwarded, 80U);
  // Of a monitor that is gone nothing is counted any more.
  errors.remove_monitor(two.ifindex());
  ASSERT_TRUE(succeeded(plan.clones->set_monitor(1, {})));
  run_live(programs.stub_fd(), in.ifindex(), udp_frame(100), 5);
  EXPECT_TRUE(arrived(70, 85, 50));
  EXPECT_EQ(plan.clones->monitor(1).frames[VTAP_LOST_DOWN], 5U);
  EXPECT_EQ(plan.clones->monitor(1).bytes[VTAP_LOST_DOWN], 5U * 60);
  EXPECT_EQ(errors.refused_copies(1), 30U);
}

TEST(FanOut, SetsAreAllUnions) {
  config::Config config = no_policy();
  config.monitors.resize(4);
  const auto add = [&](std::vector<std::uint32_t> monitors) {
    config::Policy policy;
    policy.taps = {0};
    policy.monitors = std::move(monitors);
    config.policies.push_back(policy);
  };
  add({1});
  add({0, 2});
  add({1});
  add({3});
  config.taps[0].ports = {"a"};
  std::vector<std::uint64_t> sets =
      require(plan::fan_out(config, std::vector<Placement>(4, Placement::kernel), {true})).sets[0];
  EXPECT_EQ(sets.front(), 2U);
  std::ranges::sort(sets);
  EXPECT_EQ(sets, (std::vector<std::uint64_t>{2, 5, 7, 8, 10, 13, 15}));
  EXPECT_TRUE(plan::fan_out(config, std::vector<Placement>(4, Placement::broker), {true})
                  .value()
                  .sets[0]
                  .empty());
  EXPECT_TRUE(plan::fan_out(config, std::vector<Placement>(4, Placement::kernel), {false})
                  .value()
                  .sets[0]
                  .empty());
  config.taps[0].ports = {"a", "b"};
  config.monitors.resize(8);
  for (std::uint32_t i = 4; i < 7; ++i) add({i});  // six sets to unite: 2^6 - 1, of two ports
  EXPECT_TRUE(plan::fan_out(config, std::vector<Placement>(7, Placement::kernel), {true}).ok());
  add({7});
  EXPECT_TRUE(plan::fan_out(config, std::vector<Placement>(8, Placement::kernel), {true}).ok());
  add({1, 4});
  EXPECT_TRUE(plan::fan_out(config, std::vector<Placement>(9, Placement::kernel), {true}).ok());
  config.monitors.resize(9);
  add({8});
  EXPECT_FALSE(plan::fan_out(config, std::vector<Placement>(10, Placement::kernel), {true}).ok());
}

}  // namespace
}  // namespace vtap::test
