// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "bench/policies/rules.hpp"
#include "config/config.hpp"
#include "plan/plan.hpp"
#include "plan/verdict_cache.hpp"

namespace vtap::bench {

/// Two classifiers of the same rules disagree, so no figure means anything.
struct Disagreement : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// One way to find the policies of a frame, made for one rule set.
class Contestant {
 public:
  Contestant() = default;
  Contestant(const Contestant&) = delete;
  Contestant& operator=(const Contestant&) = delete;
  virtual ~Contestant() = default;

  /// Throws Disagreement unless every answer that it gives about this traffic is the right one.
  virtual void check(const Traffic& traffic) = 0;
  /// Time of a frame of this traffic, in ns, measured anew for about `seconds`.
  virtual double measure(const Traffic& traffic, double seconds) = 0;
};

/// A contestant that could be made, or the reason why not.
struct Entrant {
  std::unique_ptr<Contestant> contestant;
  std::string refused;                 ///< empty: there is a contestant
  std::string note;                    ///< what a reader of its figures has to know
  std::map<std::string, double> load;  ///< what making it cost, by column
};

inline Entrant refusal(std::string why) { return {nullptr, std::move(why), {}, {}}; }

class Stopwatch {
 public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  [[nodiscard]] double ms() const { return seconds() * 1e3; }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// Every so-manieth frame, so that about `n` are looked at.
inline std::uint32_t stride_for(const Traffic& traffic, std::uint32_t n) {
  return std::max(1U, traffic.size() / std::max(1U, n));
}

/// Throws Disagreement about one frame.
[[noreturn]] void disagree(const std::string& who, const Traffic& traffic, std::uint32_t frame,
                           const std::string& found);

/// Calls `pass(first, n)` for n frames from `first` on, until the time is up and, if `all`, every
/// frame was seen. Returns ns per frame. Each run goes on where the last one ended.
class Walk {
 public:
  using Pass = std::function<void(std::uint32_t first, std::uint32_t n)>;
  /// `chunk`: frames per call.
  Walk(std::uint32_t chunk, bool all) : chunk_(chunk), all_(all) {}
  double run(const Traffic& traffic, double seconds, const Pass& pass);

 private:
  std::uint32_t chunk_;
  bool all_;
  std::map<const Traffic*, std::uint32_t> next_;
};

/// The plan of one config, from which the three contestants of this project are made.
struct OurPlan {
  plan::Plan plan;
  std::string refused;
  std::map<std::string, double> load;
};
std::unique_ptr<OurPlan> make_plan(config::Config config);

/// plan::Classifier on keys that are parsed already. `cached`: frames that it remembers.
Entrant make_classifier(const OurPlan& plan, std::uint32_t cached = plan::VerdictCache::kEntries);
/// pipeline::Pipeline from memory to memory, parsing, counting and posting included.
Entrant make_pipeline(const OurPlan& plan);
/// The same on several threads at a time, each on a CPU of its own, with frames, pool and counters
/// of its own; the plan is one. Its figure: time of a frame divided by how many go on at a time.
Entrant make_parallel_pipelines(const OurPlan& plan, std::uint32_t threads);

/// The programs at XDP under BPF_PROG_TEST_RUN, which gives them one frame many times.
class Kernel {
 public:
  virtual ~Kernel() = default;
  static std::unique_ptr<Kernel> open(std::uint32_t sample);

  /// The tap program; its free ring is empty, so that a matching frame costs no copy.
  virtual Entrant make_tap(const OurPlan& plan) = 0;
  /// The same, classifying every frame: as one frame is given many times, make_tap()'s verdicts on
  /// large plans come from the cache.
  virtual Entrant make_uncached_tap(const OurPlan& plan) = 0;
  /// A program that passes every frame: what a run costs at least.
  virtual Entrant make_empty() = 0;
  /// ns that copying a matching frame of 64 bytes adds, everything in caches.
  virtual double copy_cost(const OurPlan& plan, const Traffic& traffic) = 0;
};

/// libpcap's interpreter, one expression per policy, all of them asked: which policies?
Entrant make_pcap_loop(std::span<const Rule> rules);
/// One expression, the policies' joined by `or`: any policy? Compiling is given up after a time.
Entrant make_pcap_any(std::span<const Rule> rules, double limit_seconds);

/// DPDK's rte_acl, bursts of 64: the first policy. `cpu`: on which the caller runs.
Entrant make_acl(std::span<const Rule> rules, unsigned cpu);

/// pcap-filter(7) for what the rule says, and nothing else.
std::string expression_of(const Rule& rule);

}  // namespace vtap::bench
