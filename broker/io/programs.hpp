// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vtap/abi.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "io/bpf.hpp"
#include "io/fan.hpp"
#include "io/filters.hpp"
#include "io/maps.hpp"
#include "io/tee.hpp"
#include "plan/plan.hpp"
#include "vtap/fd.hpp"
#include "vtap/result.hpp"

/// The BPF programs of xdp/, loaded and filled. Attaching them to devices is host::Port's business.
namespace vtap::io {

/// The kernel's classification tables of one plan (xdp/classify.bpf.h).
class ClassMaps {
 public:
  static Result<ClassMaps> load(const plan::Tables& tables);
  [[nodiscard]] const SharedMaps& maps() const noexcept { return maps_; }

 private:
  SharedMaps maps_;
};

/// What the tap programs share to serve policies in the kernel (xdp/placed.bpf.h): where their
/// copies go, and what became of them.
class CloneMaps {
 public:
  /// `fan`, `tap_of_port`: see FanMaps; without them nothing is broadcast at XDP.
  static Result<CloneMaps> load(const config::Config& config, const plan::Tables& tables,
                                const plan::FanOut& fan = {},
                                const std::vector<std::uint32_t>& tap_of_port = {});

  /// Samplers and meters of policies that were served by `before`, and are as they were there, go
  /// on from where they are now.
  void go_on_from(const CloneMaps& before, const config::Config& its_config,
                  const config::Config& config) noexcept;

  /// Where the copies for a monitor go from now on; ifindex 0: nowhere, they count as `down`.
  Result<void> set_monitor(std::uint32_t monitor, vtap_monitor_link link);

  /// Since the start, over all CPUs. `place`: of the monitor in the policy's list.
  [[nodiscard]] vtap_placed_counters policy(std::uint32_t policy) const;
  [[nodiscard]] vtap_pair_counters pair(std::uint32_t policy, std::uint32_t place) const;
  [[nodiscard]] vtap_clone_counters monitor(std::uint32_t monitor) const;

  [[nodiscard]] const SharedMaps& maps() const noexcept { return maps_; }
  /// For programs at XDP.
  [[nodiscard]] FanMaps& fan() noexcept { return fan_; }
  [[nodiscard]] const FanMaps& fan() const noexcept { return fan_; }

 private:
  explicit CloneMaps(FanMaps fan) noexcept : fan_(std::move(fan)) {}

  SharedMaps maps_;
  FanMaps fan_;
  /// By policy and place in its list: number of the pair.
  std::vector<std::vector<std::uint32_t>> pairs_;
  std::vector<std::uint32_t> limits_;  ///< by policy: its number in the map; ~0u: none
};

/// The two programs of a tap port: the stub that is attached, and the plan's, which the stub
/// tail-calls while it is engaged. When this object, or the process, dies, the slot empties itself
/// and the stub is a wire.
class TapPrograms {
 public:
  /// `filters`: of policies on this tap, if config.filters.
  static Result<TapPrograms> load(ProgramHook hook, const vtap_port_config& config,
                                  const TeeMemory& memory, const ClassMaps& classes,
                                  const CloneMaps& clones,
                                  const std::vector<PortFilter>& filters = {});

  TapPrograms(TapPrograms&&) noexcept;
  TapPrograms& operator=(TapPrograms&&) noexcept;
  ~TapPrograms();

  [[nodiscard]] int stub_fd() const noexcept;
  /// The plan's program; for BPF_PROG_TEST_RUN.
  [[nodiscard]] int plan_fd() const noexcept;

  /// Filters that this kernel does not judge, though they have a translation.
  [[nodiscard]] std::size_t filters_left_out() const noexcept;

  /// Loads the program of another plan, behind the same stub. `config`: as for load(), and the same
  /// but for what is the plan's. Goes on from a failure as if it had not been called.
  Result<void> prepare(const vtap_port_config& config, const TeeMemory& memory,
                       const ClassMaps& classes, const CloneMaps& clones,
                       const std::vector<PortFilter>& filters = {});
  /// From the next packet on the prepared program decides, in place of the one before.
  Result<void> switch_over();
  /// Lets the other program go: the one before, a grace period after switch_over(); or the prepared
  /// one, if it is not to come.
  Result<void> settle();

  /// From the next packet on the plan's program decides.
  Result<void> engage();
  /// From the next packet on the stub is a wire.
  Result<void> disengage();

  /// XDP redirect: the socket that takes the frames of an RX queue, and the moment its worker last
  /// ran (CLOCK_MONOTONIC ns), which the worker keeps up to date.
  Result<void> set_socket(std::uint32_t queue, int socket_fd);
  void clear_socket(std::uint32_t queue) noexcept;
  [[nodiscard]] std::uint64_t* heartbeat(std::uint32_t queue) const noexcept;

 private:
  struct State;
  explicit TapPrograms(std::unique_ptr<State> state);
  Result<void> create_queues();
  std::unique_ptr<State> state_;
};

/// The TX filter of the leg (xdp/leg.bpf.c): copies what the kernel cut and completed. Works as
/// long as a device holds it.
class LegProgram {
 public:
  /// `config`: what is the same for all ports; `ports`: by port index.
  static Result<LegProgram> load(const vtap_port_config& config,
                                 const std::vector<vtap_leg_port>& ports, const TeeMemory& memory,
                                 const ClassMaps& classes);
  LegProgram(LegProgram&&) noexcept;
  LegProgram& operator=(LegProgram&&) noexcept;
  ~LegProgram();

  [[nodiscard]] int fd() const noexcept;

 private:
  struct State;
  explicit LegProgram(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Drops and counts what arrives on a monitor port.
class MonitorProgram {
 public:
  static Result<MonitorProgram> load();
  MonitorProgram(MonitorProgram&&) noexcept;
  MonitorProgram& operator=(MonitorProgram&&) noexcept;
  ~MonitorProgram();

  [[nodiscard]] int fd(ProgramHook hook) const noexcept;
  [[nodiscard]] std::uint64_t arrived() const;

 private:
  struct State;
  explicit MonitorProgram(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// The TC stub of an inline port without a tap program behind it: a wire to the other port.
class WireProgram {
 public:
  static Result<WireProgram> load(const vtap_port_config& config);
  WireProgram(WireProgram&&) noexcept;
  WireProgram& operator=(WireProgram&&) noexcept;
  ~WireProgram();

  [[nodiscard]] int fd() const noexcept;

 private:
  struct State;
  explicit WireProgram(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Redirects that failed behind the programs' back, by raw tracepoints. Counts as long as it lives.
class RedirectErrors {
 public:
  /// Network namespace: that of the calling thread.
  static Result<RedirectErrors> attach();
  RedirectErrors(RedirectErrors&&) noexcept;
  RedirectErrors& operator=(RedirectErrors&&) noexcept;
  ~RedirectErrors();

  Result<void> add_port(int ifindex, std::uint32_t port);
  void remove_port(int ifindex) noexcept;
  /// The number is given to another port, or to another monitor.
  void reset_port(std::uint32_t port) noexcept;
  void reset_monitor(std::uint32_t monitor) noexcept;
  /// Since the start, over all CPUs.
  [[nodiscard]] vtap_redirect_errors read(std::uint32_t port) const;

  /// Of what the tap ports broadcast, copies that this device does not take count for the monitor.
  Result<void> add_monitor(int ifindex, std::uint32_t monitor);
  void remove_monitor(int ifindex) noexcept;
  [[nodiscard]] std::uint64_t refused_copies(std::uint32_t monitor) const;

 private:
  struct State;
  explicit RedirectErrors(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace vtap::io
