// SPDX-License-Identifier: Apache-2.0
#include "worker/crossing.hpp"

namespace vtap::worker {

Crossing::Crossing(std::uint32_t workers, std::uint32_t waiting)
    : workers_(workers), lendable_(kCapacity + waiting) {
  for (std::uint32_t i = 0; i < workers * workers; ++i) {
    pairs_.push_back(std::make_unique<Pair>(lendable_));
  }
}

pipeline::Sink::Posted CrossingSink::post(std::span<const pipeline::TxDescriptor> frames) noexcept {
  std::uint32_t taken = 0;
  for (const pipeline::TxDescriptor& frame : frames) {
    const std::uint64_t timed_ns = timed_.is(frame.address) ? timed_.since_ns : 0;
    if (lent_.frames >= lendable_ || !queue_.push({frame, now_, target_, timed_ns})) break;
    ++lent_.frames;
    if (originals_) ++lent_.originals;
    ++taken;
  }
  return {taken, Refusal::ring_full};
}

}  // namespace vtap::worker
