// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "io/xsk_ports.hpp"
#include "pipeline/counters.hpp"
#include "pipeline/scheduler.hpp"

namespace vtap::worker {

/// The copies of a scheduled monitor that wait for its TX ring, on the one worker that owns it.
/// Holds a reference of every frame that waits; one that has to give way is given back and counted
/// here.
class MonitorQueue final : public pipeline::Sink {
 public:
  /// Frames in the TX ring at most, as no frame overtakes another there: 1.6 ms of 1518-byte frames
  /// at 1 Gbit/s, and no less than a round's calls of kick() can move.
  static constexpr std::uint32_t kInRing = 128;

  /// `ring`, `home`, and what copies are timed by (XskSink::time_copies) outlive it.
  MonitorQueue(const pipeline::Scheduler::Spec& schedule, io::XskSink& ring,
               pipeline::UmemView umem, io::FrameReturn& home, const pipeline::TimedFrame& timed,
               const std::uint64_t& now)
      : scheduler_(schedule), ring_(ring), umem_(umem), home_(home), timed_(timed) {
    time_ring(now);
  }
  /// The ring times the copies that waited here.
  void time_ring(const std::uint64_t& now) noexcept { ring_.time_copies(waiting_timed_, now); }
  [[nodiscard]] io::XskSink& ring() noexcept { return ring_; }

  /// What waits in `ahead`, a queue to the same ring that this one replaces, goes first. Null:
  /// none.
  void follow(const MonitorQueue* ahead) noexcept { ahead_ = ahead; }

  /// As if `queue` had never been there.
  void stop_following(const MonitorQueue* queue) noexcept {
    if (ahead_ == queue) ahead_ = nullptr;
  }
  [[nodiscard]] bool feeds(const io::XskSink& ring) const noexcept { return &ring_ == &ring; }

  /// Takes all of them while the ring has a socket, at the price of those that have to give way.
  Posted post(std::span<const pipeline::TxDescriptor> frames) noexcept override;
  /// Hands the ring what may go at `now`, ns. Returns whether anything did.
  bool serve(std::uint64_t now) noexcept;
  /// When serve() will have something for the ring, ns; Scheduler::kNever: nothing waits, or
  /// blocked().
  std::uint64_t next_at() noexcept;
  /// Frames wait for a ring that is full.
  [[nodiscard]] bool blocked() const noexcept {
    return scheduler_.waiting() != 0 && !has_to_wait() && ring_.connected() && ring_.room() == 0;
  }
  /// Gives back what waits. Returns how many frames that are.
  std::uint32_t abandon() noexcept;
  [[nodiscard]] std::uint32_t waiting() const noexcept { return scheduler_.waiting(); }

  // Any thread.
  /// Frames that had to give way.
  [[nodiscard]] const pipeline::Counter& dropped() const noexcept { return dropped_; }
  /// waiting() after the last round.
  [[nodiscard]] std::uint32_t last_waiting() const noexcept {
    return last_waiting_.load(std::memory_order_relaxed);
  }

 private:
  [[nodiscard]] bool has_to_wait() const noexcept {
    return ahead_ != nullptr && (ahead_->waiting() != 0 || ahead_->has_to_wait());
  }
  void drop(const pipeline::TxDescriptor& frame) noexcept;
  /// It waits no more.
  void forget_timed(const pipeline::TxDescriptor& frame) noexcept {
    if (waiting_timed_.is(frame.address)) waiting_timed_ = {};
  }
  void publish() noexcept { last_waiting_.store(scheduler_.waiting(), std::memory_order_relaxed); }

  pipeline::Scheduler scheduler_;
  const MonitorQueue* ahead_ = nullptr;
  io::XskSink& ring_;
  pipeline::UmemView umem_;
  io::FrameReturn& home_;
  const pipeline::TimedFrame& timed_;
  pipeline::TimedFrame waiting_timed_;  ///< of those that wait, the one that is timed
  pipeline::Counter dropped_;
  std::atomic<std::uint32_t> last_waiting_{0};
};

}  // namespace vtap::worker
