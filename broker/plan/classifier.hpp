// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "plan/hash_table.hpp"
#include "plan/plan.hpp"
#include "plan/prefix_trie.hpp"
#include "plan/trie4.hpp"

namespace vtap::plan {

/// A set of policies as a classification yields it: the top bits of their segments, by word.
/// Emptied in the time that its content takes, not its capacity.
class PolicySet {
 public:
  explicit PolicySet(std::uint32_t words) : words_(words, 0), used_((words + 63) / 64, 0) {}

  void clear() noexcept {
    for_each_word([&](std::uint32_t word, std::uint64_t) { words_[word] = 0; });
    std::ranges::fill(used_, 0);
  }
  void add(std::uint32_t word, std::uint64_t bits) noexcept {
    words_[word] |= bits;
    used_[word / 64] |= std::uint64_t{1} << (word % 64);
  }
  /// Words with an index below words() of the classifier.
  [[nodiscard]] std::uint64_t operator[](std::uint32_t word) const noexcept { return words_[word]; }

  /// Calls `visit(word, bits)` for every word with bits.
  template <typename Visit>
  void for_each_word(Visit&& visit) const {
    for (std::uint32_t i = 0; i < used_.size(); ++i) {
      for (std::uint64_t rest = used_[i]; rest != 0; rest &= rest - 1) {
        const auto word = i * 64 + static_cast<std::uint32_t>(std::countr_zero(rest));
        visit(word, words_[word]);
      }
    }
  }

 private:
  std::vector<std::uint64_t> words_, used_;
};

/// Which policies take a frame: the algorithm of vtap/abi.h over tables made for user space. It is
/// xdp/classify.bpf.h in C++, and agrees with it bit by bit. Immutable once built, so any number of
/// workers may share one.
class Classifier {
 public:
  /// Keeps references into `tables`, which must outlive the classifier and not change.
  explicit Classifier(const Tables& tables);

  /// Words of a policy set.
  [[nodiscard]] std::uint32_t words() const noexcept { return tables_.config.match_words; }

  /// Makes `policies`, which has room for words(), the set of those that take the frame. `tap` is
  /// the tap's index in the config, `key` comes from vtap_parse(). Returns whether there are any.
  bool classify(const vtap_key& key, std::uint32_t tap, PolicySet& policies) const noexcept;

  /// Calls `visit(policy)` for every policy with a bit in a word of such a set, in no order; more
  /// than once for one that has several segments.
  template <typename Visit>
  void for_each_policy(std::uint32_t word, std::uint64_t bits, Visit&& visit) const {
    for (; bits != 0; bits &= bits - 1)
      visit(tables_.policy_of_bit[word * 64 + static_cast<std::uint32_t>(std::countr_zero(bits))]);
  }

 private:
  struct Selected;

  template <typename ClassOf>
  void select_ends(Selected& to, std::uint32_t dim, ClassOf&& class_of) const noexcept;
  void select_fields(Selected& to, const vtap_key& key) const noexcept;
  void select(Selected& to, const vtap_key& key, std::uint32_t tap) const noexcept;

  [[nodiscard]] std::uint32_t class_of_address(const std::uint8_t* address,
                                               std::uint8_t family) const noexcept;
  [[nodiscard]] std::uint32_t class_of_mac(const std::uint8_t* mac, bool valid) const noexcept;
  [[nodiscard]] const std::uint64_t* vector(std::uint32_t number) const noexcept {
    return tables_.vectors.data() + std::size_t{number} * tables_.stride;
  }
  [[nodiscard]] std::uint64_t word(const std::uint64_t* vector, std::uint32_t word) const noexcept;
  [[nodiscard]] bool classify_flat(const Selected& selected, PolicySet& policies) const noexcept;
  [[nodiscard]] bool classify_paged(const Selected& selected, PolicySet& policies) const noexcept;

  const Tables& tables_;
  const std::uint64_t* segment_tops_;
  HashTable<std::uint64_t> hosts4_;
  HashTable<Key128> hosts6_;
  HashTable<std::uint64_t> macs_;
  PrefixTrie prefixes6_;
};

}  // namespace vtap::plan
