// SPDX-License-Identifier: Apache-2.0
// The tap program at XDP.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "bench/policies/contestant.hpp"
#include "bpf/netns.hpp"
#include "bpf/rig.hpp"

namespace vtap::bench {
namespace {

constexpr std::uint32_t kTeeFrames = VTAP_RING_SLOTS;
constexpr std::uint32_t kMostRepeats = 10000;
constexpr std::uint32_t kLeastRepeats = 100;

/// ns per run, by the kernel's own clock, in whole numbers. Throws if the frame did not pass.
double run_ns(int program, const std::uint8_t* frame, std::uint32_t repeat) {
  LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = frame, .data_size_in = Traffic::kLength,
              .repeat = static_cast<int>(repeat));
  if (::bpf_prog_test_run_opts(program, &options) != 0)
    throw std::runtime_error(std::string("BPF_PROG_TEST_RUN: ") + std::strerror(errno));
  if (options.retval != XDP_PASS) throw Disagreement("an XDP program did not pass a frame");
  return options.duration;
}

/// Runs a program with a sample of the frames, each as often as the time allows.
class Repeater {
 public:
  explicit Repeater(std::uint32_t sample) : sample_(sample) {}

  double measure(int program, const Traffic& traffic, double seconds) {
    const double budget = seconds * 1e9 / sample_ / std::max(1.0, last_ns_);
    const auto repeat =
        static_cast<std::uint32_t>(std::clamp<double>(budget, kLeastRepeats, kMostRepeats));
    const std::uint32_t stride = stride_for(traffic, sample_);
    double sum = 0;
    std::uint32_t frames = 0;
    for (std::uint32_t i = 0; i < traffic.size(); i += stride, ++frames)
      sum += run_ns(program, traffic.frame(i), repeat);
    return last_ns_ = sum / frames;
  }

  [[nodiscard]] std::uint32_t sample() const noexcept { return sample_; }

 private:
  std::uint32_t sample_;
  double last_ns_ = 200;
};

/// Attaches a program to a device at which nothing arrives. So it stands in the kernel's XDP
/// dispatcher, as one at work does, and a run need not wait for RCU to put it there: tens of ms.
class Parked {
 public:
  explicit Parked(int program) : pair_(next("in"), next("out")) {
    test::attach_native_xdp(pair_.ifindex(), program);
  }
  Parked(const Parked&) = delete;
  Parked& operator=(const Parked&) = delete;
  ~Parked() { ::bpf_xdp_detach(pair_.ifindex(), XDP_FLAGS_DRV_MODE, nullptr); }

 private:
  static std::string next(const char* name) {
    static int number = 0;
    return name + std::to_string(number++);
  }
  test::Veth pair_;  ///< goes with its namespace
};

class EmptyContestant final : public Contestant {
 public:
  EmptyContestant(UniqueFd program, std::uint32_t sample)
      : program_(std::move(program)), repeater_(sample) {}

  void check(const Traffic& traffic) override { run_ns(program_.get(), traffic.frame(0), 1); }
  double measure(const Traffic& traffic, double seconds) override {
    return repeater_.measure(program_.get(), traffic, seconds);
  }

 private:
  UniqueFd program_;
  Parked parked_{program_.get()};
  Repeater repeater_;
};

class TapContestant final : public Contestant {
 public:
  TapContestant(io::ClassMaps maps, io::TapPrograms programs, const test::Tee& tee,
                std::uint32_t sample)
      : maps_(std::move(maps)), programs_(std::move(programs)), tee_(tee), repeater_(sample) {}

  void check(const Traffic& traffic) override {
    const std::uint32_t stride = stride_for(traffic, repeater_.sample());
    for (std::uint32_t i = 0; i < traffic.size(); i += stride) {
      const auto before = tee_.counters();
      run_ns(programs_.plan_fd(), traffic.frame(i), 1);
      const auto after = tee_.counters();
      const std::uint64_t matched = after.matched - before.matched;
      if (matched != (traffic.answer(i).count != 0 ? 1U : 0U))
        disagree("the XDP program", traffic, i, matched != 0 ? "a match" : "no match");
      if (after.copied != before.copied) throw Disagreement("the XDP program made a copy");
    }
  }
  double measure(const Traffic& traffic, double seconds) override {
    return repeater_.measure(programs_.plan_fd(), traffic, seconds);
  }

 private:
  io::ClassMaps maps_;
  io::TapPrograms programs_;
  Parked parked_{programs_.plan_fd()};
  const test::Tee& tee_;
  Repeater repeater_;
};

class XdpKernel final : public Kernel {
 public:
  explicit XdpKernel(std::uint32_t sample) : sample_(sample) {}

  Entrant make_tap(const OurPlan& plan) override { return make(plan, true); }
  Entrant make_uncached_tap(const OurPlan& plan) override { return make(plan, false); }

  Entrant make_empty() override {
    bpf_insn code[2]{};
    code[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
    code[0].imm = XDP_PASS;
    code[1].code = BPF_JMP | BPF_EXIT;
    UniqueFd program(
        ::bpf_prog_load(BPF_PROG_TYPE_XDP, "vtap_empty", "Apache-2.0", code, 2, nullptr));
    if (!program) return refusal(std::string("loading a program: ") + std::strerror(errno));
    Entrant entrant;
    entrant.contestant = std::make_unique<EmptyContestant>(std::move(program), sample_);
    return entrant;
  }

  double copy_cost(const OurPlan& plan, const Traffic& traffic) override {
    constexpr std::uint32_t kFrames = 15;
    auto maps = test::require(io::ClassMaps::load(plan.plan.tables));
    const auto programs = test::require(load(plan, maps, true));
    const Parked parked(programs.plan_fd());
    std::vector<double> costs;
    for (std::uint32_t i = 0; i < traffic.size() && costs.size() < kFrames; ++i) {
      if (traffic.answer(i).count == 0) continue;
      const double dry = run_ns(programs.plan_fd(), traffic.frame(i), kTeeFrames);
      tee_.give(kTeeFrames);
      const double copied = run_ns(programs.plan_fd(), traffic.frame(i), kTeeFrames);
      if (tee_.take().size() != kTeeFrames) throw Disagreement("the XDP program missed copies");
      costs.push_back(copied - dry);
    }
    std::ranges::nth_element(costs, costs.begin() + costs.size() / 2);
    return costs[costs.size() / 2];
  }

 private:
  Entrant make(const OurPlan& plan, bool cached) {
    if (!plan.refused.empty()) return refusal(plan.refused);
    const Stopwatch maps_clock;
    auto maps = io::ClassMaps::load(plan.plan.tables);
    if (!maps) return refusal(maps.error().message);
    Entrant entrant;
    entrant.load["BPF maps ms"] = maps_clock.ms();
    const Stopwatch program_clock;
    auto programs = load(plan, *maps, cached);
    if (!programs) return refusal(programs.error().message);
    entrant.load["BPF program ms"] = program_clock.ms();
    entrant.contestant =
        std::make_unique<TapContestant>(std::move(*maps), std::move(*programs), tee_, sample_);
    return entrant;
  }

  Result<io::TapPrograms> load(const OurPlan& plan, const io::ClassMaps& maps, bool cached) {
    vtap_port_config constants = test::constants(plan.plan.tables, 0, tee_);
    if (!cached) constants.classes.cache_slots = 0;
    auto clones = io::CloneMaps::load(plan.plan.config, plan.plan.tables);
    if (!clones) return clones.error();
    return io::TapPrograms::load(io::ProgramHook::xdp, constants, tee_.memory(), maps, *clones);
  }

  std::uint32_t sample_;
  test::Namespace namespace_;
  test::Tee tee_{kTeeFrames};
};

}  // namespace

std::unique_ptr<Kernel> Kernel::open(std::uint32_t sample) {
  if (::geteuid() != 0) return nullptr;
  io::capture_libbpf_log();
  return std::make_unique<XdpKernel>(sample);
}

}  // namespace vtap::bench
