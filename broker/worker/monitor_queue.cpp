// SPDX-License-Identifier: Apache-2.0
#include "worker/monitor_queue.hpp"

#include <algorithm>
#include <array>

namespace vtap::worker {

using pipeline::TxDescriptor;

pipeline::Sink::Posted MonitorQueue::post(std::span<const TxDescriptor> frames) noexcept {
  if (!ring_.connected()) return {0, Refusal::down};
  for (const TxDescriptor& frame : frames) {
    if (waiting_timed_.since_ns == 0 && timed_.is(frame.address)) waiting_timed_ = timed_;
    if (const auto gone = scheduler_.enqueue(frame)) drop(*gone);
  }
  return {static_cast<std::uint32_t>(frames.size()), Refusal::queue_full};
}

bool MonitorQueue::serve(std::uint64_t now) noexcept {
  std::array<TxDescriptor, pipeline::Burst::kCapacity> batch;
  bool moved = false;
  while (scheduler_.waiting() != 0 && !has_to_wait()) {
    const auto room = std::min<std::size_t>(ring_.room(), batch.size());
    const std::uint32_t count = scheduler_.dequeue(now, std::span(batch).first(room));
    if (count == 0) break;
    const auto frames = std::span<const TxDescriptor>(batch).first(count);
    // The ring takes them all, as there was room; if ever not, they are lost in plain sight.
    for (const TxDescriptor& frame : frames.subspan(ring_.post(frames).taken)) drop(frame);
    if (waiting_timed_.since_ns != 0) {
      for (const TxDescriptor& frame : frames) forget_timed(frame);
    }
    moved = true;
  }
  publish();
  return moved;
}

std::uint64_t MonitorQueue::next_at() noexcept {
  return ring_.room() == 0 || has_to_wait() ? pipeline::Scheduler::kNever : scheduler_.next_at();
}

std::uint32_t MonitorQueue::abandon() noexcept {
  const std::uint32_t frames = scheduler_.waiting();
  while (scheduler_.waiting() != 0) home_.give_back(umem_.number(scheduler_.remove().address));
  waiting_timed_ = {};
  publish();
  return frames;
}

void MonitorQueue::drop(const TxDescriptor& frame) noexcept {
  dropped_.add(1);
  forget_timed(frame);
  home_.give_back(umem_.number(frame.address));
}

}  // namespace vtap::worker
