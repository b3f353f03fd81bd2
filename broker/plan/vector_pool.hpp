// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace vtap::plan {

/// Stores pieces of `size` words behind one another, equal ones once.
class UniqueStore {
 public:
  /// `store` must outlive this.
  UniqueStore(std::vector<std::uint64_t>& store, std::uint32_t size) : store_(store), size_(size) {}

  /// Number, in units of `size`, of the first of one or several pieces that stay neighbours.
  std::uint32_t add(std::span<const std::uint64_t> words);

 private:
  [[nodiscard]] bool stored_at(std::uint32_t number,
                               std::span<const std::uint64_t> words) const noexcept;

  std::vector<std::uint64_t>& store_;
  std::uint32_t size_;
  std::unordered_multimap<std::uint64_t, std::uint32_t> numbers_;  ///< by hash
};

/// Stores bit vectors as a plan keeps them, flat or paged (vtap/abi.h). What is added is one
/// vector, or several that must stay neighbours (the triples of VTAP_AS_*).
class VectorPool {
 public:
  /// Words of a stored vector.
  static std::uint32_t stored_words(std::uint32_t match_words, std::uint32_t except_words) noexcept;

  /// `vectors` and `pages` must outlive the pool; flat plans have no pages.
  VectorPool(std::vector<std::uint64_t>& vectors, std::vector<std::uint64_t>& pages,
             std::uint32_t match_words, std::uint32_t except_words);

  /// Number of the first vector. `words`: all words of each, match and then except.
  std::uint32_t add(std::span<const std::uint64_t> words);

 private:
  /// Brings `last_pages_` to what these words are.
  void page(std::span<const std::uint64_t> words);
  /// The stored form of vector `i` of those at hand.
  void fill_row(std::span<const std::uint64_t> vector, std::size_t i);

  std::uint32_t match_words_, words_, stored_words_;
  UniqueStore vectors_, pages_;
  std::vector<std::uint64_t> rows_;        ///< what is being added
  std::vector<std::uint64_t> last_words_;  ///< what was added last: most pages stay the same
  std::vector<std::uint32_t> last_pages_;
};

}  // namespace vtap::plan
