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

}  // namespace vtap::plan
