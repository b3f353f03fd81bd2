// SPDX-License-Identifier: Apache-2.0
// Plans of at most VTAP_FLAT_WORDS words, whose vectors are a register or two: each key takes from
// every frame's rules what it does not satisfy. No step has a branch that a frame decides, so the
// reads of many frames are under way at the same time.
#include <algorithm>
#include <array>
#include <cstring>

#include "plan/classifier.hpp"
#include "plan/segments.hpp"

namespace vtap::plan {
namespace {

/// A vector as it is stored, match words and then except words.
template <std::uint32_t Words>
struct Rules {
  std::array<std::uint64_t, Words> word;
};

template <std::uint32_t Words>
Rules<Words> load(const std::uint64_t* vectors, std::size_t number) noexcept {
  Rules<Words> rules;
  std::memcpy(&rules, vectors + number * Words, sizeof(rules));
  return rules;
}

template <std::uint32_t Words>
Rules<Words> operator|(Rules<Words> a, const Rules<Words>& b) noexcept {
  for (std::uint32_t w = 0; w < Words; ++w) a.word[w] |= b.word[w];
  return a;
}

template <std::uint32_t Words>
Rules<Words> operator&(Rules<Words> a, const Rules<Words>& b) noexcept {
  for (std::uint32_t w = 0; w < Words; ++w) a.word[w] &= b.word[w];
  return a;
}

}  // namespace

/// The rules that each frame of a burst still satisfies, key by key.
template <std::uint32_t Words>
class Classifier::FlatBurst {
 public:
  FlatBurst(const Classifier& classifier, Keys keys) noexcept
      : classifier_(classifier),
        tables_(classifier.tables_),
        vectors_(tables_.vectors.data()),
        keys_(keys) {}

  void start(std::span<const std::uint32_t> taps) noexcept {
    for (std::size_t i = 0; i < keys_.size(); ++i)
      rules_[i] = load<Words>(vectors_, tables_.taps[taps[i]].tap_class);
  }

  void match_addresses() noexcept {
    match_ends(VTAP_DIM_ADDR, [&](int end, Numbers& number) {
      classifier_.classify_addresses(keys_, end, number);
    });
  }

  void match_ports() noexcept {
    const std::uint16_t* const port = tables_.fields->port;
    const std::uint32_t first = tables_.config.first_port;
    match_ends(VTAP_DIM_PORT, [&](int end, Numbers& number) {
      const auto value = end == VTAP_AS_SRC ? &vtap_key::sport : &vtap_key::dport;
      for (std::size_t i = 0; i < keys_.size(); ++i)
        number[i] = first + std::uint32_t{VTAP_ENDS} * port[keys_[i].*value];
    });
  }

  void match_macs() noexcept {
    match_ends(VTAP_DIM_MAC, [&](int end, Numbers& number) {
      for (std::size_t i = 0; i < keys_.size(); ++i)
        number[i] = classifier_.class_of_mac(end == VTAP_AS_SRC ? keys_[i].smac : keys_[i].dmac,
                                             keys_[i].mac != 0);
    });
  }

  template <typename Value>
  void match_field(std::uint32_t dim, const std::uint16_t* class_of, Value value) noexcept {
    if ((tables_.config.dims & dim) == 0) return;
    for (std::size_t i = 0; i < keys_.size(); ++i)
      rules_[i] = rules_[i] & load<Words>(vectors_, class_of[keys_[i].*value]);
  }

  /// Frames in order, of each its words in order. Returns how many hits.
  std::size_t finish(Hit* hits) const noexcept {
    const bool has_excepts = tables_.config.except_words != 0;
    const std::uint32_t words = has_excepts ? Words / 2 : Words;
    std::size_t count = 0;
    for (std::uint32_t i = 0; i < keys_.size(); ++i) {
      for (std::uint32_t word = 0; word < words; ++word) {
        const std::uint64_t top = classifier_.segment_tops_[word];
        std::uint64_t bits = any_of_segments(rules_[i].word[word], top);
        if (has_excepts) bits &= ~any_of_segments(rules_[i].word[words + word], top);
        hits[count] = {i, word, bits};
        count += bits != 0 ? 1 : 0;
      }
    }
    return count;
  }

 private:
  /// `classes_of(end, numbers)` fills in the class of that end's value, of each frame.
  template <typename ClassesOf>
  void match_ends(std::uint32_t dim, ClassesOf&& classes_of) noexcept {
    const std::uint32_t ends = classifier_.ends_of(dim);
    if (ends == 0) return;
    Numbers src, dst;
    if ((ends & (VTAP_ENDS_SRC | VTAP_ENDS_EITHER)) != 0) classes_of(VTAP_AS_SRC, src);
    if ((ends & (VTAP_ENDS_DST | VTAP_ENDS_EITHER)) != 0) classes_of(VTAP_AS_DST, dst);
    const auto match = [&](const Numbers& number, std::uint32_t as) {
      for (std::size_t i = 0; i < keys_.size(); ++i)
        rules_[i] = rules_[i] & load<Words>(vectors_, number[i] + as);
    };
    if ((ends & VTAP_ENDS_SRC) != 0) match(src, VTAP_AS_SRC);
    if ((ends & VTAP_ENDS_DST) != 0) match(dst, VTAP_AS_DST);
    if ((ends & VTAP_ENDS_EITHER) == 0) return;
    for (std::size_t i = 0; i < keys_.size(); ++i)
      rules_[i] = rules_[i] & (load<Words>(vectors_, src[i] + VTAP_AS_EITHER) |
                               load<Words>(vectors_, dst[i] + VTAP_AS_EITHER));
  }

  const Classifier& classifier_;
  const Tables& tables_;
  const std::uint64_t* vectors_;
  Keys keys_;
  std::array<Rules<Words>, kBurst> rules_;
};

template <std::uint32_t Words>
std::span<const Hit> Classifier::find_flat(Keys keys, std::span<const std::uint32_t> taps,
                                           FlatHits& hits) const noexcept {
  FlatBurst<Words> burst(*this, keys);
  burst.start(taps);
  burst.match_addresses();
  burst.match_ports();
  burst.match_macs();
  const vtap_fields& fields = *tables_.fields;
  burst.match_field(VTAP_DIM_PROTO, fields.proto, &vtap_key::proto);
  burst.match_field(VTAP_DIM_VLAN, fields.vlan, &vtap_key::vlan);
  burst.match_field(VTAP_DIM_INNER_VLAN, fields.inner_vlan, &vtap_key::inner_vlan);
  burst.match_field(VTAP_DIM_ETHERTYPE, fields.ethertype, &vtap_key::ethertype);
  burst.match_field(VTAP_DIM_TCP_FLAGS, fields.tcp_flags, &vtap_key::tcp_flags);
  burst.match_field(VTAP_DIM_DSCP, fields.dscp, &vtap_key::dscp);
  burst.match_field(VTAP_DIM_FRAGMENT, fields.fragment, &vtap_key::fragment);
  burst.match_field(VTAP_DIM_LENGTH, fields.length, &vtap_key::length);
  return {hits.data(), burst.finish(hits.data())};
}

std::span<const Hit> Classifier::find_flat(Keys keys, std::span<const std::uint32_t> taps,
                                           FlatHits& hits) const noexcept {
  switch (tables_.config.stride) {
    case 1:
      return find_flat<1>(keys, taps, hits);
    case 2:
      return find_flat<2>(keys, taps, hits);
    default:
      return find_flat<4>(keys, taps, hits);
  }
}

}  // namespace vtap::plan
