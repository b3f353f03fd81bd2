// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "config/config.hpp"
#include "io/tee.hpp"
#include "io/xsk_ports.hpp"
#include "pipeline/pipeline.hpp"
#include "vtap/fd.hpp"
#include "vtap/result.hpp"
#include "worker/crossing.hpp"
#include "worker/monitor_queue.hpp"

namespace vtap::worker {

/// What a sink index means, the same for every worker: copies for a monitor go there, or originals
/// of an inline redirect.
struct Target {
  std::optional<std::uint8_t>
      input_port;  ///< the port whose originals leave here; none: a monitor's
};

/// Sinks of one worker at most: each monitor has its ring and perhaps a queue, which overlap with
/// those of the plan before.
inline constexpr std::uint32_t kMaxTargets = 4 * VTAP_MAX_MONITORS + VTAP_MAX_PORTS;

/// Originals of a tap port with capture redirect, counted by one worker.
struct OriginalCounters {
  pipeline::Counter taken;         ///< by the output's ring, or by the queue to its owner
  pipeline::Counter refused;       ///< lost: the output had no room
  pipeline::Counter stale;         ///< lost: too old after a hang
  pipeline::Counter late_refused;  ///< of `taken`: lost behind the queue, or never sent
  pipeline::Counter late_stale;    ///< of `taken`: lost, too old
  void reset() noexcept;
};

struct WorkerCounters {
  pipeline::Counter rounds, bursts, frames, wakeups, asleep_ns;
};

struct WorkerSpec {
  std::uint32_t index = 0;
  std::optional<std::uint32_t> cpu;  ///< pinned there
  pipeline::FrameNumber first_frame{};
  std::uint32_t frames = 0;
  std::vector<vtap_cpu*> tee_rings;
  std::uint32_t tee_frames = 0;  ///< frames that the tee rings may hold
  pipeline::UmemView copies;     ///< where the tee puts them (io::TeeMemory)
  config::Poll poll = config::Poll::adaptive;
  std::uint64_t stale_ns = 0;                     ///< age at which an original is no longer sent
  std::function<void()> at_thread_start = [] {};  ///< first on the new thread
};

/// One pinned thread that owns its rings and runs run_once(). Everything is set up before start();
/// later changes are tasks that the thread runs between two bursts.
class Worker final : public io::FrameReturn {
 public:
  static Result<std::unique_ptr<Worker>> create(WorkerSpec spec, pipeline::UmemView umem,
                                                Crossing& crossing);
  ~Worker() override;

  // Set-up: before start(), or by call().
  /// This worker owns a TX queue of the target; `limit`: frames held at most.
  io::XskSink& own_sink(std::uint32_t target, Target what, std::uint32_t limit);
  /// Copies for `target` wait in a queue before the ring of `ring`, which this worker owns.
  /// `ahead`: a queue to that ring whose frames go first.
  void own_queue(std::uint32_t target, std::uint32_t ring,
                 const pipeline::Scheduler::Spec& schedule,
                 std::optional<std::uint32_t> ahead = std::nullopt);
  /// Another worker owns it.
  void cross_to(std::uint32_t target, Target what, std::uint32_t owner);
  /// The target is no more. Precondition: no plan uses it, and nothing waits there.
  void remove_target(std::uint32_t target);
  /// RX queue of a tap port. `output`: target of its originals; none for span. `heartbeat` is
  /// written in every round. It is to be watched, too.
  void add_source(io::XskSocket& socket, std::uint8_t port, std::optional<std::uint32_t> output,
                  std::uint64_t* heartbeat);
  /// The sockets of that port are about to be closed.
  void stop_sources(std::uint8_t port);
  /// They are closed: takes back what they held.
  void remove_sources(std::uint8_t port);
  /// The number is given to another port.
  void reset_originals(std::uint8_t port) noexcept;
  /// Workers that may have to be woken; by index.
  void set_peers(std::vector<Worker*> peers) { peers_ = std::move(peers); }
  /// From now on, copies selected by that plan go this way, and so do frames of AF_XDP rings. Both
  /// outlive their use here.
  void adopt(std::uint32_t generation, pipeline::Pipeline& pipeline);
  /// No copy of that plan is to come.
  void forget(std::uint32_t generation) noexcept;
  /// See io::TeeSource.
  io::TeeSource& tee() noexcept { return tee_; }

  /// `epoch_ns`: what the pipelines count time from.
  Result<void> start(std::uint64_t epoch_ns);
  void stop();
  [[nodiscard]] bool running() const noexcept { return thread_.joinable(); }

  /// Runs a task on the worker's thread between two bursts, and waits for its end.
  void call(std::function<void()> task);
  /// Wakes the thread if it sleeps. Any thread.
  void wake() noexcept;

  /// One round: reclaim, receive, process, serve what waits, flush. Returns whether anything moved.
  bool run_once(std::uint64_t now_ns) noexcept;

  /// The stages from here to the monitors of a plan; `targets`: by monitor. While no target is set
  /// up or removed.
  [[nodiscard]] std::unique_ptr<pipeline::Pipeline> make_pipeline(
      const pipeline::SharedPlan& plan, std::span<const std::uint32_t> targets);

  // Any thread.
  /// Wakes up when that is readable, until it is closed. (The worker's own thread may not.)
  Result<void> watch(int fd);
  [[nodiscard]] const io::Doorbell& doorbell() const noexcept { return doorbell_; }
  [[nodiscard]] const WorkerCounters& counters() const noexcept { return counters_; }
  /// For its counters; all else is the worker's.
  [[nodiscard]] const io::TeeSource& tee() const noexcept { return tee_; }
  [[nodiscard]] const OriginalCounters& originals(std::uint8_t port) const noexcept {
    return originals_[port];
  }
  /// Copies that were taken and then refused or given up.
  [[nodiscard]] const pipeline::MonitorCounters& refused(std::uint32_t target) const noexcept {
    return refused_[target];
  }
  [[nodiscard]] std::uint32_t free_frames() const noexcept {
    return free_frames_.load(std::memory_order_relaxed);
  }
  /// When its last round began; CLOCK_MONOTONIC, ns. Not long ago, unless it hangs: no sleep is
  /// longer than a tenth of a second.
  [[nodiscard]] std::uint64_t last_round_ns() const noexcept {
    return last_round_ns_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] const WorkerSpec& spec() const noexcept { return spec_; }

  // While no target is set up or removed.
  /// Null: not this worker's, or no queue.
  [[nodiscard]] const MonitorQueue* queue(std::uint32_t target) const noexcept {
    return target < queues_.size() ? queues_[target].get() : nullptr;
  }

  // The worker's thread, or while it does not run.
  /// Null: not this worker's.
  [[nodiscard]] io::XskSink* sink(std::uint32_t target) const noexcept;
  /// Where frames for a target go from here.
  [[nodiscard]] pipeline::Sink& sink_of(std::uint32_t target) noexcept;
  [[nodiscard]] const pipeline::FramePool& pool() const noexcept { return pool_; }
  /// No frame waits in a source, a queue between workers, a monitor's queue, or a connected sink.
  [[nodiscard]] bool drained() const noexcept;
  /// Tells the programs to take the plain path from now on, and does so when no original is on its
  /// way through this worker, so that those to come overtake none. Under a load that leaves no such
  /// moment, at the end of `patience`. `port`: only those of that tap port.
  void take_plain_path(std::chrono::nanoseconds patience,
                       std::optional<std::uint8_t> port = std::nullopt) noexcept;
  /// Nothing waits in the rings of that tap port.
  [[nodiscard]] bool drained(std::uint8_t port) const noexcept;
  /// Frames of a closed socket: gives them back and counts them.
  void abandon(std::uint32_t target) noexcept;
  /// At a stop: gives back what still waits for monitors, and counts it as for one that is down.
  void drop_waiting() noexcept;
  void drop_waiting(std::uint32_t target) noexcept;
  /// Frames in this worker's rings that are its own: free + these == total of the pool, when no
  /// frames cross.
  [[nodiscard]] std::uint32_t frames_out() const noexcept;

 private:
  struct Source {
    io::XskSource source;
    std::optional<std::uint32_t> output;
    std::uint64_t* heartbeat;
    bool plain = false;  ///< its originals take the plain path
  };
  struct Running {
    std::uint32_t generation;
    pipeline::Pipeline* pipeline;
  };

  Worker(WorkerSpec spec, pipeline::UmemView umem, Crossing& crossing, io::Doorbell doorbell,
         UniqueFd event, UniqueFd epoll);

  /// Where the rings by which originals leave give their frames back.
  class OriginalReturn final : public io::FrameReturn {
   public:
    explicit OriginalReturn(Worker& worker) : worker_(worker) {}
    void give_back(pipeline::FrameNumber frame) noexcept override {
      worker_.give_back(frame, true);
    }

   private:
    Worker& worker_;
  };

  void give_back(pipeline::FrameNumber frame) noexcept override;
  void give_back(pipeline::FrameNumber frame, bool original) noexcept;
  void run() noexcept;
  bool reclaim() noexcept;
  bool take_crossing() noexcept;
  void post_crossing(const CrossingFrame& crossing) noexcept;
  bool serve(Source& source) noexcept;
  bool serve_tee() noexcept;
  void finish(pipeline::Pipeline& pipeline) noexcept;
  [[nodiscard]] pipeline::Pipeline& pipeline_of(std::uint32_t generation) noexcept;
  void make_room(std::uint32_t target, Target what);
  bool serve_queues() noexcept;
  void release_burst() noexcept;
  void flush() noexcept;
  [[nodiscard]] bool has_hung() const noexcept;
  void drop_stale() noexcept;
  void beat() noexcept;
  void run_tasks() noexcept;
  [[nodiscard]] bool may_sleep() noexcept;
  void sleep(std::uint64_t idle_ns) noexcept;
  [[nodiscard]] std::chrono::nanoseconds sleep_limit(std::uint64_t idle_ns) noexcept;
  bool wait_for_events(std::chrono::nanoseconds timeout) noexcept;
  [[nodiscard]] bool sinks_busy() const noexcept;
  [[nodiscard]] bool originals_under_way(std::optional<std::uint8_t> port) const noexcept;

  WorkerSpec spec_;
  pipeline::UmemView umem_;
  std::vector<Target> targets_;
  Crossing& crossing_;
  io::Doorbell doorbell_;
  UniqueFd event_, epoll_;

  pipeline::FramePool pool_;
  OriginalReturn originals_home_{*this};
  io::TeeSource tee_;
  std::vector<Source> sources_;
  std::vector<Source> stopped_;
  std::vector<std::unique_ptr<io::XskSink>> own_;      ///< by target; null: not ours
  std::vector<std::unique_ptr<MonitorQueue>> queues_;  ///< by target; null: not ours, or straight
  std::vector<MonitorQueue*> scheduled_;               ///< those that are there
  std::vector<std::unique_ptr<CrossingSink>> crossing_sinks_;  ///< by target; null: ours
  std::vector<Lent> lent_;                                     ///< by worker that has them
  std::vector<Running> plans_;                                 ///< the newest last
  std::vector<Worker*> peers_;
  pipeline::Burst burst_;
  std::uint64_t now_ns_ = 0;
  std::uint64_t epoch_ns_ = 0;

  WorkerCounters counters_;
  std::array<pipeline::MonitorCounters, kMaxTargets> refused_;
  std::array<OriginalCounters, VTAP_MAX_PORTS> originals_;

  std::atomic<std::uint32_t> free_frames_{0};
  std::atomic<std::uint64_t> last_round_ns_{0};
  std::atomic<bool> sleeping_{false};
  std::atomic<bool> stop_{false};
  std::atomic<bool> has_tasks_{false};
  std::mutex tasks_mutex_;
  std::vector<std::function<void()>> tasks_;
  std::thread thread_;
};

/// CLOCK_MONOTONIC, ns: the clock of bpf_ktime_get_ns().
std::uint64_t monotonic_ns() noexcept;

}  // namespace vtap::worker
