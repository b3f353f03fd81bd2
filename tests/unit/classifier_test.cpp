// SPDX-License-Identifier: Apache-2.0
#include "plan/classifier.hpp"

#include <gtest/gtest.h>
#include <vtap/parse.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include "plan/key_mask.hpp"
#include "support/classified.hpp"
#include "support/frames.hpp"
#include "support/random_config.hpp"
#include "support/reference.hpp"

namespace vtap::test {
namespace {

using config::Match;
using config::Prefix;

vtap_key parse(const Bytes& frame) {
  vtap_key key;
  vtap_parse(frame.data(), static_cast<__u32>(std::min<std::size_t>(frame.size(), VTAP_WINDOW)),
             static_cast<__u32>(frame.size()), &key);
  return key;
}

/// Config, tables and classifier that belong together.
class Subject {
 public:
  explicit Subject(config::Config config)
      : config_(std::move(config)),
        tables_(std::move(plan::compile(config_)).value()),
        classifier_(tables_),
        found_(classifier_) {}

  std::vector<std::uint32_t> classify(const Bytes& frame, std::uint32_t tap = 0) {
    const bool any = found_.classify(parse(frame), tap);
    const std::vector<std::uint32_t> policies = found_.policies();
    EXPECT_EQ(any, !policies.empty());
    return policies;
  }

  [[nodiscard]] const config::Config& config() const { return config_; }
  [[nodiscard]] const plan::Tables& tables() const { return tables_; }

 private:
  config::Config config_;
  plan::Tables tables_;
  plan::Classifier classifier_;
  Found found_;
};

/// One tap, one policy per list of matches.
config::Config config_of(std::vector<std::vector<Match>> policies) {
  config::Config config;
  config.taps.resize(1);
  config.monitors.resize(1);
  for (auto& match : policies) {
    auto& policy = config.policies.emplace_back();
    policy.taps = {0};
    policy.monitors = {0};
    policy.match = std::move(match);
  }
  return config;
}

Prefix v4(std::uint8_t a, std::uint8_t b, std::uint8_t c, std::uint8_t d, std::uint8_t length) {
  return {false, length, {a, b, c, d}};
}

Bytes packet(std::array<std::uint8_t, 4> src, std::array<std::uint8_t, 4> dst,
             std::uint16_t sport = 1000, std::uint16_t dport = 80) {
  return FrameBuilder()
      .ethernet()
      .type(0x0800)
      .ipv4({.src = src, .dst = dst, .proto = 6})
      .tcp(sport, dport, 0x02)
      .build();
}

using Policies = std::vector<std::uint32_t>;

TEST(Classifier, LongestPrefixKeepsTheShorterOnes) {
  Subject subject(config_of({{{.src = {v4(10, 0, 0, 0, 8)}}},
                             {{.src = {v4(10, 1, 0, 0, 16)}}},
                             {{.src = {v4(10, 1, 2, 3, 32)}}},
                             {{.src = {v4(0, 0, 0, 0, 0)}}}}));
  EXPECT_EQ(subject.classify(packet({10, 1, 2, 3}, {9, 9, 9, 9})), (Policies{0, 1, 2, 3}));
  EXPECT_EQ(subject.classify(packet({10, 1, 2, 4}, {9, 9, 9, 9})), (Policies{0, 1, 3}));
  EXPECT_EQ(subject.classify(packet({10, 2, 2, 3}, {9, 9, 9, 9})), (Policies{0, 3}));
  EXPECT_EQ(subject.classify(packet({9, 9, 9, 9}, {10, 1, 2, 3})), (Policies{3}));
  EXPECT_EQ(subject.classify(FrameBuilder().ethernet().type(0x86dd).ipv6({}).build()), Policies{});
}

TEST(Classifier, SourceDestinationAndEitherInOneRule) {
  Subject subject(config_of({{{.src = {v4(10, 0, 0, 0, 24)},
                               .dst = {v4(10, 0, 1, 0, 24)},
                               .host = {v4(10, 0, 0, 5, 32), v4(10, 0, 1, 6, 32)}}}}));
  EXPECT_EQ(subject.classify(packet({10, 0, 0, 5}, {10, 0, 1, 1})), Policies{0});
  EXPECT_EQ(subject.classify(packet({10, 0, 0, 1}, {10, 0, 1, 6})), Policies{0});
  EXPECT_EQ(subject.classify(packet({10, 0, 0, 1}, {10, 0, 1, 1})), Policies{});
  EXPECT_EQ(subject.classify(packet({10, 0, 1, 6}, {10, 0, 0, 5})), Policies{});
}

TEST(Classifier, EitherEndDoesNotMixEnds) {
  // Two hosts, two ports: each key alone may hold at another end.
  Subject subject(config_of({{{.host = {v4(10, 0, 0, 5, 32)}, .port = {{80, 80}}}}}));
  EXPECT_EQ(subject.classify(packet({10, 0, 0, 5}, {9, 9, 9, 9}, 1000, 80)), Policies{0});
  EXPECT_EQ(subject.classify(packet({10, 0, 0, 5}, {9, 9, 9, 9}, 80, 1000)), Policies{0});
  EXPECT_EQ(subject.classify(packet({10, 0, 0, 5}, {9, 9, 9, 9}, 81, 1000)), Policies{});
  EXPECT_EQ(subject.classify(packet({9, 9, 9, 9}, {8, 8, 8, 8}, 80, 80)), Policies{});
}

TEST(Classifier, ExceptTakesOnlyFromItsOwnPolicy) {
  auto config = config_of({{{.dst_port = {{80, 80}}}}, {{.dst_port = {{80, 81}}}}, {}});
  config.policies[1].except = {{.src = {v4(10, 0, 0, 0, 8)}}, {.proto = {{17, 17}}}};
  Subject subject(std::move(config));
  EXPECT_EQ(subject.classify(packet({10, 0, 0, 5}, {9, 9, 9, 9})), (Policies{0, 2}));
  EXPECT_EQ(subject.classify(packet({11, 0, 0, 5}, {9, 9, 9, 9})), (Policies{0, 1, 2}));
  EXPECT_EQ(subject.classify({}), Policies{2});
}

TEST(Classifier, PolicyOfManySegmentsIsVisitedOnce) {
  std::vector<Match> many;
  for (std::uint32_t port = 0; port < 200; ++port) many.push_back({.port = {{port, port + 100}}});
  auto config = config_of({{}, many, {}});
  config.policies[1].except = {{.dst_port = {{99, 99}}}};
  Subject subject(std::move(config));
  EXPECT_EQ(subject.classify(packet({9, 9, 9, 9}, {9, 9, 9, 9}, 150, 150)), (Policies{0, 1, 2}));
  EXPECT_EQ(subject.classify(packet({9, 9, 9, 9}, {9, 9, 9, 9}, 150, 99)), (Policies{0, 2}));
}

TEST(Classifier, LengthsBeyondTheLargestCountAsTheLargest) {
  Subject subject(config_of({{{.length = {{65535, 65535}}}}, {{.length = {{60, 65534}}}}}));
  EXPECT_EQ(subject.classify(Bytes(59, 1)), Policies{});
  EXPECT_EQ(subject.classify(Bytes(60, 1)), Policies{1});
  EXPECT_EQ(subject.classify(Bytes(65535, 1)), Policies{0});
  EXPECT_EQ(subject.classify(Bytes(70000, 1)), Policies{0});
}

TEST(Classifier, ZeroMacIsNoRunt) {
  Subject subject(config_of({{{.src_mac = {config::Mac{}}}}}));
  EXPECT_EQ(subject.classify(Bytes(13, 0)), Policies{});
  EXPECT_EQ(subject.classify(Bytes(14, 0)), Policies{0});
}

TEST(Classifier, NoPoliciesTakeNothing) {
  Subject subject(config_of({}));
  EXPECT_EQ(subject.classify(Bytes(60, 1)), Policies{});
}

/// The policies of many random configs on one tap: words by the dozen, several sums.
config::Config large_config(std::uint64_t seed, std::size_t policies) {
  config::Config config = config_of({});
  while (config.policies.size() < policies) {
    for (config::Policy& policy : random_config(seed++).policies) {
      policy.taps = {0};
      policy.monitors = {0};
      config.policies.push_back(std::move(policy));
    }
  }
  return config;
}

TEST(Classifier, LargePlansAgreeWithTheOracleInBursts) {
  constexpr std::size_t kPolicies = 2500;
  for (std::uint64_t seed : {1000U, 2000U}) {
    const config::Config config = large_config(seed, kPolicies);
    auto compiled = plan::compile(config);
    ASSERT_TRUE(compiled.ok()) << compiled.error().message;
    const plan::Tables tables = std::move(compiled).value();
    EXPECT_GT(tables.config.sum_words, 1U);
    EXPECT_GT(tables.config.except_words, 0U);
    const plan::Classifier classifier(tables);
    plan::Classifier::Scratch scratch(classifier);
    const std::vector<Bytes> frames = corpus(seed, plan::kBurst);
    for (const std::size_t size : {std::size_t{1}, std::size_t{7}, std::size_t{plan::kBurst}}) {
      std::vector<vtap_key> keys;
      for (std::size_t i = 0; i < size; ++i) keys.push_back(parse(frames[i]));
      const std::vector<std::uint32_t> taps(size, 0);
      std::vector<std::set<std::uint32_t>> found(size);
      for (const plan::Hit& hit : classifier.classify(keys, taps, scratch))
        classifier.for_each_policy(hit, [&](std::uint32_t p) { found[hit.frame].insert(p); });
      for (std::size_t i = 0; i < size; ++i) {
        const Policies expected = policies(config, 0, read_fields(frames[i]));
        EXPECT_EQ(Policies(found[i].begin(), found[i].end()), expected)
            << "config " << seed << ", frame " << hex(frames[i]);
      }
    }
  }
}

/// Frames that come again, in any order and from several taps, with a cache that holds some of them
/// or all.
TEST(Classifier, WhatIsCachedAgreesWithTheOracle) {
  // Few enough for each frame to be kept, among many that take none.
  config::Config config = large_config(3000, 40);
  for (std::uint8_t i = 0; i < 250; ++i)
    config.policies.push_back(config_of({{{.src = {v4(240, 0, 0, i, 32)}}}}).policies.front());
  config.taps.resize(3);
  for (std::size_t i = 0; i < config.policies.size(); ++i) {
    config.policies[i].taps.clear();
    for (std::uint32_t tap = 0; tap < 3; ++tap)
      if ((i + tap) % 3 != 0) config.policies[i].taps.push_back(tap);
  }
  const auto tables = std::move(plan::compile(config)).value();
  ASSERT_GT(tables.config.sum_words, 0U);
  const plan::Classifier classifier(tables);
  const std::vector<Bytes> frames = corpus(3000, 100);
  std::vector<std::array<Policies, 3>> expected(frames.size());
  for (std::size_t i = 0; i < frames.size(); ++i) {
    for (std::uint32_t tap = 0; tap < 3; ++tap)
      expected[i][tap] = policies(config, tap, read_fields(frames[i]));
  }
  std::set<Policies> different;
  for (const auto& of_frame : expected) different.insert(of_frame.begin(), of_frame.end());
  EXPECT_GT(different.size(), 100U);
  for (const std::uint32_t cached : {0U, 16U, 128U, plan::VerdictCache::kEntries}) {
    plan::Classifier::Scratch scratch(classifier, cached);
    Random random(cached);
    for (int round = 0; round < 300; ++round) {
      std::vector<vtap_key> keys;
      std::vector<std::uint32_t> taps;
      std::vector<std::size_t> chosen;
      for (std::uint32_t i = random.between(1, plan::kBurst); i != 0; --i) {
        chosen.push_back(random.below(static_cast<std::uint32_t>(frames.size())));
        taps.push_back(random.below(3));
        keys.push_back(parse(frames[chosen.back()]));
      }
      std::vector<std::set<std::uint32_t>> found(keys.size());
      for (const plan::Hit& hit : classifier.classify(keys, taps, scratch))
        classifier.for_each_policy(hit, [&](std::uint32_t p) { found[hit.frame].insert(p); });
      for (std::size_t i = 0; i < keys.size(); ++i) {
        ASSERT_EQ(Policies(found[i].begin(), found[i].end()), expected[chosen[i]][taps[i]])
            << cached << " cached, tap " << taps[i] << ", frame " << hex(frames[chosen[i]]);
      }
    }
  }
}

/// Behind the classifier's back the plan is changed: what it still finds is what it remembers.
TEST(Classifier, WhatWasFoundIsNotLookedForAgain) {
  config::Config config = config_of({{{.dst_port = {{80, 80}}}}});
  for (std::uint8_t i = 0; i < 250; ++i)
    config.policies.push_back(config_of({{{.src = {v4(240, 0, 0, i, 32)}}}}).policies.front());
  auto tables = std::move(plan::compile(config)).value();
  ASSERT_GT(tables.config.sum_words, 0U);
  const plan::Classifier classifier(tables);
  Found remembering(classifier);
  Found forgetful(classifier, 0);
  vtap_key key = parse(packet({10, 0, 0, 1}, {10, 0, 0, 2}));
  key.dport = 80;
  for (Found* found : {&remembering, &forgetful}) {
    found->classify(key, 0);
    EXPECT_EQ(found->policies(), std::vector<std::uint32_t>{0});
  }
  std::ranges::fill(tables.vectors, 0);
  for (Found* found : {&remembering, &forgetful}) found->classify(key, 0);
  EXPECT_EQ(remembering.policies(), std::vector<std::uint32_t>{0});
  EXPECT_TRUE(forgetful.policies().empty());
}

TEST(Classifier, AgreesWithTheOracle) {
  constexpr std::uint64_t kConfigs = 200;
  constexpr std::size_t kFrames = 200;
  std::size_t some = 0;
  std::size_t several = 0;
  std::size_t verdicts = 0;
  std::size_t excepted = 0;
  std::uint32_t most_words = 0;
  for (std::uint64_t seed = 0; seed < kConfigs; ++seed) {
    Subject subject(random_config(seed));
    auto without_except = subject.config();
    for (auto& policy : without_except.policies) policy.except.clear();
    most_words = std::max(most_words, subject.tables().config.match_words);
    for (const Bytes& frame : corpus(seed, kFrames)) {
      const Fields fields = read_fields(frame);
      for (std::uint32_t tap = 0; tap < subject.config().taps.size(); ++tap) {
        const Policies expected = policies(subject.config(), tap, fields);
        ASSERT_EQ(subject.classify(frame, tap), expected)
            << "config " << seed << ", tap " << tap << ", frame " << hex(frame);
        const auto& here = subject.tables().taps[tap];
        ASSERT_TRUE(!here.match_all || !expected.empty()) << seed;
        ASSERT_TRUE(!here.match_none || expected.empty()) << seed;
        ++verdicts;
        some += !expected.empty();
        several += expected.size() > 1;
        excepted += tap == 0 && seed % 10 == 0 &&
                    policies(without_except, tap, fields).size() != expected.size();
      }
    }
  }
  // Else the agreement says little: a good part of everything must be in the sample.
  EXPECT_GT(some, verdicts / 5);
  EXPECT_LT(some, verdicts * 4 / 5);
  EXPECT_GT(several, verdicts / 20);
  EXPECT_GT(excepted, 200U);
  EXPECT_GT(most_words, 16U);
}

/// Of two keys, what rules read from one and the rest from the other.
vtap_key blend(const vtap_key& read, const vtap_key& unread, const __u64* mask) {
  plan::KeyWords words;
  plan::KeyWords others;
  std::memcpy(words.data(), &read, sizeof(words));
  std::memcpy(others.data(), &unread, sizeof(others));
  for (std::size_t i = 0; i < words.size(); ++i)
    words[i] = (words[i] & mask[i]) | (others[i] & ~mask[i]);
  vtap_key key;
  std::memcpy(&key, words.data(), sizeof(key));
  return key;
}

TEST(Classifier, WhatTheKeyMaskLeavesOutDoesNotMatter) {
  std::size_t blended = 0;
  std::size_t paged = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const config::Config config = random_config(seed);
    const auto tables = std::move(plan::compile(config)).value();
    const plan::Classifier classifier(tables);
    Found found(classifier, 0);
    paged += tables.config.sum_words != 0 ? 1 : 0;
    const std::vector<Bytes> frames = corpus(seed, 60);
    const auto tap = static_cast<std::uint32_t>(seed % config.taps.size());
    for (std::size_t i = 1; i < frames.size(); ++i) {
      const vtap_key key = parse(frames[i]);
      const vtap_key other = blend(key, parse(frames[i - 1]), tables.config.key_mask);
      found.classify(key, tap);
      const auto expected = found.policies();
      found.classify(other, tap);
      ASSERT_EQ(found.policies(), expected) << "config " << seed << ", frame " << hex(frames[i]);
      blended += std::memcmp(&key, &other, sizeof(key)) != 0 ? 1 : 0;
    }
  }
  EXPECT_GT(blended, 2000U);
  EXPECT_GT(paged, 5U);
}

TEST(Classifier, TheKeyMaskHasWhatRulesRead) {
  Match web;
  web.dst_port = {{80, 80}};
  const auto tables = std::move(plan::compile(config_of({{web}}))).value();
  vtap_key expected{};
  expected.dport = ~0U;
  EXPECT_EQ(std::memcmp(tables.config.key_mask, &expected, sizeof(expected)), 0);
}

/// What a super-packet may become: its frames have any length, and any flags if it is TCP.
TEST(Classifier, ASuperPacketIsTakenIfAnyOfItsFramesMayBe) {
  std::size_t taken = 0;
  std::size_t left = 0;
  std::size_t undecided = 0;
  for (std::uint64_t seed = 0; seed < 24; ++seed) {
    const config::Config config = random_config(seed);
    auto tables = std::move(plan::compile(config)).value();
    const plan::Classifier classifier(tables);
    Found some(classifier);
    Found any(classifier);
    for (const Bytes& frame : corpus(seed, 60)) {
      vtap_key key = parse(frame);
      const bool tcp = key.tcp_flags != VTAP_NO_TCP_FLAGS;
      const auto tap = static_cast<std::uint32_t>(seed % config.taps.size());
      vtap_key open = key;
      open.length = VTAP_ANY_LENGTH;
      if (tcp) open.tcp_flags = VTAP_ANY_TCP_FLAGS;
      const bool wanted = any.classify(open, tap);
      std::size_t never = 0;
      std::size_t tried = 0;
      for (const std::uint32_t length : {14U, 60U, 100U, 200U, 500U, 1000U, 1514U, 9000U}) {
        for (std::uint32_t flags = 0; flags < (tcp ? 256U : 1U); flags += 3) {
          key.length = length;
          if (tcp) key.tcp_flags = static_cast<__u16>(flags);
          ++tried;
          never += some.classify(key, tap) ? 0 : 1;
          for (std::uint32_t word = 0; word < classifier.words(); ++word)
            ASSERT_EQ(some[word] & ~any[word], 0U) << "config " << seed << ", length " << length;
        }
      }
      taken += wanted && never == 0 ? 1 : 0;
      left += wanted ? 0 : 1;
      undecided += never != 0 && never != tried ? 1 : 0;
    }
  }
  EXPECT_GT(taken, 100U);
  EXPECT_GT(left, 50U) << "it is still a selection";
  EXPECT_GT(undecided, 50U) << "lengths and flags matter in this sample";
}

TEST(Classifier, WhatASuperPacketMayBeIsNoExcuseForMore) {
  Match longer;
  longer.length = {{1000, 1500}};
  longer.proto = {{6, 6}};
  config::Config config = config_of({{longer}, {Match{}}});
  Match excepted;
  excepted.tcp_flags = {{.mask = 8, .value = 8}};
  config.policies[1].except = {excepted};
  auto tables = std::move(plan::compile(config)).value();
  const plan::Classifier classifier(tables);
  Found policies(classifier);
  const auto taken = [&](vtap_key key) {
    key.length = VTAP_ANY_LENGTH;
    key.tcp_flags = VTAP_ANY_TCP_FLAGS;
    policies.classify(key, 0);
    return policies.policies();
  };
  vtap_key key = parse(packet({10, 0, 0, 1}, {10, 0, 0, 2}));
  EXPECT_EQ(taken(key), (std::vector<std::uint32_t>{0, 1}));
  key.proto = 17;
  EXPECT_EQ(taken(key), std::vector<std::uint32_t>{1});
}

}  // namespace
}  // namespace vtap::test
