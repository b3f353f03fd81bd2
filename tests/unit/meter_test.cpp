// SPDX-License-Identifier: Apache-2.0
#include "pipeline/meter.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <thread>

#include "pipeline/flow.hpp"
#include "support/frames.hpp"
#include "support/threads.hpp"

namespace vtap::test {
namespace {

using pipeline::Burst;
using pipeline::for_each_frame;
using pipeline::FrameSet;
using pipeline::HostMeter;
using pipeline::Marker;
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

// ---- the arithmetic of one bucket, that of both sides

/// A rate, spread over all magnitudes.
std::uint64_t spread(Random& random, std::uint64_t least, std::uint64_t most) {
  const auto bits = static_cast<unsigned>(std::bit_width(most / least));
  const std::uint64_t value = least << random.below(bits);
  const std::uint64_t more = (std::uint64_t{random.below(1U << 31)} << 31 | random.below(1U << 31));
  return std::min(value + more % value, most);
}

struct RandomBucket {
  explicit RandomBucket(Random& random) {
    packets = random.percent(50);
    rate = packets ? spread(random, 1, 1'000'000'000) : spread(random, 1'000, 400'000'000'000);
    burst = spread(random, 1, packets ? 1 << 20 : 1 << 30);
    meter = packets ? packets_meter(rate, burst) : bytes_meter(rate, burst);
  }
  /// What so many units cost, in long double (64 bits of precision).
  [[nodiscard]] long double ticks(std::uint64_t units) const {
    return static_cast<long double>(units) * 32e9L * (packets ? 1 : 8) /
           static_cast<long double>(rate);
  }

  bool packets;
  std::uint64_t rate, burst;
  config::Meter meter;
};

TEST(BucketArithmetic, ACostIsRoundedByHalfATickAtMost) {
  Random random(1);
  long double worst = 0;
  for (int round = 0; round < 200'000; ++round) {
    const RandomBucket model(random);
    const vtap_bucket bucket = pipeline::bucket_of(model.meter);
    const std::uint64_t units = spread(random, 1, 1U << VTAP_COST_SHIFT);
    const auto cost = static_cast<long double>(vtap_bucket_cost(&bucket, units));
    const long double exact = model.ticks(units);
    worst = std::max(worst, cost - exact);
    // Above: the digits of this model, and of the fraction.
    ASSERT_LE(cost - exact, 0.5L + exact * 0x1p-62L) << model.rate << " " << units;
    ASSERT_GE(cost - exact, -0.5L - 0x1p-21L - exact * 0x1p-62L) << model.rate << " " << units;
  }
  EXPECT_GT(worst, 0.49L);
}

/// Against tokens that are counted without rounding, while no time passes.
TEST(BucketArithmetic, NoMoreThanTheBurstPassesAndNoLess) {
  for (std::uint64_t seed = 0; seed < 3000; ++seed) {
    Random random(seed);
    const RandomBucket model(random);
    const vtap_bucket bucket = pipeline::bucket_of(model.meter);
    ASSERT_GE(bucket.depth, 0);
    if (bucket.depth >= std::int64_t{1} << VTAP_DEPTH_SHIFT) continue;
    std::int64_t now = random.below(1U << 31);
    __s64 full_at = now;
    std::uint64_t taken = 0;
    std::uint64_t frames = 0;
    for (int refused = 0; refused < 20 && frames < 3000;) {
      const std::uint64_t units = model.packets ? 1 : random.between(64, 9000);
      if (vtap_bucket_take(&bucket, &full_at, now, vtap_bucket_cost(&bucket, units)) == 0) {
        ++refused;
        // Half a tick for each frame, that of the bucket's depth and this one's.
        const long double left = model.ticks(model.burst) - model.ticks(taken);
        ASSERT_LT(left, model.ticks(units) + static_cast<long double>(frames) / 2 + 2);
        continue;
      }
      taken += units;
      ++frames;
    }
    const long double slack = static_cast<long double>(frames) / 2 + 1;
    const std::uint64_t shortest = model.packets ? model.burst : model.burst / 64;
    ASSERT_LE(model.ticks(taken),
              model.ticks(model.burst) + static_cast<long double>(shortest) / 2 + slack)
        << "seed " << seed;
    ASSERT_GE(full_at, now);
  }
}

TEST(BucketArithmetic, NothingOverflowsAtTheEnds) {
  for (const std::uint64_t rate : {std::uint64_t{1}, std::uint64_t{10'000'000'000'000}}) {
    for (const std::uint64_t burst : {std::uint64_t{1}, std::uint64_t{1} << 40}) {
      const vtap_bucket bucket = pipeline::bucket_of(bytes_meter(rate, burst));
      const std::uint64_t most = 1U << VTAP_COST_SHIFT;
      std::int64_t last = 0;
      for (std::uint64_t units = 1; units <= most; units *= 2) {
        const std::int64_t cost = vtap_bucket_cost(&bucket, units);
        EXPECT_GE(cost, last);
        EXPECT_NEAR(static_cast<double>(cost),
                    256e9 / static_cast<double>(rate) * static_cast<double>(units),
                    0.5 + static_cast<double>(cost) * 1e-12);
        last = cost;
      }
      EXPECT_LT(last, std::int64_t{1} << 59);
      EXPECT_LE(bucket.depth, std::int64_t{1} << VTAP_DEPTH_SHIFT);
      // More than that is no cost, and does not conform, not even to the deepest.
      __s64 full_at = 1000;
      for (const std::uint64_t units : {most + 1, std::uint64_t{1} << 30, ~std::uint64_t{0}}) {
        EXPECT_EQ(vtap_bucket_take(&bucket, &full_at, 1000, vtap_bucket_cost(&bucket, units)), 0);
        EXPECT_EQ(full_at, 1000);
      }
    }
  }
}

// ---- two rates, three colours

enum class Colour { green, yellow, red };

/// RFC 2698, colour-blind, to the letter, in whole bytes (or packets): time goes in microseconds,
/// rates are whole units per microsecond.
class NaiveMarker {
 public:
  NaiveMarker(std::uint64_t cir, std::uint64_t cbs, std::uint64_t pir, std::uint64_t pbs)
      : cir_(cir), cbs_(cbs), pir_(pir), pbs_(pbs), tc_(cbs), tp_(pbs) {}

  Colour mark(std::uint64_t us, std::uint64_t units) {
    tc_ = std::min(cbs_, tc_ + (us - last_) * cir_);
    tp_ = std::min(pbs_, tp_ + (us - last_) * pir_);
    last_ = us;
    if (tp_ < units) return Colour::red;
    tp_ -= units;
    if (tc_ < units) return Colour::yellow;
    tc_ -= units;
    return Colour::green;
  }

 private:
  std::uint64_t cir_, cbs_, pir_, pbs_, tc_, tp_;
  std::uint64_t last_ = 0;
};

Colour colour_of(const Marker::Marked& marked, std::uint32_t frame) {
  if ((marked.green >> frame & 1) != 0) return Colour::green;
  return (marked.yellow >> frame & 1) != 0 ? Colour::yellow : Colour::red;
}

/// Rates that are whole per microsecond, and so that a byte is a whole number of ticks: then there
/// is nothing to round, and the bucket's slack is less than the smallest step of the tokens.
struct TwoRates {
  std::uint64_t cir, cbs, pir, pbs;
};
TwoRates random_rates(Random& random, bool packets) {
  static constexpr std::array<std::uint64_t, 6> kRates{1, 2, 4, 5, 8, 10};
  const std::uint64_t cir = random.pick(kRates);
  const std::uint64_t pir = std::max(cir, random.pick(kRates));
  const std::uint32_t least = packets ? 1 : 64;
  return {cir, random.between(least, packets ? 100 : 20'000), pir,
          random.between(least, packets ? 100 : 20'000)};
}
config::Meter two_rates(const TwoRates& rates, bool packets) {
  config::Meter meter = packets ? packets_meter(rates.cir * 1'000'000, rates.cbs)
                                : bytes_meter(rates.cir * 8'000'000, rates.cbs);
  meter.peak_per_second = rates.pir * (packets ? 1'000'000 : 8'000'000);
  meter.peak_burst = rates.pbs;
  meter.exceed_slice = 64;
  return meter;
}

/// Frames that come together now and then, at about the peak rate over all.
Burst random_burst(Random& random, std::uint64_t& us, std::uint64_t rate, bool packets) {
  Burst burst;
  std::uint64_t units = 0;
  for (std::uint32_t n = random.between(1, 64); n > 0; --n) {
    burst.push({}, random.between(60, 1514), 0);
    units += packets ? 1 : burst.length[burst.size - 1];
  }
  us += random.below(static_cast<std::uint32_t>(2 * units / rate) + 1);
  return burst;
}

TEST(Marker, ColoursAreThoseOfRfc2698) {
  std::array<std::uint64_t, 3> seen{};
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    for (const bool packets : {false, true}) {
      Random random(seed);
      const TwoRates rates = random_rates(random, packets);
      Marker marker(two_rates(rates, packets));
      NaiveMarker naive(rates.cir, rates.cbs, rates.pir, rates.pbs);
      std::uint64_t us = 0;
      for (int round = 0; round < 300; ++round) {
        const Burst burst = random_burst(random, us, rates.pir, packets);
        const auto marked = marker.mark(burst.all(), burst, us * 1000);
        for (std::uint32_t i = 0; i < burst.size; ++i) {
          const Colour expected = naive.mark(us, packets ? 1 : burst.length[i]);
          ASSERT_EQ(colour_of(marked, i), expected) << "seed " << seed << ", round " << round;
          ++seen[static_cast<std::size_t>(expected)];
        }
        ASSERT_EQ(marked.green | marked.yellow | marked.red, burst.all());
        ASSERT_EQ(marked.green & marked.yellow, 0U);
        ASSERT_EQ((marked.green | marked.yellow) & marked.red, 0U);
      }
    }
  }
  for (const std::uint64_t frames : seen) EXPECT_GT(frames, 100'000U);
}

/// Each host has its own two buckets.
TEST(Marker, ColoursPerHostAreThoseOfRfc2698) {
  constexpr std::uint32_t kHosts = 20;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Random random(seed);
    const TwoRates rates = random_rates(random, false);
    auto config = two_rates(rates, false);
    config.per = seed % 2 == 0 ? config::Per::src : config::Per::dst;
    Marker marker(config);
    std::vector<NaiveMarker> naive(kHosts, {rates.cir, rates.cbs, rates.pir, rates.pbs});
    std::uint64_t us = 0;
    for (int round = 0; round < 500; ++round) {
      Burst burst = random_burst(random, us, rates.pir * kHosts, false);
      std::vector<std::uint32_t> hosts;
      for (std::uint32_t i = 0; i < burst.size; ++i) {
        // One of them sends much more than the others.
        hosts.push_back(random.percent(50) ? 0 : random.below(kHosts));
        burst.key[i] = {};
        burst.key[i].family = VTAP_L3_IPV4;
        (seed % 2 == 0 ? burst.key[i].src : burst.key[i].dst)[3] =
            static_cast<std::uint8_t>(hosts[i]);
        (seed % 2 == 0 ? burst.key[i].dst : burst.key[i].src)[3] = random.byte();
      }
      const auto marked = marker.mark(burst.all(), burst, us * 1000);
      for (std::uint32_t i = 0; i < burst.size; ++i) {
        ASSERT_EQ(colour_of(marked, i), naive[hosts[i]].mark(us, burst.length[i]))
            << "seed " << seed << ", round " << round;
      }
    }
  }
}

/// No time passes: 10 conform; of 30, with a peak burst, 15 more are within the peak.
config::Meter ten_of(std::uint64_t peak_burst = 0) {
  config::Meter meter = packets_meter(1, 10);
  if (peak_burst != 0) {
    meter.peak_per_second = 1;
    meter.peak_burst = peak_burst;
  }
  return meter;
}
constexpr FrameSet first(std::uint32_t frames) { return (FrameSet{1} << frames) - 1; }

TEST(Marker, WithoutAPeakRateWhatExceedsIsYellow) {
  Marker marker(ten_of());
  const auto marked = marker.mark(first(30), burst_of(30, 64), 0);
  EXPECT_EQ(marked.green, first(10));
  EXPECT_EQ(marked.yellow, first(30) & ~first(10));
  EXPECT_EQ(marked.red, 0U);
  EXPECT_EQ(marked.passed, first(10));
  EXPECT_EQ(marked.cut, 0U);
}

TEST(Marker, ExceedSliceLetsYellowPassAndNotRed) {
  for (const std::uint64_t peak_burst : {0, 25}) {
    auto config = ten_of(peak_burst);
    config.exceed_slice = 64;
    Marker marker(config);
    const auto marked = marker.mark(first(30), burst_of(30, 64), 0);
    const std::uint32_t passed = peak_burst == 0 ? 30 : 25;
    EXPECT_EQ(marked.passed, first(passed));
    EXPECT_EQ(marked.cut, first(passed) & ~first(10));
    EXPECT_EQ(marked.red, first(30) & ~first(passed));
  }
}

TEST(Marker, ExceedOneInThinsYellowAndNotGreen) {
  auto config = ten_of(26);
  config.exceed_one_in = 4;
  Marker marker(config);
  auto marked = marker.mark(first(30), burst_of(30, 64), 0);
  EXPECT_EQ(marked.passed, first(10) | FrameSet{1} << 10 | FrameSet{1} << 14 | FrameSet{1} << 18 |
                               FrameSet{1} << 22);
  EXPECT_EQ(marked.cut, 0U);
  // Counting goes on where it was: 16 have exceeded, so the next one is a fourth again.
  marked = marker.mark(first(3), burst_of(3, 64), 2'000'000'000);
  EXPECT_EQ(marked.green, first(2));
  EXPECT_EQ(marked.passed, first(2)) << "the third is red";
}

/// Real threads, and time stands still: exactly what the buckets hold, of each colour.
TEST(Marker, ColoursAreExactOverAllThreads) {
  constexpr std::uint32_t kThreads = 4;
  constexpr std::uint64_t kRounds = 20'000;
  for (const auto per : {config::Per::policy, config::Per::src}) {
    config::Meter config = packets_meter(1, 100'001);
    config.peak_per_second = 1;
    config.peak_burst = 300'003;
    config.exceed_one_in = 7;
    config.per = per;
    Marker marker(config);
    std::atomic<std::uint64_t> green{0};
    std::atomic<std::uint64_t> yellow{0};
    std::atomic<std::uint64_t> passed{0};
    std::vector<std::thread> threads;
    for (std::uint32_t t = 0; t < kThreads; ++t) {
      threads.push_back(thread_on(t, [&] {
        const Burst burst = burst_of(5, 64);
        for (std::uint64_t round = 0; round < kRounds; ++round) {
          const auto marked = marker.mark(burst.all(), burst, 0);
          green += amount(marked.green, burst).frames;
          yellow += amount(marked.yellow, burst).frames;
          passed += amount(marked.passed, burst).frames;
        }
      }));
    }
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(green, 100'001U);
    EXPECT_EQ(yellow, 200'002U);
    EXPECT_EQ(passed, 100'001U + (200'002U + 6) / 7);
  }
}

// ---- one bucket per host or flow

config::Meter per(config::Per owner, config::Meter meter, std::uint32_t entries = 65536) {
  meter.per = owner;
  meter.entries = entries;
  return meter;
}

vtap_key key_of(std::uint32_t src, std::uint32_t dst, std::uint16_t sport = 1) {
  vtap_key key{};
  key.family = VTAP_L3_IPV4;
  key.proto = 17;
  std::memcpy(key.src, &src, sizeof(src));
  std::memcpy(key.dst, &dst, sizeof(dst));
  key.sport = sport;
  key.dport = 53;
  return key;
}

bool conforms(HostMeter& meter, const vtap_key& key, std::uint64_t now = 0) {
  Burst burst;
  burst.push({}, 64, 0);
  burst.key[0] = key;
  burst.transport[0] = pipeline::own_transport(key);
  return meter.conforming(1, burst, now) != 0;
}

/// 1000 mice below their rate get all of it, whatever one elephant sends; and that gets its rate.
TEST(HostMeter, OneElephantDoesNotStarveAThousandMice) {
  constexpr std::uint32_t kMice = 1000;
  constexpr std::uint64_t kRate = 100;
  HostMeter meter(per(config::Per::src, packets_meter(kRate, 10)), 1);
  std::uint64_t elephant = 0;
  Random random(1);
  for (std::uint32_t ms = 0; ms < 5000; ++ms) {
    const std::uint64_t now = std::uint64_t{ms} * 1'000'000;
    for (int i = 0; i < 20; ++i) elephant += conforms(meter, key_of(0, random.below(9)), now);
    for (std::uint32_t mouse = 1 + ms % 20; mouse <= kMice; mouse += 20) {
      ASSERT_TRUE(conforms(meter, key_of(mouse, 0), now)) << "50 a second of 100";
    }
  }
  EXPECT_NEAR(static_cast<double>(elephant), 5.0 * kRate + 10, 2);
}

TEST(HostMeter, WhoOwnsABucket) {
  const auto second_conforms = [](config::Per owner, const vtap_key& a, const vtap_key& b) {
    HostMeter meter(per(owner, packets_meter(1, 1)), 1);
    EXPECT_TRUE(conforms(meter, a));
    return conforms(meter, b);
  };
  const vtap_key base = key_of(1, 2, 3);
  const vtap_key answer = [&] {
    vtap_key key = key_of(2, 1);
    key.sport = base.dport;
    key.dport = base.sport;
    return key;
  }();
  EXPECT_FALSE(second_conforms(config::Per::src, base, key_of(1, 9, 9)));
  EXPECT_TRUE(second_conforms(config::Per::src, base, key_of(9, 2, 3)));
  EXPECT_FALSE(second_conforms(config::Per::dst, base, key_of(9, 2, 9)));
  EXPECT_TRUE(second_conforms(config::Per::dst, base, key_of(1, 9, 3)));
  EXPECT_FALSE(second_conforms(config::Per::flow, base, base));
  EXPECT_FALSE(second_conforms(config::Per::flow, base, answer));
  EXPECT_TRUE(second_conforms(config::Per::flow, base, key_of(1, 2, 4)));

  vtap_key v6 = base;
  v6.family = VTAP_L3_IPV6;
  EXPECT_TRUE(second_conforms(config::Per::src, base, v6)) << "the same bytes, another address";
  v6.src[15] = 1;
  vtap_key v6b = v6;
  v6b.src[15] = 2;
  EXPECT_TRUE(second_conforms(config::Per::src, v6, v6b)) << "all of the address counts";

  vtap_key arp{};
  arp.smac[5] = 1;
  arp.dmac[5] = 2;
  vtap_key other = arp;
  other.smac[5] = 3;
  for (const auto owner : {config::Per::src, config::Per::flow}) {
    EXPECT_FALSE(second_conforms(owner, arp, arp)) << "by its MAC";
    EXPECT_TRUE(second_conforms(owner, arp, other));
  }
  EXPECT_FALSE(second_conforms(config::Per::dst, arp, other));
}

/// What owes most stays: addresses that come and go do not give an elephant a new bucket.
TEST(HostMeter, ManyAddressesDoNotPushOutADebt) {
  HostMeter meter(per(config::Per::src, packets_meter(1000, 100), 64), 1);
  std::uint64_t elephant = 0;
  std::uint32_t address = 1;
  for (std::uint64_t ms = 0; ms < 2000; ++ms) {
    const std::uint64_t now = ms * 1'000'000;
    for (int i = 0; i < 10; ++i) elephant += conforms(meter, key_of(0, 0), now);
    for (int i = 0; i < 50; ++i) EXPECT_TRUE(conforms(meter, key_of(address++, 0), now));
  }
  EXPECT_NEAR(static_cast<double>(elephant), 2000 + 100, 2);
}

TEST(HostMeter, NoTokenOfAnyHostIsTakenTwice) {
  constexpr std::uint32_t kThreads = 4;
  constexpr std::uint32_t kHosts = 2000;
  constexpr std::uint64_t kTokens = 25;
  HostMeter meter(per(config::Per::src, packets_meter(1, kTokens)), 1);
  std::atomic<std::uint32_t> ready{0};
  std::atomic<std::uint64_t> passed{0};
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < kThreads; ++t) {
    threads.push_back(thread_on(t, [&] {
      std::uint64_t mine = 0;
      ++ready;
      while (ready < kThreads) std::this_thread::yield();
      for (std::uint32_t host = 0; host < kHosts; ++host) {
        Burst burst = burst_of(16, 64);
        for (std::uint32_t i = 0; i < burst.size; ++i) burst.key[i] = key_of(host, i);
        mine += amount(meter.conforming(burst.all(), burst, 0), burst).frames;
      }
      passed += mine;
    }));
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(passed, kHosts * kTokens);
}

}  // namespace
}  // namespace vtap::test
