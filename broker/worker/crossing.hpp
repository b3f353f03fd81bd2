// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <boost/lockfree/spsc_queue.hpp>
#include <cstdint>
#include <memory>
#include <vector>

#include "pipeline/burst.hpp"
#include "pipeline/frame_pool.hpp"

/// Frames that cross from the worker that received them to the worker that owns the TX queue, and
/// home again. One pair of single-producer single-consumer queues for each ordered pair of workers;
/// reference counts stay with the worker whose frames they are.
namespace vtap::worker {

/// One frame on its way to another worker's sink.
struct CrossingFrame {
  pipeline::TxDescriptor frame;
  std::uint64_t posted_ns = 0;  ///< CLOCK_MONOTONIC
  std::uint32_t target = 0;     ///< index of the sink
  std::uint64_t timed_ns = 0;   ///< TimedFrame::since_ns, if it is that one
};

/// One on its way home.
struct Returned {
  pipeline::FrameNumber frame{};
  bool original = false;
};

/// Frames of one worker that another has.
struct Lent {
  std::uint32_t frames = 0;
  std::uint32_t originals = 0;  ///< of these; a frame may be lent as one and as a copy
};

class Crossing {
 public:
  /// Frames on their way from one worker to another at most.
  static constexpr std::uint32_t kCapacity = 4096;

  /// `waiting`: frames that the queues of scheduled monitors hold, which are lent for longer.
  explicit Crossing(std::uint32_t workers, std::uint32_t waiting = 0);

  using Forward = boost::lockfree::spsc_queue<CrossingFrame>;
  using Home = boost::lockfree::spsc_queue<Returned>;

  [[nodiscard]] Forward& forward(std::uint32_t from, std::uint32_t to) noexcept {
    return pairs_[from * workers_ + to]->forward;
  }
  /// Frames that `owner` lent to `user` and that are no longer in use there.
  [[nodiscard]] Home& home(std::uint32_t user, std::uint32_t owner) noexcept {
    return pairs_[user * workers_ + owner]->home;
  }
  [[nodiscard]] std::uint32_t workers() const noexcept { return workers_; }
  /// Frames that one worker may lend to another: as many as the way home holds.
  [[nodiscard]] std::uint32_t lendable() const noexcept { return lendable_; }

 private:
  struct Pair {
    explicit Pair(std::uint32_t lendable) : home(lendable) {}
    Forward forward{kCapacity};
    Home home;
  };
  std::uint32_t workers_;
  std::uint32_t lendable_;
  std::vector<std::unique_ptr<Pair>> pairs_;
};

/// A sink that another worker owns. Never has more frames under way than the way home can hold, so
/// that giving them back cannot fail.
class CrossingSink final : public pipeline::Sink {
 public:
  /// `lent` counts the frames of this worker that the owner has, `lendable` at most; several sinks
  /// share it. `now`: the worker's clock, ns. `timed`: see XskSink::time_copies(). `originals`: it
  /// is no monitor's.
  CrossingSink(Crossing::Forward& queue, std::uint32_t target, Lent& lent, std::uint32_t lendable,
               const std::uint64_t& now, const pipeline::TimedFrame& timed, bool originals)
      : queue_(queue),
        target_(target),
        lent_(lent),
        lendable_(lendable),
        now_(now),
        timed_(timed),
        originals_(originals) {}

  Posted post(std::span<const pipeline::TxDescriptor> frames) noexcept override;

 private:
  Crossing::Forward& queue_;
  std::uint32_t target_;
  Lent& lent_;
  std::uint32_t lendable_;
  const std::uint64_t& now_;
  const pipeline::TimedFrame& timed_;
  bool originals_;
};

}  // namespace vtap::worker
