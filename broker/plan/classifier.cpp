// SPDX-License-Identifier: Apache-2.0
#include "plan/classifier.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>

namespace vtap::plan {
namespace {

/// Bytes as a hash key; which value they make does not matter, only that equal ones are equal.
template <typename Key>
Key load(const std::uint8_t* bytes) noexcept {
  Key key;
  std::memcpy(&key, bytes, sizeof(key));
  return key;
}

template <typename LpmKey>
void insert_all(PrefixTrie& trie, const std::vector<std::pair<LpmKey, std::uint32_t>>& prefixes) {
  std::vector<const std::pair<LpmKey, std::uint32_t>*> by_length;
  by_length.reserve(prefixes.size());
  for (const auto& prefix : prefixes) by_length.push_back(&prefix);
  std::sort(by_length.begin(), by_length.end(),
            [](const auto* a, const auto* b) { return a->first.prefixlen < b->first.prefixlen; });
  for (const auto* prefix : by_length)
    trie.insert(prefix->first.addr, prefix->first.prefixlen, prefix->second);
}

/// Segments in which any bit is set, as their top bits (vtap/abi.h).
std::uint64_t any(std::uint64_t rules, std::uint64_t top) noexcept {
  return (rules | ((rules & ~top) + ~top)) & top;
}

}  // namespace

/// The vectors that a frame selects. Only dimensions in use add any.
struct Classifier::Selected {
  std::size_t count = 0;
  std::size_t either_count = 0;
  const std::uint64_t* all[VTAP_MAX_SELECTED];   ///< ANDed, the tap's among them
  const std::uint64_t* either[VTAP_MAX_EITHER];  ///< pairs: ORed, then ANDed

  /// What of all vectors `read` reads, put together: no branch depends on the frame.
  template <typename Read>
  [[nodiscard]] std::uint64_t combine(Read&& read) const noexcept {
    std::uint64_t result = read(all[0]);
    for (std::size_t i = 1; i < count; ++i) result &= read(all[i]);
    for (std::size_t i = 0; i < either_count; i += 2)
      result &= read(either[i]) | read(either[i + 1]);
    return result;
  }
};

Classifier::Classifier(const Tables& tables)
    : tables_(tables),
      segment_tops_(vector(tables.config.seg_top_class)),
      hosts4_(tables.hosts4.size()),
      hosts6_(tables.hosts6.size()),
      macs_(tables.macs.size()),
      prefixes6_(tables.config.default_addr) {
  for (const auto& [address, number] : tables.hosts4)
    hosts4_.insert(load<std::uint32_t>(address.data()), number);
  for (const auto& [address, number] : tables.hosts6)
    hosts6_.insert(load<Key128>(address.data()), number);
  for (const auto& [mac, number] : tables.macs)
    macs_.insert(load<std::uint64_t>(mac.data()), number);
  insert_all(prefixes6_, tables.prefixes6);
}

bool Classifier::classify(const vtap_key& key, std::uint32_t tap,
                          PolicySet& policies) const noexcept {
  policies.clear();
  if (tables_.config.match_words == 0) return false;
  Selected selected;
  select(selected, key, tap);
  return tables_.config.sum_words == 0 ? classify_flat(selected, policies)
                                       : classify_paged(selected, policies);
}

bool Classifier::classify_flat(const Selected& selected, PolicySet& policies) const noexcept {
  const std::uint32_t match_words = tables_.config.match_words;
  bool any_policy = false;
  for (std::uint32_t word = 0; word < match_words; ++word) {
    const auto rules = selected.combine([&](const std::uint64_t* v) { return v[word]; });
    if (rules == 0) continue;
    std::uint64_t excepted = 0;
    if (tables_.config.except_words != 0)
      excepted = selected.combine([&](const std::uint64_t* v) { return v[match_words + word]; });
    const std::uint64_t top = segment_tops_[word];
    const std::uint64_t bits = any(rules, top) & ~any(excepted, top);
    if (bits == 0) continue;
    policies.add(word, bits);
    any_policy = true;
  }
  return any_policy;
}

std::uint64_t Classifier::word(const std::uint64_t* vector, std::uint32_t word) const noexcept {
  std::uint32_t page = 0;
  std::memcpy(&page,
              reinterpret_cast<const std::byte*>(vector + tables_.config.sum_words) +
                  word / VTAP_PAGE_WORDS * sizeof(page),
              sizeof(page));
  return tables_.pages[std::size_t{page} * VTAP_PAGE_WORDS + word % VTAP_PAGE_WORDS];
}

/// Visits only the words in which every vector has a bit.
bool Classifier::classify_paged(const Selected& selected, PolicySet& policies) const noexcept {
  const std::uint32_t match_words = tables_.config.match_words;
  bool any_policy = false;
  for (std::uint32_t sum = 0; sum < tables_.config.sum_words; ++sum) {
    auto left = selected.combine([&](const std::uint64_t* v) { return v[sum]; });
    for (; left != 0; left &= left - 1) {
      const std::uint32_t at = sum * 64 + static_cast<std::uint32_t>(std::countr_zero(left));
      const auto rules = selected.combine([&](const std::uint64_t* v) { return word(v, at); });
      if (rules == 0) continue;
      std::uint64_t excepted = 0;
      if (tables_.config.except_words != 0)
        excepted =
            selected.combine([&](const std::uint64_t* v) { return word(v, match_words + at); });
      const std::uint64_t top = word(segment_tops_, at);
      const std::uint64_t bits = any(rules, top) & ~any(excepted, top);
      if (bits == 0) continue;
      policies.add(at, bits);
      any_policy = true;
    }
  }
  return any_policy;
}

void Classifier::select(Selected& to, const vtap_key& key, std::uint32_t tap) const noexcept {
  to.all[to.count++] = vector(tables_.taps[tap].tap_class);
  select_ends(to, VTAP_DIM_ADDR, [&](int end) {
    return class_of_address(end == VTAP_AS_SRC ? key.src : key.dst, key.family);
  });
  select_ends(to, VTAP_DIM_PORT, [&](int end) {
    return tables_.config.first_port +
           std::uint32_t{VTAP_ENDS} *
               tables_.fields->port[end == VTAP_AS_SRC ? key.sport : key.dport];
  });
  select_ends(to, VTAP_DIM_MAC, [&](int end) {
    return class_of_mac(end == VTAP_AS_SRC ? key.smac : key.dmac, key.mac != 0);
  });
  select_fields(to, key);
}

template <typename ClassOf>
void Classifier::select_ends(Selected& to, std::uint32_t dim, ClassOf&& class_of) const noexcept {
  const std::uint32_t ends = tables_.config.dims >> dim;
  for (const int end : {VTAP_AS_SRC, VTAP_AS_DST}) {
    if ((ends & (1U << end | VTAP_ENDS_EITHER)) == 0) continue;
    const std::uint32_t number = class_of(end);
    if ((ends & 1U << end) != 0) to.all[to.count++] = vector(number + end);
    if ((ends & VTAP_ENDS_EITHER) != 0)
      to.either[to.either_count++] = vector(number + VTAP_AS_EITHER);
  }
}

void Classifier::select_fields(Selected& to, const vtap_key& key) const noexcept {
  const auto select_field = [&](std::uint32_t dim, const std::uint16_t* class_of,
                                std::uint32_t value) {
    if ((tables_.config.dims & dim) != 0) to.all[to.count++] = vector(class_of[value]);
  };
  const vtap_fields& fields = *tables_.fields;
  select_field(VTAP_DIM_PROTO, fields.proto, key.proto);
  select_field(VTAP_DIM_VLAN, fields.vlan, key.vlan);
  select_field(VTAP_DIM_INNER_VLAN, fields.inner_vlan, key.inner_vlan);
  select_field(VTAP_DIM_ETHERTYPE, fields.ethertype, key.ethertype);
  select_field(VTAP_DIM_TCP_FLAGS, fields.tcp_flags, key.tcp_flags);
  select_field(VTAP_DIM_DSCP, fields.dscp, key.dscp);
  select_field(VTAP_DIM_FRAGMENT, fields.fragment, key.fragment);
  select_field(VTAP_DIM_LENGTH, fields.length, key.length);
}

std::uint32_t Classifier::class_of_address(const std::uint8_t* address,
                                           std::uint8_t family) const noexcept {
  if (family == VTAP_L3_IPV4) {
    if ((tables_.config.dims & VTAP_DIM_HOST4) != 0) {
      const std::uint32_t found = hosts4_.find(load<std::uint32_t>(address));
      if (found != hosts4_.kAbsent) return found;
    }
    return tables_.trie4.empty() ? tables_.config.default_addr
                                 : find_trie4(tables_.trie4.front(), tables_.trie4_blocks, address);
  }
  if (family == VTAP_L3_IPV6) {
    const std::uint32_t found = hosts6_.find(load<Key128>(address));
    return found != hosts6_.kAbsent ? found : prefixes6_.find(address);
  }
  return tables_.config.default_addr;
}

std::uint32_t Classifier::class_of_mac(const std::uint8_t* mac, bool valid) const noexcept {
  if (!valid) return tables_.config.default_mac;
  const std::uint32_t found = macs_.find(load<std::uint64_t>(mac));
  return found != macs_.kAbsent ? found : tables_.config.default_mac;
}

}  // namespace vtap::plan
