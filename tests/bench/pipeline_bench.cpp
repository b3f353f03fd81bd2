// SPDX-License-Identifier: Apache-2.0
// What a frame costs in user space, from the moment a source has it to the moment a sink has its
// descriptor: each stage, and all of them. The counter ns/frame is what to read.
#include <benchmark/benchmark.h>
#include <vtap/parse.h>

#include <algorithm>
#include <memory>
#include <stdexcept>

#include "pipeline/checksum.hpp"
#include "pipeline/pipeline.hpp"
#include "support/frames.hpp"

namespace vtap::test {
namespace {

using pipeline::Burst;
using pipeline::FrameAddress;
using pipeline::FrameNumber;
using pipeline::FramePool;
using pipeline::FrameSet;
using pipeline::TxDescriptor;
using pipeline::UmemView;

constexpr std::uint32_t kFrames = 4096;  // 8 MiB: more than an L2 cache, as in a broker at work
constexpr std::uint32_t kFrameSize = 2048;
constexpr std::uint64_t kNsPerBurst = 6400;  // virtual clock of the meters: 10 Mpps

void count_frames(benchmark::State& state, std::uint64_t per_iteration) {
  const auto frames = static_cast<double>(state.iterations()) * static_cast<double>(per_iteration);
  state.counters["ns/frame"] =
      benchmark::Counter(frames * 1e-9, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

/// Frames in a UMEM, given out 64 at a time as a source does. Each is a packet to policy i %
/// policies of config_of().
class Frames {
 public:
  Frames(std::uint32_t length, std::uint32_t policies) : bytes_(std::size_t{kFrames} * kFrameSize) {
    Random random(1);
    for (std::uint32_t i = 0; i < kFrames; ++i) {
      const Bytes frame = frame_for(random.below(policies), length, random);
      std::ranges::copy(frame, umem().at(umem().start(FrameNumber{i})));
    }
    length_ = length;
  }

  [[nodiscard]] UmemView umem() noexcept { return {bytes_.data(), kFrameSize, kFrames}; }

  /// Takes frames from the pool.
  void receive(Burst& burst, FramePool& pool) noexcept {
    burst.size = 0;
    while (!burst.full()) burst.push(umem().start(pool.take()), length_, 0);
  }
  /// The next 64 of all, for stages that need no pool.
  void next(Burst& burst) noexcept {
    burst.size = 0;
    while (!burst.full()) burst.push(umem().start(FrameNumber{next_++ % kFrames}), length_, 0);
  }

 private:
  /// A third of the policies names a host, a third a prefix, a third a port.
  static Bytes frame_for(std::uint32_t policy, std::uint32_t length, Random& random) {
    FrameBuilder::Ipv4 ip{.src = {10, 9, 9, 9}, .dst = {10, 8, 8, 8}, .proto = 6};
    std::uint16_t dport = 9;
    const auto high = static_cast<std::uint8_t>(policy >> 8);
    const auto low = static_cast<std::uint8_t>(policy);
    if (policy % 3 == 0) ip.src = {10, 0, high, low};
    if (policy % 3 == 1) ip.dst = {11, high, low, static_cast<std::uint8_t>(random.below(256))};
    if (policy % 3 == 2) dport = static_cast<std::uint16_t>(1000 + policy);
    const auto sport = static_cast<std::uint16_t>(random.between(32768, 60999));
    return FrameBuilder()
        .ethernet()
        .type(0x0800)
        .ipv4(ip)
        .tcp(sport, dport, 0x10)
        .pad(length)
        .build();
  }

  std::vector<std::uint8_t> bytes_;
  std::uint32_t length_ = 0;
  std::uint32_t next_ = 0;
};

config::Config config_of(std::uint32_t policies, std::uint32_t monitors) {
  config::Config config;
  config.taps.resize(1);
  config.taps[0].ports = {"a", "b"};
  config.monitors.resize(monitors);
  for (std::uint32_t i = 0; i < policies; ++i) {
    const auto high = static_cast<std::uint8_t>(i >> 8);
    const auto low = static_cast<std::uint8_t>(i);
    config::Match match;
    if (i % 3 == 0) match.host = {{false, 32, {10, 0, high, low}}};
    if (i % 3 == 1) match.dst = {{false, 24, {11, high, low}}};
    if (i % 3 == 2) match.dst_port = {{1000 + i, 1000 + i}};
    config::Policy policy;
    policy.taps = {0};
    for (std::uint32_t m = 0; m < monitors; ++m) policy.monitors.push_back(m);
    policy.match = {match};
    config.policies.push_back(std::move(policy));
  }
  return config;
}

/// One policy that takes every frame.
config::Config every_frame(std::uint32_t monitors) {
  config::Config config = config_of(1, monitors);
  config.policies[0].match.clear();
  return config;
}

plan::Plan plan_of(config::Config config) {
  plan::Plan plan;
  plan.config = std::move(config);
  auto tables = plan::compile(plan.config);
  if (!tables) throw std::runtime_error(tables.error().message);
  plan.tables = std::move(*tables);
  return plan;
}

/// Writes descriptors to a ring, as a TX ring takes them. They complete one burst later.
class RingSink final : public pipeline::Sink {
 public:
  Posted post(std::span<const TxDescriptor> frames) noexcept override {
    for (const TxDescriptor& frame : frames) ring_[tail_++ % ring_.size()] = frame;
    return {static_cast<std::uint32_t>(frames.size()), Refusal::ring_full};
  }
  void complete(FramePool& pool, UmemView umem) noexcept {
    while (head_ != tail_) pool.release(umem.number(ring_[head_++ % ring_.size()].address));
  }

 private:
  std::array<TxDescriptor, 2048> ring_{};
  std::uint32_t head_ = 0, tail_ = 0;
};

/// A worker's data path without its sockets.
class Path {
 public:
  Path(config::Config config, std::uint32_t length)
      : plan_(plan_of(std::move(config))),
        shared_(plan_),
        frames_(length, static_cast<std::uint32_t>(plan_.config.policies.size())),
        sinks_(plan_.config.monitors.size()) {
    std::vector<pipeline::Sink*> sinks;
    for (RingSink& sink : sinks_) sinks.push_back(&sink);
    pipeline_ = std::make_unique<pipeline::Pipeline>(shared_, frames_.umem(), pool_, sinks);
  }

  void run_once() noexcept {
    for (RingSink& sink : sinks_) sink.complete(pool_, frames_.umem());
    frames_.receive(burst_, pool_);
    pipeline_->process(burst_, now_ += kNsPerBurst);
    for (std::uint32_t i = 0; i < burst_.size; ++i) {
      pool_.release(frames_.umem().number(burst_.address[i]));
    }
  }

  /// Every frame went to every monitor, or the figures mean nothing.
  [[nodiscard]] bool delivered(std::uint64_t bursts) const noexcept {
    std::uint64_t sent = 0;
    for (const auto& policy : pipeline_->policy_counters()) {
      for (const auto& monitor : policy.monitors) sent += monitor.sent_frames.read();
    }
    return sent == bursts * Burst::kCapacity * sinks_.size();
  }

 private:
  plan::Plan plan_;
  pipeline::SharedPlan shared_;
  Frames frames_;
  FramePool pool_{FrameNumber{0}, kFrames};
  std::vector<RingSink> sinks_;
  std::unique_ptr<pipeline::Pipeline> pipeline_;
  Burst burst_;
  std::uint64_t now_ = 0;
};

void run_path(benchmark::State& state, config::Config config, std::uint32_t length) {
  Path path(std::move(config), length);
  std::uint64_t bursts = 0;
  for (auto _ : state) {
    path.run_once();
    ++bursts;
  }
  if (!path.delivered(bursts)) state.SkipWithError("frames are missing at a monitor");
  count_frames(state, Burst::kCapacity);
}

std::uint32_t arg(const benchmark::State& state, std::size_t at) {
  return static_cast<std::uint32_t>(state.range(at));
}

// ---- the whole pipeline

void BM_Pipeline(benchmark::State& state) {
  run_path(state, config_of(arg(state, 1), arg(state, 2)), arg(state, 0));
}
BENCHMARK(BM_Pipeline)
    ->ArgNames({"bytes", "policies", "monitors"})
    ->ArgsProduct({{64, 512, 1514}, {1, 10, 100}, {1, 2, 4}})
    ->ArgsProduct({{64}, {1000, 10000}, {1, 2}});

void BM_PipelineEveryFrame(benchmark::State& state) {
  run_path(state, every_frame(arg(state, 1)), arg(state, 0));
}
BENCHMARK(BM_PipelineEveryFrame)
    ->ArgNames({"bytes", "monitors"})
    ->ArgsProduct({{64, 512, 1514}, {1, 2, 4}});

// ---- stages

void BM_Parse(benchmark::State& state) {
  Frames frames(arg(state, 0), 10);
  Burst burst;
  for (auto _ : state) {
    frames.next(burst);
    for (std::uint32_t i = 0; i < burst.size; ++i) {
      const std::uint32_t length = burst.length[i];
      vtap_parse(frames.umem().at(burst.address[i]), std::min<std::uint32_t>(length, VTAP_WINDOW),
                 length, &burst.key[i]);
    }
    benchmark::DoNotOptimize(burst);
  }
  count_frames(state, Burst::kCapacity);
}
BENCHMARK(BM_Parse)->ArgName("bytes")->Arg(64)->Arg(512)->Arg(1514);

/// Keys of a burst whose frames belong to so many policies.
Burst parsed_burst(std::uint32_t length, std::uint32_t policies) {
  Frames frames(length, policies);
  Burst burst;
  frames.next(burst);
  for (std::uint32_t i = 0; i < burst.size; ++i) {
    vtap_parse(frames.umem().at(burst.address[i]), std::min<std::uint32_t>(length, VTAP_WINDOW),
               length, &burst.key[i]);
  }
  return burst;
}

void BM_Classify(benchmark::State& state) {
  const plan::Plan plan = plan_of(config_of(arg(state, 0), 1));
  const plan::Classifier classifier(plan.tables);
  const Burst burst = parsed_burst(64, arg(state, 0));
  plan::Classifier::Scratch scratch(classifier);
  const std::array<std::uint32_t, Burst::kCapacity> taps{};
  for (auto _ : state) {
    const auto hits = classifier.classify(burst.key, taps, scratch);
    if (hits.size() < burst.size) state.SkipWithError("a frame has no policy");
  }
  count_frames(state, Burst::kCapacity);
}
BENCHMARK(BM_Classify)->ArgName("policies")->RangeMultiplier(10)->Range(1, 10000);

void BM_Meter(benchmark::State& state) {
  pipeline::Meter meter(
      {.bits_per_second = 10'000'000'000, .packets_per_second = 0, .burst = 1 << 20});
  const Burst burst = parsed_burst(arg(state, 0), 1);
  std::uint64_t now = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(meter.conforming(burst.all(), burst, now += kNsPerBurst));
  }
  count_frames(state, Burst::kCapacity);
}
BENCHMARK(BM_Meter)->ArgName("bytes")->Arg(64)->Arg(512)->Arg(1514);

void BM_SampleOneIn(benchmark::State& state) {
  pipeline::Sampler sampler({.one_in = 10, .flows = {}});
  const Burst burst = parsed_burst(64, 10);
  for (auto _ : state) benchmark::DoNotOptimize(sampler.chosen(burst.all(), burst));
  count_frames(state, Burst::kCapacity);
}
BENCHMARK(BM_SampleOneIn);

void BM_SampleFlows(benchmark::State& state) {
  pipeline::Sampler sampler({.one_in = 0, .flows = 0.25});
  const Burst burst = parsed_burst(64, 10);
  for (auto _ : state) benchmark::DoNotOptimize(sampler.chosen(burst.all(), burst));
  count_frames(state, Burst::kCapacity);
}
BENCHMARK(BM_SampleFlows);

void BM_Checksum(benchmark::State& state) {
  Frames frames(arg(state, 0), 10);
  Burst burst;
  constexpr std::uint32_t kTcpAt = 34;
  constexpr std::uint32_t kFieldAt = 16;
  for (auto _ : state) {
    frames.next(burst);
    for (std::uint32_t i = 0; i < burst.size; ++i) {
      const std::span frame(frames.umem().at(burst.address[i]), burst.length[i]);
      benchmark::DoNotOptimize(pipeline::complete_checksum(frame, kTcpAt, kFieldAt));
    }
  }
  count_frames(state, Burst::kCapacity);
}
BENCHMARK(BM_Checksum)->ArgName("bytes")->Arg(64)->Arg(512)->Arg(1514);

/// Taking, one reference more, and both given back: what a frame costs the pool.
void BM_FramePool(benchmark::State& state) {
  FramePool pool(FrameNumber{0}, kFrames);
  std::array<FrameNumber, Burst::kCapacity> frames{};
  for (auto _ : state) {
    for (FrameNumber& frame : frames) pool.add_reference(frame = pool.take());
    for (const FrameNumber frame : frames) pool.release(frame);
    for (const FrameNumber frame : frames) pool.release(frame);
  }
  count_frames(state, Burst::kCapacity);
}
BENCHMARK(BM_FramePool);

void BM_Forward(benchmark::State& state) {
  Frames frames(64, 1);
  FramePool pool(FrameNumber{0}, kFrames);
  RingSink output;
  Burst burst;
  for (auto _ : state) {
    output.complete(pool, frames.umem());
    frames.receive(burst, pool);
    benchmark::DoNotOptimize(pipeline::Pipeline::forward(burst, pool, frames.umem(), output));
    for (const FrameAddress address : burst.address) pool.release(frames.umem().number(address));
  }
  count_frames(state, Burst::kCapacity);
}
BENCHMARK(BM_Forward);

}  // namespace
}  // namespace vtap::test
