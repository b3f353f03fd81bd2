// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "plan/hash_table.hpp"
#include "plan/plan.hpp"
#include "plan/prefix_trie.hpp"

namespace vtap::plan {

/// Frames that are classified together, at most.
inline constexpr std::uint32_t kBurst = 64;

/// Policies that take a frame, of one word of the rules: the top bits of their segments. A frame
/// has a hit for each word with any.
struct Hit {
  std::uint32_t frame;  ///< index in the burst
  std::uint32_t word;
  std::uint64_t bits;
};

/// Which policies take the frames of a burst: the algorithm of vtap/abi.h over tables made for user
/// space. It is xdp/classify.bpf.h in C++, and agrees with it bit by bit. Immutable once built, so
/// any number of workers may share one.
///
/// A burst goes through it step by step, all frames through each: so what a step reads can be
/// fetched for all of them before the first one needs it.
class Classifier {
 public:
  /// Keeps references into `tables`, which must outlive the classifier and not change.
  explicit Classifier(const Tables& tables);

  /// Words of the rules.
  [[nodiscard]] std::uint32_t words() const noexcept { return tables_.config.match_words; }

  /// What one thread needs room for; made once, with all the room that a burst can need.
  class Scratch {
   public:
    explicit Scratch(const Classifier& classifier);

   private:
    friend class Classifier;
    struct Visit {
      std::uint32_t frame, word;
    };

    std::array<std::uint32_t, kBurst> number_{};  ///< class of the key at hand, by frame
    /// The vectors that each frame selects, by frame. Only keys in use add any.
    std::array<std::array<const std::uint64_t*, kBurst>, VTAP_MAX_SELECTED> all_{};
    std::array<std::array<const std::uint64_t*, kBurst>, VTAP_MAX_EITHER> either_{};
    std::uint32_t count_ = 0;         ///< of all_: ANDed, the tap's among them
    std::uint32_t either_count_ = 0;  ///< pairs: ORed, then ANDed
    std::vector<Visit> visits_;       ///< words in which every vector of a frame has a bit
    std::vector<Hit> hits_;
  };

  /// The hits of a burst of at most kBurst frames, in order of the frames; valid until the next
  /// call. `taps`: the tap of each, by index in the config; `keys` come from vtap_parse().
  std::span<const Hit> classify(std::span<const vtap_key> keys, std::span<const std::uint32_t> taps,
                                Scratch& scratch) const noexcept;

  /// Calls `visit(policy)` for every policy of a hit; more than once, over the hits of a frame, for
  /// one that has several segments.
  template <typename Visit>
  void for_each_policy(const Hit& hit, Visit&& visit) const {
    for (std::uint64_t bits = hit.bits; bits != 0; bits &= bits - 1) {
      visit(tables_
                .policy_of_bit[hit.word * 64 + static_cast<std::uint32_t>(std::countr_zero(bits))]);
    }
  }

 private:
  using Keys = std::span<const vtap_key>;

  void classify_addresses(Keys keys, int end, Scratch& scratch) const noexcept;
  void classify_ipv4(Keys keys, int end, Scratch& scratch) const noexcept;
  [[nodiscard]] std::uint32_t class_of_ipv6(const std::uint8_t* address) const noexcept;
  [[nodiscard]] std::uint32_t class_of_host4(const std::uint8_t* address) const noexcept;
  [[nodiscard]] std::uint32_t class_of_mac(const std::uint8_t* mac, bool valid) const noexcept;
  [[nodiscard]] const vtap_bucket4& bucket_of(const std::uint8_t* address) const noexcept;
  [[nodiscard]] const std::uint32_t& trie_root(const std::uint8_t* address) const noexcept;
  [[nodiscard]] const std::uint32_t& trie_step(const std::uint32_t& entry,
                                               std::uint8_t bits) const noexcept;

  [[nodiscard]] std::uint32_t ends_of(std::uint32_t dim) const noexcept {
    return tables_.config.dims >> dim & VTAP_ENDS_ANY;
  }
  template <typename ClassesOf>
  void select_ends(Scratch& to, std::size_t frames, std::uint32_t dim,
                   ClassesOf&& classes_of) const noexcept;
  void select_fields(Scratch& to, Keys keys) const noexcept;
  void select(Scratch& to, Keys keys, std::span<const std::uint32_t> taps) const noexcept;

  void match_flat(Scratch& scratch, std::size_t frames) const noexcept;
  void match_paged(Scratch& scratch, std::size_t frames) const noexcept;
  void fetch_pages(const Scratch& scratch, std::size_t first, std::size_t end) const noexcept;
  void visit(Scratch& scratch, std::size_t first, std::size_t end) const noexcept;

  [[nodiscard]] const std::uint64_t* vector(std::uint32_t number) const noexcept {
    return tables_.vectors.data() + std::size_t{number} * tables_.stride;
  }
  /// The page that holds a word of a paged vector.
  [[nodiscard]] const std::uint64_t* page(const std::uint64_t* vector,
                                          std::uint32_t word) const noexcept;
  void fetch_vector(const std::uint64_t* vector) const noexcept;

  const Tables& tables_;
  const std::uint64_t* segment_tops_;
  HashTable<Key128> hosts6_;
  HashTable<std::uint64_t> macs_;
  PrefixTrie prefixes6_;
};

}  // namespace vtap::plan
