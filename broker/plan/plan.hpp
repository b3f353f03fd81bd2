// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vtap/abi.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "config/config.hpp"
#include "vtap/result.hpp"

/// The immutable, compiled form of a config: what the kernel needs and what the pipeline needs.
namespace vtap::plan {

using Address6 = std::array<std::uint8_t, 16>;

/// Who serves a policy: the broker's workers, or the tap programs alone.
enum class Placement : std::uint8_t { broker, kernel };

/// Classification tables in the form that include/vtap/abi.h describes; the kernel maps and the C++
/// classifier are both filled from this one.
struct Tables {
  vtap_class_config config{};
  /// Vector c is stored in words [c * stride, (c + 1) * stride); flat plans: match_words +
  /// except_words of them (the seg_top vector uses only the first match_words).
  std::vector<std::uint64_t> vectors;
  std::vector<std::uint64_t> pages;     ///< of paged plans
  std::unique_ptr<vtap_fields> fields;  ///< never null
  std::vector<vtap_bucket4> buckets4;   ///< exact addresses that are not in the trie
  std::vector<vtap_trie4_root> trie4;   ///< one; none when nothing is in it
  std::vector<vtap_trie4_block> trie4_blocks;
  std::vector<std::pair<Address6, std::uint32_t>> hosts6;
  std::vector<std::pair<vtap_lpm6_key, std::uint32_t>> prefixes6;
  std::vector<std::pair<std::array<std::uint8_t, 8>, std::uint32_t>> macs;  ///< six bytes, two zero

  /// Per tap of the config.
  struct TapClass {
    std::uint32_t tap_class = 0;     ///< vector of the rules that apply there
    std::uint32_t broker_class = 0;  ///< those of them that are of policies of the broker
    bool match_all = false;          ///< a policy of the broker takes every frame of this tap
    bool match_none = false;         ///< no policy of the broker has this tap
    bool clones = false;             ///< a policy of the kernel has this tap
  };
  std::vector<TapClass> taps;

  /// Policy of every segment-top bit: policy_of_bit[word * 64 + bit]; other bits hold ~0u.
  std::vector<std::uint32_t> policy_of_bit;
  std::vector<Placement> placements;  ///< by policy

  std::vector<bool> judged;  ///< by policy: it has a filter that the kernel judges, too

  /// Segment-top bits of a policy: word, bits.
  using Tops = std::vector<std::pair<std::uint32_t, std::uint64_t>>;
  /// By policy, of the words below VTAP_EARLY_WORDS. Policies that the kernel tells apart, and that
  /// found no place there, have fewer bits here than segments.
  [[nodiscard]] std::vector<Tops> early_tops() const;

  [[nodiscard]] std::uint32_t vector_count() const noexcept {
    return config.stride == 0 ? 0 : static_cast<std::uint32_t>(vectors.size() / config.stride);
  }
  /// The page that holds a word of a paged vector, whose row is given.
  [[nodiscard]] const std::uint64_t* page(const std::uint64_t* row,
                                          std::uint32_t word) const noexcept {
    std::uint32_t number = 0;
    std::memcpy(&number,
                reinterpret_cast<const std::byte*>(row + config.sum_words) +
                    word / VTAP_PAGE_WORDS * sizeof(number),
                sizeof(number));
    return &pages[std::size_t{number} * VTAP_PAGE_WORDS];
  }
  /// Words [0, match_words) and then the except words of vector `number`.
  [[nodiscard]] std::uint64_t word_of(std::uint32_t number, std::uint32_t word) const noexcept;
  /// Bytes of all tables that grow with the policies; the kernel has them once more.
  [[nodiscard]] std::size_t bytes() const noexcept;
};

/// Compiles the policies of a config. Error: a limit of abi.h is exceeded; it names the limit.
/// `placements`: by policy; empty: the broker serves all.
Result<Tables> compile(const config::Config& config, std::vector<Placement> placements = {});

/// Plan for one config: the tables and the config they came from.
struct Plan {
  std::uint32_t generation = 1;
  config::Config config;
  Tables tables;
  /// By order of the ports over all taps: the number that programs and counters know each by.
  /// Empty: that order.
  std::vector<std::uint8_t> port_numbers;

  [[nodiscard]] std::uint8_t port_number(std::size_t order) const {
    return port_numbers.empty() ? static_cast<std::uint8_t>(order) : port_numbers[order];
  }
};

}  // namespace vtap::plan
