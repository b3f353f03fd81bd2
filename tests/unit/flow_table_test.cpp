// SPDX-License-Identifier: Apache-2.0
#include "pipeline/flow_table.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <thread>

#include "support/frames.hpp"
#include "support/threads.hpp"

namespace vtap::test {
namespace {

using pipeline::FlowTable;

constexpr std::uint64_t kSeed = 1;

/// Any two of them differ in more than the bits that tags use.
std::uint64_t key(std::uint64_t number) { return (number + 1) * 0x9e3779b97f4a7c14; }

std::uint64_t never_idle(std::uint64_t) { return 0; }
std::uint64_t idle_if_small(std::uint64_t word) { return ~std::uint64_t{1} - word; }

void put(FlowTable& table, std::uint64_t hash, std::uint64_t word) {
  table.update(
      hash, [&](std::optional<std::uint64_t>) { return word; }, idle_if_small);
}
void increment(FlowTable& table, std::uint64_t hash) {
  table.update(
      hash, [](std::optional<std::uint64_t> word) { return word.value_or(0) + 1; }, never_idle);
}

TEST(FlowTable, KnowsWhatItWasTold) {
  FlowTable table(64, kSeed);
  EXPECT_EQ(table.find(key(1)), std::nullopt);
  put(table, key(1), 0);
  put(table, key(2), 7);
  EXPECT_EQ(table.find(key(1)), 0U);
  EXPECT_EQ(table.find(key(2)), 7U);
  EXPECT_EQ(table.find(key(3)), std::nullopt);
  EXPECT_EQ(table.seed(), kSeed);
}

TEST(FlowTable, AKeyOfZeroIsAKey) {
  FlowTable table(8, kSeed);
  put(table, 0, 5);
  EXPECT_EQ(table.find(0), 5U);
  EXPECT_EQ(table.find(key(1)), std::nullopt);
}

TEST(FlowTable, ChangeSeesTheWordOrNothing) {
  FlowTable table(8, kSeed);
  std::vector<std::optional<std::uint64_t>> seen;
  for (std::uint64_t word : {10, 20, 30}) {
    table.update(
        key(1),
        [&](std::optional<std::uint64_t> old) {
          seen.push_back(old);
          return word;
        },
        never_idle);
  }
  EXPECT_EQ(seen, (std::vector<std::optional<std::uint64_t>>{std::nullopt, 10U, 20U}));
}

TEST(FlowTable, HasRoomForTheEntriesAskedForAndNoMoreThanTwice) {
  for (const std::uint32_t entries : {1U, 8U, 9U, 1000U, 65536U, 65537U}) {
    const FlowTable table(entries, kSeed);
    EXPECT_GE(table.slots(), entries);
    EXPECT_LE(table.slots(), std::max<std::size_t>(FlowTable::kWays, std::size_t{entries} * 2));
  }
}

TEST(FlowTable, KeysBeyondItsRoomPushOutOthers) {
  FlowTable table(1024, kSeed);
  constexpr std::uint64_t kKeys = 10'000;
  for (std::uint64_t i = 0; i < kKeys; ++i) put(table, key(i), i);
  std::size_t there = 0;
  for (std::uint64_t i = 0; i < kKeys; ++i) {
    const auto word = table.find(key(i));
    EXPECT_EQ(word.value_or(i), i);
    there += word ? 1 : 0;
  }
  EXPECT_EQ(there, table.slots()) << "full, and no more";
}

/// One set, so that the truth is simple: the least word gives way.
TEST(FlowTable, TheMostIdleOfASetGivesWay) {
  FlowTable table(FlowTable::kWays, kSeed);
  std::map<std::uint64_t, std::uint64_t> truth;
  Random random(1);
  for (std::uint64_t moment = 1; moment < 20'000; ++moment) {
    const std::uint64_t hash = key(random.below(12));
    if (truth.size() == FlowTable::kWays && !truth.contains(hash)) {
      truth.erase(
          std::ranges::min_element(truth, {}, [](const auto& item) { return item.second; }));
    }
    truth[hash] = moment;
    put(table, hash, moment);
    for (std::uint64_t i = 0; i < 12; ++i) {
      const auto known = truth.find(key(i));
      ASSERT_EQ(table.find(key(i)),
                known == truth.end() ? std::nullopt : std::optional(known->second));
    }
  }
}

TEST(FlowTable, SeedsDiffer) { EXPECT_NE(FlowTable(8).seed(), FlowTable(8).seed()); }

/// Both count all keys, from an empty table on: if a key ever had two slots, counts would be lost.
/// There is room for all of them and for what both are about to insert, so none gives way.
TEST(FlowTable, NoKeyHasTwoSlotsAndNoChangeIsLost) {
  constexpr std::uint32_t kThreads = 2;
  constexpr std::uint32_t kRounds = 50'000;
  constexpr std::uint64_t kKeys = FlowTable::kWays - kThreads;
  std::vector<std::unique_ptr<FlowTable>> tables;
  for (std::uint32_t round = 0; round < kRounds; ++round) {
    tables.push_back(std::make_unique<FlowTable>(FlowTable::kWays, kSeed));
  }
  std::array<std::atomic<std::uint32_t>, kThreads> at{};
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < kThreads; ++t) {
    threads.push_back(thread_on(t, [&, t] {
      for (std::uint32_t round = 0; round < kRounds; ++round) {
        at[t] = round;  // side by side, or they would not meet
        while (at[1 - t] < round) std::this_thread::yield();
        for (std::uint64_t i = 0; i < kKeys; ++i) {
          increment(*tables[round], key(t == 0 ? i : kKeys - 1 - i));
        }
      }
      at[t] = kRounds;
    }));
  }
  for (auto& thread : threads) thread.join();
  for (const auto& table : tables) {
    for (std::uint64_t i = 0; i < kKeys; ++i) ASSERT_EQ(table->find(key(i)), kThreads);
  }
}

/// A set that is far too small for all, but what is in use stays, and stays exact.
TEST(FlowTable, WhatIsInUseSurvivesTheComingAndGoingOfOthers) {
  constexpr std::uint32_t kThreads = 4;
  constexpr std::uint64_t kRounds = 100'000;
  constexpr std::uint64_t kHot = std::uint64_t{1} << 32;  // added to the word of the one in use
  const auto idle = [](std::uint64_t word) { return word >= kHot ? 0 : 1 + word; };
  FlowTable table(FlowTable::kWays, kSeed);
  put(table, key(0), kHot);
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < kThreads; ++t) {
    threads.push_back(thread_on(t, [&, t] {
      Random random(t);
      for (std::uint64_t i = 0; i < kRounds; ++i) {
        table.update(
            key(0), [](std::optional<std::uint64_t> word) { return word.value_or(0) + 1; }, idle);
        table.update(
            key(1 + random.below(100)),
            [](std::optional<std::uint64_t> word) { return word.value_or(0) + 1; }, idle);
      }
    }));
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(table.find(key(0)), kHot + kThreads * kRounds);
}

}  // namespace
}  // namespace vtap::test
