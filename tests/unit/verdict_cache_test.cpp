// SPDX-License-Identifier: Apache-2.0
#include "plan/verdict_cache.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <tuple>
#include <vector>

#include "support/frames.hpp"

namespace vtap::test {
namespace {

using plan::Hit;
using plan::kBurst;
using plan::VerdictCache;

vtap_key mask_of(bool all) {
  vtap_key mask{};
  if (all) std::memset(&mask, 0xff, sizeof(mask));
  std::memset(mask.src, 0xff, 4);
  mask.dport = ~0U;
  mask.vlan = 0xfff;
  return mask;
}

/// A cache, and what it was told.
class Subject {
 public:
  Subject(const vtap_key& mask, std::uint32_t entries) : cache_(words(mask), entries) {}

  /// What is known of a burst, by frame; then stores what is not: `make(frame)`.
  template <typename Make>
  std::map<std::uint32_t, std::vector<std::uint32_t>> ask(const std::vector<vtap_key>& keys,
                                                          const std::vector<std::uint32_t>& taps,
                                                          Make&& make) {
    plan::LineVector<Hit> hits;
    const std::uint64_t unknown = cache_.look_up(keys, taps, hits);
    std::map<std::uint32_t, std::vector<std::uint32_t>> known;
    for (std::uint32_t i = 0; i < keys.size(); ++i) {
      if ((unknown >> i & 1) == 0)
        known[i] = {};
      else
        cache_.store(i, make(i));
    }
    for (const Hit& hit : hits) {
      EXPECT_TRUE(known.contains(hit.frame));
      EXPECT_EQ(std::popcount(hit.bits), 1);
      known[hit.frame].push_back(hit.word * 64 +
                                 static_cast<std::uint32_t>(std::countr_zero(hit.bits)));
    }
    return known;
  }

 private:
  static std::span<const __u64, VTAP_KEY_WORDS> words(const vtap_key& mask) {
    static __u64 words[VTAP_KEY_WORDS];
    std::memcpy(words, &mask, sizeof(mask));
    return words;
  }
  VerdictCache cache_;
};

/// Hits of the seg_top bits with these numbers, as a classifier gives them: a word each.
plan::LineVector<Hit> hits_of(const std::vector<std::uint32_t>& numbers) {
  std::map<std::uint32_t, std::uint64_t> words;
  for (const std::uint32_t number : numbers) words[number / 64] |= std::uint64_t{1} << number % 64;
  plan::LineVector<Hit> hits;
  for (const auto& [word, bits] : words) hits.push_back({0, word, bits});
  return hits;
}

vtap_key key_of(std::uint32_t src, std::uint32_t dport, std::uint16_t vlan = 1) {
  vtap_key key{};
  std::memcpy(key.src, &src, sizeof(src));
  key.dport = dport;
  key.vlan = vlan;
  return key;
}

TEST(VerdictCache, KnowsWhatItWasToldAndNothingElse) {
  for (const bool all : {false, true}) {
    for (const std::uint32_t entries : {16U, 64U, 4096U}) {
      Random random(entries);
      Subject subject(mask_of(all), entries);
      std::map<std::tuple<std::uint32_t, std::uint32_t, std::uint16_t, std::uint32_t>,
               std::vector<std::uint32_t>>
          told;
      std::size_t known = 0;
      for (int round = 0; round < 2000; ++round) {
        std::vector<vtap_key> keys;
        std::vector<std::uint32_t> taps;
        std::vector<std::vector<std::uint32_t>*> right;
        for (std::uint32_t i = random.between(1, kBurst); i != 0; --i) {
          keys.push_back(key_of(random.below(8), random.below(16),
                                static_cast<std::uint16_t>(random.below(4))));
          taps.push_back(random.below(3));
          const vtap_key& key = keys.back();
          const auto [at, first] = told.try_emplace({key.src[0], key.dport, key.vlan, taps.back()});
          auto& numbers = at->second;
          if (first) {
            for (std::uint32_t n = random.below(20); n != 0; --n)
              numbers.push_back(random.below(VTAP_MAX_WORDS * 64));
            std::ranges::sort(numbers);
            numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
          }
          right.push_back(&numbers);
        }
        for (const auto& [frame, numbers] :
             subject.ask(keys, taps, [&](std::uint32_t i) { return hits_of(*right[i]); })) {
          ASSERT_EQ(numbers, *right[frame]);
          ++known;
        }
      }
      EXPECT_GT(known, 0U);
      if (entries > told.size()) {
        EXPECT_GT(known, 50'000U) << "of about 65000";
      }
    }
  }
}

TEST(VerdictCache, ComparesWhatRulesReadAndNoMore) {
  Subject subject(mask_of(false), 1024);
  const auto told = [](std::uint32_t) { return hits_of({5}); };
  const vtap_key key = key_of(1, 2);
  EXPECT_TRUE(subject.ask({key}, {0}, told).empty());
  EXPECT_EQ(subject.ask({key}, {0}, told).size(), 1U);
  vtap_key other = key;
  other.sport = 7;
  other.src[4] = 1;
  other.vlan |= 0x1000;
  EXPECT_EQ(subject.ask({other}, {0}, told).size(), 1U) << "none of this is read";
  for (const vtap_key& changed : {key_of(1, 3), key_of(3, 2), key_of(1, 2, 2)})
    EXPECT_TRUE(subject.ask({changed}, {0}, told).empty());
  EXPECT_TRUE(subject.ask({key}, {1}, told).empty()) << "another tap";
}

/// A free entry is all zeros, and so is the key of frames without what rules read.
TEST(VerdictCache, AFreeEntryIsNoVerdict) {
  for (int i = 0; i < 100'000; ++i) {
    Subject subject(mask_of(false), 64);
    std::vector<vtap_key> keys;
    for (std::uint32_t flow = 1; flow <= 12; ++flow) keys.push_back(key_of(flow, 1));
    subject.ask(keys, std::vector<std::uint32_t>(keys.size(), 0),
                [](std::uint32_t) { return hits_of({1}); });
    ASSERT_TRUE(subject.ask({vtap_key{}}, {0}, [](std::uint32_t) { return hits_of({2}); }).empty());
  }
}

TEST(VerdictCache, AFlowTakesOneEntry) {
  Subject subject(mask_of(false), 16);
  const auto told = [](std::uint32_t) { return hits_of({1}); };
  for (std::uint32_t i = 0; i < 8; ++i) subject.ask({key_of(i, 1)}, {0}, told);
  // A burst of frames of one flow that is new must not push out the others.
  subject.ask(std::vector<vtap_key>(kBurst, key_of(100, 1)), std::vector<std::uint32_t>(kBurst, 0),
              told);
  std::size_t known = 0;
  for (std::uint32_t i = 0; i < 8; ++i) known += subject.ask({key_of(i, 1)}, {0}, told).size();
  EXPECT_EQ(known, 8U);
}

TEST(VerdictCache, WhatHasTooManyPoliciesIsNotKept) {
  for (const bool all : {false, true}) {
    Subject subject(mask_of(all), 1024);
    std::uint32_t most = 0;
    for (std::uint32_t count = 1; count < 100; ++count) {
      std::vector<std::uint32_t> numbers(count);
      for (std::uint32_t i = 0; i < count; ++i) numbers[i] = i * 65;
      const auto told = [&](std::uint32_t) { return hits_of(numbers); };
      subject.ask({key_of(count, 1)}, {0}, told);
      const auto known = subject.ask({key_of(count, 1)}, {0}, told);
      if (known.empty()) continue;
      EXPECT_EQ(known.at(0), numbers);
      EXPECT_EQ(most + 1, count) << "up to a number, and then no more";
      most = count;
    }
    EXPECT_EQ(most, all ? 23U : 51U) << "an entry has 128 bytes";
  }
}

}  // namespace
}  // namespace vtap::test
