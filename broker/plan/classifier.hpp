// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

#include "plan/hash_table.hpp"
#include "plan/plan.hpp"
#include "plan/prefix_trie.hpp"
#include "plan/trie4.hpp"

namespace vtap::plan {

/// Which policies take a frame: the algorithm of vtap/abi.h over tables made for user space. It is
/// xdp/classify.bpf.h in C++, and agrees with it bit by bit. Immutable once built, so any number of
/// workers may share one.
class Classifier {
 public:
  /// Keeps references into `tables`, which must outlive the classifier and not change.
  explicit Classifier(const Tables& tables);

  /// Words of a policy set.
  [[nodiscard]] std::uint32_t words() const noexcept { return tables_.config.match_words; }

  /// Writes words() words to `policies`: a bit at the segment top for each policy that takes the
  /// frame. `tap` is the tap's index in the config, `key` comes from vtap_parse(). Returns whether
  /// any policy does.
  bool classify(const vtap_key& key, std::uint32_t tap, std::uint64_t* policies) const noexcept;

  /// Calls `visit(policy)` for every policy of such a set, once, in file order.
  template <typename Visit>
  void for_each_policy(const std::uint64_t* policies, Visit&& visit) const {
    std::uint32_t previous = ~0U;  // a policy with several segments has them side by side
    for (std::uint32_t word = 0; word < words(); ++word) {
      for (std::uint64_t rest = policies[word]; rest != 0; rest &= rest - 1) {
        const auto bit = static_cast<std::uint32_t>(std::countr_zero(rest));
        const std::uint32_t policy = tables_.policy_of_bit[word * 64 + bit];
        if (policy != previous) visit(policy);
        previous = policy;
      }
    }
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
    return tables_.vectors.data() + std::size_t{number} * tables_.stride();
  }

  const Tables& tables_;
  const std::uint64_t* segment_tops_;
  HashTable<std::uint64_t> hosts4_;
  HashTable<Key128> hosts6_;
  HashTable<std::uint64_t> macs_;
  PrefixTrie prefixes6_;
};

}  // namespace vtap::plan
