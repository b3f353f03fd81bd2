// SPDX-License-Identifier: Apache-2.0
#include "plan/plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <set>
#include <span>

#include "plan/kernel_filters.hpp"
#include "support/random_config.hpp"

namespace vtap::plan {
namespace {

using config::Match;
using config::Prefix;

config::Config config_of(std::vector<std::vector<Match>> policies, std::uint32_t taps = 1) {
  config::Config config;
  config.file = "test.toml";
  config.taps.resize(taps);
  config.monitors.resize(1);
  for (auto& match : policies) {
    auto& policy = config.policies.emplace_back();
    policy.name = "p" + std::to_string(config.policies.size());
    policy.taps = {0};
    policy.monitors = {0};
    policy.match = std::move(match);
  }
  return config;
}

Tables tables_of(const config::Config& config) { return std::move(compile(config)).value(); }

Prefix v4(std::uint8_t a, std::uint8_t b, std::uint8_t c, std::uint8_t d, std::uint8_t length) {
  return {false, length, {a, b, c, d}};
}
Prefix v6(std::uint8_t last, std::uint8_t length) {
  Prefix prefix{true, length, {0x20, 0x01, 0x0d, 0xb8}};
  prefix.bytes[15] = last;
  return prefix;
}

std::vector<std::uint64_t> vector_at(const Tables& tables, std::uint32_t number) {
  std::vector<std::uint64_t> words(tables.config.match_words + tables.config.except_words);
  for (std::uint32_t word = 0; word < words.size(); ++word)
    words[word] = tables.word_of(number, word);
  return words;
}

TEST(Plan, WithoutPoliciesThereIsNothing) {
  const Tables tables = tables_of(config_of({}, 2));
  EXPECT_EQ(tables.config.match_words, 0U);
  EXPECT_EQ(tables.config.dims, 0U);
  EXPECT_TRUE(tables.vectors.empty());
  EXPECT_NE(tables.fields, nullptr);
  ASSERT_EQ(tables.taps.size(), 2U);
  for (const auto& tap : tables.taps) {
    EXPECT_TRUE(tap.match_none);
    EXPECT_FALSE(tap.match_all);
  }
}

TEST(Plan, TapsKnowWhetherTheyNeedToLook) {
  auto config = config_of({{}, {}, {{.proto = {{6, 6}}}}}, 5);
  config.policies[0].taps = {0};
  config.policies[1].taps = {1};
  config.policies[1].except = {{.proto = {{6, 6}}}};
  config.policies[2].taps = {0, 2};
  auto keyless = config.policies[2];  // one table with keys, one without
  keyless.match.emplace_back();
  keyless.taps = {3};
  config.policies.push_back(keyless);
  const Tables tables = tables_of(config);
  const auto all = [&](std::uint32_t tap) { return tables.taps[tap].match_all; };
  const auto none = [&](std::uint32_t tap) { return tables.taps[tap].match_none; };
  EXPECT_TRUE(all(0) && !none(0));
  EXPECT_TRUE(!all(1) && !none(1)) << "an except may take a frame away";
  EXPECT_TRUE(!all(2) && !none(2));
  EXPECT_TRUE(all(3) && !none(3));
  EXPECT_TRUE(!all(4) && none(4));
}

TEST(Plan, DimensionsAreThoseInUse) {
  const auto dims = [](const Match& match) { return tables_of(config_of({{match}})).config.dims; };
  const auto ends = [](std::uint32_t end, std::uint32_t dim) { return end << dim; };
  EXPECT_EQ(dims({}), 0U);
  EXPECT_EQ(dims({.src = {v4(10, 0, 0, 1, 32)}}),
            VTAP_DIM_TRIE4 | ends(VTAP_ENDS_SRC, VTAP_DIM_ADDR));
  EXPECT_EQ(dims({.dst = {v4(10, 0, 0, 0, 24)}}),
            VTAP_DIM_TRIE4 | ends(VTAP_ENDS_DST, VTAP_DIM_ADDR));
  EXPECT_EQ(dims({.host = {v6(1, 128), v6(0, 64)}}),
            VTAP_DIM_HOST6 | VTAP_DIM_LPM6 | ends(VTAP_ENDS_EITHER, VTAP_DIM_ADDR));
  EXPECT_EQ(dims({.src_port = {{1, 2}}, .port = {{1, 2}}}),
            ends(VTAP_ENDS_SRC | VTAP_ENDS_EITHER, VTAP_DIM_PORT));
  EXPECT_EQ(dims({.dst_mac = {config::Mac{}}}), ends(VTAP_ENDS_DST, VTAP_DIM_MAC));
  EXPECT_EQ(dims({.proto = {{6, 6}}}), std::uint32_t{VTAP_DIM_PROTO});
  EXPECT_EQ(dims({.vlan = {{1, 1}}}), std::uint32_t{VTAP_DIM_VLAN});
  EXPECT_EQ(dims({.inner_vlan = {{1, 1}}}), std::uint32_t{VTAP_DIM_INNER_VLAN});
  EXPECT_EQ(dims({.ethertype = {{1, 1}}}), std::uint32_t{VTAP_DIM_ETHERTYPE});
  EXPECT_EQ(dims({.tcp_flags = {{2, 2}}}), std::uint32_t{VTAP_DIM_TCP_FLAGS});
  EXPECT_EQ(dims({.dscp = {{1, 1}}}), std::uint32_t{VTAP_DIM_DSCP});
  EXPECT_EQ(dims({.fragment = false}), std::uint32_t{VTAP_DIM_FRAGMENT});
  EXPECT_EQ(dims({.length = {{1, 1}}}), std::uint32_t{VTAP_DIM_LENGTH});
}

TEST(Plan, FullLengthPrefixesAreHosts) {
  const Tables tables =
      tables_of(config_of({{{.src = {v4(10, 0, 0, 1, 32), v4(10, 0, 0, 0, 31), v6(1, 128)}}},
                           {{.dst = {v4(10, 0, 0, 1, 32), v6(0, 127), v6(0, 0)}}}}));
  EXPECT_TRUE(tables.buckets4.empty());  // few: in the trie
  EXPECT_EQ(tables.trie4.size(), 1U);
  EXPECT_EQ(tables.trie4_blocks.size(), 2U);
  EXPECT_EQ(tables.hosts6.size(), 1U);
  EXPECT_EQ(tables.prefixes6.size(), 2U);
}

TEST(Plan, EqualVectorsAreStoredOnce) {
  std::vector<Prefix> hosts;
  for (int i = 0; i < 250; ++i) hosts.push_back(v4(10, 0, 0, static_cast<std::uint8_t>(i), 32));
  const Tables tables = tables_of(config_of({{{.host = hosts}}}));
  EXPECT_LT(tables.vector_count(), 15U);
  ASSERT_EQ(tables.trie4_blocks.size(), 2U);
  const auto& block = tables.trie4_blocks[1].entry;
  const std::set<std::uint32_t> classes(std::begin(block), std::end(block));
  EXPECT_EQ(classes.size(), 2U);  // the 250 hosts and the six addresses beside them
}

TEST(Plan, SegmentsDoNotStraddleWords) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const auto config = test::random_config(seed);
    const Tables tables = tables_of(config);
    if (tables.config.match_words == 0) continue;
    ASSERT_EQ(tables.policy_of_bit.size(), std::size_t{64} * tables.config.match_words);
    const auto tops = vector_at(tables, tables.config.seg_top_class);
    std::set<std::uint32_t> seen;
    for (std::uint32_t bit = 0; bit < tables.policy_of_bit.size(); ++bit) {
      const std::uint32_t policy = tables.policy_of_bit[bit];
      const bool top = (tops[bit / 64] >> (bit % 64) & 1) != 0;
      ASSERT_EQ(top, policy != ~0U) << "seed " << seed << ", bit " << bit;
      if (!top) continue;
      seen.insert(policy);
    }
    EXPECT_EQ(seen.size(), config.policies.size());
    // No rule above the last segment of its word: it would have no top.
    for (const auto& tap : tables.taps) {
      const auto rules = vector_at(tables, tap.tap_class);
      for (std::uint32_t word = 0; word < rules.size(); ++word) {
        const std::uint64_t top = tops[word % tables.config.match_words];
        EXPECT_LE(std::bit_width(rules[word]), std::bit_width(top)) << "seed " << seed;
      }
    }
  }
}

TEST(Plan, WithoutExceptThereAreNoExceptWords) {
  auto config = config_of({{{.proto = {{6, 6}}}}});
  EXPECT_EQ(tables_of(config).config.except_words, 0U);
  config.policies[0].except = {{.proto = {{7, 7}}}};
  const Tables tables = tables_of(config);
  EXPECT_EQ(tables.config.match_words, 1U);
  EXPECT_EQ(tables.config.except_words, 1U);
}

std::vector<Match> rules(std::size_t n) { return std::vector<Match>(n, Match{.proto = {{6, 6}}}); }

TEST(PlanLimits, Rules) {
  constexpr std::size_t kMost = std::size_t{64} * VTAP_MAX_WORDS;
  EXPECT_TRUE(compile(config_of({rules(kMost)})).ok());
  EXPECT_TRUE(compile(config_of({rules(kMost - 64), rules(64)})).ok());
  const auto result = compile(config_of({rules(kMost), rules(1)}));
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().kind, ErrorKind::usage);
  EXPECT_NE(result.error().message.find("32769"), std::string::npos) << result.error().message;
  EXPECT_NE(result.error().message.find("32768"), std::string::npos) << result.error().message;
}

TEST(PlanLimits, ExceptTables) {
  auto config = config_of({rules(100)});
  config.policies[0].except = rules(64);
  EXPECT_TRUE(compile(config).ok());
  config.policies[0].except = rules(65);
  config.policies[0].at = {12, 1};
  const auto result = compile(config);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().kind, ErrorKind::usage);
  EXPECT_EQ(result.error().message.find("test.toml:12:1: policy \"p1\" has 65 except"), 0U)
      << result.error().message;
}

TEST(Plan, PoliciesThatTheKernelTellsApartComeFirst) {
  auto config = config_of(std::vector<std::vector<Match>>(600, {Match{.dst_port = {{80, 80}}}}));
  for (const std::size_t i : {599U, 300U})
    config.policies[i].filter = std::move(filter::Filter::compile("udp")).value();
  std::vector<Placement> placements(600);
  placements[598] = placements[5] = Placement::kernel;
  const Tables tables = std::move(compile(config, placements)).value();
  EXPECT_EQ(tables.config.early_words, 1U);
  EXPECT_EQ((std::vector(tables.policy_of_bit.begin(), tables.policy_of_bit.begin() + 4)),
            (std::vector<std::uint32_t>{5, 598, 300, 599}));
  const auto tops = tables.early_tops();
  EXPECT_EQ(tops[300], (Tables::Tops{{0, 4}}));
}

TEST(Plan, TheKernelJudgesFiltersAsLongAsItHasTime) {
  auto config = config_of(std::vector<std::vector<Match>>(1000, {Match{}}));
  for (std::size_t i = 1; i < 1000; ++i) {
    const auto expression =
        i == 2 ? std::string("ip protochain 6") : "udp port " + std::to_string(i);
    config.policies[i].filter = std::move(filter::Filter::compile(expression)).value();
  }
  const auto judged = kernel_filters(config);
  EXPECT_TRUE(judged[0].ok()) << "has none";
  EXPECT_TRUE(judged[1].ok());
  EXPECT_FALSE(judged[2].ok());
  EXPECT_TRUE(judged[3].ok()) << "one that cannot be translated takes no time";
  const auto first_left_out = std::ranges::find_if(judged.begin() + 3, judged.end(),
                                                   [](const auto& result) { return !result.ok(); });
  EXPECT_GT(first_left_out - judged.begin(), 50);
  EXPECT_LT(first_left_out - judged.begin(), 400);
  EXPECT_NE(judged[999].error().message.find("4096"), std::string::npos);
}

/// Rule b takes the values whose bit b is set: no two values are alike.
std::vector<Match> by_bits(std::vector<config::Range> Match::*key, std::uint32_t values) {
  std::vector<Match> bits(16);
  for (std::uint32_t value = 0; value < values; ++value)
    for (std::uint32_t bit = 0; bit < 16; ++bit)
      if ((value >> bit & 1) != 0) (bits[bit].*key).push_back({value, value});
  return bits;
}

TEST(PlanLimits, ClassNumbersOfFields) {
  EXPECT_TRUE(compile(config_of({by_bits(&Match::dst_port, 65536)})).ok()) << "each port its class";
  const auto types = by_bits(&Match::ethertype, 65536);
  EXPECT_TRUE(compile(config_of({types})).ok());
  EXPECT_TRUE(compile(config_of({types, by_bits(&Match::src_port, 65536)})).ok());
  const auto result = compile(config_of({types, by_bits(&Match::length, 1000)}));
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().kind, ErrorKind::usage);
  EXPECT_NE(result.error().message.find("65536 classes"), std::string::npos)
      << result.error().message;
}

}  // namespace
}  // namespace vtap::plan
