// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace vtap::plan {

/// Longest prefix match, one byte of the address per step. Built once, then only read.
///
/// An entry of a node is either the class of the longest prefix so far, or a child that was made
/// with that class in all its entries: so a lookup never has to remember what it passed.
class PrefixTrie {
 public:
  /// `fallback`: class of addresses that no prefix covers.
  explicit PrefixTrie(std::uint32_t fallback) { add_node(fallback); }

  /// `bits` are the prefix in network order, `length` its bits. Shorter prefixes must be inserted
  /// before longer ones.
  void insert(const std::uint8_t* bits, std::uint32_t length, std::uint32_t number);

  /// `address` has at least as many bytes as the longest prefix, rounded up.
  [[nodiscard]] std::uint32_t find(const std::uint8_t* address) const noexcept {
    for (std::uint32_t node = 0;; ++address) {
      const std::uint32_t entry = entries_[node + *address];
      if ((entry & kChild) == 0) return entry;
      node = entry & ~kChild;
    }
  }

 private:
  static constexpr std::uint32_t kChild = 1U << 31;
  static constexpr std::uint32_t kFanOut = 256;

  std::uint32_t add_node(std::uint32_t number);

  std::vector<std::uint32_t> entries_;  ///< nodes of kFanOut; a child is named by its first entry
};

}  // namespace vtap::plan
