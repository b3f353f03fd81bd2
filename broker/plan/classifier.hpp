// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "plan/hash_table.hpp"
#include "plan/hit.hpp"
#include "plan/line_vector.hpp"
#include "plan/plan.hpp"
#include "plan/prefix_trie.hpp"
#include "plan/verdict_cache.hpp"

namespace vtap::plan {

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

  /// In place of a policy, where a bit is nobody's top bit.
  static constexpr std::uint32_t kNobody = ~0U;

  /// Words of the rules.
  [[nodiscard]] std::uint32_t words() const noexcept { return tables_.config.match_words; }

  /// Classes of the frames of a burst.
  using Numbers = std::array<std::uint32_t, kBurst>;
  /// Of a flat plan; one more, as each is written before it is known whether it counts.
  using FlatHits = std::array<Hit, kBurst * VTAP_FLAT_WORDS + 1>;

  /// What one thread needs room for; made once, with all the room that a burst can need. What was
  /// found for frames of late is in it as well, unless the plan is so small that finding it anew
  /// costs no more.
  class alignas(64) Scratch {
   public:
    /// `cached`: frames, see VerdictCache; 0: none.
    explicit Scratch(const Classifier& classifier, std::uint32_t cached = VerdictCache::kEntries);

   private:
    friend class Classifier;
    struct Visit {
      std::uint32_t frame, word;
    };

    /// What `read` reads of all vectors of a frame, put together.
    template <typename Read>
    [[nodiscard]] std::uint64_t combine(std::uint32_t frame, Read&& read) const noexcept {
      std::uint64_t result = read(all_[0][frame]);
      for (std::uint32_t v = 1; v < count_; ++v) result &= read(all_[v][frame]);
      for (std::uint32_t v = 0; v < either_count_; v += 2)
        result &= read(either_[v][frame]) | read(either_[v + 1][frame]);
      return result;
    }

    Numbers number_{};  ///< class of the key at hand, by frame
    /// The vectors that each frame selects, by frame. Only keys in use add any.
    std::array<std::array<const std::uint64_t*, kBurst>, VTAP_MAX_SELECTED> all_{};
    std::array<std::array<const std::uint64_t*, kBurst>, VTAP_MAX_EITHER> either_{};
    std::uint32_t count_ = 0;         ///< of all_: ANDed, the tap's among them
    std::uint32_t either_count_ = 0;  ///< pairs: ORed, then ANDed
    LineVector<Visit> visits_;        ///< words in which every vector of a frame has a bit
    LineVector<Hit> hits_;
    FlatHits flat_hits_;
    std::optional<VerdictCache> cache_;
    std::uint32_t asked_ = 0, known_ = 0;        ///< frames: of the cache, and it knew
    std::uint32_t unasked_ = 0;                  ///< frames for which it is not asked
    std::array<vtap_key, kBurst> unknown_keys_;  ///< of the frames that are not in it
    std::array<std::uint32_t, kBurst> unknown_taps_;
    std::array<std::uint32_t, kBurst> unknown_frames_;
  };

  /// The hits of a burst of at most kBurst frames, in any order; valid until the next call. `taps`:
  /// the tap of each, by index in the config; `keys` come from vtap_parse().
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

  /// The top bits of some policies, by word.
  template <typename IsWanted>
  [[nodiscard]] std::vector<std::uint64_t> tops_of(IsWanted&& is_wanted) const {
    std::vector<std::uint64_t> tops(words(), 0);
    for (std::size_t bit = 0; bit < tables_.policy_of_bit.size(); ++bit) {
      const std::uint32_t policy = tables_.policy_of_bit[bit];
      if (policy != kNobody && is_wanted(policy)) tops[bit / 64] |= std::uint64_t{1} << (bit % 64);
    }
    return tops;
  }

 private:
  using Keys = std::span<const vtap_key>;

  template <std::uint32_t Words>
  class FlatBurst;

  void find(Keys keys, std::span<const std::uint32_t> taps, Scratch& scratch) const noexcept;
  [[nodiscard]] std::span<const Hit> find_flat(Keys keys, std::span<const std::uint32_t> taps,
                                               FlatHits& hits) const noexcept;
  template <std::uint32_t Words>
  [[nodiscard]] std::span<const Hit> find_flat(Keys keys, std::span<const std::uint32_t> taps,
                                               FlatHits& hits) const noexcept;
  [[nodiscard]] static bool asks_cache(Scratch& scratch, std::size_t frames) noexcept;
  void find_unknown(std::uint64_t frames, Keys keys, std::span<const std::uint32_t> taps,
                    Scratch& scratch) const noexcept;
  void classify_addresses(Keys keys, int end, Numbers& number) const noexcept;
  void classify_ipv4(Keys keys, int end, Numbers& number) const noexcept;
  [[nodiscard]] std::uint32_t class_of_ipv6(const std::uint8_t* address) const noexcept;
  [[nodiscard]] std::uint32_t class_of_host4(const std::uint8_t* address) const noexcept;
  [[nodiscard]] std::uint32_t class_of_mac(const std::uint8_t* mac, bool valid) const noexcept;
  [[nodiscard]] const vtap_bucket4& bucket_of(const std::uint8_t* address) const noexcept;
  void walk_trie(Keys keys, int end, Numbers& number) const noexcept;

  [[nodiscard]] std::uint32_t ends_of(std::uint32_t dim) const noexcept {
    return tables_.config.dims >> dim & VTAP_ENDS_ANY;
  }
  template <typename ClassesOf>
  void select_ends(Scratch& to, std::size_t frames, std::uint32_t dim,
                   ClassesOf&& classes_of) const noexcept;
  void select_fields(Scratch& to, Keys keys) const noexcept;
  void select(Scratch& to, Keys keys, std::span<const std::uint32_t> taps) const noexcept;

  void match_paged(Scratch& scratch, std::size_t frames) const noexcept;
  void fetch_pages(const Scratch& scratch, std::size_t first, std::size_t end) const noexcept;
  template <typename WordOf>
  void match_word(Scratch& scratch, std::uint32_t frame, std::uint32_t word,
                  WordOf&& word_of) const noexcept;

  [[nodiscard]] const std::uint64_t* vector(std::uint32_t number) const noexcept {
    return tables_.vectors.data() + std::size_t{number} * tables_.config.stride;
  }
  void fetch_vector(const std::uint64_t* vector) const noexcept;

  const Tables& tables_;
  const std::uint64_t* segment_tops_;
  HashTable<Key128> hosts6_;
  HashTable<std::uint64_t> macs_;
  PrefixTrie prefixes6_;
};

}  // namespace vtap::plan
