// SPDX-License-Identifier: Apache-2.0
// The scheduler of a monitor on a virtual clock: shares, priorities, rate, and who gives way.
#include "pipeline/scheduler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <numeric>

#include "support/frames.hpp"

namespace vtap::test {
namespace {

using pipeline::FrameAddress;
using pipeline::schedule_of;
using pipeline::Scheduler;
using pipeline::TxDescriptor;

constexpr std::uint64_t kMillisecond = 1'000'000;
constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint32_t kLongest = 2048;

config::Rate bits(std::uint64_t per_second) { return {.packets = false, .per_second = per_second}; }
config::Rate packets(std::uint64_t per_second) {
  return {.packets = true, .per_second = per_second};
}

Scheduler::Spec spec_of(std::vector<Scheduler::Class> classes, std::uint32_t capacity,
                        std::optional<config::Rate> rate = {}) {
  return {.classes = std::move(classes), .rate = rate, .capacity = capacity, .longest = kLongest};
}

TxDescriptor frame_of(std::uint32_t traffic_class, std::uint64_t number,
                      std::uint32_t length = 64) {
  return {FrameAddress{number}, length, traffic_class};
}
std::uint64_t number_of(const TxDescriptor& frame) {
  return static_cast<std::uint64_t>(frame.address);
}

/// All that may go now.
std::vector<TxDescriptor> take(Scheduler& scheduler, std::uint64_t now, std::size_t room) {
  std::vector<TxDescriptor> frames(room);
  frames.resize(scheduler.dequeue(now, frames));
  return frames;
}
std::vector<std::uint64_t> numbers(const std::vector<TxDescriptor>& frames) {
  std::vector<std::uint64_t> all;
  for (const TxDescriptor& frame : frames) all.push_back(number_of(frame));
  return all;
}
using Numbers = std::vector<std::uint64_t>;

// ---- shares

/// What a class offers: so many times the monitor's rate, in frames of one of these lengths.
struct Source {
  double load = 1;
  std::vector<std::uint32_t> lengths;
};

constexpr std::uint64_t kRate = 100'000'000;  // bits
constexpr double kTenSeconds = 1.25 * kRate;  // bytes of the rate

/// Bytes that each class gets out of a monitor in ten seconds, served in rounds of 50 us.
std::vector<std::uint64_t> share_out(const std::vector<Scheduler::Class>& classes,
                                     const std::vector<Source>& sources, std::uint32_t capacity) {
  constexpr std::uint64_t kRound = 50'000;
  Scheduler scheduler(spec_of(classes, capacity, bits(kRate)));
  Random random(1);
  std::vector<double> credit(classes.size(), 0);
  std::vector<std::uint64_t> bytes(classes.size(), 0);
  std::vector<TxDescriptor> room(128);
  std::uint64_t number = 0;
  for (std::uint64_t now = 0; now < 10 * kSecond; now += kRound) {
    for (std::uint32_t i = 0; i < sources.size(); ++i) {
      credit[i] += sources[i].load * static_cast<double>(kRate) / 8 * kRound / kSecond;
      while (credit[i] > 0) {
        const std::uint32_t length = random.pick(sources[i].lengths);
        scheduler.enqueue(frame_of(i, number++, length));
        credit[i] -= length;
      }
    }
    const std::uint32_t count = scheduler.dequeue(now, room);
    for (std::uint32_t i = 0; i < count; ++i) bytes[room[i].traffic_class] += room[i].length;
  }
  return bytes;
}

void expect_shares(const std::vector<Scheduler::Class>& classes, const std::vector<Source>& sources,
                   std::uint32_t capacity = 4096) {
  const std::vector<std::uint64_t> bytes = share_out(classes, sources, capacity);
  const double all = std::accumulate(bytes.begin(), bytes.end(), 0.0);
  EXPECT_NEAR(all, kTenSeconds, 0.01 * kTenSeconds);
  const double weights =
      std::accumulate(classes.begin(), classes.end(), 0.0,
                      [](double sum, const Scheduler::Class& one) { return sum + one.weight; });
  for (std::size_t i = 0; i < classes.size(); ++i) {
    const double fair = all * classes[i].weight / weights;
    EXPECT_NEAR(static_cast<double>(bytes[i]), fair, 0.03 * fair) << "class " << i;
  }
}

const std::vector<Scheduler::Class> kOneTwoFive{{0, 1}, {0, 2}, {0, 5}};
constexpr double kEach = 5.0 / 3;  // five times the rate, in three parts

TEST(Shares, OfShortFrames) {
  expect_shares(kOneTwoFive, {{kEach, {64}}, {kEach, {64}}, {kEach, {64}}});
}

TEST(Shares, OfLongFrames) {
  expect_shares(kOneTwoFive, {{kEach, {1514}}, {kEach, {1514}}, {kEach, {1514}}});
}

/// In bytes, so that long frames are worth no more than short ones.
TEST(Shares, OfShortFramesAgainstLongOnes) {
  expect_shares(kOneTwoFive, {{kEach, {1514}}, {kEach, {64}}, {kEach, {64, 1514}}});
  expect_shares(kOneTwoFive, {{kEach, {64}}, {kEach, {1514}}, {kEach, {64}}});
}

/// Most of what comes is of the lightest class. The queue must not fill with it.
TEST(Shares, FollowTheWeightsAndNotTheArrivals) {
  expect_shares(kOneTwoFive, {{4.0, {64}}, {0.3, {64}}, {0.7, {64}}});
  expect_shares(kOneTwoFive, {{4.0, {1514}}, {0.3, {1514}}, {0.7, {1514}}});
  expect_shares(kOneTwoFive, {{4.0, {64}}, {0.3, {1514}}, {0.7, {1514}}});
}

TEST(Shares, OfFarAndOfNearWeights) {
  expect_shares({{0, 1}, {0, 200}}, {{2.5, {64}}, {2.5, {64}}});
  expect_shares({{0, 500}, {0, 501}}, {{2.5, {64}}, {2.5, {1514}}});
}

TEST(Shares, InAShortQueue) {
  expect_shares(kOneTwoFive, {{kEach, {64}}, {kEach, {64}}, {kEach, {64}}}, 512);
  expect_shares(kOneTwoFive, {{kEach, {64, 1514}}, {kEach, {64, 1514}}, {kEach, {64, 1514}}}, 512);
}

TEST(Shares, OfAHundredClasses) {
  std::vector<Scheduler::Class> classes;
  std::vector<Source> sources;
  for (std::uint32_t i = 0; i < 100; ++i) {
    classes.push_back({0, i % 5 + 1});
    sources.push_back({0.05, {64, 1514}});
  }
  expect_shares(classes, sources);
}

/// What a class leaves of its share goes to the others, by their weights.
TEST(Shares, AreOfWhatTheOthersLeave) {
  const std::vector<std::uint64_t> bytes =
      share_out(kOneTwoFive, {{2.0, {64}}, {2.0, {64}}, {0.1, {64}}}, 4096);
  const double all = kTenSeconds;
  EXPECT_NEAR(static_cast<double>(bytes[2]), 0.1 * all, 0.01 * all);
  EXPECT_NEAR(static_cast<double>(bytes[0]), 0.3 * all, 0.01 * all);
  EXPECT_NEAR(static_cast<double>(bytes[1]), 0.6 * all, 0.01 * all);
}

/// A class that sent little for long has no right to more later.
TEST(Shares, AreNotSavedUp) {
  Scheduler scheduler(spec_of({{0, 1}, {0, 1}}, 4096));
  std::uint64_t number = 0;
  for (int i = 0; i < 1000; ++i) {
    scheduler.enqueue(frame_of(0, number++));
    scheduler.enqueue(frame_of(0, number++));
    scheduler.enqueue(frame_of(1, number++));
    ASSERT_EQ(take(scheduler, 0, 8).size(), 3U);
  }
  for (int i = 0; i < 400; ++i) scheduler.enqueue(frame_of(i % 2, number++));
  const auto frames = take(scheduler, 0, 200);
  EXPECT_NEAR(static_cast<double>(std::ranges::count(frames, 0U, &TxDescriptor::traffic_class)),
              100, 4);
}

/// Weights count within a priority only.
TEST(Shares, OfTheLowerPriorityAreOfTheRest) {
  const std::vector<std::uint64_t> bytes =
      share_out({{3, 1}, {0, 1}, {0, 4}}, {{0.5, {64, 1514}}, {2.0, {64}}, {2.5, {1514}}}, 4096);
  const double all = kTenSeconds;
  EXPECT_NEAR(static_cast<double>(bytes[0]), 0.5 * all, 0.01 * all);
  EXPECT_NEAR(static_cast<double>(bytes[1]), 0.1 * all, 0.003 * all);
  EXPECT_NEAR(static_cast<double>(bytes[2]), 0.4 * all, 0.012 * all);
}

// ---- priorities

TEST(Priorities, HigherOnesAreServedFirst) {
  Scheduler scheduler(spec_of({{0, 1000}, {7, 1}, {3, 1}}, 16));
  for (std::uint64_t i = 0; i < 9; ++i) {
    scheduler.enqueue(frame_of(static_cast<std::uint32_t>(i % 3), i));
  }
  EXPECT_EQ(numbers(take(scheduler, 0, 4)), (Numbers{1, 4, 7, 2}));
  scheduler.enqueue(frame_of(1, 9));
  EXPECT_EQ(numbers(take(scheduler, 0, 16)), (Numbers{9, 5, 8, 0, 3, 6}));
}

/// The low priority offers five times the rate, the high one comes at random times with a third of
/// it. A round of the worker takes 50 us.
TEST(Priorities, TheHighOneWaitsLittleAndLosesNothingUnderOverload) {
  constexpr std::uint64_t kRound = 50'000;
  Scheduler scheduler(spec_of({{0, 1}, {7, 1}}, 4096, bits(kRate)));
  Random random(2);
  std::map<std::uint64_t, std::uint64_t> came;  // number, time
  std::uint64_t number = 0;
  std::uint64_t longest = 0;
  std::uint64_t low = 0;
  for (std::uint64_t now = 0; now < 10 * kSecond; now += kRound) {
    for (int i = 0; i < 3; ++i) scheduler.enqueue(frame_of(0, number++, 1042));
    if (random.percent(20)) {
      came[number] = now;
      const auto gone = scheduler.enqueue(frame_of(1, number++, random.between(64, 1514)));
      ASSERT_TRUE(!gone || gone->traffic_class == 0);
    }
    for (const TxDescriptor& frame : take(scheduler, now, 128)) {
      if (frame.traffic_class == 0) {
        ++low;
        continue;
      }
      longest = std::max(longest, now - came.at(number_of(frame)));
      came.erase(number_of(frame));
    }
  }
  EXPECT_LT(longest, 2 * kMillisecond);
  EXPECT_LE(came.size(), 1U) << "frames of the high priority were left behind";
  EXPECT_GT(low, 10'000U) << "the low priority gets what is left";
}

// ---- rate

/// Serves an endless backlog for ten seconds, at the very moments at which next_at() asks for it.
/// Bytes, or packets.
std::uint64_t served(Scheduler& scheduler, bool by_packets,
                     const std::vector<std::uint32_t>& lengths,
                     const std::function<std::uint64_t(std::uint64_t)>& wake) {
  Random random(3);
  std::uint64_t number = 0;
  std::uint64_t units = 0;
  for (std::uint64_t now = 0; now < 10 * kSecond;) {
    while (scheduler.waiting() < 64) {
      scheduler.enqueue(frame_of(0, number++, random.pick(lengths)));
    }
    for (const TxDescriptor& frame : take(scheduler, now, 32)) {
      units += by_packets ? 1 : frame.length;
    }
    if (scheduler.waiting() == 64 || scheduler.next_at() > now) {
      EXPECT_GT(scheduler.next_at(), now);
      now = wake(scheduler.next_at());
    }
  }
  return units;
}

TEST(Rate, IsExactToAFrameOrTwo) {
  const auto on_time = [](std::uint64_t due) { return due; };
  for (const std::uint64_t rate : {64'000, 10'000'000, 123'456'789}) {
    Scheduler scheduler(spec_of({{}}, 64, bits(rate)));
    const double burst = std::max(static_cast<double>(rate) / 8 / 1000, double{kLongest});
    EXPECT_NEAR(static_cast<double>(served(scheduler, false, {64, 777, 1514}, on_time)),
                static_cast<double>(rate) / 8 * 10 + burst, 2 * 1514)
        << rate << " bit/s";
  }
  for (const std::uint64_t rate : {3, 1000, 77'777}) {
    Scheduler scheduler(spec_of({{}}, 64, packets(rate)));
    const double burst = std::max(static_cast<double>(rate) / 1000, 1.0);
    EXPECT_NEAR(static_cast<double>(served(scheduler, true, {64, 1514}, on_time)),
                static_cast<double>(rate) * 10 + burst, 2)
        << rate << " pps";
  }
}

/// Wakeups that come up to three milliseconds late cost nothing of it.
TEST(Rate, HoldsWhenServedLate) {
  Scheduler scheduler(spec_of({{}}, 64, bits(kRate)));
  Random random(4);
  const auto late = [&](std::uint64_t due) { return due + random.below(3 * kMillisecond); };
  const double units = static_cast<double>(served(scheduler, false, {64, 1514}, late));
  EXPECT_NEAR(units, kTenSeconds, kTenSeconds * 0.001);
}

TEST(Rate, IdleTimeIsNotSavedUp) {
  Scheduler scheduler(spec_of({{}}, 1000, packets(10'000)));
  for (std::uint64_t i = 0; i < 1000; ++i) scheduler.enqueue(frame_of(0, i));
  EXPECT_EQ(take(scheduler, 3600 * kSecond, 1000).size(), 10U) << "a millisecond of the rate";
  EXPECT_EQ(take(scheduler, 3600 * kSecond, 1000).size(), 0U);
  EXPECT_EQ(take(scheduler, 3600 * kSecond + 2 * kMillisecond, 1000).size(), 20U);
  EXPECT_EQ(take(scheduler, 3600 * kSecond + 9 * kMillisecond, 1000).size(), 40U)
      << "late by more than is made up for";
  for (int i = 0; i < 32; ++i) take(scheduler, 3700 * kSecond + i * kSecond, 1000);
  EXPECT_EQ(scheduler.waiting(), 0U);
  for (std::uint64_t i = 0; i < 1000; ++i) scheduler.enqueue(frame_of(0, i));
  EXPECT_EQ(take(scheduler, 7200 * kSecond, 1000).size(), 10U) << "nothing had waited";
}

TEST(Rate, NextAtIsTheFirstMomentAtWhichAFrameGoes) {
  Scheduler scheduler(spec_of({{0, 1}, {1, 1}}, 64, bits(8'000'000)));  // a byte in a microsecond
  EXPECT_EQ(scheduler.next_at(), Scheduler::kNever);
  for (std::uint64_t i = 0; i < 4; ++i) scheduler.enqueue(frame_of(0, i, 1000));
  const std::uint64_t start = 5 * kSecond;
  EXPECT_LE(scheduler.next_at(), start);
  EXPECT_EQ(numbers(take(scheduler, start, 64)), (Numbers{0, 1})) << "2048 bytes at once";
  const std::uint64_t due = scheduler.next_at();
  EXPECT_EQ(due, start + 952'000);
  // A shorter frame of the higher priority is next now, and sooner.
  scheduler.enqueue(frame_of(1, 9, 100));
  EXPECT_EQ(scheduler.next_at(), start + 52'000);
  EXPECT_EQ(take(scheduler, start + 51'999, 64).size(), 0U);
  EXPECT_EQ(numbers(take(scheduler, start + 52'000, 64)), (Numbers{9}));
  EXPECT_EQ(take(scheduler, due + 99'999, 64).size(), 0U);
  EXPECT_EQ(numbers(take(scheduler, due + 100'000, 64)), (Numbers{2}));
}

TEST(Rate, WithoutOneEverythingMayGoAtOnce) {
  Scheduler scheduler(spec_of({{0, 1}, {0, 2}}, 64));
  EXPECT_EQ(scheduler.next_at(), Scheduler::kNever);
  for (std::uint64_t i = 0; i < 64; ++i) scheduler.enqueue(frame_of(i % 2, i, 1514));
  EXPECT_EQ(scheduler.next_at(), 0U);
  EXPECT_EQ(take(scheduler, 0, 10).size(), 10U);
  EXPECT_EQ(take(scheduler, 0, 64).size(), 54U);
  EXPECT_EQ(scheduler.waiting(), 0U);
}

TEST(Rate, SmallerThanAFrameInAMillisecondStillSendsTheLongest) {
  Scheduler scheduler(spec_of({{}}, 4, bits(1)));
  scheduler.enqueue(frame_of(0, 0, kLongest));
  scheduler.enqueue(frame_of(0, 1, kLongest));
  EXPECT_EQ(take(scheduler, 0, 4).size(), 1U);
  EXPECT_EQ(scheduler.next_at(), kLongest * 8 * kSecond);
}

// ---- a full queue

std::optional<std::uint64_t> gone(const std::optional<TxDescriptor>& frame) {
  return frame ? std::optional(number_of(*frame)) : std::nullopt;
}

TEST(FullQueue, TheNewestOfTheLowestPriorityGivesWay) {
  Scheduler scheduler(spec_of({{0, 1}, {1, 1}, {2, 1}}, 6));
  for (std::uint64_t i = 0; i < 6; ++i) {
    EXPECT_EQ(gone(scheduler.enqueue(frame_of(static_cast<std::uint32_t>(i % 2), i))),
              std::nullopt);
  }
  // 0 2 4 of the lowest, 1 3 5 of the middle one.
  EXPECT_EQ(gone(scheduler.enqueue(frame_of(0, 6))), 6U);
  EXPECT_EQ(gone(scheduler.enqueue(frame_of(1, 7))), 4U);
  EXPECT_EQ(gone(scheduler.enqueue(frame_of(2, 8))), 2U);
  EXPECT_EQ(gone(scheduler.enqueue(frame_of(2, 9))), 0U);
  // Now the middle one is the lowest that waits.
  EXPECT_EQ(gone(scheduler.enqueue(frame_of(0, 10))), 10U);
  EXPECT_EQ(gone(scheduler.enqueue(frame_of(1, 11))), 11U);
  EXPECT_EQ(gone(scheduler.enqueue(frame_of(2, 12))), 7U);
  EXPECT_EQ(numbers(take(scheduler, 0, 16)), (Numbers{8, 9, 12, 1, 3, 5}));
}

TEST(FullQueue, WithinAPriorityTheLargestBacklogForItsWeightGivesWay) {
  Scheduler scheduler(spec_of({{0, 1}, {0, 4}}, 10));
  std::uint64_t number = 0;
  for (; number < 4; ++number) scheduler.enqueue(frame_of(0, number));
  for (; number < 10; ++number) scheduler.enqueue(frame_of(1, number));
  // 4 frames for weight 1, 6 for weight 4: the light class has more than its part.
  EXPECT_EQ(gone(scheduler.enqueue(frame_of(1, 10))), 3U);
  EXPECT_EQ(gone(scheduler.enqueue(frame_of(1, 11))), 2U);
  EXPECT_EQ(gone(scheduler.enqueue(frame_of(0, 12))), 12U);
  // 2 and 8 are in the ratio of the weights: whoever comes is one too many.
  EXPECT_EQ(gone(scheduler.enqueue(frame_of(0, 13))), 13U);
  EXPECT_EQ(gone(scheduler.enqueue(frame_of(1, 14))), 14U);
}

TEST(FullQueue, BacklogsCountInBytes) {
  Scheduler scheduler(spec_of({{0, 1}, {0, 1}}, 11));
  scheduler.enqueue(frame_of(0, 0, 1500));
  for (std::uint64_t i = 1; i <= 10; ++i) scheduler.enqueue(frame_of(1, i, 60));
  EXPECT_EQ(gone(scheduler.enqueue(frame_of(1, 11, 60))), 0U);
}

TEST(FullQueue, TenThousandClasses) {
  constexpr std::uint32_t kClasses = 10'000;
  Scheduler scheduler(spec_of(std::vector<Scheduler::Class>(kClasses), kClasses));
  std::uint64_t number = 0;
  for (std::uint32_t i = 0; i < kClasses; ++i) scheduler.enqueue(frame_of(i, number++));
  for (std::uint32_t i = 0; i < kClasses; ++i) {
    const auto dropped = scheduler.enqueue(frame_of(i, number++));
    ASSERT_TRUE(dropped);
    EXPECT_EQ(number_of(*dropped), number - 1) << "each class has its one frame already";
  }
  const auto all = take(scheduler, 0, kClasses);
  ASSERT_EQ(all.size(), kClasses);
  for (std::uint32_t i = 0; i < kClasses; ++i) EXPECT_EQ(number_of(all[i]), i);
}

// ---- against a naive model

/// What waits, by class, and what a right scheduler may do with it.
class Model {
 public:
  explicit Model(const Scheduler::Spec& spec) : spec_(spec), queues_(spec.classes.size()) {}

  [[nodiscard]] std::uint32_t waiting() const {
    std::uint32_t all = 0;
    for (const auto& queue : queues_) all += static_cast<std::uint32_t>(queue.size());
    return all;
  }

  void enqueued(const TxDescriptor& frame, const std::optional<TxDescriptor>& gone) {
    const bool full = waiting() == spec_.capacity;
    ASSERT_EQ(gone.has_value(), full);
    queues_[frame.traffic_class].push_back(frame);
    if (!gone) return;
    const std::uint32_t its = gone->traffic_class;
    ASSERT_EQ(spec_.classes[its].priority, lowest());
    ASSERT_EQ(number_of(queues_[its].back()), number_of(*gone)) << "not the newest of its class";
    double largest = 0;
    for (std::uint32_t i = 0; i < queues_.size(); ++i) {
      if (spec_.classes[i].priority == lowest()) largest = std::max(largest, backlog(i));
    }
    ASSERT_GE(backlog(its) * 1.13, largest) << "another class has more for its weight";
    queues_[its].pop_back();
  }

  void dequeued(const TxDescriptor& frame) {
    auto& queue = queues_[frame.traffic_class];
    ASSERT_FALSE(queue.empty());
    ASSERT_EQ(number_of(queue.front()), number_of(frame)) << "not the oldest of its class";
    ASSERT_EQ(queue.front().length, frame.length);
    ASSERT_EQ(spec_.classes[frame.traffic_class].priority, highest());
    queue.pop_front();
  }

 private:
  [[nodiscard]] double backlog(std::uint32_t number) const {
    double bytes = 0;
    for (const TxDescriptor& frame : queues_[number]) bytes += frame.length;
    return bytes / spec_.classes[number].weight;
  }
  [[nodiscard]] std::uint8_t lowest() const {
    std::uint8_t found = config::kHighestPriority;
    for (std::uint32_t i = 0; i < queues_.size(); ++i) {
      if (!queues_[i].empty()) found = std::min(found, spec_.classes[i].priority);
    }
    return found;
  }
  [[nodiscard]] std::uint8_t highest() const {
    std::uint8_t found = 0;
    for (std::uint32_t i = 0; i < queues_.size(); ++i) {
      if (!queues_[i].empty()) found = std::max(found, spec_.classes[i].priority);
    }
    return found;
  }

  Scheduler::Spec spec_;
  std::vector<std::deque<TxDescriptor>> queues_;
};

Scheduler::Spec random_spec(Random& random) {
  Scheduler::Spec spec = spec_of({}, random.between(1, 40));
  for (std::uint32_t n = random.between(1, 12); n > 0; --n) {
    spec.classes.push_back({static_cast<std::uint8_t>(random.percent(50) ? 0 : random.below(8)),
                            random.percent(50) ? 1 : random.between(1, 1000)});
  }
  if (random.percent(30)) spec.rate = bits(random.between(1'000'000, 1'000'000'000));
  if (random.percent(30)) spec.rate = packets(random.between(1000, 1'000'000));
  return spec;
}

TEST(SchedulerProperties, NothingIsLostOverheldOrOutOfOrder) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Random random(seed);
    const Scheduler::Spec spec = random_spec(random);
    Scheduler scheduler(spec);
    Model model(spec);
    std::uint64_t enqueued = 0;
    std::uint64_t dequeued = 0;
    std::uint64_t dropped = 0;
    std::uint64_t now = 0;
    for (int step = 0; step < 300; ++step) {
      for (std::uint32_t n = random.below(20); n > 0; --n) {
        const auto number = static_cast<std::uint32_t>(spec.classes.size());
        const TxDescriptor frame =
            frame_of(random.below(number), enqueued++, random.between(14, kLongest));
        const auto gone = scheduler.enqueue(frame);
        dropped += gone ? 1 : 0;
        ASSERT_NO_FATAL_FAILURE(model.enqueued(frame, gone));
      }
      ASSERT_LE(scheduler.waiting(), spec.capacity);
      now += random.below(200'000);
      const bool due = scheduler.next_at() <= now;
      const auto frames = take(scheduler, now, random.between(1, 30));
      ASSERT_EQ(!frames.empty(), due);
      dequeued += frames.size();
      for (const TxDescriptor& frame : frames) ASSERT_NO_FATAL_FAILURE(model.dequeued(frame));
      ASSERT_EQ(scheduler.waiting(), model.waiting());
      ASSERT_EQ(enqueued, dequeued + dropped + scheduler.waiting());
      ASSERT_EQ(scheduler.next_at() == Scheduler::kNever, scheduler.waiting() == 0);
    }
    while (scheduler.waiting() != 0) {
      scheduler.remove();
      ++dropped;
    }
    ASSERT_EQ(enqueued, dequeued + dropped);
    ASSERT_EQ(scheduler.next_at(), Scheduler::kNever);
    // All places are there again.
    for (std::uint32_t i = 0; i < spec.capacity; ++i) {
      ASSERT_FALSE(scheduler.enqueue(frame_of(0, i)));
    }
  }
}

// ---- who is scheduled

config::Config config_of(std::vector<config::Policy> policies) {
  config::Config config;
  config.monitors.resize(2);
  config.policies = std::move(policies);
  return config;
}
config::Policy policy(std::vector<std::uint32_t> monitors, std::uint8_t priority = 0,
                      std::uint32_t weight = 1) {
  config::Policy policy;
  policy.monitors = std::move(monitors);
  policy.priority = priority;
  policy.weight = weight;
  return policy;
}

TEST(ScheduleOf, MonitorsWithARateOrUnequalPolicies) {
  EXPECT_FALSE(schedule_of(config_of({}), 0));
  EXPECT_FALSE(schedule_of(config_of({policy({0}, 3, 5), policy({0, 1}, 3, 5)}), 0));
  EXPECT_FALSE(schedule_of(config_of({policy({0}), policy({1}, 7)}), 0)) << "it is another's";
  EXPECT_TRUE(schedule_of(config_of({policy({0}), policy({0}, 7)}), 0));
  EXPECT_TRUE(schedule_of(config_of({policy({0}), policy({0}, 0, 2)}), 0));
  config::Config rated = config_of({policy({0, 1})});
  rated.monitors[0].rate = bits(1000);
  EXPECT_TRUE(schedule_of(rated, 0));
  EXPECT_FALSE(schedule_of(rated, 1));
}

TEST(ScheduleOf, ClassesAreTheMonitorsPoliciesInTheirOrder) {
  const auto spec =
      schedule_of(config_of({policy({1}, 1), policy({0, 1}, 2, 3), policy({0}, 4, 5)}), 0);
  ASSERT_TRUE(spec);
  ASSERT_EQ(spec->classes.size(), 2U);
  EXPECT_EQ(spec->classes[0].priority, 2U);
  EXPECT_EQ(spec->classes[0].weight, 3U);
  EXPECT_EQ(spec->classes[1].priority, 4U);
  EXPECT_EQ(spec->classes[1].weight, 5U);
  EXPECT_EQ(spec->longest, 2048U);
}

}  // namespace
}  // namespace vtap::test
