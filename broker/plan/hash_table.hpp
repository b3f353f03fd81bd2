// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

namespace vtap::plan {

/// Keys of HashTable: what fits one or two registers.
struct Key128 {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  bool operator==(const Key128&) const = default;
};

/// Open addressing, linear probing, at most half full; built once, then only read. The keys come
/// from the config, so no sender of traffic can choose colliding ones.
template <typename Key>
class HashTable {
 public:
  /// Room for `entries` keys. Values may not be kAbsent.
  explicit HashTable(std::size_t entries)
      : slots_(std::bit_ceil(entries * 2 + 2)), mask_(slots_.size() - 1) {}

  static constexpr std::uint32_t kAbsent = ~0U;

  void insert(const Key& key, std::uint32_t value) {
    Slot& slot = slots_[position(key)];
    slot.key = key;
    slot.value = value;
  }

  [[nodiscard]] std::uint32_t find(const Key& key) const noexcept {
    return slots_[position(key)].value;
  }

 private:
  struct Slot {
    Key key{};
    std::uint32_t value = kAbsent;
  };

  [[nodiscard]] std::size_t position(const Key& key) const noexcept {
    std::size_t at = hash(key) & mask_;
    while (slots_[at].value != kAbsent && !(slots_[at].key == key)) at = (at + 1) & mask_;
    return at;
  }

  static std::uint64_t hash(std::uint64_t key) noexcept {
    key *= 0x9e3779b97f4a7c15U;  // 2^64 / golden ratio: the upper half mixes every bit below
    return key ^ key >> 32;
  }
  static std::uint64_t hash(const Key128& key) noexcept { return hash(key.low ^ hash(key.high)); }

  std::vector<Slot> slots_;
  std::size_t mask_;
};

}  // namespace vtap::plan
