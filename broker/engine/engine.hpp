// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "engine/capture.hpp"
#include "engine/generation.hpp"
#include "engine/ledger.hpp"
#include "engine/monitor_port.hpp"
#include "engine/resolve.hpp"
#include "engine/shares.hpp"
#include "engine/tap_port.hpp"
#include "host/link_watch.hpp"
#include "host/state.hpp"
#include "io/programs.hpp"
#include "io/tee.hpp"
#include "plan/plan.hpp"
#include "stats/snapshot.hpp"
#include "worker/worker.hpp"

namespace vtap::engine {

/// The running broker: memory, workers, and the plan that runs, which a reload replaces. A start is
/// the reload from nothing. One thread, the control thread, calls all but snapshot() and status().
class Engine {
 public:
  /// Opens everything and starts the workers; when it returns, frames are copied. On an error
  /// nothing new is left on the machine (what an earlier broker left, stays). `at_worker_start`:
  /// first on the thread of each worker.
  static Result<std::unique_ptr<Engine>> start(
      plan::Plan plan, Resolved resolved, host::StateDir state,
      std::function<void()> at_worker_start = [] {});
  ~Engine();

  /// From one plan to another; each packet has one of them (docs/decisions/0023). `plan.generation`
  /// is a new one. On an error the plan that ran goes on, and nothing has changed; error kind
  /// usage: it asks for what only a restart can do. Takes as long as the broker holds copies of
  /// the old plan, a second or two at most.
  Result<void> reload(plan::Plan plan, Resolved resolved);

  /// The plan that runs.
  [[nodiscard]] const Generation& plan() const noexcept { return *now_; }

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

  /// Rounds that each worker has made: each makes ten a second at least, unless it hangs.
  [[nodiscard]] std::vector<std::uint64_t> worker_rounds() const;

  /// The counters at this moment. Any thread.
  [[nodiscard]] stats::Snapshot snapshot() const;

  /// Starts a live capture. It follows reloads until what it is of is gone. Errors: usage for names
  /// that the plan does not have and copies that the broker does not make; conflict: there are two.
  Result<std::shared_ptr<Capture>> capture(CaptureSpec spec);
  void end_capture(const Capture& capture);

  /// Ports of inline taps that a reload took away: wires, until somebody detaches them.
  [[nodiscard]] const std::set<std::string>& left_wires() const noexcept { return left_; }
  /// Takes away what the broker, or an earlier one, left on a port that it does not use. Returns
  /// what was undone. Error kind usage: the port is in use.
  Result<std::vector<std::string>> detach(const std::string& port);

 private:
  /// A port of a plan, and where it belongs.
  struct Want {
    TapPort::Place place;
    host::Link link;
  };
  /// On the way from one plan to the next. Lists are in the order of the next plan.
  struct Transition {
    std::unique_ptr<Generation> next;
    Shares shares;
    std::vector<Want> wants;
    std::vector<TapPort*> staying;                ///< null: a new one
    std::vector<std::unique_ptr<TapPort>> ports;  ///< null: stays, or is opened at the last moment
    std::vector<MonitorPort*> monitors;           ///< null: opened at the last moment
    std::vector<std::unique_ptr<MonitorPort>> new_monitors;     ///< null: stays
    std::vector<std::optional<MonitorPort::Queue>> new_queues;  ///< by monitor
    std::vector<std::unique_ptr<TapPort>> gone;
    std::vector<std::unique_ptr<MonitorPort>> gone_monitors;

    [[nodiscard]] bool keeps(const TapPort& port) const {
      return std::ranges::find(staying, &port) != staying.end();
    }
  };
  /// A queue whose plan is gone and in which copies may still wait.
  struct Leftover {
    std::string monitor;
    std::uint32_t target;
    worker::Worker* owner;
  };

  Engine(config::Broker broker, host::StateDir state, io::TeeMemory memory,
         io::RedirectErrors errors, host::LinkWatch watch);

  Result<void> start_workers(const std::vector<std::uint32_t>& cpus);

  // reload.cpp
  Result<void> apply(plan::Plan plan, Resolved resolved);
  Result<void> number_ports(plan::Plan& plan) const;
  static std::vector<Want> wants_of(const Generation& plan);
  void find_staying(Transition& transition) const;
  Result<void> prepare(Transition& transition);
  Result<void> prepare_taps(Transition& transition);
  Result<void> prepare_monitors(Transition& transition);
  Result<void> prepare_queue(Transition& transition, std::uint32_t monitor);
  void undo(Transition& transition);
  void commit(Transition& transition);
  void retire(const Transition& transition);
  void let_go(Transition& transition);
  void retire_ports(const std::vector<TapPort*>& ports);
  void close_sockets(const std::vector<TapPort*>& ports);
  void open_the_rest(Transition& transition);
  void share_out(Transition& transition);
  void adopt(Transition& transition);
  void switch_over(Transition& transition);
  void put_in_place(Transition& transition);
  void finish(Transition& transition);
  void drain_before();
  void sweep(const std::string* forced = nullptr);
  void drop_queue(const Leftover& leftover);
  void fold_rings(const MonitorPort& monitor);
  void give_up(MonitorPort& monitor);
  [[nodiscard]] bool in_use(const std::string& port) const;
  [[nodiscard]] bool has_to_wait(const std::string& port) const;
  [[nodiscard]] MonitorPort::Makers makers_of(Generation& plan, std::uint32_t monitor) const;

  // ports.cpp
  Result<void> open_tap(Transition& transition, std::uint32_t tap);
  Result<void> attach_tap(const Transition& transition, std::uint32_t tap_number);
  Result<void> open_sockets(TapPort& port, const Shares& shares);
  Result<void> connect_sockets(TapPort& port, const std::vector<TapPort*>& tap);
  Result<std::unique_ptr<MonitorPort>> open_monitor(Transition& transition, std::uint32_t monitor,
                                                    bool must);
  void close_monitor(MonitorPort& monitor);
  Result<std::uint32_t> new_target();
  void free_target(std::uint32_t target);
  void on_worker(std::uint32_t worker, const std::function<void(worker::Worker&)>& task) const;
  static Result<void> set_output(Generation& plan, const TapPort::Place& place);
  static void follow_output(Generation& plan, const TapPort& port, const host::Link& output);

  void retake(std::uint32_t tap, const std::vector<host::Link>& links);
  Result<void> retake_port(std::size_t order);
  void follow_tap(TapPort& port, const std::vector<host::Link>& links);
  static void follow_monitor(MonitorPort& monitor, const std::vector<host::Link>& links);
  [[nodiscard]] const TapPort* port_numbered(std::uint8_t number) const;
  void disengage();
  void drain();

  // capture.cpp
  static Result<pipeline::Recording> recording_of(const Generation& plan, const CaptureSpec& spec);
  void record_in(Generation& next);
  void end_gone_captures();

  // collect.cpp
  [[nodiscard]] std::vector<const Generation*> generations() const;
  stats::Tap tap_snapshot(std::uint32_t tap) const;
  stats::TapPort port_snapshot(const TapPort& port) const;
  [[nodiscard]] PolicyTotals policy_totals(const Generation& plan, std::uint32_t policy) const;
  [[nodiscard]] MonitorTotals monitor_totals(const Generation& plan, std::uint32_t monitor) const;
  stats::Policy policy_snapshot(std::uint32_t policy) const;
  stats::Monitor monitor_snapshot(std::uint32_t monitor) const;
  [[nodiscard]] MonitorTotals refused_totals(std::uint32_t target) const;
  [[nodiscard]] MonitorTotals queue_totals(const worker::Worker& owner, std::uint32_t target) const;
  [[nodiscard]] MonitorTotals ring_totals(const MonitorPort& monitor) const;
  std::vector<stats::Worker> worker_snapshots() const;
  void fold(const Generation& gone, const Generation& next);

  config::Broker broker_;
  host::StateDir state_;
  io::TeeMemory memory_;
  io::RedirectErrors errors_;
  host::LinkWatch watch_;
  std::uint64_t epoch_ns_;

  std::unique_ptr<worker::Crossing> crossing_;
  mutable std::mutex ports_mutex_;  ///< all below: what the control thread changes, others read
  std::vector<std::unique_ptr<worker::Worker>> workers_;
  std::unique_ptr<Generation> before_;  ///< of which copies may be under way
  std::unique_ptr<Generation> now_;
  std::vector<std::unique_ptr<TapPort>> taps_;          ///< in the order of the plan
  std::vector<std::unique_ptr<MonitorPort>> monitors_;  ///< by index in the config
  /// Of the plan before, until their counters are in past_: one that moves to another port counts
  /// in two places.
  std::vector<const MonitorPort*> leaving_;
  Ledger past_;  ///< of plans and rings that are gone
  std::vector<bool> targets_used_;
  std::vector<Leftover> leftovers_;
  std::set<std::string> left_;
  std::vector<std::shared_ptr<Capture>> captures_;  ///< the control thread's
  bool stopped_ = false;
  std::function<void()> at_worker_start_;
};

}  // namespace vtap::engine
