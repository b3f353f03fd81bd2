// SPDX-License-Identifier: Apache-2.0
#include "pipeline/meter.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <thread>

#include "support/frames.hpp"
#include "support/threads.hpp"

namespace vtap::test {
namespace {

using pipeline::Burst;
using pipeline::for_each_frame;
using pipeline::FrameSet;
using pipeline::Meter;

constexpr std::uint64_t kSecond = 1'000'000'000;

config::Meter bytes_meter(std::uint64_t bits_per_second, std::uint64_t burst) {
  return {.bits_per_second = bits_per_second, .packets_per_second = 0, .burst = burst};
}
config::Meter packets_meter(std::uint64_t packets_per_second, std::uint64_t burst) {
  return {.bits_per_second = 0, .packets_per_second = packets_per_second, .burst = burst};
}

Burst burst_of(std::initializer_list<std::uint32_t> lengths) {
  Burst burst;
  for (const std::uint32_t length : lengths) burst.push({}, length, 0);
  return burst;
}
Burst burst_of(std::uint32_t frames, std::uint32_t length) {
  Burst burst;
  for (std::uint32_t i = 0; i < frames; ++i) burst.push({}, length, 0);
  return burst;
}

struct Amount {
  std::uint64_t frames = 0;
  std::uint64_t bytes = 0;
};
Amount amount(FrameSet frames, const Burst& burst) {
  Amount sum;
  for_each_frame(frames, [&](std::uint32_t i) {
    ++sum.frames;
    sum.bytes += burst.length[i];
  });
  return sum;
}

/// Offers bursts of up to `largest` frames, `bytes_per_second` in all, for ten virtual seconds.
/// What comes at once must fit the bucket, or tokens are lost and the rate is not reached.
Amount offer(Meter& meter, std::uint64_t bytes_per_second, Random& random, std::uint32_t largest,
             std::uint64_t from = 0) {
  static constexpr std::array<std::uint32_t, 3> kLengths{64, 512, 1514};
  Amount passed;
  double now = static_cast<double>(from);
  while (now < static_cast<double>(from + 10 * kSecond)) {
    Burst burst;
    std::uint64_t bytes = 0;
    for (std::uint32_t n = random.between(1, largest); n > 0; --n) {
      burst.push({}, random.pick(kLengths), 0);
      bytes += burst.length[burst.size - 1];
    }
    const Amount now_passed =
        amount(meter.conforming(burst.all(), burst, static_cast<std::uint64_t>(now)), burst);
    passed.frames += now_passed.frames;
    passed.bytes += now_passed.bytes;
    now += static_cast<double>(bytes) * 1e9 / static_cast<double>(bytes_per_second);
  }
  return passed;
}

void expect_within_2_percent(std::uint64_t value, std::uint64_t target) {
  EXPECT_NEAR(static_cast<double>(value), static_cast<double>(target),
              0.02 * static_cast<double>(target));
}

TEST(Meter, ByteRateHoldsOverTenSeconds) {
  for (const std::uint64_t megabits : {2, 10, 200, 1000}) {
    const std::uint64_t rate = megabits * 1'000'000 / 8;  // bytes per second
    Meter meter(bytes_meter(rate * 8, rate / 60));
    Random random(megabits);
    SCOPED_TRACE(testing::Message() << megabits << " Mbit/s");
    expect_within_2_percent(offer(meter, rate * 3, random, megabits < 200 ? 2 : 64).bytes,
                            rate * 10);
  }
}

TEST(Meter, PacketRateHoldsOverTenSeconds) {
  for (const std::uint64_t rate : {100, 3000, 50'000}) {
    Meter meter(packets_meter(rate, std::max<std::uint64_t>(rate / 100, 2)));
    Random random(rate);
    SCOPED_TRACE(testing::Message() << rate << " pps");
    expect_within_2_percent(offer(meter, rate * 2000, random, rate < 50'000 ? 2 : 64).frames,
                            rate * 10);
  }
}

TEST(Meter, FastRatesAreNotRoundedAway) {
  constexpr std::uint64_t kRate = 400'000'000'000;  // bits
  Meter meter(bytes_meter(kRate, 256 << 10));
  const Burst burst = burst_of(64, 64);
  std::uint64_t bytes = 0;
  constexpr std::uint64_t kSpan = kSecond / 100;
  for (std::uint64_t now = 0; now < kSpan; now += 50) {
    bytes += amount(meter.conforming(burst.all(), burst, now), burst).bytes;
  }
  expect_within_2_percent(bytes, kRate / 8 / 100);
}

TEST(Meter, WhatIsBelowTheRatePasses) {
  Meter meter(bytes_meter(100'000'000, 256 << 10));
  Random random(1);
  Meter unlimited(bytes_meter(1'000'000'000'000, 1 << 30));
  Random same(1);
  const Amount passed = offer(meter, 100'000'000 / 8 * 9 / 10, random, 64);
  EXPECT_EQ(passed.bytes, offer(unlimited, 100'000'000 / 8 * 9 / 10, same, 64).bytes);
}

TEST(Meter, TheFirstBurstIsAsDeepAsConfigured) {
  // 3 and 7: ticks that do not come out even.
  for (const std::uint64_t rate : {3, 7, 1000, 50'000}) {
    Meter meter(packets_meter(rate, 100));
    const Burst burst = burst_of(64, 64);
    EXPECT_EQ(meter.conforming(burst.all(), burst, 0), burst.all());
    EXPECT_EQ(meter.conforming(burst.all(), burst, 0), (FrameSet{1} << 36) - 1) << rate << " pps";
    EXPECT_EQ(meter.conforming(burst.all(), burst, 0), 0U);
  }
}

TEST(Meter, AShorterFrameMayFitWhereALongerDoesNot) {
  Meter meter(bytes_meter(8'000'000, 2000));
  const Burst burst = burst_of({1514, 1514, 400, 86, 64});
  EXPECT_EQ(meter.conforming(burst.all(), burst, 0), 0b01101U);
}

TEST(Meter, JudgesOnlyTheFramesItIsAskedAbout) {
  Meter meter(packets_meter(1000, 2));
  const Burst burst = burst_of(64, 64);
  EXPECT_EQ(meter.conforming(0b1010'1000, burst, 0), 0b0010'1000U);
}

TEST(Meter, TokensComeBackAtTheRate) {
  Meter meter(packets_meter(1000, 10));
  const Burst burst = burst_of(64, 64);
  EXPECT_EQ(amount(meter.conforming(burst.all(), burst, 0), burst).frames, 10U);
  EXPECT_EQ(amount(meter.conforming(burst.all(), burst, kSecond / 2000), burst).frames, 0U);
  EXPECT_EQ(amount(meter.conforming(burst.all(), burst, kSecond / 1000), burst).frames, 1U);
  EXPECT_EQ(amount(meter.conforming(burst.all(), burst, kSecond / 1000 * 4), burst).frames, 3U);
}

TEST(Meter, IdleTimeRefillsNoMoreThanTheBurst) {
  Meter meter(packets_meter(1000, 10));
  const Burst burst = burst_of(64, 64);
  meter.conforming(burst.all(), burst, 0);
  for (const std::uint64_t now : {kSecond, 3600 * kSecond, 400 * 24 * 3600 * kSecond}) {
    EXPECT_EQ(amount(meter.conforming(burst.all(), burst, now), burst).frames, 10U);
    EXPECT_EQ(amount(meter.conforming(burst.all(), burst, now), burst).frames, 0U);
  }
}

TEST(Meter, TheRateHoldsAfterYearsOfUptime) {
  for (const std::uint64_t years : {1, 2, 5}) {
    Meter meter(packets_meter(3000, 30));
    Random random(years);
    const std::uint64_t from = years * 366 * 24 * 3600 * kSecond;
    expect_within_2_percent(offer(meter, 3000 * 2000, random, 16, from).frames, 30'000);
  }
}

TEST(Meter, AHugeBurstAtALowRateIsNoOverflow) {
  Meter meter(bytes_meter(1000, std::uint64_t{1} << 40));
  const Burst burst = burst_of(64, 1514);
  for (int i = 0; i < 100; ++i) ASSERT_EQ(meter.conforming(burst.all(), burst, 0), burst.all());
}

/// Time stands still: no more passes than what the bucket held.
TEST(Meter, NoTokenIsTakenTwice) {
  constexpr std::uint64_t kTokens = 2'000'000;
  constexpr std::uint32_t kThreads = 2;
  Meter meter(packets_meter(1000, kTokens));
  std::atomic<std::uint32_t> ready{0};
  std::atomic<std::uint64_t> passed{0};
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < kThreads; ++t) {
    threads.push_back(thread_on(t, [&] {
      const Burst burst = burst_of(1, 64);
      std::uint64_t mine = 0;
      ++ready;
      while (ready < kThreads) std::this_thread::yield();
      while (meter.conforming(1, burst, 0) != 0) ++mine;
      passed += mine;
    }));
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(passed, kTokens);
}

/// Real threads, virtual time: each burst moves the one clock.
TEST(Meter, ThreadsShareOneRate) {
  constexpr std::uint64_t kRate = 100'000'000 / 8;  // bytes per second
  constexpr std::uint32_t kThreads = 4;
  Meter meter(bytes_meter(kRate * 8, kRate / 100));
  std::atomic<std::uint64_t> clock{0};
  std::atomic<std::uint64_t> passed{0};
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < kThreads; ++t) {
    threads.push_back(thread_on(t, [&, t] {
      Random random(t);
      std::uint64_t mine = 0;
      while (true) {
        const Burst burst = burst_of(random.between(1, 16), 1250);
        const std::uint64_t now = clock.fetch_add(std::uint64_t{burst.size} * 50'000);  // 2 x rate
        if (now > 10 * kSecond) break;
        mine += amount(meter.conforming(burst.all(), burst, now), burst).bytes;
      }
      passed += mine;
    }));
  }
  for (auto& thread : threads) thread.join();
  expect_within_2_percent(passed, kRate * 10);
}

}  // namespace
}  // namespace vtap::test
