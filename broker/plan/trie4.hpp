// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vtap/abi.h>

#include <array>
#include <cstdint>
#include <vector>

namespace vtap::plan {

/// A prefix and the class of the addresses under it that no longer prefix covers.
struct Prefix4 {
  std::array<std::uint8_t, 4> bytes{};  ///< network order; bits behind the prefix are zero
  std::uint8_t length = 0;              ///< 0..32
  std::uint32_t number = 0;             ///< class
};

/// The arrays of vtap/abi.h.
struct Trie4 {
  std::vector<vtap_trie4_root> root;  ///< one
  std::vector<vtap_trie4_block> blocks;
};

/// `fallback`: class of addresses that no prefix covers. Prefixes in any order, each once.
Trie4 build_trie4(std::vector<Prefix4> prefixes, std::uint32_t fallback);

/// Class of an address; the same steps as in xdp/classify.bpf.h.
inline std::uint32_t find_trie4(const vtap_trie4_root& root,
                                const std::vector<vtap_trie4_block>& blocks,
                                const std::uint8_t* address) noexcept {
  std::uint32_t entry = root.entry[address[0] << 8 | address[1]];
  for (int byte = 2; (entry & VTAP_TRIE4_BLOCK) != 0; ++byte) {
    entry = blocks[entry & ~static_cast<std::uint32_t>(VTAP_TRIE4_BLOCK)].entry[address[byte]];
  }
  return entry;
}

}  // namespace vtap::plan
