// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <vtap/abi.h>

#include <cstdint>
#include <deque>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "config/config.hpp"
#include "io/programs.hpp"
#include "io/tee.hpp"
#include "plan/plan.hpp"
#include "support/frames.hpp"

/// The real programs under BPF_PROG_TEST_RUN, and the broker's end of the tee, worked by hand.
namespace vtap::test {

inline constexpr std::uint32_t kLeastFrame = 14;  ///< bytes that BPF_PROG_TEST_RUN asks for

/// For TeeSource::receive(): whatever waits, however young.
inline constexpr std::uint64_t kAllOfThem = std::numeric_limits<std::uint64_t>::max();

/// Whether BPF_PROG_TEST_RUN takes this frame. At TC, newer kernels (6.18) want an IP header to be
/// whole; skb_test.cpp sends what is cut off there over a veth.
bool runnable(io::ProgramHook hook, const Bytes& frame);

/// Skips, loudly, where there is no root or no BPF; fails instead where the environment says
/// CI=true.
class BpfTest : public testing::Test {
 protected:
  void SetUp() override;
};

template <typename T>
testing::AssertionResult succeeded(const Result<T>& result) {
  if (result.ok()) return testing::AssertionSuccess();
  return testing::AssertionFailure() << result.error().message;
}

/// The value, or the end of the test program with the error's text.
template <typename T>
T require(Result<T> result) {
  if (!result.ok()) {
    ADD_FAILURE() << result.error().message;
    throw std::runtime_error(result.error().message);
  }
  return std::move(result).value();
}

/// A copy as it came out of a tee ring.
struct Copy {
  vtap_desc desc;
  Bytes bytes;
};

/// The broker's end of the tee ring of one CPU, to which the calling thread is pinned, as test runs
/// take place on the caller's CPU.
class Tee {
 public:
  explicit Tee(std::uint32_t frames = 64, std::uint32_t frame_size = 2048);

  [[nodiscard]] const io::TeeMemory& memory() const { return memory_; }
  [[nodiscard]] vtap_cpu& cpu() const { return memory_.cpu(cpu_); }
  [[nodiscard]] std::uint32_t cpu_number() const { return cpu_; }
  [[nodiscard]] std::uint32_t frame_size() const { return memory_.umem().frame_size; }
  [[nodiscard]] vtap_port_counters counters(std::uint32_t port = 0) const {
    return memory_.counters(port);
  }

  /// Puts free frames into the ring, as many of `count` as there are and fit.
  void give(std::uint32_t count);
  /// Takes everything published. Fails the test if a program wrote behind a copy.
  std::vector<Copy> take();
  /// Descriptors that wait to be taken.
  [[nodiscard]] std::uint32_t waiting() const;
  /// Frames that lie in the ring for the programs.
  [[nodiscard]] std::uint32_t free_there() const;

 private:
  static constexpr std::uint8_t kPoison = 0xa5;

  io::TeeMemory memory_;
  std::uint32_t cpu_;
  std::deque<std::uint32_t> mine_;
};

/// What becomes of an original, on either hook.
enum class Fate : std::uint8_t { passed, dropped, redirected, other };
std::ostream& operator<<(std::ostream& to, Fate fate);

/// BPF_PROG_TEST_RUN of a program of that hook. `skb`: TC only, what lies beside the packet.
Fate run_program(int program_fd, io::ProgramHook hook, const Bytes& frame,
                 const __sk_buff* skb = nullptr);

/// Frames that an XDP program gets as if they had arrived on that device, 64 per poll, and whose
/// verdicts are carried out.
void run_live(int program_fd, int ifindex, const Bytes& frame, std::uint32_t frames);

const char* name_of(io::ProgramHook hook);

/// Tables of a config in user space and in the kernel.
struct Compiled {
  /// `placements`: by policy; empty: the broker serves all.
  explicit Compiled(const config::Config& config, std::vector<plan::Placement> placements = {});
  plan::Tables tables;
  io::ClassMaps maps;
  io::CloneMaps clones;
};

/// What the broker would set for this tap; tee, host mode, generation 1 and port 0 unless changed.
vtap_port_config constants(const plan::Tables& tables, std::uint32_t tap, const Tee& tee);

/// One tap whose only policy takes frames that one of `match` takes; none: every frame.
config::Config one_policy(std::vector<config::Match> match = {});
/// One tap without any policy.
config::Config no_policy();

/// Programs of one tap port.
class Tap {
 public:
  /// `filters`: with config.filters.
  Tap(io::ProgramHook hook, const vtap_port_config& config, const Tee& tee, const Compiled& plan,
      const std::vector<io::PortFilter>& filters = {})
      : hook_(hook),
        programs_(require(
            io::TapPrograms::load(hook, config, tee.memory(), plan.maps, plan.clones, filters))) {}

  [[nodiscard]] io::TapPrograms& programs() { return programs_; }
  Fate run(const Bytes& frame) { return run_program(programs_.plan_fd(), hook_, frame); }
  Fate run(const Bytes& frame, const __sk_buff& skb) {
    return run_program(programs_.plan_fd(), hook_, frame, &skb);
  }
  Fate run_stub(const Bytes& frame) { return run_program(programs_.stub_fd(), hook_, frame); }

 private:
  io::ProgramHook hook_;
  io::TapPrograms programs_;
};

/// Copies that could not be made, whatever the reason.
std::uint64_t missed(const vtap_port_counters& count);
/// Originals with a verdict.
std::uint64_t decided(const vtap_port_counters& count);
/// The ledgers of one tap port (DESIGN 7.3).
void expect_ledgers(const vtap_port_counters& count);

/// An Ethernet frame of `length` bytes, at least 42: UDP over IPv4.
Bytes udp_frame(std::size_t length, std::uint16_t dport = 53);

}  // namespace vtap::test
