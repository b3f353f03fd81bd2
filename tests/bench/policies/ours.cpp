// SPDX-License-Identifier: Apache-2.0
// The classifier and the pipeline of this project, in user space.
#include <malloc.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>
#include <vtap/parse.h>

#include <algorithm>
#include <array>
#include <barrier>
#include <bit>
#include <thread>
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

/// Throws where the machine has fewer.
std::vector<int> first_cpus(std::uint32_t count) {
  std::vector<int> cpus;
  const auto online = static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
  for (int cpu = 0; cpu < online && cpus.size() < count; ++cpu) cpus.push_back(cpu);
  if (cpus.size() < count) throw std::runtime_error("fewer CPUs than threads");
  return cpus;
}

void pin_to(int cpu) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  if (::sched_setaffinity(0, sizeof(one), &one) != 0) throw std::runtime_error("affinity");
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
class alignas(64) LateSink final : public pipeline::Sink {
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
class alignas(64) Path {
 public:
  Path(const pipeline::SharedPlan& plan, const Traffic& traffic)
      : memory_(traffic.frame(0), traffic.frame(0) + std::size_t{traffic.size()} * Traffic::kSlot),
        pool_(FrameNumber{0}, traffic.size()),
        sinks_(monitors_of(plan)),
        pipeline_(plan, umem(), pool_, pointers(sinks_)) {
    // The reference that a burst holds, for ever: frames come round in order.
    for (std::uint32_t i = 0; i < traffic.size(); ++i) pool_.take();
  }

  void process(std::uint32_t first, std::uint32_t n) noexcept {
    for (LateSink& sink : sinks_) sink.complete(pool_, umem());
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

  static std::size_t monitors_of(const pipeline::SharedPlan& plan) {
    std::size_t monitors = 0;
    for (const auto& target : plan.targets())
      monitors = std::max(monitors, std::size_t{target.monitor} + 1);
    return monitors;
  }
  static std::vector<pipeline::Sink*> pointers(std::vector<LateSink>& sinks) {
    std::vector<pipeline::Sink*> result;
    for (LateSink& sink : sinks) result.push_back(&sink);
    return result;
  }

  std::vector<std::uint8_t> memory_;
  FramePool pool_;
  std::vector<LateSink> sinks_;
  pipeline::Pipeline pipeline_;
  Burst burst_;
  std::uint64_t now_ = 0;
};

class PipelineContestant final : public Contestant {
 public:
  explicit PipelineContestant(const plan::Plan& plan, std::uint32_t threads = 1)
      : plan_(plan), found_(plan_.classifier()), lanes_(threads) {
    if (threads > 1) cpus_ = first_cpus(threads);
  }

  void check(const Traffic& traffic) override {
    for (std::size_t i = 0; i < lanes_.size(); ++i) check_one(traffic);
  }

  double measure(const Traffic& traffic, double seconds) override {
    if (lanes_.size() == 1) return lanes_[0].run(plan_, traffic, seconds);
    std::barrier start(static_cast<std::ptrdiff_t>(lanes_.size()));
    std::vector<std::thread> threads;
    std::vector<double> ns(lanes_.size());
    for (std::size_t i = 0; i < lanes_.size(); ++i) {
      threads.emplace_back([&, i] {
        pin_to(cpus_[i]);
        lanes_[i].prepare(plan_, traffic);
        start.arrive_and_wait();
        ns[i] = lanes_[i].run(plan_, traffic, seconds);
      });
    }
    for (std::thread& thread : threads) thread.join();
    double rate = 0;
    for (const double one : ns) rate += 1 / one;
    return 1 / rate;
  }

 private:
  /// What one thread has for itself.
  class alignas(64) Lane {
   public:
    void prepare(const pipeline::SharedPlan& plan, const Traffic& traffic) {
      auto& path = paths_[&traffic];
      if (!path) path = std::make_unique<Path>(plan, traffic);
    }
    double run(const pipeline::SharedPlan& plan, const Traffic& traffic, double seconds) {
      prepare(plan, traffic);
      Path& path = *paths_[&traffic];
      return walk_.run(traffic, seconds,
                       [&](std::uint32_t first, std::uint32_t n) { path.process(first, n); });
    }

   private:
    std::map<const Traffic*, std::unique_ptr<Path>> paths_;
    Walk walk_{Burst::kCapacity, true};
  };

  void check_one(const Traffic& traffic) {
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
    const std::uint64_t sent = copies(traffic);
    if (path.sent() != sent)
      throw Disagreement("the pipeline sent " + std::to_string(path.sent()) + " frames, not " +
                         std::to_string(sent));
  }

  /// A copy for each monitor that any policy of a frame has.
  std::uint64_t copies(const Traffic& traffic) {
    std::uint64_t copies = 0;
    vtap_key key;
    for (std::uint32_t i = 0; i < traffic.size(); ++i) {
      vtap_parse(traffic.frame(i), Traffic::kLength, Traffic::kLength, &key);
      found_.classify(key, 0);
      std::uint64_t monitors = 0;
      for (const std::uint32_t policy : found_.policies()) {
        const auto& rules = plan_.policies()[policy];
        for (const auto& target : plan_.targets().subspan(rules.first_target, rules.target_count))
          monitors |= std::uint64_t{1} << target.monitor;
      }
      copies += static_cast<std::uint64_t>(std::popcount(monitors));
    }
    return copies;
  }

  pipeline::SharedPlan plan_;
  test::Found found_;
  std::vector<Lane> lanes_;
  std::vector<int> cpus_;
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

Entrant make_parallel_pipelines(const OurPlan& plan, std::uint32_t threads) {
  if (!plan.refused.empty()) return refusal(plan.refused);
  if (::sysconf(_SC_NPROCESSORS_ONLN) < static_cast<long>(threads))
    return refusal("SKIPPED: needs " + std::to_string(threads) + " CPUs");
  Entrant entrant;
  entrant.contestant = std::make_unique<PipelineContestant>(plan.plan, threads);
  return entrant;
}

}  // namespace vtap::bench
