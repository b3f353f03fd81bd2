// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "io/xsk.hpp"
#include "pipeline/burst.hpp"
#include "pipeline/counters.hpp"
#include "pipeline/frame_pool.hpp"
#include "pipeline/latency.hpp"

/// The two ends of an AF_XDP socket, as a worker uses them. A socket may carry both.
namespace vtap::io {

/// Where frames go whose last use by a ring is over. The worker decides whether they are its own.
class FrameReturn {
 public:
  FrameReturn() = default;
  FrameReturn(const FrameReturn&) = delete;
  FrameReturn& operator=(const FrameReturn&) = delete;
  virtual ~FrameReturn() = default;
  virtual void give_back(pipeline::FrameNumber frame) noexcept = 0;
};

/// The TX ring of one queue of a monitor or of an inline port. Holds one reference of every frame
/// between post() and its completion. Without a socket it is down and refuses everything.
class XskSink final : public pipeline::Sink {
 public:
  /// `limit`: frames held at most.
  XskSink(pipeline::UmemView umem, FrameReturn& home, std::uint32_t limit);

  /// Of the frames that post() takes, `timed` is timed if it is among them, from its time until
  /// reclaim() finds it sent; one at a time. `now`: the worker's clock, ns. Both outlive the sink.
  void time_copies(const pipeline::TimedFrame& timed, const std::uint64_t& now) noexcept {
    timed_ = &timed;
    now_ = &now;
  }
  /// Null: none. The socket outlives its use here: see disconnect().
  void connect(XskSocket* socket) noexcept { socket_ = socket; }
  /// Stops using the socket. Frames it still holds stay held until abandon().
  XskSocket* disconnect() noexcept { return std::exchange(socket_, nullptr); }
  /// Once the socket is closed: gives back what it held. Returns how many frames never left.
  std::uint32_t abandon() noexcept;

  Posted post(std::span<const pipeline::TxDescriptor> frames) noexcept override;
  /// Tells the kernel of posted frames, by one system call at most; never waits. Also for frames
  /// that were posted before: a ring that the kernel left full stalls otherwise. False: no more is
  /// to be done now. True: if frames are left, another call may move them.
  bool kick() noexcept;
  /// Calls of kick() for what one round posted: in copy mode older kernels move 32 descriptors in
  /// each, and a burst is 64; more would hold up the other monitors.
  static constexpr int kKicks = 4;
  /// Takes back what the kernel has sent. Returns how many.
  std::uint32_t reclaim() noexcept;
  /// Takes back frames that the kernel has not begun to send; for originals that are too old.
  /// Only copy mode can: there, nothing but our own system call moves the ring. Returns how many.
  std::uint32_t retract() noexcept;

  /// Frames held at most from now on; what is held beyond that goes with its completions.
  void set_limit(std::uint32_t limit) noexcept { limit_ = limit; }
  [[nodiscard]] bool connected() const noexcept { return socket_ != nullptr; }
  [[nodiscard]] std::uint32_t held() const noexcept { return held_; }
  /// Frames that post() takes for sure, if the ring is no smaller than the limit.
  [[nodiscard]] std::uint32_t room() const noexcept {
    return socket_ == nullptr ? 0 : limit_ - std::min(limit_, held_);
  }
  /// Of the frames that were timed. Any thread.
  [[nodiscard]] const pipeline::LatencyHistogram& latency() const noexcept { return latency_; }
  [[nodiscard]] const pipeline::Counter& sent_frames() const noexcept { return sent_frames_; }
  [[nodiscard]] const pipeline::Counter& sent_bytes() const noexcept { return sent_bytes_; }

 private:
  [[nodiscard]] std::uint32_t unsent() const noexcept;
  /// The address of descriptors that were taken back: the first one behind the UMEM.
  [[nodiscard]] std::uint64_t nowhere() const noexcept;
  std::uint32_t forget(pipeline::FrameNumber frame) noexcept;
  void start_timing(std::span<const pipeline::TxDescriptor> posted) noexcept;
  void end_timing() noexcept;

  XskSocket* socket_ = nullptr;
  pipeline::UmemView umem_;
  FrameReturn& home_;
  std::uint32_t limit_;
  std::uint32_t held_ = 0;
  /// By frame: bytes of it that this ring was given; 0: not held.
  std::vector<std::uint16_t> held_length_;
  pipeline::Counter sent_frames_, sent_bytes_;
  const pipeline::TimedFrame* timed_ = nullptr;  ///< null: frames of this ring are not timed
  const std::uint64_t* now_ = nullptr;
  pipeline::TimedFrame in_flight_;  ///< the one that is timed at the moment
  pipeline::LatencyHistogram latency_;
};

/// The RX ring of one queue of a tap port.
class XskSource {
 public:
  XskSource(XskSocket& socket, std::uint8_t port, pipeline::UmemView umem,
            pipeline::FramePool& pool);

  /// Appends received frames to the burst while there is room; as many fresh ones go to the fill
  /// ring.
  void receive(pipeline::Burst& burst) noexcept;
  void refill() noexcept;
  /// Once the socket is closed: gives back the frames that it held.
  void abandon() noexcept;
  /// Nothing waits to be received.
  [[nodiscard]] bool empty() const noexcept;

  [[nodiscard]] std::uint8_t port() const noexcept { return port_; }
  [[nodiscard]] XskSocket& socket() const noexcept { return socket_; }
  /// Frames that wait in the fill and RX rings.
  [[nodiscard]] std::uint32_t frames_out() const noexcept { return out_; }

 private:
  XskSocket& socket_;
  std::uint8_t port_;
  pipeline::UmemView umem_;
  pipeline::FramePool& pool_;
  std::uint32_t out_ = 0;
  std::vector<bool> given_;  ///< by frame: it waits in the fill or RX ring
};

}  // namespace vtap::io
