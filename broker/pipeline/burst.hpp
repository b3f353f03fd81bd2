// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vtap/abi.h>

#include <array>
#include <cstdint>
#include <span>

#include "pipeline/frame_pool.hpp"

namespace vtap::pipeline {

/// A set of frames of one burst, by their index in it.
using FrameSet = std::uint64_t;

/// Frame as a TX ring takes it.
struct TxDescriptor {
  FrameAddress address{};
  std::uint32_t length = 0;  ///< bytes
  /// What the monitor's scheduler tells apart: the place of the policy that sent the frame among
  /// those of this monitor (SharedPlan::Target).
  std::uint32_t traffic_class = 0;
};

/// What a flow's name has besides the addresses; all 0 where there is none of it.
struct Transport {
  std::uint16_t sport = 0;
  std::uint16_t dport = 0;
  std::uint16_t proto = 0;
};

/// Of the frames at hand, the one whose way to the monitors is timed.
struct TimedFrame {
  FrameAddress address{};
  std::uint64_t since_ns = 0;  ///< CLOCK_MONOTONIC; 0: none is timed

  [[nodiscard]] bool is(FrameAddress frame) const noexcept {
    return since_ns != 0 && address == frame;
  }
};

/// Up to 64 frames travelling together. A source fills the first part, stages annotate the rest;
/// everything is sized here, nothing grows. The burst holds one reference of each frame.
struct Burst {
  static constexpr std::uint32_t kCapacity = 64;

  std::uint32_t size = 0;
  std::uint32_t generation = 0;  ///< of the plan that selected the frames, if the source knows
  std::array<FrameAddress, kCapacity> address{};
  std::array<std::uint32_t, kCapacity> length{};  ///< bytes
  std::array<std::uint8_t, kCapacity> port{};     ///< tap port index
  std::array<vtap_key, kCapacity> key{};          ///< parse
  std::array<Transport, kCapacity> transport{};   ///< find_flows: also of later fragments
  TimedFrame timed;                               ///< one of these, or none

  [[nodiscard]] FrameSet all() const noexcept {
    return size == kCapacity ? ~FrameSet{0} : (FrameSet{1} << size) - 1;
  }
  [[nodiscard]] bool full() const noexcept { return size == kCapacity; }

  /// Precondition: !full().
  void push(FrameAddress frame, std::uint32_t bytes, std::uint8_t tap_port) noexcept {
    address[size] = frame;
    length[size] = bytes;
    port[size] = tap_port;
    ++size;
  }
};

/// Where copies (or, for an inline redirect, originals) go. Implementations: a TX ring of this
/// worker, a queue to the worker that owns the ring, memory in tests.
class Sink {
 public:
  Sink() = default;
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;
  virtual ~Sink() = default;

  /// Why frames were not taken.
  enum class Refusal : std::uint8_t { ring_full, queue_full, down };
  struct Posted {
    std::uint32_t taken = 0;               ///< the first so many; their references are the sink's
    Refusal refusal = Refusal::ring_full;  ///< of the others
  };

  /// Takes what there is room for, in order; never waits. The caller has taken a reference of every
  /// frame before, and keeps those of frames that are not taken: a sink may be done with a frame
  /// before this returns.
  virtual Posted post(std::span<const TxDescriptor> frames) noexcept = 0;
};

/// Calls `visit(index)` for each frame of a set, in order.
template <typename Visit>
void for_each_frame(FrameSet set, Visit&& visit) {
  while (set != 0) {
    visit(static_cast<std::uint32_t>(__builtin_ctzll(set)));
    set &= set - 1;
  }
}

}  // namespace vtap::pipeline
