// SPDX-License-Identifier: Apache-2.0
// Samplers and meters of policies that the kernel serves, against pipeline::Sampler and
// pipeline::Marker. The kernel's clock goes on by itself, so rates here are a bit per second, which
// is no frame in the time of a test, or more than what is offered; and one test looks at the time.
#include <bpf/bpf.h>
#include <vtap/parse.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "bpf/rig.hpp"
#include "pipeline/meter.hpp"
#include "plan/classifier.hpp"
#include "support/classified.hpp"
#include "support/random_config.hpp"
#include "support/threads.hpp"

namespace vtap::test {
namespace {

using io::ProgramHook;
using pipeline::Burst;
using plan::Placement;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kMonitors = 3;
// Per second: none in the time of a test. (Of a bit per second, a bucket holds nine million bytes.)
constexpr std::uint64_t kSlow = 1;
constexpr std::uint64_t kSlowBits = 8;

config::Meter bytes_meter(std::uint64_t burst) {
  return {.bits_per_second = kSlowBits, .packets_per_second = 0, .burst = burst};
}
config::Meter with_peak(config::Meter meter, std::uint64_t burst, std::uint64_t one_in) {
  meter.peak_per_second = meter.packets_per_second != 0 ? kSlow : kSlowBits;
  meter.peak_burst = burst;
  meter.exceed_one_in = one_in;
  return meter;
}

/// Some frames or most, in one of the two units, now and then with a peak rate or more than comes.
config::Meter random_meter(Random& random) {
  constexpr std::uint64_t kFast = 400'000'000'000;
  config::Meter meter;
  const bool packets = random.percent(30);
  const auto burst = [&] { return packets ? random.between(1, 30) : random.between(60, 6'000); };
  (packets ? meter.packets_per_second : meter.bits_per_second) = kSlow;
  meter.burst = burst();
  if (random.percent(60)) meter.exceed_one_in = random.between(1, 5);
  if (meter.exceed_one_in != 0 && random.percent(60)) {
    meter = with_peak(meter, burst(), meter.exceed_one_in);
  }
  if (random.percent(15)) {
    (packets ? meter.packets_per_second : meter.bits_per_second) = kFast;
    meter.burst = 1 << 30;
  }
  return meter;
}

config::Config config_of(std::uint64_t seed, Random& random) {
  config::Config config = random_config(seed);
  scatter_monitors(config, kMonitors, random);
  for (auto& policy : config.policies) {
    policy.sample.reset();
    policy.meter.reset();
    if (random.percent(40)) policy.sample = {.one_in = random.between(1, 7), .flows = {}};
    if (random.percent(60)) policy.meter = random_meter(random);
  }
  return config;
}

/// What the pipeline makes of a policy.
struct Model {
  explicit Model(const config::Policy& policy) {
    if (policy.sample) sampler = std::make_unique<pipeline::Sampler>(*policy.sample);
    if (policy.meter) marker = std::make_unique<pipeline::Marker>(*policy.meter);
  }

  /// Whether a frame goes on.
  bool passes(std::uint32_t length) {
    Burst burst;
    burst.push({}, length, 0);
    ++counted.matched_frames;
    counted.matched_bytes += length;
    if (sampler && sampler->chosen(1, burst) == 0) {
      ++counted.dropped_sample;
      return false;
    }
    if (!marker) return true;
    const auto marked = marker->mark(1, burst, 0);
    counted.green += marked.green;
    counted.yellow += marked.yellow;
    counted.red += marked.red;
    counted.dropped_meter += 1 - marked.passed;
    return marked.passed != 0;
  }

  std::unique_ptr<pipeline::Sampler> sampler;
  std::unique_ptr<pipeline::Marker> marker;
  vtap_placed_counters counted{};
  std::vector<std::uint64_t> sent = std::vector<std::uint64_t>(kMonitors);
  std::vector<std::uint64_t> already = std::vector<std::uint64_t>(kMonitors);
};

void expect_equal(const vtap_placed_counters& counted, const vtap_placed_counters& wanted) {
  EXPECT_EQ(counted.matched_frames, wanted.matched_frames);
  EXPECT_EQ(counted.matched_bytes, wanted.matched_bytes);
  EXPECT_EQ(counted.dropped_sample, wanted.dropped_sample);
  EXPECT_EQ(counted.dropped_meter, wanted.dropped_meter);
  EXPECT_EQ(counted.green, wanted.green);
  EXPECT_EQ(counted.yellow, wanted.yellow);
  EXPECT_EQ(counted.red, wanted.red);
}

class Limits : public BpfTest {
 protected:
  static void SetUpTestSuite() { pin_to_cpu(1); }  // before a tee leaves us one CPU alone
  void SetUp() override {
    BpfTest::SetUp();
    if (!IsSkipped() && !HasFatalFailure()) tee_ = std::make_unique<Tee>(8);
  }

  /// All frames through one tap of one random plan, policies placed at random. In vain, false, if
  /// it took so long that the next packet a second may have come.
  bool compare(std::uint64_t seed, std::uint32_t percent_kernel) {
    Random random(seed);
    const config::Config config = config_of(seed, random);
    std::vector<Placement> placements;
    std::vector<Model> models;
    for (const auto& policy : config.policies) {
      placements.push_back(random.percent(percent_kernel) ? Placement::kernel : Placement::broker);
      models.emplace_back(policy);
    }
    const Compiled plan(config, placements);
    const plan::Classifier classifier(plan.tables);
    Found found(classifier);
    const auto tap = static_cast<std::uint32_t>(seed % config.taps.size());
    Tap programs(ProgramHook::tc, constants(plan.tables, tap, *tee_), *tee_, plan);
    const auto start = Clock::now();
    for (const Bytes& frame : corpus(seed, 300)) {
      if (!runnable(ProgramHook::tc, frame) || frame.size() > tee_->frame_size()) continue;
      vtap_key key;
      const auto length = static_cast<__u32>(frame.size());
      vtap_parse(frame.data(), std::min<__u32>(length, VTAP_WINDOW), length, &key);
      found.classify(key, tap);
      bool any = false;
      bool for_broker = false;
      std::uint64_t has_it = 0;
      std::ranges::for_each(found.policies(), [&](std::uint32_t number) {
        any = true;
        if (placements[number] == Placement::broker) {
          for_broker = true;
          return;
        }
        Model& model = models[number];
        if (!model.passes(length)) return;
        for (const std::uint32_t monitor : config.policies[number].monitors) {
          const bool first = (has_it >> monitor & 1) == 0;
          ++(first ? model.sent : model.already)[monitor];
          has_it |= std::uint64_t{1} << monitor;
        }
      });
      tee_->give(1);
      const vtap_port_counters before = tee_->counters();
      EXPECT_EQ(programs.run(frame), Fate::passed);
      const vtap_port_counters after = tee_->counters();
      // What a policy dropped is no copy that the tap missed.
      EXPECT_EQ(after.matched - before.matched, any ? 1U : 0U);
      EXPECT_EQ(after.copied - before.copied, any ? 1U : 0U);
      EXPECT_EQ(tee_->take().size(), for_broker ? 1U : 0U);
      if (HasFailure()) {
        ADD_FAILURE() << "config " << seed << ", frame " << hex(frame);
        return true;
      }
    }
    if (Clock::now() - start > std::chrono::milliseconds(900)) return false;
    for (std::uint32_t number = 0; number < config.policies.size(); ++number) {
      if (placements[number] == Placement::broker) continue;
      const Model& model = models[number];
      expect_equal(plan.clones.policy(number), model.counted);
      const auto& monitors = config.policies[number].monitors;
      for (std::uint32_t place = 0; place < monitors.size(); ++place) {
        const vtap_pair_counters pair = plan.clones.pair(number, place);
        EXPECT_EQ(pair.sent_frames, model.sent[monitors[place]]);
        EXPECT_EQ(pair.already_sent, model.already[monitors[place]]);
      }
      if (HasFailure()) {
        ADD_FAILURE() << "config " << seed << ", policy " << number;
        return true;
      }
      seen_.dropped_sample += model.counted.dropped_sample;
      seen_.dropped_meter += model.counted.dropped_meter;
      seen_.green += model.counted.green;
      seen_.yellow += model.counted.yellow;
      seen_.red += model.counted.red;
      thinned_ += model.counted.yellow + model.counted.red - model.counted.dropped_meter;
    }
    expect_ledgers(tee_->counters());
    return true;
  }

  /// The one policy of a plan, in the kernel; `runs` of the frame on each of the CPUs at once.
  vtap_placed_counters over_cpus(const config::Config& config, std::uint32_t runs,
                                 const Bytes& frame) {
    constexpr std::uint32_t kThreads = 2;
    const Compiled plan(config, {Placement::kernel});
    Tap programs(ProgramHook::tc, constants(plan.tables, 0, *tee_), *tee_, plan);
    std::atomic<std::uint32_t> ready{0};
    std::vector<std::thread> threads;
    for (std::uint32_t t = 0; t < kThreads; ++t) {
      threads.push_back(thread_on(t, [&] {
        ++ready;
        while (ready < kThreads) std::this_thread::yield();
        LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame.data(),
                    .data_size_in = static_cast<std::uint32_t>(frame.size()),
                    .repeat = static_cast<int>(runs));
        EXPECT_EQ(::bpf_prog_test_run_opts(programs.programs().plan_fd(), &options), 0);
      }));
    }
    for (auto& thread : threads) thread.join();
    const vtap_placed_counters counted = plan.clones.policy(0);
    EXPECT_EQ(counted.matched_frames, std::uint64_t{runs} * kThreads);
    EXPECT_EQ(plan.clones.pair(0, 0).sent_frames,
              counted.matched_frames - counted.dropped_sample - counted.dropped_meter);
    return counted;
  }

  std::unique_ptr<Tee> tee_;
  vtap_placed_counters seen_{};
  std::uint64_t thinned_ = 0;
};

TEST_F(Limits, AreThoseOfThePipeline) {
  for (std::uint64_t seed = 0; seed < 24; ++seed) {
    int left = 5;
    while (!compare(seed, seed % 3 == 0 ? 100 : 50)) ASSERT_GT(--left, 0) << "a slow machine";
    ASSERT_FALSE(HasFailure());
  }
  EXPECT_GT(seen_.dropped_sample, 500U);
  EXPECT_GT(seen_.dropped_meter, 1000U);
  EXPECT_GT(seen_.green, 500U);
  EXPECT_GT(seen_.yellow, 500U);
  EXPECT_GT(seen_.red, 200U);
  EXPECT_GT(thinned_, 100U);
}

/// A frame that is above the peak rate leaves the bucket of the rate as it was.
TEST_F(Limits, RedTakesNothing) {
  config::Config config = one_policy();
  config.policies[0].meter = with_peak(bytes_meter(2000), 1100, 2);
  const Compiled plan(config, {Placement::kernel});
  Tap programs(ProgramHook::tc, constants(plan.tables, 0, *tee_), *tee_, plan);
  for (int i = 0; i < 5; ++i) programs.run(udp_frame(1200));
  EXPECT_EQ(plan.clones.policy(0).red, 5U);
  for (int i = 0; i < 2; ++i) programs.run(udp_frame(550));
  EXPECT_EQ(plan.clones.policy(0).green, 2U);
  programs.run(udp_frame(60));
  EXPECT_EQ(plan.clones.policy(0).red, 6U);
}

/// Two CPUs, and hardly a token comes back: exactly what the buckets hold.
TEST_F(Limits, NoTokenIsTakenTwice) {
  constexpr std::uint32_t kRuns = 200'000;
  constexpr std::uint64_t kFrames = 250'000;
  const Bytes frame = udp_frame(64);
  config::Config config = one_policy();
  config.policies[0].meter = bytes_meter(kFrames * frame.size());
  const auto counted = over_cpus(config, kRuns, frame);
  EXPECT_EQ(counted.green, kFrames);
  EXPECT_EQ(counted.yellow, 2 * kRuns - kFrames);
  EXPECT_EQ(counted.red, 0U);
  EXPECT_EQ(counted.dropped_meter, counted.yellow);
}

TEST_F(Limits, ColoursAndSamplesAreExactOverAllCpus) {
  constexpr std::uint32_t kRuns = 300'000;
  constexpr std::uint64_t kGreen = 60'000, kPeak = 150'000;
  const Bytes frame = udp_frame(64);
  config::Config config = one_policy();
  config.policies[0].sample = {.one_in = 3, .flows = {}};
  config.policies[0].meter = with_peak(bytes_meter(kGreen * frame.size()), kPeak * frame.size(), 7);
  const auto counted = over_cpus(config, kRuns, frame);
  EXPECT_EQ(counted.dropped_sample, 2 * kRuns / 3 * 2);
  EXPECT_EQ(counted.green, kGreen);
  EXPECT_EQ(counted.yellow, kPeak - kGreen);
  EXPECT_EQ(counted.red, 2 * kRuns / 3 - kPeak);
  EXPECT_EQ(counted.dropped_meter, counted.red + counted.yellow - (counted.yellow + 6) / 7);
}

/// Always more than the rate is offered, so what passes is the burst, and what comes back in the
/// time that it takes.
TEST_F(Limits, TheRateHoldsAsTimeGoesOn) {
  constexpr std::uint64_t kRate = 5000, kBurst = 1024;  // of packets
  const Bytes frame = udp_frame(64);
  for (const bool packets : {true, false}) {
    config::Config config = one_policy();
    config.policies[0].meter = {
        .bits_per_second = packets ? 0 : kRate * frame.size() * 8,
        .packets_per_second = packets ? kRate : 0,
        .burst = packets ? kBurst : kBurst * frame.size(),
    };
    const Compiled plan(config, {Placement::kernel});
    Tap programs(ProgramHook::tc, constants(plan.tables, 0, *tee_), *tee_, plan);
    const auto start = Clock::now();
    programs.run(frame);
    const auto first = Clock::now();
    auto last = first;
    auto now = first;
    for (; now - start < std::chrono::milliseconds(500); now = Clock::now()) {
      last = now;
      programs.run(frame);
    }
    const auto tokens = [&](auto from, auto to) {
      return std::chrono::duration<double>(to - from).count() * kRate;
    };
    const vtap_placed_counters counted = plan.clones.policy(0);
    const auto green = static_cast<double>(counted.green);
    EXPECT_GE(green, tokens(first, last));
    EXPECT_LE(green, tokens(start, now) + kBurst + 1);
    EXPECT_GT(counted.yellow, 0U) << "not more than the rate was offered";
    EXPECT_EQ(counted.matched_frames, counted.green + counted.yellow);
  }
}

/// Of ten frames each. What they are in bytes only real ones tell: see the integration tests.
TEST_F(Limits, SuperPacketsAreDecidedWhole) {
  constexpr std::uint32_t kFrames = 10, kBurst = 1024;
  Bytes frame = udp_frame(1442);
  __sk_buff super{};
  super.gso_size = 140;
  super.gso_segs = kFrames;
  config::Config config = one_policy();
  config.policies[0].sample = {.one_in = 2, .flows = {}};
  config.policies[0].meter = {.bits_per_second = 0, .packets_per_second = kSlow, .burst = kBurst};
  const Compiled plan(config, {Placement::kernel});
  Tap programs(ProgramHook::tc, constants(plan.tables, 0, *tee_), *tee_, plan);
  for (int i = 0; i < 2 * 105; ++i) programs.run(frame, super);
  vtap_placed_counters counted = plan.clones.policy(0);
  EXPECT_EQ(counted.matched_frames, 2 * 105 * kFrames);
  EXPECT_EQ(counted.dropped_sample, 105 * kFrames) << "every second packet, with all its frames";
  EXPECT_EQ(counted.green, 102 * kFrames);
  EXPECT_EQ(counted.yellow, 3 * kFrames) << "none that has room for a part of its frames";
  // What is left of the burst is still there.
  for (int i = 0; i < 2 * 10; ++i) programs.run(frame);
  counted = plan.clones.policy(0);
  EXPECT_EQ(counted.green, 102 * kFrames + 4);
  EXPECT_EQ(counted.yellow, 3 * kFrames + 6);
  EXPECT_EQ(counted.dropped_meter, counted.yellow);
}

}  // namespace
}  // namespace vtap::test
