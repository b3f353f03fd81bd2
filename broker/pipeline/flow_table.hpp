// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace vtap::pipeline {

/// A number that nobody outside this process knows: keys are hashed with it, so that nobody can
/// make many that meet in one set, or two that are one.
std::uint64_t random_seed();

/// A bounded table, shared by all workers, of one 64-bit word for each key: flows, hosts, packets.
/// Keys are hashes; two of them are taken for one with a probability of 2^-62.
///
/// Sets of eight slots of 16 bytes: the key's tag and its word, always changed together by one
/// compare-and-swap. So no change is lost, whoever makes it, and there is no lock. Where a set is
/// full, its most idle slot makes room; what that one held is forgotten.
class FlowTable {
 public:
  static constexpr std::size_t kWays = 8;

  /// Room for `entries` keys, > 0, rounded up to a power of two of sets.
  explicit FlowTable(std::uint32_t entries, std::uint64_t seed = random_seed())
      : sets_(std::bit_ceil((std::size_t{entries} + kWays - 1) / kWays)), seed_(seed) {}

  /// What keys have to be hashed with.
  [[nodiscard]] std::uint64_t seed() const noexcept { return seed_; }
  [[nodiscard]] std::size_t slots() const noexcept { return sets_.size() * kWays; }

  void prefetch(std::uint64_t hash) const noexcept { __builtin_prefetch(&set_of(hash), 1); }

  /// The key's word; nothing if it is not there.
  [[nodiscard]] std::optional<std::uint64_t> find(std::uint64_t hash) noexcept {
    const std::uint64_t key = key_of(hash);
    for (Slot& slot : set_of(hash)) {
      if (load(slot.tag) != key) continue;
      const std::uint64_t word = load(slot.word);
      if (load(slot.tag) == key) return word;  // else the slot changed hands in between
    }
    return std::nullopt;
  }

  /// Sets the key's word to change(its word, or nothing where it has none yet). `change` is called
  /// again when another worker was faster; the last call counts. Of a full set, the word with the
  /// largest idle(word) < 2^64 - 1 gives way.
  template <typename Change, typename Idle>
  void update(std::uint64_t hash, Change&& change, Idle&& idle) noexcept {
    const std::uint64_t key = key_of(hash);
    Set& set = set_of(hash);
    while (!change_present(set, key, change) && !insert(set, key, change, idle)) {
    }
  }

 private:
  struct alignas(16) Slot {
    std::uint64_t tag = 0;
    std::uint64_t word = 0;
  };
  struct alignas(128) Set : std::array<Slot, kWays> {};

  // Tags: 0 is a free slot; else the hash with kInUse, and with kSettled unless it is a claim.
  static constexpr std::uint64_t kSettled = 1;
  static constexpr std::uint64_t kInUse = 2;

  static std::uint64_t key_of(std::uint64_t hash) noexcept { return hash | kSettled | kInUse; }
  Set& set_of(std::uint64_t hash) noexcept { return sets_[hash >> 2 & (sets_.size() - 1)]; }
  [[nodiscard]] const Set& set_of(std::uint64_t hash) const noexcept {
    return sets_[hash >> 2 & (sets_.size() - 1)];
  }

  /// A half alone, though others swap the whole: ISO C++ does not say what that is; the compilers
  /// and machines that this is for make it an ordinary load of eight bytes.
  static std::uint64_t load(std::uint64_t& half) noexcept {
    return std::atomic_ref(half).load(std::memory_order_seq_cst);
  }
  /// The halves may be of two moments: then the swap that this is for fails.
  static Slot read(Slot& slot) noexcept { return {load(slot.tag), load(slot.word)}; }
  /// On failure `expected` is what is there.
  static bool swap(Slot& slot, Slot& expected, Slot desired) noexcept {
    return std::atomic_ref(slot).compare_exchange_strong(expected, desired,
                                                         std::memory_order_seq_cst);
  }

  /// False: the key is not there.
  template <typename Change>
  static bool change_present(Set& set, std::uint64_t key, Change& change) noexcept {
    for (Slot& slot : set) {
      if (load(slot.tag) != key) continue;
      Slot seen = read(slot);
      while (seen.tag == key) {
        if (swap(slot, seen, {key, change(std::optional(seen.word))})) return true;
      }
    }
    return false;
  }

  /// A key must never have two slots. So a slot is claimed first, and whoever meets another's claim
  /// to the same key takes it away: of several at once at most one gets to settle, and all others
  /// begin anew (after Purcell and Harris, Non-blocking Hashtables with Open Addressing, 2005).
  /// False: begin anew.
  template <typename Change, typename Idle>
  bool insert(Set& set, std::uint64_t key, Change& change, Idle& idle) noexcept {
    // The number makes a claim unlike all others, also of this key.
    Slot claim{key & ~kSettled, claims_.fetch_add(1, std::memory_order_relaxed)};
    Victim victim = most_idle(set, idle);
    Slot& mine = *victim.slot;
    if (victim.seen.tag == key || !swap(mine, victim.seen, claim)) return false;
    for (Slot& other : set) {
      if (&other == &mine) continue;
      Slot seen = read(other);
      while (seen.tag == claim.tag && !swap(other, seen, {})) {
      }
      if (seen.tag != key) continue;
      swap(mine, claim, {});
      return false;
    }
    return swap(mine, claim, {key, change(std::optional<std::uint64_t>())});
  }

  struct Victim {
    Slot* slot;
    Slot seen;
  };

  /// A free slot, else the most idle one; another's claim only where there is nothing else.
  template <typename Idle>
  static Victim most_idle(Set& set, Idle& idle) noexcept {
    Victim victim{&set[0], read(set[0])};
    std::uint64_t most = 0;
    for (Slot& slot : set) {
      const Slot seen = read(slot);
      if (seen.tag == 0) return {&slot, seen};
      if ((seen.tag & kSettled) == 0) continue;
      const std::uint64_t idleness = idle(seen.word) + 1;
      if (idleness <= most) continue;
      victim = {&slot, seen};
      most = idleness;
    }
    return victim;
  }

  std::vector<Set> sets_;
  std::uint64_t seed_;
  alignas(64) std::atomic<std::uint64_t> claims_{0};
};

}  // namespace vtap::pipeline
