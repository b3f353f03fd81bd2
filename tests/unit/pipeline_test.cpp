// SPDX-License-Identifier: Apache-2.0
#include "pipeline/pipeline.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "support/frames.hpp"
#include "support/memory_broker.hpp"

namespace vtap::test {
namespace {

using pipeline::Burst;
using pipeline::FrameNumber;
using Refusal = pipeline::Sink::Refusal;

config::Policy policy_to(std::vector<std::uint32_t> monitors, std::vector<config::Match> match = {},
                         std::optional<std::uint32_t> slice = {}) {
  config::Policy policy;
  policy.taps = {0};
  policy.monitors = std::move(monitors);
  policy.match = std::move(match);
  policy.slice = slice;
  return policy;
}

config::Config config_of(std::uint32_t monitors, std::vector<config::Policy> policies) {
  config::Config config;
  config.taps.resize(2);
  config.taps[0].ports = {"a", "b"};
  config.taps[1].ports = {"c"};
  config.monitors.resize(monitors);
  config.policies = std::move(policies);
  return config;
}

config::Match udp_to(std::uint16_t port) {
  return {.dst_port = {{port, port}}, .proto = {{17, 17}}};
}

/// A UDP frame that tells its number, for messages and for order.
Arrival udp_frame(std::uint8_t number, std::uint16_t dport = 53, std::size_t payload = 100) {
  const std::array<std::uint8_t, 1> mark{number};
  return {FrameBuilder()
              .ethernet()
              .type(0x0800)
              .ipv4({})
              .udp(1000, dport)
              .bytes(mark)
              .payload(payload)
              .build(),
          0};
}

std::vector<Bytes> bytes_of(const std::vector<Arrival>& arrivals) {
  std::vector<Bytes> bytes;
  for (const Arrival& arrival : arrivals) bytes.push_back(arrival.bytes);
  return bytes;
}

Bytes cut(Bytes bytes, std::size_t length) {
  bytes.resize(std::min(bytes.size(), length));
  return bytes;
}

TEST(Pipeline, WithoutPoliciesNothingIsCopied) {
  MemoryBroker broker(config_of(1, {}));
  broker.send(std::array{udp_frame(1)});
  EXPECT_EQ(broker.sink(0).posts(), 0U);
  EXPECT_EQ(broker.pool().available(), broker.pool().total());
}

/// A policy with more rules than a word has bits, of which a frame satisfies many.
TEST(Classify, ManyRulesOfOnePolicyTakeAFrameOnce) {
  std::vector<config::Match> rules;
  for (std::uint16_t first = 0; first < 100; ++first) rules.push_back({.dst_port = {{first, 200}}});
  MemoryBroker broker(config_of(1, {policy_to({0}, rules), policy_to({0})}));
  broker.send(std::vector{udp_frame(1, 150)});
  broker.complete_all();
  EXPECT_EQ(broker.sink(0).sent().size(), 1U);
  const auto& counters = broker.pipeline().policy_counters();
  EXPECT_EQ(counters[0].matched_frames.read(), 1U);
  EXPECT_EQ(counters[0].monitors[0].sent_frames.read(), 1U);
  EXPECT_EQ(counters[0].monitors[0].already_sent.read(), 0U);
  EXPECT_EQ(counters[1].monitors[0].already_sent.read(), 1U);
}

TEST(Pipeline, OneFrameIsHeldByEveryMonitorAndFreedByTheLast) {
  MemoryBroker broker(config_of(3, {policy_to({0, 1, 2})}));
  const std::vector<Arrival> arrivals{udp_frame(1)};
  Burst burst = broker.receive(arrivals);
  const FrameNumber frame = broker.umem().view().number(burst.address[0]);
  broker.pipeline().process(burst, 0);
  EXPECT_EQ(broker.pool().references(frame), 4U);
  broker.release(burst);
  EXPECT_EQ(broker.pool().references(frame), 3U);
  for (const std::size_t monitor : {1, 0, 2}) {
    EXPECT_EQ(broker.sink(monitor).sent(), bytes_of(arrivals));
    EXPECT_EQ(broker.pool().available(), broker.pool().total() - 1);
    broker.sink(monitor).complete(broker.pool(), 1);
  }
  EXPECT_EQ(broker.pool().available(), broker.pool().total());
}

/// A sink that is done with a frame before it returns, as the queue of a scheduled monitor may be.
class HastySink final : public pipeline::Sink {
 public:
  HastySink(pipeline::FramePool& pool, pipeline::UmemView umem) : pool_(pool), umem_(umem) {}
  Posted post(std::span<const pipeline::TxDescriptor> frames) noexcept override {
    for (const auto& frame : frames.first(frames.size() / 2)) {
      classes.push_back(frame.traffic_class);
      EXPECT_EQ(pool_.references(umem_.number(frame.address)), 2U);
      pool_.release(umem_.number(frame.address));
    }
    return {static_cast<std::uint32_t>(frames.size() / 2), Refusal::queue_full};
  }
  std::vector<std::uint32_t> classes;

 private:
  pipeline::FramePool& pool_;
  pipeline::UmemView umem_;
};

TEST(Pipeline, ASinkMayBeDoneWithAFrameBeforeItReturns) {
  config::Config config = config_of(
      2, {policy_to({1}), policy_to({0}, {udp_to(53)}), policy_to({1, 0}), policy_to({0})});
  config.policies[1].priority = 1;
  plan::Plan plan;
  plan.config = std::move(config);
  auto tables = plan::compile(plan.config);
  ASSERT_TRUE(tables);
  plan.tables = std::move(*tables);
  const pipeline::SharedPlan shared(plan);
  MemoryBroker broker(config_of(1, {}));
  HastySink hasty(broker.pool(), broker.umem().view());
  MemorySink other(broker.umem().view());
  const std::array<pipeline::Sink*, 2> sinks{&hasty, &other};
  other.limit(0, Refusal::down);
  pipeline::Pipeline pipeline(shared, broker.umem().view(), broker.pool(), sinks);
  Burst burst = broker.receive(
      std::array{udp_frame(1, 80), udp_frame(2, 53), udp_frame(3, 80), udp_frame(4, 80)});
  pipeline.process(burst, 0);
  // Of the policies of this monitor, in the order of the file.
  EXPECT_EQ(hasty.classes, (std::vector<std::uint32_t>{1, 0}));
  EXPECT_EQ(pipeline.monitor_counters()[0].queue_full.read(), 2U);
  broker.release(burst);
  EXPECT_EQ(broker.pool().available(), broker.pool().total());
}

TEST(Pipeline, AMonitorGetsAFrameOnceByTheFirstPolicyInTheFile) {
  MemoryBroker broker(config_of(2, {policy_to({0}, {udp_to(53)}), policy_to({0, 1})}));
  const std::vector<Arrival> arrivals{udp_frame(1, 53), udp_frame(2, 80), udp_frame(3, 53)};
  broker.send(arrivals);
  EXPECT_EQ(broker.sink(0).sent(), bytes_of(arrivals));
  EXPECT_EQ(broker.sink(1).sent(), bytes_of(arrivals));
  const auto counters = broker.pipeline().policy_counters();
  EXPECT_EQ(counters[0].monitors[0].sent_frames.read(), 2U);
  EXPECT_EQ(counters[0].monitors[0].already_sent.read(), 0U);
  EXPECT_EQ(counters[1].monitors[0].sent_frames.read(), 1U);
  EXPECT_EQ(counters[1].monitors[0].already_sent.read(), 2U);
  EXPECT_EQ(counters[1].monitors[1].sent_frames.read(), 3U);
  EXPECT_EQ(counters[1].matched_frames.read(), 3U);
  EXPECT_EQ(counters[1].matched_bytes.read(), 3 * arrivals[0].bytes.size());
}

/// Nothing of one burst is left for the next.
TEST(Pipeline, AlreadySentIsForgottenWithTheBurst) {
  MemoryBroker broker(config_of(1, {policy_to({0}), policy_to({0})}));
  for (int i = 0; i < 3; ++i) broker.send(std::array{udp_frame(1)});
  EXPECT_EQ(broker.sink(0).sent().size(), 3U);
  EXPECT_EQ(broker.pipeline().policy_counters()[0].monitors[0].sent_frames.read(), 3U);
  EXPECT_EQ(broker.pipeline().policy_counters()[1].monitors[0].already_sent.read(), 3U);
}

TEST(Pipeline, TheSliceOfTheEarlierPolicyWins) {
  MemoryBroker broker(config_of(
      2, {policy_to({0}, {udp_to(53)}, 60), policy_to({0, 1}), policy_to({1}, {udp_to(80)}, 20)}));
  const Arrival dns = udp_frame(1, 53);
  const Arrival web = udp_frame(2, 80);
  broker.send(std::array{dns, web});
  EXPECT_EQ(broker.sink(0).sent(), (std::vector{cut(dns.bytes, 60), web.bytes}));
  EXPECT_EQ(broker.sink(1).sent(), (std::vector{dns.bytes, web.bytes}));
  EXPECT_EQ(broker.pipeline().policy_counters()[0].monitors[0].sent_bytes.read(), 60U);
  EXPECT_EQ(broker.pipeline().policy_counters()[0].matched_bytes.read(), dns.bytes.size());
}

TEST(Pipeline, ASliceLongerThanTheFrameChangesNothing) {
  MemoryBroker broker(config_of(1, {policy_to({0}, {}, 1000)}));
  const Arrival frame = udp_frame(1);
  broker.send(std::array{frame});
  EXPECT_EQ(broker.sink(0).sent(), bytes_of({frame}));
}

TEST(Pipeline, OrderAtAMonitorIsTheOrderOfArrival) {
  // The frames of the policies alternate: policy by policy they would be out of order.
  MemoryBroker broker(
      config_of(1, {policy_to({0}, {udp_to(53)}), policy_to({0}, {udp_to(80)}), policy_to({0})}));
  std::vector<Arrival> arrivals;
  for (std::uint8_t i = 0; i < 64; ++i) {
    arrivals.push_back(udp_frame(i, i % 3 == 0 ? 80 : i % 3 == 1 ? 53 : 22));
  }
  broker.send(arrivals);
  EXPECT_EQ(broker.sink(0).sent(), bytes_of(arrivals));
  EXPECT_EQ(broker.sink(0).posts(), 1U) << "one post per burst and monitor";
}

TEST(Pipeline, RefusalsAreCountedByReasonAndConcernNobodyElse) {
  MemoryBroker broker(config_of(4, {policy_to({0, 1, 2, 3})}));
  broker.sink(0).limit(2, Refusal::ring_full);
  broker.sink(1).limit(0, Refusal::down);
  broker.sink(2).limit(1, Refusal::queue_full);
  const std::vector<Arrival> arrivals{udp_frame(1), udp_frame(2), udp_frame(3)};
  broker.send(arrivals);
  const auto bytes = bytes_of(arrivals);
  EXPECT_EQ(broker.sink(0).sent(), std::vector(bytes.begin(), bytes.begin() + 2));
  EXPECT_TRUE(broker.sink(1).sent().empty());
  EXPECT_EQ(broker.sink(2).sent(), std::vector(bytes.begin(), bytes.begin() + 1));
  EXPECT_EQ(broker.sink(3).sent(), bytes);

  const auto refused = [&](std::size_t monitor) {
    const auto& counters = broker.pipeline().monitor_counters()[monitor];
    return std::array{counters.ring_full.read(), counters.queue_full.read(), counters.down.read()};
  };
  EXPECT_EQ(refused(0), (std::array<std::uint64_t, 3>{1, 0, 0}));
  EXPECT_EQ(refused(1), (std::array<std::uint64_t, 3>{0, 0, 3}));
  EXPECT_EQ(refused(2), (std::array<std::uint64_t, 3>{0, 2, 0}));
  EXPECT_EQ(refused(3), (std::array<std::uint64_t, 3>{0, 0, 0}));
  for (std::size_t monitor = 0; monitor < 4; ++monitor) {
    EXPECT_EQ(broker.pipeline().policy_counters()[0].monitors[monitor].sent_frames.read(), 3U);
  }
  broker.complete_all();
  EXPECT_EQ(broker.pool().available(), broker.pool().total());
}

TEST(Pipeline, APolicyConcernsItsTapsOnly) {
  auto other = policy_to({0});
  other.taps = {1};
  MemoryBroker broker(config_of(1, {other}));
  Arrival a = udp_frame(1);
  Arrival b = udp_frame(2);
  Arrival c = udp_frame(3);
  b.port = 1;
  c.port = 2;  // the first port of the second tap
  broker.send(std::array{a, b, c});
  EXPECT_EQ(broker.sink(0).sent(), bytes_of({c}));
}

TEST(Pipeline, SampleComesBeforeMeterAndEachCountsItsOwn) {
  auto policy = policy_to({0});
  policy.sample = {.one_in = 4, .flows = {}};
  policy.meter = {.bits_per_second = 0, .packets_per_second = 10, .burst = 10};
  MemoryBroker broker(config_of(1, {policy}));
  std::vector<Arrival> arrivals;
  for (std::uint8_t i = 0; i < 64; ++i) arrivals.push_back(udp_frame(i));
  broker.send(arrivals);
  const auto& counters = broker.pipeline().policy_counters()[0];
  EXPECT_EQ(counters.matched_frames.read(), 64U);
  EXPECT_EQ(counters.dropped_sample.read(), 48U);
  EXPECT_EQ(counters.dropped_meter.read(), 6U);
  std::vector<Bytes> expected;
  for (std::size_t i = 0; i < 40; i += 4) expected.push_back(arrivals[i].bytes);
  EXPECT_EQ(broker.sink(0).sent(), expected);
}

TEST(Pipeline, FlowSamplesReadTheFrameThoughNoMatchDoes) {
  auto policy = policy_to({0});
  policy.sample = {.one_in = 0, .flows = 0.5};
  MemoryBroker broker(config_of(1, {policy}));
  std::vector<Arrival> arrivals;
  for (std::uint8_t i = 0; i < 64; ++i) arrivals.push_back(udp_frame(i, i));
  broker.send(arrivals);
  EXPECT_GT(broker.sink(0).sent().size(), 10U);
  EXPECT_LT(broker.sink(0).sent().size(), 54U);
}

config::Meter packets_at_once(std::uint64_t burst) {
  return {.bits_per_second = 0, .packets_per_second = 1, .burst = burst};
}

TEST(Pipeline, HeadLetsTheFirstPacketsOfEachFlowPass) {
  auto policy = policy_to({0});
  policy.head = 3;
  MemoryBroker broker(config_of(1, {policy}));
  std::vector<Arrival> arrivals;
  for (std::uint8_t i = 0; i < 64; ++i) arrivals.push_back(udp_frame(i, i % 8));
  broker.send(arrivals);
  std::vector<Bytes> expected;
  for (std::size_t i = 0; i < 24; ++i) expected.push_back(arrivals[i].bytes);
  EXPECT_EQ(broker.sink(0).sent(), expected);
  const auto& counters = broker.pipeline().policy_counters()[0];
  EXPECT_EQ(counters.matched_frames.read(), 64U);
  EXPECT_EQ(counters.dropped_head.read(), 40U);
  broker.send(arrivals, 61'000'000'000);
  EXPECT_EQ(broker.sink(0).sent().size(), 48U) << "flows that were idle are new";
}

TEST(Pipeline, SliceAfterKeepsTheFirstPacketsWhole) {
  auto policy = policy_to({0}, {}, 60);
  policy.slice_after = 2;
  MemoryBroker broker(config_of(1, {policy}));
  std::vector<Arrival> arrivals;
  std::vector<Bytes> expected;
  for (std::uint8_t i = 0; i < 20; ++i) {
    arrivals.push_back(udp_frame(i, i % 4));
    expected.push_back(i < 8 ? arrivals[i].bytes : cut(arrivals[i].bytes, 60));
  }
  broker.send(arrivals);
  EXPECT_EQ(broker.sink(0).sent(), expected);
  EXPECT_EQ(broker.pipeline().policy_counters()[0].dropped_head.read(), 0U);
}

TEST(Pipeline, HeadAndSliceAfterCountWhatIsLeftOfTheSampleAndBeforeTheMeter) {
  auto policy = policy_to({0}, {}, 60);
  policy.sample = {.one_in = 2, .flows = {}};
  policy.head = 8;
  policy.slice_after = 3;
  policy.meter = packets_at_once(5);
  MemoryBroker broker(config_of(1, {policy}));
  std::vector<Arrival> arrivals;
  for (std::uint8_t i = 0; i < 40; ++i) arrivals.push_back(udp_frame(i));
  broker.send(arrivals);
  const auto& counters = broker.pipeline().policy_counters()[0];
  EXPECT_EQ(counters.dropped_sample.read(), 20U);
  EXPECT_EQ(counters.dropped_head.read(), 12U);
  EXPECT_EQ(counters.dropped_meter.read(), 3U);
  EXPECT_EQ(counters.green_frames.read(), 5U);
  EXPECT_EQ(counters.yellow_frames.read(), 3U);
  EXPECT_EQ(broker.sink(0).sent(),
            (std::vector{arrivals[0].bytes, arrivals[2].bytes, arrivals[4].bytes,
                         cut(arrivals[6].bytes, 60), cut(arrivals[8].bytes, 60)}));
}

TEST(Pipeline, WhatExceedsTheRateIsSlicedAndTheShorterSliceWins) {
  for (const std::uint32_t slice : {30U, 100U}) {
    auto policy = policy_to({0}, {}, slice);
    policy.meter = packets_at_once(2);
    policy.meter->exceed_slice = 50;
    policy.meter->peak_per_second = 1;
    policy.meter->peak_burst = 3;
    MemoryBroker broker(config_of(1, {policy}));
    const std::vector<Arrival> arrivals{udp_frame(1), udp_frame(2), udp_frame(3), udp_frame(4)};
    broker.send(arrivals);
    EXPECT_EQ(broker.sink(0).sent(),
              (std::vector{cut(arrivals[0].bytes, slice), cut(arrivals[1].bytes, slice),
                           cut(arrivals[2].bytes, std::min(slice, 50U))}));
    const auto& counters = broker.pipeline().policy_counters()[0];
    EXPECT_EQ(counters.green_frames.read(), 2U);
    EXPECT_EQ(counters.yellow_frames.read(), 1U);
    EXPECT_EQ(counters.red_frames.read(), 1U);
    EXPECT_EQ(counters.dropped_meter.read(), 1U);
  }
}

TEST(Pipeline, MetersPerHostReadTheFrameThoughNoMatchDoes) {
  for (const auto per : {config::Per::src, config::Per::dst, config::Per::flow}) {
    auto policy = policy_to({0});
    policy.meter = packets_at_once(2);
    policy.meter->per = per;
    MemoryBroker broker(config_of(1, {policy}));
    std::vector<Arrival> arrivals;
    for (std::uint8_t i = 0; i < 20; ++i) {
      const FrameBuilder::Ipv4 ip{.src = {10, 0, 0, static_cast<std::uint8_t>(i % 4)},
                                  .dst = {10, 0, 1, static_cast<std::uint8_t>(i % 4)}};
      arrivals.push_back({FrameBuilder().ethernet().type(0x0800).ipv4(ip).udp(1, 2).build(), 0});
    }
    broker.send(arrivals);
    EXPECT_EQ(broker.sink(0).sent().size(), 8U);
    EXPECT_EQ(broker.pipeline().policy_counters()[0].dropped_meter.read(), 12U);
  }
}

/// The first one is of no interest to the policy, but tells the flow of the others.
TEST(Pipeline, FragmentsAreCountedWithTheirFlow) {
  auto policy = policy_to({0}, {{.length = {{200, 2000}}}});
  policy.head = 2;
  MemoryBroker broker(config_of(1, {policy}));
  const auto frame = [](std::uint16_t offset, bool more, std::size_t payload) {
    FrameBuilder::Ipv4 ip;
    ip.offset = offset;
    ip.more = more;
    FrameBuilder built;
    built.ethernet().type(0x0800).ipv4(ip);
    if (offset == 0) built.udp(1000, 53);
    return Arrival{built.payload(payload).build(), 0};
  };
  const std::vector<Arrival> arrivals{frame(0, true, 8), frame(2, true, 300), frame(0, false, 400),
                                      frame(40, false, 300), frame(0, false, 500)};
  broker.send(arrivals);
  EXPECT_EQ(broker.sink(0).sent(), bytes_of({arrivals[1], arrivals[2]}));
  EXPECT_EQ(broker.pipeline().policy_counters()[0].dropped_head.read(), 2U);
}

/// More policies than a word has bits.
TEST(Pipeline, HundredsOfPoliciesEachCountTheirOwn) {
  std::vector<config::Policy> policies;
  for (std::uint16_t port = 0; port < 300; ++port)
    policies.push_back(policy_to({0}, {udp_to(port)}));
  MemoryBroker broker(config_of(1, std::move(policies)));
  std::vector<std::uint64_t> expected(300, 0);
  Random random(1);
  for (int round = 0; round < 20; ++round) {
    std::vector<Arrival> arrivals;
    for (std::uint8_t i = 0; i < 64; ++i) {
      const auto port = static_cast<std::uint16_t>(random.below(300));
      arrivals.push_back(udp_frame(i, port));
      ++expected[port];
    }
    broker.send(arrivals);
    broker.complete_all();
  }
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(broker.pipeline().policy_counters()[i].matched_frames.read(), expected[i]) << i;
  }
}

TEST(Forward, PostsOriginalsAndHoldsThem) {
  MemoryBroker broker(config_of(1, {policy_to({0})}));
  MemorySink output(broker.umem().view());
  output.limit(2, Refusal::ring_full);
  const std::vector<Arrival> arrivals{udp_frame(1), udp_frame(2), udp_frame(3)};
  Burst burst = broker.receive(arrivals);
  const auto view = broker.umem().view();
  EXPECT_EQ(pipeline::Pipeline::forward(burst, broker.pool(), view, output), 2U);
  broker.pipeline().process(burst, 0);
  broker.release(burst);
  EXPECT_EQ(output.sent(), (std::vector{arrivals[0].bytes, arrivals[1].bytes}));
  EXPECT_EQ(broker.sink(0).sent(), bytes_of(arrivals)) << "copies do not depend on the original";
  EXPECT_EQ(broker.pool().references(view.number(burst.address[0])), 2U);
  EXPECT_EQ(broker.pool().references(view.number(burst.address[2])), 1U);
  output.complete(broker.pool(), 2);
  broker.complete_all();
  EXPECT_EQ(broker.pool().available(), broker.pool().total());
}

/// Random policies, bursts, refusals and completions: the ledgers of frames and of counters hold at
/// every step, and every copy has the bytes of its frame.
class Ledger : public testing::TestWithParam<std::uint64_t> {
 protected:
  static constexpr std::uint32_t kMonitors = 5;
  static constexpr std::uint32_t kFrames = 96;  // few, so that they run out

  Ledger() : random_(GetParam()), broker_(random_config(), kFrames) {}

  config::Config random_config() {
    std::vector<config::Policy> policies;
    for (std::uint32_t i = random_.between(1, 8); i > 0; --i) {
      std::vector<std::uint32_t> monitors;
      for (std::uint32_t m = 0; m < kMonitors; ++m) {
        if (random_.percent(40)) monitors.push_back(m);
      }
      if (monitors.empty()) monitors = {random_.below(kMonitors)};
      auto policy = policy_to(std::move(monitors));
      if (random_.percent(50)) policy.match = {udp_to(53)};
      if (random_.percent(30)) policy.slice = random_.between(14, 200);
      if (random_.percent(30)) policy.sample = {.one_in = random_.between(1, 5), .flows = {}};
      if (random_.percent(50)) policy.meter = random_meter();
      if (random_.percent(30)) policy.head = random_.between(1, 100);
      if (random_.percent(30)) policy.slice_after = random_.between(1, 100);
      policies.push_back(std::move(policy));
    }
    return config_of(kMonitors, std::move(policies));
  }

  config::Meter random_meter() {
    static constexpr std::array kOwners{config::Per::policy, config::Per::src, config::Per::flow};
    config::Meter meter{8'000'000, 0, 5000};
    if (random_.percent(30)) meter.exceed_slice = random_.between(14, 200);
    if (meter.exceed_slice == 0 && random_.percent(50)) meter.exceed_one_in = random_.between(1, 9);
    if (random_.percent(50)) {
      meter.peak_per_second = 16'000'000;
      meter.peak_burst = 8000;
    }
    meter.per = random_.pick(kOwners);
    return meter;
  }

  std::vector<Arrival> random_arrivals() {
    std::vector<Arrival> arrivals;
    for (std::uint32_t n = random_.between(1, 64); n > 0; --n) {
      arrivals.push_back(
          udp_frame(random_.byte(), random_.percent(50) ? 53 : 80, random_.below(200)));
    }
    return arrivals;
  }

  void disturb_sinks() {
    static constexpr std::array kReasons{Refusal::ring_full, Refusal::queue_full, Refusal::down};
    for (std::uint32_t m = 0; m < kMonitors; ++m) {
      if (random_.percent(20)) broker_.sink(m).limit(random_.below(100), random_.pick(kReasons));
      if (random_.percent(60)) broker_.sink(m).complete(broker_.pool(), random_.below(80));
    }
  }

  /// free + held == total, and every count is that of its holders. `burst`: holds one each.
  void expect_frame_ledger(const Burst* burst) {
    std::vector<std::uint32_t> holders(kFrames, 0);
    for (std::uint32_t m = 0; m < kMonitors; ++m) {
      for (const FrameNumber frame : broker_.sink(m).held()) {
        ++holders[static_cast<std::uint32_t>(frame)];
      }
    }
    for (std::uint32_t i = 0; burst != nullptr && i < burst->size; ++i) {
      ++holders[static_cast<std::uint32_t>(broker_.umem().view().number(burst->address[i]))];
    }
    std::uint32_t held = 0;
    for (std::uint32_t frame = 0; frame < kFrames; ++frame) {
      ASSERT_EQ(broker_.pool().references(FrameNumber{frame}), holders[frame]) << "frame " << frame;
      held += holders[frame] != 0 ? 1 : 0;
    }
    ASSERT_EQ(broker_.pool().available() + held, kFrames);
  }

  /// DESIGN 7.3.
  void expect_counter_ledger() {
    std::array<std::uint64_t, kMonitors> sent{};
    const auto policies = broker_.pipeline().policy_counters();
    for (std::size_t p = 0; p < policies.size(); ++p) {
      const auto& to = broker_.config().policies[p].monitors;
      for (std::size_t m = 0; m < to.size(); ++m) {
        const auto& monitor = policies[p].monitors[m];
        ASSERT_EQ(policies[p].matched_frames.read(),
                  policies[p].dropped_sample.read() + policies[p].dropped_head.read() +
                      policies[p].dropped_meter.read() + monitor.sent_frames.read() +
                      monitor.already_sent.read());
        sent[to[m]] += monitor.sent_frames.read();
      }
      const std::uint64_t offered = policies[p].matched_frames.read() -
                                    policies[p].dropped_sample.read() -
                                    policies[p].dropped_head.read();
      ASSERT_EQ(policies[p].green_frames.read() + policies[p].yellow_frames.read() +
                    policies[p].red_frames.read(),
                broker_.config().policies[p].meter ? offered : 0);
    }
    for (std::uint32_t m = 0; m < kMonitors; ++m) {
      const auto& dropped = broker_.pipeline().monitor_counters()[m];
      ASSERT_EQ(sent[m], broker_.sink(m).sent().size() + dropped.ring_full.read() +
                             dropped.queue_full.read() + dropped.down.read());
    }
  }

  Random random_;
  MemoryBroker broker_;
};

TEST_P(Ledger, HoldsAtEveryStep) {
  for (std::uint64_t round = 0; round < 200 && !HasFatalFailure(); ++round) {
    const auto arrivals = random_arrivals();
    Burst burst = broker_.receive(arrivals);
    std::array<std::size_t, kMonitors> before{};
    for (std::uint32_t m = 0; m < kMonitors; ++m) before[m] = broker_.sink(m).sent().size();
    broker_.pipeline().process(burst, round * 100'000);
    expect_frame_ledger(&burst);
    broker_.release(burst);
    expect_frame_ledger(nullptr);
    expect_counter_ledger();
    for (std::uint32_t m = 0; m < kMonitors; ++m) {
      // In order, each at most once, cut at most.
      auto next = arrivals.begin();
      const auto& sent = broker_.sink(m).sent();
      for (std::size_t i = before[m]; i < sent.size(); ++i) {
        next = std::find_if(next, arrivals.end(), [&](const Arrival& arrival) {
          return cut(arrival.bytes, sent[i].size()) == sent[i];
        });
        ASSERT_NE(next, arrivals.end()) << "a copy of no frame, or out of order: " << hex(sent[i]);
        ++next;
      }
    }
    disturb_sinks();
    expect_frame_ledger(nullptr);
  }
  broker_.complete_all();
  EXPECT_EQ(broker_.pool().available(), kFrames);
}

INSTANTIATE_TEST_SUITE_P(Seeds, Ledger, testing::Range<std::uint64_t>(0, 30));

}  // namespace
}  // namespace vtap::test
