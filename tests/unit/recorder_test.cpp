// SPDX-License-Identifier: Apache-2.0
#include "pipeline/recorder.hpp"

#include <gtest/gtest.h>

#include <thread>

#include "support/frames.hpp"
#include "support/memory_broker.hpp"

namespace vtap::pipeline {
namespace {

using test::Arrival;
using test::Bytes;
using test::FrameBuilder;
using test::MemoryBroker;

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kPlenty = 1'000'000;

/// Bytes that tell which record they are of.
Bytes pattern(std::uint64_t number, std::size_t size) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::uint8_t>(number * 31 + i);
  return bytes;
}

Record record_of(std::uint64_t number, std::size_t size) {
  return {.time_ns = number,
          .original = static_cast<std::uint32_t>(size + 1),
          .kept = static_cast<std::uint32_t>(size),
          .port = static_cast<std::uint32_t>(number % 7)};
}

TEST(RecordRing, TakesWhatThereIsRoomForAndGivesItBackInOrder) {
  RecordRing ring;
  Bytes frame;
  EXPECT_FALSE(ring.pop(frame));
  std::uint64_t pushed = 0;
  while (ring.push(record_of(pushed, pushed % 1500), pattern(pushed, pushed % 1500).data())) {
    ++pushed;
  }
  EXPECT_GT(pushed, 2000U);
  for (std::uint64_t number = 0; number < pushed; ++number) {
    const auto record = ring.pop(frame);
    ASSERT_TRUE(record);
    EXPECT_EQ(record->time_ns, number);
    EXPECT_EQ(record->original, number % 1500 + 1);
    EXPECT_EQ(record->port, number % 7);
    ASSERT_EQ(frame, pattern(number, number % 1500));
  }
  EXPECT_FALSE(ring.pop(frame));
}

TEST(RecordRing, TwoThreadsAndManyTimesAround) {
  RecordRing ring;
  constexpr std::uint64_t kCount = 20'000;  // 13 times around
  std::thread writer([&] {
    for (std::uint64_t number = 0; number < kCount; ++number) {
      const std::size_t size = number * 7 % 2800;
      const Bytes bytes = pattern(number, size);
      while (!ring.push(record_of(number, size), bytes.data())) std::this_thread::yield();
    }
  });
  Bytes frame;
  std::uint64_t wrong = 0;
  for (std::uint64_t number = 0; number < kCount;) {
    const auto record = ring.pop(frame);
    if (!record) continue;
    if (record->time_ns != number || frame != pattern(number, number * 7 % 2800)) ++wrong;
    ++number;
  }
  writer.join();
  EXPECT_EQ(wrong, 0U);
}

TEST(RecordLimit, HoldsFramesAndBytesToTheirRate) {
  const auto taken = [](RecordLimit& limit, std::uint32_t bytes, std::uint64_t offered) {
    std::uint64_t count = 0;
    for (std::uint64_t i = 0; i < offered; ++i) {
      count += limit.take(bytes, kSecond + i * 2 * kSecond / offered) ? 1 : 0;  // in two seconds
    }
    return count;
  };
  RecordLimit frames(1000, kPlenty * 1000);
  EXPECT_NEAR(static_cast<double>(taken(frames, 60, 100'000)), 2100, 2);  // and the burst
  RecordLimit bytes(kPlenty, 1'000'000);
  EXPECT_NEAR(static_cast<double>(taken(bytes, 1000, 100'000)), 2100, 10);
  RecordLimit enough(1000, kPlenty);
  EXPECT_EQ(taken(enough, 60, 1900), 1900U);
}

config::Policy policy_to(std::vector<std::uint32_t> monitors, std::vector<std::uint32_t> taps,
                         std::optional<std::uint32_t> slice = {}) {
  config::Policy policy;
  policy.taps = std::move(taps);
  policy.monitors = std::move(monitors);
  policy.match = {config::Match{}};
  policy.slice = slice;
  return policy;
}

/// Ports 0 and 1 are of tap 0, port 2 of tap 1.
config::Config two_taps(std::vector<config::Policy> policies) {
  config::Config config;
  config.taps.resize(2);
  config.taps[0].ports = {"a", "b"};
  config.taps[1].ports = {"c"};
  config.monitors.resize(1);
  config.policies = std::move(policies);
  return config;
}

Arrival frame_at(std::uint8_t port, std::size_t payload) {
  return {FrameBuilder().ethernet().type(0x0800).ipv4({}).udp(1000, 53).payload(payload).build(),
          port};
}

std::vector<Bytes> all_of(Recorder& recorder) {
  std::vector<Bytes> out;
  Bytes frame;
  while (recorder.ring().pop(frame)) out.push_back(frame);
  return out;
}

Bytes cut(Bytes bytes, std::size_t size) {
  bytes.resize(std::min(bytes.size(), size));
  return bytes;
}

TEST(Recording, OfAPolicyOfATapAndOfAllUntilItStops) {
  MemoryBroker broker(two_taps({policy_to({0}, {0, 1}, 50), policy_to({0}, {1})}));
  const std::vector<Arrival> frames = {frame_at(0, 100), frame_at(2, 200), frame_at(1, 300)};
  RecordLimit limit(kPlenty, kPlenty * 1000);
  for (const auto& [policy, tap, wanted] :
       std::vector<std::tuple<std::optional<std::uint32_t>, std::optional<std::uint32_t>,
                              std::vector<Bytes>>>{
           {0, {}, {cut(frames[0].bytes, 50), cut(frames[1].bytes, 50), cut(frames[2].bytes, 50)}},
           // The monitor has it by the first policy already, and shorter.
           {1, {}, {frames[1].bytes}},
           {{}, 0, {cut(frames[0].bytes, 50), cut(frames[2].bytes, 50)}},
           {{}, {}, {cut(frames[0].bytes, 50), frames[1].bytes, cut(frames[2].bytes, 50)}}}) {
    Recorder recorder(65535, limit);
    broker.pipeline().record({&recorder, policy, tap});
    broker.send(frames);
    broker.complete_all();
    EXPECT_EQ(all_of(recorder), wanted);
    broker.pipeline().stop_recording(recorder);
    broker.send(frames);
    broker.complete_all();
    EXPECT_TRUE(all_of(recorder).empty());
  }
  for (const auto& sent : broker.sink(0).sent()) EXPECT_EQ(sent.size(), 50U);
  EXPECT_EQ(broker.pool().available(), broker.pool().total());
}

TEST(Recording, WhatIsAboveTheLimitOrHasNoRoomIsCounted) {
  MemoryBroker broker(two_taps({policy_to({0}, {0, 1})}));
  RecordLimit limit(100, kPlenty * 1000);
  Recorder tight(65535, limit);
  RecordLimit loose_limit(kPlenty, kPlenty * 1000);
  Recorder loose(20, loose_limit);
  broker.pipeline().record({&tight, {}, {}});
  broker.pipeline().record({&loose, {}, {}});
  for (int i = 0; i < 30; ++i) {
    broker.send(std::vector{frame_at(1, 100)});
    broker.complete_all();
  }
  const auto kept = all_of(tight).size();
  EXPECT_GE(kept, 10U);
  EXPECT_LT(kept, 30U);
  EXPECT_EQ(tight.dropped(1), 30 - kept);
  EXPECT_EQ(tight.dropped(0), 0U);
  EXPECT_EQ(all_of(loose), std::vector<Bytes>(30, cut(frame_at(1, 100).bytes, 20)));
  EXPECT_EQ(loose.dropped(1), 0U);
}

}  // namespace
}  // namespace vtap::pipeline
