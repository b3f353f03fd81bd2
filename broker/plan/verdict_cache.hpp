// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vtap/abi.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "plan/hit.hpp"
#include "plan/line_vector.hpp"

namespace vtap::plan {

/// What was found for frames of late, by all of their key that any rule reads: exact, as whole keys
/// are compared, and nothing that a frame alone decides is in it (filters are asked afterwards).
/// For one plan and one thread.
///
/// Sets of sixteen entries. A byte of each one's hash says which of a set may be the one, and all
/// these bytes stay in a CPU's own cache: so a frame that is known mostly touches one line of the
/// entries, and those of a burst are fetched together. Who gives way in a full set is left to
/// chance: whatever has a plan, a sender can play against.
class VerdictCache {
 public:
  static constexpr std::uint32_t kEntries = 1U << 17;

  /// Segments of a frame that is kept, at most; one that has more is found anew each time.
  static constexpr std::uint32_t kMostNumbers = 59;

  /// `mask`: of the keys, as vtap_class_config has it. `entries`: a power of two, at least 16.
  /// Throws std::bad_alloc.
  VerdictCache(std::span<const __u64, VTAP_KEY_WORDS> mask, std::uint32_t entries);

  /// Appends the hits of the frames that are known. Returns the set of those that are not, for
  /// which store() may be called until the next look-up. At most kBurst frames.
  std::uint64_t look_up(std::span<const vtap_key> keys, std::span<const std::uint32_t> taps,
                        LineVector<Hit>& hits) noexcept;

  /// Keeps what was found for a frame of the last look-up: all its hits.
  void store(std::uint32_t frame, std::span<const Hit> hits) noexcept;

 private:
  static constexpr std::uint32_t kWays = 16;
  static constexpr std::size_t kLine = 64;
  static constexpr std::size_t kEntryBytes = 2 * kLine;
  static constexpr std::size_t kWideKey = 5;  ///< words of a key that leave the first line room

  /// Behind the words of the key.
  struct Verdict {
    std::uint8_t owner;  ///< tap + 1; 0: free, as tags may be taken for others'
    std::uint8_t count;
    std::array<std::uint16_t, kMostNumbers> numbers;  ///< of seg_top bits
  };
  /// Of the entries of a set, a byte each, from the lowest one on.
  using Tags = std::array<std::uint64_t, kWays / 8>;
  /// A frame of the burst at hand.
  struct Wanted {
    std::uint32_t set;
    std::uint8_t tag, owner;
  };
  struct Free {
    void operator()(std::byte* memory) const noexcept;
  };

  [[nodiscard]] std::byte* entry(std::uint32_t set, std::uint32_t way) const noexcept {
    return entries_.get() + (std::size_t{set} * kWays + way) * kEntryBytes;
  }
  [[nodiscard]] Verdict* verdict(std::byte* entry) const noexcept;
  void want(std::uint32_t frame, const vtap_key& key, std::uint32_t tap) noexcept;
  [[nodiscard]] bool is(std::byte* entry, std::uint32_t frame) const noexcept;
  [[nodiscard]] std::byte* find(std::uint32_t frame, std::uint32_t ways) const noexcept;
  [[nodiscard]] std::uint32_t ways_with(std::uint8_t tag, std::uint32_t set) const noexcept;
  std::uint32_t take_way(const Wanted& wanted) noexcept;

  std::size_t words_ = 0;   ///< of a key that are read
  std::uint32_t most_ = 0;  ///< numbers that an entry has room for
  std::array<std::uint32_t, VTAP_KEY_WORDS> word_{};
  std::array<std::uint64_t, VTAP_KEY_WORDS> mask_{};    ///< by word of those
  std::array<std::uint64_t, VTAP_KEY_WORDS> secret_{};  ///< what keys are hashed with
  LineVector<Tags> sets_;
  std::unique_ptr<std::byte, Free> entries_;
  std::uint64_t chance_;                                                  ///< state of a generator
  std::array<std::array<std::uint64_t, VTAP_KEY_WORDS>, kBurst> keys_{};  ///< of the burst at hand
  std::array<Wanted, kBurst> wanted_{};
};

}  // namespace vtap::plan
