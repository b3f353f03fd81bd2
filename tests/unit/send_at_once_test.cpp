// SPDX-License-Identifier: Apache-2.0
// Bursts whose policies only send go another way through the pipeline than all others. Both ways
// must do the same.
#include <gtest/gtest.h>

#include <algorithm>

#include "support/memory_broker.hpp"
#include "support/random_config.hpp"

namespace vtap::test {
namespace {

/// Policies that only send, some of them sliced, of a plan that is flat.
config::Config sending_config(std::uint64_t seed) {
  config::Config config = random_config(seed);
  Random random(seed);
  scatter_monitors(config, 1 + random.below(4), random);
  std::size_t rules = 0;
  for (std::size_t i = 0; i < config.policies.size(); ++i) {
    config::Policy& policy = config.policies[i];
    rules += std::max(policy.match.size(), policy.except.size()) + 1;
    if (rules > 100) {
      config.policies.resize(i);
      break;
    }
    policy.filter.reset();
    policy.sample.reset();
    policy.meter.reset();
    policy.head.reset();
    policy.slice_after = 0;
    policy.once = false;
    policy.slice.reset();
    if (random.percent(30)) policy.slice = 14 + random.below(200);
  }
  return config;
}

/// The same, but every burst is worked policy by policy: each samples, one in one.
config::Config sampling_config(config::Config config) {
  for (config::Policy& policy : config.policies)
    policy.sample = config::Sample{.one_in = 1, .flows = {}};
  return config;
}

class SendAtOnce : public testing::TestWithParam<std::uint64_t> {};

TEST_P(SendAtOnce, DoesWhatPolicyByPolicyDoes) {
  const config::Config config = sending_config(GetParam());
  MemoryBroker at_once(config, 128);
  MemoryBroker by_policy(sampling_config(config), 128);
  std::size_t ports = 0;
  for (const auto& tap : config.taps) ports += tap.ports.size();
  Random random(GetParam());
  const auto frames = corpus(GetParam(), 2000);
  for (std::size_t next = 0; next < frames.size();) {
    std::vector<Arrival> arrivals;
    const std::size_t size = 1 + random.below(64);
    for (; arrivals.size() < size && next < frames.size(); ++next)
      arrivals.push_back({frames[next], static_cast<std::uint8_t>(
                                            random.below(static_cast<std::uint32_t>(ports)))});
    for (MemoryBroker* broker : {&at_once, &by_policy}) {
      broker->send(arrivals);
      broker->complete_all();
      ASSERT_EQ(broker->pool().available(), broker->pool().total());
    }
  }
  for (std::size_t i = 0; i < at_once.sinks(); ++i)
    EXPECT_EQ(at_once.sink(i).sent(), by_policy.sink(i).sent()) << "monitor " << i;
  for (std::size_t i = 0; i < config.policies.size(); ++i) {
    const auto& a = at_once.pipeline().policy_counters()[i];
    const auto& b = by_policy.pipeline().policy_counters()[i];
    EXPECT_EQ(a.matched_frames.read(), b.matched_frames.read()) << i;
    EXPECT_EQ(a.matched_bytes.read(), b.matched_bytes.read()) << i;
    for (std::size_t m = 0; m < a.monitors.size(); ++m) {
      EXPECT_EQ(a.monitors[m].sent_frames.read(), b.monitors[m].sent_frames.read())
          << i << ' ' << m;
      EXPECT_EQ(a.monitors[m].sent_bytes.read(), b.monitors[m].sent_bytes.read()) << i << ' ' << m;
      EXPECT_EQ(a.monitors[m].already_sent.read(), b.monitors[m].already_sent.read())
          << i << ' ' << m;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, SendAtOnce, testing::Range<std::uint64_t>(0, 60));

/// What the short way relies on: in a flat plan the bits come in file order, whatever is asked.
/// (Long lists of rules may leave no room for that.)
TEST(FlatPlan, BitsAreInFileOrder) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    config::Config config = sending_config(seed);
    for (config::Policy& policy : config.policies) {
      policy.match.resize(std::min<std::size_t>(policy.match.size(), 1));
      policy.except.resize(std::min<std::size_t>(policy.except.size(), 1));
    }
    auto tables = plan::compile(config);
    ASSERT_TRUE(tables);
    EXPECT_EQ(tables->config.sum_words, 0U) << seed;
    std::vector<std::uint32_t> order;
    for (const std::uint32_t policy : tables->policy_of_bit)
      if (policy != plan::Classifier::kNobody) order.push_back(policy);
    EXPECT_EQ(order.size(), config.policies.size());
    EXPECT_TRUE(std::is_sorted(order.begin(), order.end())) << seed;
  }
}

}  // namespace
}  // namespace vtap::test
