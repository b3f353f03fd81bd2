// SPDX-License-Identifier: Apache-2.0
#include "engine/ledger.hpp"

namespace vtap::engine {

PairTotals& PairTotals::operator+=(const PairTotals& other) noexcept {
  sent_frames += other.sent_frames;
  sent_bytes += other.sent_bytes;
  already_sent += other.already_sent;
  before_joining += other.before_joining;
  return *this;
}

PolicyTotals& PolicyTotals::operator+=(const PolicyTotals& other) {
  matched_frames += other.matched_frames;
  matched_bytes += other.matched_bytes;
  sample += other.sample;
  meter += other.meter;
  once += other.once;
  head += other.head;
  green += other.green;
  yellow += other.yellow;
  red += other.red;
  for (const auto& [name, pair] : other.monitors) monitors[name] += pair;
  return *this;
}

MonitorTotals& MonitorTotals::operator+=(const MonitorTotals& other) noexcept {
  ring_full += other.ring_full;
  queue_full += other.queue_full;
  down += other.down;
  sent_frames += other.sent_frames;
  sent_bytes += other.sent_bytes;
  cloned_frames += other.cloned_frames;
  cloned_bytes += other.cloned_bytes;
  for (std::size_t i = 0; i < lost_frames.size(); ++i) {
    lost_frames[i] += other.lost_frames[i];
    lost_bytes[i] += other.lost_bytes[i];
  }
  device += other.device;
  in_kernel |= other.in_kernel;
  removed_frames += other.removed_frames;
  removed_bytes += other.removed_bytes;
  return *this;
}

}  // namespace vtap::engine
