// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cassert>
#include <cstdint>

#include "plan/line_vector.hpp"

namespace vtap::pipeline {

/// Byte offset in the UMEM; inside a frame it may point behind a headroom.
enum class FrameAddress : std::uint64_t {};
/// Index of a frame in the UMEM.
enum class FrameNumber : std::uint32_t {};

/// The one memory, as every stage sees it. Owned by whoever mapped it.
struct UmemView {
  std::uint8_t* base = nullptr;
  std::uint32_t frame_size = 0;  ///< bytes, power of two
  std::uint32_t frames = 0;

  [[nodiscard]] std::uint8_t* at(FrameAddress address) const noexcept {
    return base + static_cast<std::uint64_t>(address);
  }
  [[nodiscard]] FrameAddress start(FrameNumber frame) const noexcept {
    return FrameAddress{static_cast<std::uint64_t>(frame) * frame_size};
  }
  [[nodiscard]] FrameNumber number(FrameAddress address) const noexcept {
    const int shift = std::countr_zero(frame_size);  // a division costs more than all else here
    return FrameNumber{static_cast<std::uint32_t>(static_cast<std::uint64_t>(address) >> shift)};
  }
};

/// The frames of one worker: a stack of free ones and a reference count for each. Only that worker
/// calls it; frames that other workers have sent come home through a queue, so a count is never
/// shared. free + out == total at any time.
class FramePool {
 public:
  FramePool(FrameNumber first, std::uint32_t count)
      : first_(static_cast<std::uint32_t>(first)), references_(count, 0) {
    free_.reserve(count);
    for (std::uint32_t i = count; i-- > 0;) free_.push_back(first_ + i);
  }

  [[nodiscard]] std::uint32_t total() const noexcept {
    return static_cast<std::uint32_t>(references_.size());
  }
  [[nodiscard]] std::uint32_t available() const noexcept {
    return static_cast<std::uint32_t>(free_.size());
  }
  [[nodiscard]] bool owns(FrameNumber frame) const noexcept {
    return static_cast<std::uint32_t>(frame) - first_ < references_.size();
  }

  /// Takes a free frame with one reference. Precondition: available() > 0.
  FrameNumber take() noexcept {
    assert(!free_.empty());
    const std::uint32_t frame = free_.back();
    free_.pop_back();
    references_[frame - first_] = 1;
    return FrameNumber{frame};
  }

  void add_reference(FrameNumber frame) noexcept {
    assert(references_[index(frame)] > 0);
    ++references_[index(frame)];
  }

  /// Drops one reference; the last one makes the frame free. The vector's capacity was reserved.
  void release(FrameNumber frame) noexcept {
    assert(references_[index(frame)] > 0);
    if (--references_[index(frame)] == 0) free_.push_back(static_cast<std::uint32_t>(frame));
  }

  [[nodiscard]] std::uint32_t references(FrameNumber frame) const noexcept {
    return references_[index(frame)];
  }

 private:
  [[nodiscard]] std::size_t index(FrameNumber frame) const noexcept {
    assert(owns(frame));
    return static_cast<std::uint32_t>(frame) - first_;
  }

  std::uint32_t first_;
  plan::LineVector<std::uint8_t>
      references_;  ///< at most one per monitor, output and reader: < 256
  plan::LineVector<std::uint32_t> free_;
};

}  // namespace vtap::pipeline
