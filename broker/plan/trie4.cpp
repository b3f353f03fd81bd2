// SPDX-License-Identifier: Apache-2.0
#include "plan/trie4.hpp"

#include <algorithm>
#include <span>

namespace vtap::plan {
namespace {

constexpr std::uint32_t kBlock = VTAP_TRIE4_BLOCK;

class Builder {
 public:
  explicit Builder(std::uint32_t fallback) : trie_{std::vector<vtap_trie4_root>(1), {}} {
    std::ranges::fill(trie_.root[0].entry, fallback);
  }

  /// Shorter prefixes first: an entry that is overwritten is never a block.
  void insert(const Prefix4& prefix) {
    const auto& at = prefix.bytes;
    const std::uint32_t first = static_cast<std::uint32_t>(at[0]) << 8 | at[1];
    if (prefix.length <= 16) return fill(trie_.root[0].entry, first, 16 - prefix.length, prefix);
    const std::uint32_t second = block_of(trie_.root[0].entry[first]);
    if (prefix.length <= 24) return fill(entries(second), at[2], 24 - prefix.length, prefix);
    // By value: making a block may move the one that names it.
    std::uint32_t entry = entries(second)[at[2]];
    const std::uint32_t third = block_of(entry);
    entries(second)[at[2]] = entry;
    fill(entries(third), at[3], 32 - prefix.length, prefix);
  }

  Trie4 take() { return std::move(trie_); }

 private:
  std::span<__u32> entries(std::uint32_t block) { return trie_.blocks[block].entry; }

  static void fill(std::span<__u32> entries, std::uint32_t first, int free_bits,
                   const Prefix4& prefix) {
    std::ranges::fill(entries.subspan(first, std::size_t{1} << free_bits), prefix.number);
  }

  /// The block behind an entry; made, with the entry's class throughout, where there is none.
  std::uint32_t block_of(__u32& entry) {
    if ((entry & kBlock) == 0) {
      const auto number = static_cast<std::uint32_t>(trie_.blocks.size());
      std::ranges::fill(trie_.blocks.emplace_back().entry, entry);
      entry = number | kBlock;
    }
    return entry & ~kBlock;
  }

  Trie4 trie_;
};

}  // namespace

Trie4 build_trie4(std::vector<Prefix4> prefixes, std::uint32_t fallback) {
  std::ranges::stable_sort(prefixes, {}, &Prefix4::length);
  Builder builder(fallback);
  for (const Prefix4& prefix : prefixes) builder.insert(prefix);
  return builder.take();
}

}  // namespace vtap::plan
