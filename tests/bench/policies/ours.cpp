// SPDX-License-Identifier: Apache-2.0
// The classifier and the pipeline of this project, in user space.
#include <malloc.h>
#include <time.h>
#include <vtap/parse.h>

#include <algorithm>
#include <array>
#include <utility>

#include "bench/policies/contestant.hpp"
#include "pipeline/pipeline.hpp"
#include "plan/classifier.hpp"
#include "support/classified.hpp"

namespace vtap::bench {
namespace {

using pipeline::Burst;
using pipeline::FrameAddress;
using pipeline::FrameNumber;
using pipeline::FramePool;
using pipeline::UmemView;

constexpr std::uint64_t kNsPerBurst = 6400;  // virtual clock: 10 Mpps

/// Bytes that this process has allocated and not given back.
double heap_bytes() {
  const struct mallinfo2 heap = ::mallinfo2();
  return static_cast<double>(heap.uordblks + heap.hblkhd);
}

/// Of this thread: what others do meanwhile does not count.
double cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

std::vector<vtap_key> keys_of(const Traffic& traffic) {
  std::vector<vtap_key> keys(traffic.size());
  for (std::uint32_t i = 0; i < traffic.size(); ++i)
    vtap_parse(traffic.frame(i), Traffic::kLength, Traffic::kLength, &keys[i]);
  return keys;
}

class ClassifierContestant final : public Contestant {
 public:
  ClassifierContestant(const plan::Tables& tables, std::uint32_t cached)
      : classifier_(tables), found_(classifier_), scratch_(classifier_, cached) {}

  void check(const Traffic& traffic) override {
    const auto& keys = keys_for(traffic);
    for (std::uint32_t i = 0; i < traffic.size(); ++i) {
      Answer answer;
      found_.classify(keys[i], 0);
      for (const std::uint32_t policy : found_.policies()) answer.add(policy);
      if (!(answer == traffic.answer(i)))
        disagree("the classifier", traffic, i, std::to_string(answer.count) + " policies");
    }
  }

  double measure(const Traffic& traffic, double seconds) override {
    const auto& keys = keys_for(traffic);
    return walk_.run(traffic, seconds, [&](std::uint32_t first, std::uint32_t n) {
      taken_ = classifier_
                   .classify(std::span(keys).subspan(first, n), std::span(taps_).first(n), scratch_)
                   .size();
    });
  }

 private:
  const std::vector<vtap_key>& keys_for(const Traffic& traffic) {
    auto& keys = keys_[&traffic];
    if (keys.empty()) keys = keys_of(traffic);
    return keys;
  }

  plan::Classifier classifier_;
  test::Found found_;
  plan::Classifier::Scratch scratch_;
  std::array<std::uint32_t, plan::kBurst> taps_{};
  std::map<const Traffic*, std::vector<vtap_key>> keys_;
  Walk walk_{64, true};
  volatile std::uint64_t taken_ = 0;  ///< so that no call is left out
};

/// Takes every frame; gives them back a burst later, as a TX ring does.
class LateSink final : public pipeline::Sink {
 public:
  Posted post(std::span<const pipeline::TxDescriptor> frames) noexcept override {
    for (const auto& frame : frames) waiting_[size_++] = frame;
    return {static_cast<std::uint32_t>(frames.size()), Refusal::ring_full};
  }
  void complete(FramePool& pool, UmemView umem) noexcept {
    for (std::uint32_t i = 0; i < size_; ++i) pool.release(umem.number(waiting_[i].address));
    size_ = 0;
  }

 private:
  std::array<pipeline::TxDescriptor, Burst::kCapacity> waiting_{};
  std::uint32_t size_ = 0;
};

/// A worker's data path over the frames of one traffic.
class Path {
 public:
  Path(const pipeline::SharedPlan& plan, const Traffic& traffic)
      : memory_(traffic.frame(0), traffic.frame(0) + std::size_t{traffic.size()} * Traffic::kSlot),
        pool_(FrameNumber{0}, traffic.size()),
        pipeline_(plan, umem(), pool_, sinks_) {
    // The reference that a burst holds, for ever: frames come round in order.
    for (std::uint32_t i = 0; i < traffic.size(); ++i) pool_.take();
  }

  void process(std::uint32_t first, std::uint32_t n) noexcept {
    sink_.complete(pool_, umem());
    burst_.size = 0;
    for (std::uint32_t i = first; i < first + n; ++i)
      burst_.push(umem().start(FrameNumber{i}), Traffic::kLength, 0);
    pipeline_.process(burst_, now_ += kNsPerBurst);
  }

  /// By policy.
  [[nodiscard]] std::vector<std::uint64_t> matched() const {
    std::vector<std::uint64_t> frames;
    for (const auto& policy : pipeline_.policy_counters())
      frames.push_back(policy.matched_frames.read());
    return frames;
  }
  [[nodiscard]] std::uint64_t sent() const {
    std::uint64_t frames = 0;
    for (const auto& policy : pipeline_.policy_counters())
      for (const auto& monitor : policy.monitors) frames += monitor.sent_frames.read();
    return frames;
  }

 private:
  [[nodiscard]] UmemView umem() noexcept {
    return {memory_.data(), Traffic::kSlot,
            static_cast<std::uint32_t>(memory_.size() / Traffic::kSlot)};
  }

  std::vector<std::uint8_t> memory_;
  FramePool pool_;
  LateSink sink_;
  std::array<pipeline::Sink*, 1> sinks_{&sink_};
  pipeline::Pipeline pipeline_;
  Burst burst_;
  std::uint64_t now_ = 0;
};

class PipelineContestant final : public Contestant {
 public:
  explicit PipelineContestant(const plan::Plan& plan) : plan_(plan) {}

  void check(const Traffic& traffic) override {
    Path path(plan_, traffic);
    // Of all frames together, as the counters know no frames.
    std::uint64_t right_count = 0;
    std::uint64_t right_digest = 0;
    for (std::uint32_t first = 0; first < traffic.size(); first += Burst::kCapacity)
      path.process(first, std::min(Burst::kCapacity, traffic.size() - first));
    for (std::uint32_t i = 0; i < traffic.size(); ++i) {
      right_count += traffic.answer(i).count;
      right_digest += traffic.answer(i).digest;
    }
    std::uint64_t count = 0;
    std::uint64_t digest = 0;
    const auto matched = path.matched();
    for (std::uint32_t policy = 0; policy < matched.size(); ++policy) {
      Answer one;
      one.add(policy);
      count += matched[policy];
      digest += matched[policy] * one.digest;
    }
    if (count != right_count || digest != right_digest)
      throw Disagreement("the pipeline counts " + std::to_string(count) + " matches, not " +
                         std::to_string(right_count) + ", or others (" + traffic.name() + ")");
    if (path.sent() != traffic.matching())
      throw Disagreement("the pipeline sent " + std::to_string(path.sent()) + " frames, not " +
                         std::to_string(traffic.matching()));
  }

  double measure(const Traffic& traffic, double seconds) override {
    auto& path = paths_[&traffic];
    if (!path) path = std::make_unique<Path>(plan_, traffic);
    return walk_.run(traffic, seconds,
                     [&](std::uint32_t first, std::uint32_t n) { path->process(first, n); });
  }

 private:
  pipeline::SharedPlan plan_;
  std::map<const Traffic*, std::unique_ptr<Path>> paths_;
  Walk walk_{Burst::kCapacity, true};
};

}  // namespace

void disagree(const std::string& who, const Traffic& traffic, std::uint32_t frame,
              const std::string& found) {
  const Answer& right = traffic.answer(frame);
  const std::string first =
      right.count == 0 ? std::string() : ", the first " + std::to_string(right.first);
  throw Disagreement(who + ", frame " + std::to_string(frame) + " of \"" + traffic.name() +
                     "\": " + found + "; right are " + std::to_string(right.count) + " policies" +
                     first + "; frame " + test::hex({traffic.frame(frame), Traffic::kLength}));
}

double Walk::run(const Traffic& traffic, double seconds, const Pass& pass) {
  std::uint32_t& next = next_[&traffic];
  std::uint64_t done = 0;
  const double start = cpu_seconds();
  double elapsed = 0;
  // Few looks at the clock, but not so few that a slow contestant overruns.
  for (std::uint32_t chunks = 1;; chunks = std::min(chunks * 2, 64U)) {
    for (std::uint32_t i = 0; i < chunks; ++i) {
      const std::uint32_t n = std::min(chunk_, traffic.size() - next);
      pass(next, n);
      done += n;
      next = (next + n) % traffic.size();
    }
    elapsed = cpu_seconds() - start;
    if (elapsed >= seconds && (!all_ || done >= traffic.size())) break;
  }
  return elapsed * 1e9 / static_cast<double>(done);
}

std::unique_ptr<OurPlan> make_plan(config::Config config) {
  auto result = std::make_unique<OurPlan>();
  result->plan.config = std::move(config);
  const double before = heap_bytes();
  const Stopwatch clock;
  auto tables = plan::compile(result->plan.config);
  if (!tables) {
    result->refused = tables.error().message;
    return result;
  }
  result->load["plan::compile ms"] = clock.ms();
  const double bytes = heap_bytes() - before;
  result->plan.tables = std::move(*tables);
  result->load["plan MB"] = bytes / 1e6;
  result->load["plan bytes per policy"] =
      bytes / static_cast<double>(result->plan.config.policies.size());
  return result;
}

Entrant make_classifier(const OurPlan& plan, std::uint32_t cached) {
  if (!plan.refused.empty()) return refusal(plan.refused);
  Entrant entrant;
  const double before = heap_bytes();
  const Stopwatch clock;
  entrant.contestant = std::make_unique<ClassifierContestant>(plan.plan.tables, cached);
  entrant.load["classifier ms"] = clock.ms();
  entrant.load["classifier MB"] = (heap_bytes() - before) / 1e6;
  return entrant;
}

Entrant make_pipeline(const OurPlan& plan) {
  if (!plan.refused.empty()) return refusal(plan.refused);
  Entrant entrant;
  entrant.contestant = std::make_unique<PipelineContestant>(plan.plan);
  return entrant;
}

}  // namespace vtap::bench
