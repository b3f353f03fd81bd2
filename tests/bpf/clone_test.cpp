// SPDX-License-Identifier: Apache-2.0
// Policies that the kernel serves: the set of policies that the TC program finds, what it counts
// for each, and that the others still get their copy. Random plans against the classifier in C++.
#include <vtap/parse.h>

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "bpf/rig.hpp"
#include "plan/classifier.hpp"
#include "support/classified.hpp"
#include "support/random_config.hpp"

namespace vtap::test {
namespace {

using io::ProgramHook;
using plan::Placement;

constexpr std::uint32_t kMonitors = 5;

/// Random policies that go to random monitors, in any order.
config::Config config_of(std::uint64_t seed, Random& random) {
  config::Config config = random_config(seed);
  scatter_monitors(config, kMonitors, random);
  return config;
}

struct Expected {
  std::uint64_t matched = 0, matched_bytes = 0;
  std::map<std::uint32_t, vtap_pair_counters> pairs;  ///< by place in the policy's list
};

class Clone : public BpfTest {
 protected:
  void SetUp() override {
    BpfTest::SetUp();
    if (!IsSkipped() && !HasFatalFailure()) tee_ = std::make_unique<Tee>(8);
  }

  /// All frames through one tap of one random plan, policies placed at random.
  void compare(std::uint64_t seed, std::uint32_t percent_kernel) {
    Random random(seed);
    const config::Config config = config_of(seed, random);
    std::vector<Placement> placements;
    for (std::size_t i = 0; i < config.policies.size(); ++i) {
      placements.push_back(random.percent(percent_kernel) ? Placement::kernel : Placement::broker);
    }
    const Compiled plan(config, placements);
    const plan::Classifier classifier(plan.tables);
    Found found(classifier);
    std::vector<Expected> expected(config.policies.size());
    std::vector<std::uint64_t> sent(kMonitors);
    const auto tap = static_cast<std::uint32_t>(seed % config.taps.size());
    Tap programs(ProgramHook::tc, constants(plan.tables, tap, *tee_), *tee_, plan);
    for (const Bytes& frame : corpus(seed, 300)) {
      if (!runnable(ProgramHook::tc, frame) || frame.size() > tee_->frame_size()) continue;
      vtap_key key;
      const auto length = static_cast<__u32>(frame.size());
      vtap_parse(frame.data(), std::min<__u32>(length, VTAP_WINDOW), length, &key);
      found.classify(key, tap);
      bool for_broker = false;
      std::uint64_t has_it = 0;
      std::ranges::for_each(found.policies(), [&](std::uint32_t number) {
        if (placements[number] == Placement::broker) {
          for_broker = true;
          return;
        }
        Expected& policy = expected[number];
        ++policy.matched;
        policy.matched_bytes += frame.size();
        const auto& monitors = config.policies[number].monitors;
        for (std::uint32_t place = 0; place < monitors.size(); ++place) {
          const std::uint64_t monitor = std::uint64_t{1} << monitors[place];
          if ((has_it & monitor) != 0) {
            ++policy.pairs[place].already_sent;
          } else {
            ++policy.pairs[place].sent_frames;
            policy.pairs[place].sent_bytes += frame.size();
            ++sent[monitors[place]];
            has_it |= monitor;
          }
        }
        ++cloned_;
      });
      tee_->give(1);
      const vtap_port_counters before = tee_->counters();
      ASSERT_EQ(programs.run(frame), Fate::passed);
      const vtap_port_counters after = tee_->counters();
      const bool any = for_broker || has_it != 0;
      EXPECT_EQ(after.matched - before.matched, any ? 1U : 0U);
      EXPECT_EQ(after.copied - before.copied, any ? 1U : 0U);
      EXPECT_EQ(tee_->take().size(), for_broker ? 1U : 0U);
      teed_ += for_broker ? 1 : 0;
      ASSERT_FALSE(HasFailure()) << "config " << seed << ", frame " << hex(frame);
    }
    for (std::uint32_t number = 0; number < config.policies.size(); ++number) {
      if (placements[number] == Placement::broker) continue;
      const vtap_placed_counters counted = plan.clones.policy(number);
      EXPECT_EQ(counted.matched_frames, expected[number].matched);
      EXPECT_EQ(counted.matched_bytes, expected[number].matched_bytes);
      for (std::uint32_t place = 0; place < config.policies[number].monitors.size(); ++place) {
        const vtap_pair_counters pair = plan.clones.pair(number, place);
        const vtap_pair_counters& want = expected[number].pairs[place];
        EXPECT_EQ(pair.sent_frames, want.sent_frames);
        EXPECT_EQ(pair.sent_bytes, want.sent_bytes);
        EXPECT_EQ(pair.already_sent, want.already_sent);
      }
      ASSERT_FALSE(HasFailure()) << "config " << seed << ", policy " << number;
    }
    // No monitor has a port here.
    for (std::uint32_t monitor = 0; monitor < kMonitors; ++monitor) {
      EXPECT_EQ(plan.clones.monitor(monitor).frames[VTAP_LOST_DOWN], sent[monitor]);
      EXPECT_EQ(plan.clones.monitor(monitor).frames[VTAP_LOST_FAILED], 0U);
    }
    most_words_ = std::max(most_words_, plan.tables.config.match_words);
  }

  std::unique_ptr<Tee> tee_;
  std::uint64_t cloned_ = 0, teed_ = 0;
  std::uint32_t most_words_ = 0;
};

TEST_F(Clone, EveryPolicyCountsAndTheOthersGetTheirCopy) {
  for (std::uint64_t seed = 0; seed < 24; ++seed) {
    ASSERT_NO_FATAL_FAILURE(compare(seed, seed % 3 == 0 ? 100 : 50));
  }
  EXPECT_GT(cloned_, 1000U);
  EXPECT_GT(teed_, 500U);
  EXPECT_GT(most_words_, 8U);
}

}  // namespace
}  // namespace vtap::test
