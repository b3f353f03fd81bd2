// SPDX-License-Identifier: Apache-2.0
#include "plan/prefix_trie.hpp"

#include <algorithm>

namespace vtap::plan {

std::uint32_t PrefixTrie::add_node(std::uint32_t number) {
  const auto node = static_cast<std::uint32_t>(entries_.size());
  entries_.resize(entries_.size() + kFanOut, number);
  return node;
}

void PrefixTrie::insert(const std::uint8_t* bits, std::uint32_t length, std::uint32_t number) {
  std::uint32_t node = 0;
  for (; length > 8; length -= 8, ++bits) {
    const std::uint32_t at = node + *bits;
    if ((entries_[at] & kChild) == 0) {
      const std::uint32_t child = add_node(entries_[at]);
      entries_[at] = child | kChild;
    }
    node = entries_[at] & ~kChild;
  }
  const std::uint32_t first = node + (length == 0 ? 0 : *bits);
  std::fill_n(entries_.begin() + first, kFanOut >> length, number);
}

}  // namespace vtap::plan
