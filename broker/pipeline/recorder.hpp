// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "pipeline/burst.hpp"
#include "pipeline/counters.hpp"
#include "pipeline/frame_pool.hpp"

/// Live captures: what workers keep of chosen copies, for a thread that may be slow
/// (docs/decisions/0024).
namespace vtap::pipeline {

/// A limit that all workers of a capture have in common: so many frames, and so many bytes, a
/// second. A tenth of a second's worth may come at once.
class RecordLimit {
 public:
  /// Precondition: both > 0. Bytes: of what is kept.
  RecordLimit(std::uint64_t frames_per_s, std::uint64_t bytes_per_s) noexcept;

  /// Whether a frame may be kept. `now`: ns, of one clock. Never waits: where workers meet too
  /// often, the frame may not.
  bool take(std::uint32_t bytes, std::uint64_t now) noexcept;

 private:
  static constexpr std::uint64_t kBurstNs = 100'000'000;
  std::uint64_t frame_cost_;           ///< ns
  std::uint64_t byte_cost_;            ///< in 1/1024 ns
  std::atomic<std::uint64_t> due_{0};  ///< ns: when all that was taken is paid for
};

/// A frame as it was kept.
struct Record {
  std::uint64_t time_ns = 0;   ///< CLOCK_REALTIME, of its burst
  std::uint32_t original = 0;  ///< bytes that it had at the tap
  std::uint32_t kept = 0;      ///< bytes that follow
  std::uint32_t port = 0;      ///< tap port index
  std::uint32_t reserved = 0;
};

/// Records on their way from one worker to one reader. Bytes of whole records, never overwritten.
class RecordRing {
 public:
  static constexpr std::size_t kBytes = std::size_t{2} << 20;

  RecordRing() : bytes_(kBytes) {}

  /// The worker. False: no room.
  bool push(const Record& record, const std::uint8_t* frame) noexcept;
  /// The reader. The oldest one, its bytes in `frame`.
  std::optional<Record> pop(std::vector<std::uint8_t>& frame);

 private:
  static std::size_t size_of(const Record& record) noexcept {
    return (sizeof(Record) + record.kept + 7) & ~std::size_t{7};
  }
  void put(std::uint64_t at, const void* from, std::size_t size) noexcept;
  void get(std::uint64_t at, void* to, std::size_t size) const noexcept;

  std::vector<std::uint8_t> bytes_;
  alignas(64) std::atomic<std::uint64_t> written_{0};
  alignas(64) std::atomic<std::uint64_t> read_{0};
};

/// One capture's part in one worker. The worker notes and keeps; a reader takes from ring().
class Recorder {
 public:
  /// `most`: bytes of a frame. `limit` outlives it.
  Recorder(std::uint32_t most, RecordLimit& limit) : most_(most), limit_(limit) {}

  /// The worker: these frames of the burst are to be kept, with so many bytes at least
  /// (`length_of(i)`). For several policies: the longest.
  template <typename Length>
  void note(FrameSet frames, Length&& length_of) noexcept {
    for_each_frame(frames & ~noted_, [&](std::uint32_t i) { length_[i] = 0; });
    noted_ |= frames;
    for_each_frame(frames,
                   [&](std::uint32_t i) { length_[i] = std::max(length_[i], length_of(i)); });
  }
  /// The worker, at the end of a burst: keeps what was noted. `now`: ns, for the limit.
  void keep(const Burst& burst, UmemView umem, std::uint64_t now) noexcept;

  /// The reader's.
  [[nodiscard]] RecordRing& ring() noexcept { return ring_; }
  /// Frames of a port that were not kept, above the limit or for want of room. Any thread.
  [[nodiscard]] std::uint64_t dropped(std::size_t port) const noexcept {
    return dropped_[port].read();
  }

 private:
  const std::uint32_t most_;
  RecordLimit& limit_;
  FrameSet noted_ = 0;
  std::array<std::uint32_t, Burst::kCapacity> length_{};
  std::array<Counter, VTAP_MAX_PORTS> dropped_{};
  RecordRing ring_;
};

/// Which of a pipeline's copies a recorder is for.
struct Recording {
  Recorder* recorder = nullptr;
  std::optional<std::uint32_t> policy;  ///< none: of all
  std::optional<std::uint32_t> tap;     ///< none: from all
};

}  // namespace vtap::pipeline
