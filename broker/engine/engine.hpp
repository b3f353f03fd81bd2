// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/monitor_port.hpp"
#include "engine/resolve.hpp"
#include "engine/tap_port.hpp"
#include "host/leg.hpp"
#include "host/link_watch.hpp"
#include "host/state.hpp"
#include "io/programs.hpp"
#include "io/tee.hpp"
#include "pipeline/pipeline.hpp"
#include "pipeline/scheduler.hpp"
#include "plan/plan.hpp"
#include "stats/snapshot.hpp"
#include "worker/worker.hpp"

namespace vtap::engine {

/// The running broker: ports, memory, workers. plan -> open -> run -> drain.
class Engine {
 public:
  /// Opens everything and starts the workers; when it returns, frames are copied. On an error
  /// nothing new is left on the machine (what an earlier broker left, stays). `at_worker_start`:
  /// first on the thread of each worker.
  static Result<std::unique_ptr<Engine>> start(
      plan::Plan plan, Resolved resolved, host::StateDir state,
      std::function<void()> at_worker_start = [] {});
  ~Engine();

  /// Readable when follow_links() has work; -1: there is none.
  [[nodiscard]] std::array<int, 2> links_fds() const noexcept {
    return {watch_.fd(), watch_.features_fd()};
  }
  /// Follows ports that come and go. Call when one of links_fds() is readable, and once a second,
  /// which repeats what failed.
  void follow_links();
  /// All tap and monitor ports carry.
  [[nodiscard]] bool ready() const;

  /// Stops: the stubs become wires first, then what is in the rings is brought to its end.
  void stop();

  /// The counters at this moment. Any thread.
  [[nodiscard]] stats::Snapshot snapshot() const;

 private:
  Engine(plan::Plan plan, Resolved resolved, host::StateDir state, io::TeeMemory memory,
         io::ClassMaps classes, io::CloneMaps clones, io::RedirectErrors errors,
         host::LinkWatch watch);

  Result<void> open();
  Result<void> open_leg();
  Result<host::Leg> start_leg() const;
  Result<void> open_tap_ports();
  Result<void> create_workers();
  Result<void> open_tap_sockets();
  Result<void> open_monitors();
  Result<void> start_workers();
  std::vector<worker::Worker*> assign_monitor(std::uint32_t monitor);
  Result<void> engage();
  void roll_back();
  void share_frames();
  void share_queues();
  void retake(std::uint32_t tap, const std::vector<host::Link>& links);
  Result<void> retake_port(std::size_t number);
  Result<void> set_output(const TapPort::Place& place);
  void follow_output(const TapPort& port, const host::Link& output);
  void follow_tap(TapPort& port, const std::vector<host::Link>& links);
  static void follow_monitor(MonitorPort& monitor, const std::vector<host::Link>& links);
  void retire();
  void disengage();
  void drain();

  stats::Tap tap_snapshot(std::uint32_t tap) const;
  stats::TapPort port_snapshot(const TapPort& port) const;
  stats::Policy policy_snapshot(std::uint32_t policy) const;
  void add_clones(stats::Monitor& out, std::uint32_t monitor) const;
  stats::Monitor monitor_snapshot(std::uint32_t monitor) const;
  std::vector<stats::Worker> worker_snapshots() const;

  plan::Plan plan_;
  Resolved resolved_;
  host::StateDir state_;
  io::TeeMemory memory_;
  io::ClassMaps classes_;
  io::CloneMaps clones_;
  io::RedirectErrors errors_;
  std::optional<host::Leg> leg_;
  host::LinkWatch watch_;
  pipeline::SharedPlan shared_;
  std::uint64_t epoch_ns_;

  /// Frames for: tee rings and RX rings of one worker, one target of one worker, and the size of an
  /// RX ring. See share_frames().
  struct Shares {
    std::uint32_t tee = 0;
    std::uint32_t rx_ring = 0;
    std::uint32_t target = 0;
  } shares_;

  /// What a monitor's copies may hold. See share_queues().
  struct MonitorShare {
    std::uint32_t owners = 1;  ///< workers with a TX queue of it: one, if it is scheduled
    std::uint32_t ring = 1;    ///< frames in each ring at most
    std::optional<pipeline::Scheduler::Spec> schedule;
  };
  std::vector<MonitorShare> monitor_shares_;  ///< by index in the config

  std::vector<worker::Target> targets_;
  std::unique_ptr<worker::Crossing> crossing_;
  mutable std::mutex ports_mutex_;  ///< what follow_links() changes and snapshot() reads
  std::vector<std::unique_ptr<TapPort>> taps_;  ///< by port index
  std::vector<std::unique_ptr<worker::Worker>> workers_;
  std::vector<std::unique_ptr<MonitorPort>> monitors_;  ///< by index in the config
  std::vector<bool> carries_;                           ///< by port index
  bool stopped_ = false;
  std::function<void()> at_worker_start_;
};

}  // namespace vtap::engine
