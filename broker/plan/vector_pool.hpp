// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

namespace vtap::plan {

/// Stores bit vectors behind one another, equal ones once. What is added is one vector, or several
/// that must stay neighbours (the triples of VTAP_AS_*).
class VectorPool {
 public:
  /// Numbers count in units of `stride` words. `store` must outlive the pool.
  VectorPool(std::vector<std::uint64_t>& store, std::uint32_t stride)
      : store_(store), stride_(stride) {}

  /// Number of the first vector. `words` is a multiple of the stride.
  std::uint32_t add(const std::vector<std::uint64_t>& words);

 private:
  [[nodiscard]] bool stored_at(std::uint32_t number,
                               const std::vector<std::uint64_t>& words) const noexcept;
  [[nodiscard]] static std::uint64_t hash(const std::vector<std::uint64_t>& words) noexcept;

  std::vector<std::uint64_t>& store_;
  std::uint32_t stride_;
  std::unordered_multimap<std::uint64_t, std::uint32_t> numbers_;  ///< by hash
};

}  // namespace vtap::plan
