// SPDX-License-Identifier: Apache-2.0
#include "plan/vector_pool.hpp"

#include <algorithm>

namespace vtap::plan {

std::uint32_t VectorPool::add(const std::vector<std::uint64_t>& words) {
  if (stride_ == 0) return 0;  // a plan without policies has no vectors
  const std::uint64_t key = hash(words);
  const auto [first, last] = numbers_.equal_range(key);
  for (auto it = first; it != last; ++it) {
    if (stored_at(it->second, words)) return it->second;
  }
  const auto number = static_cast<std::uint32_t>(store_.size() / stride_);
  store_.insert(store_.end(), words.begin(), words.end());
  numbers_.emplace(key, number);
  return number;
}

bool VectorPool::stored_at(std::uint32_t number,
                           const std::vector<std::uint64_t>& words) const noexcept {
  const std::size_t at = std::size_t{number} * stride_;
  return at + words.size() <= store_.size() &&
         std::equal(words.begin(), words.end(), store_.begin() + static_cast<std::ptrdiff_t>(at));
}

std::uint64_t VectorPool::hash(const std::vector<std::uint64_t>& words) noexcept {
  std::uint64_t h = words.size();
  for (const std::uint64_t word : words) {
    h = (h ^ word) * 0x9e3779b97f4a7c15U;  // odd, so nothing is lost
    h ^= h >> 32;                          // a product carries upwards only
  }
  return h;
}

}  // namespace vtap::plan
