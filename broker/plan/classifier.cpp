// SPDX-License-Identifier: Apache-2.0
#include "plan/classifier.hpp"

#include <vtap/parse.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "plan/segments.hpp"

namespace vtap::plan {
namespace {

constexpr std::size_t kLineWords = 8;
/// Words that are visited together: what they read is fetched first, and fits the L1 cache.
constexpr std::size_t kVisits = 32;

/// Frames after which it is asked whether the cache pays.
constexpr std::uint32_t kTrial = 4096;

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

const std::uint8_t* address_at(const vtap_key& key, int end) noexcept {
  return end == VTAP_AS_SRC ? key.src : key.dst;
}

}  // namespace

Classifier::Classifier(const Tables& tables)
    : tables_(tables),
      segment_tops_(vector(tables.config.seg_top_class)),
      hosts6_(tables.hosts6.size()),
      macs_(tables.macs.size()),
      prefixes6_(tables.config.default_addr) {
  for (const auto& [address, number] : tables.hosts6)
    hosts6_.insert(load<Key128>(address.data()), number);
  for (const auto& [mac, number] : tables.macs)
    macs_.insert(load<std::uint64_t>(mac.data()), number);
  insert_all(prefixes6_, tables.prefixes6);
}

Classifier::Scratch::Scratch(const Classifier& classifier, std::uint32_t cached) {
  const std::size_t most = std::size_t{kBurst} * classifier.words();
  visits_.reserve(most);
  hits_.reserve(std::max(most, std::size_t{kBurst} * VerdictCache::kMostNumbers));
  const vtap_class_config& config = classifier.tables_.config;
  if (cached != 0 && config.sum_words != 0) cache_.emplace(std::span(config.key_mask), cached);
}

std::span<const Hit> Classifier::classify(Keys keys, std::span<const std::uint32_t> taps,
                                          Scratch& scratch) const noexcept {
  scratch.hits_.clear();
  if (tables_.config.match_words == 0) return {};
  if (tables_.config.sum_words == 0) return find_flat(keys, taps, scratch.flat_hits_);
  if (!scratch.cache_ || !asks_cache(scratch, keys.size())) {
    find(keys, taps, scratch);
    return scratch.hits_;
  }
  const std::uint64_t unknown = scratch.cache_->look_up(keys, taps, scratch.hits_);
  scratch.known_ +=
      static_cast<std::uint32_t>(keys.size()) - static_cast<std::uint32_t>(std::popcount(unknown));
  if (unknown != 0) find_unknown(unknown, keys, taps, scratch);
  return scratch.hits_;
}

/// Where most frames are of new flows the cache only costs: then it is asked for every fifth.
bool Classifier::asks_cache(Scratch& scratch, std::size_t frames) noexcept {
  const auto count = static_cast<std::uint32_t>(frames);
  if (scratch.unasked_ >= count) {
    scratch.unasked_ -= count;
    return false;
  }
  scratch.asked_ += count;
  if (scratch.asked_ < kTrial) return true;
  if (scratch.known_ < kTrial / 8) scratch.unasked_ = 4 * kTrial;
  scratch.asked_ = scratch.known_ = 0;
  return true;
}

/// Appends the hits of these frames, frame by frame. Of a paged plan.
void Classifier::find(Keys keys, std::span<const std::uint32_t> taps,
                      Scratch& scratch) const noexcept {
  select(scratch, keys, taps);
  match_paged(scratch, keys.size());
}

/// The same of some frames of a burst, and keeps them in the cache.
void Classifier::find_unknown(std::uint64_t frames, Keys keys, std::span<const std::uint32_t> taps,
                              Scratch& scratch) const noexcept {
  std::uint32_t count = 0;
  for (; frames != 0; frames &= frames - 1) {
    const auto frame = static_cast<std::uint32_t>(std::countr_zero(frames));
    scratch.unknown_frames_[count] = frame;
    scratch.unknown_keys_[count] = keys[frame];
    scratch.unknown_taps_[count++] = taps[frame];
  }
  std::size_t first = scratch.hits_.size();
  find(std::span(scratch.unknown_keys_).first(count), std::span(scratch.unknown_taps_).first(count),
       scratch);
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t frame = scratch.unknown_frames_[i];
    std::size_t end = first;
    for (; end < scratch.hits_.size() && scratch.hits_[end].frame == i; ++end) {
    }
    scratch.cache_->store(frame, std::span(scratch.hits_).subspan(first, end - first));
    for (; first < end; ++first) scratch.hits_[first].frame = frame;
  }
}

// ---- from the keys of a frame to its vectors

void Classifier::fetch_vector(const std::uint64_t* vector) const noexcept {
  __builtin_prefetch(vector);
  if (tables_.config.stride > kLineWords) __builtin_prefetch(vector + kLineWords);
}

void Classifier::select(Scratch& to, Keys keys,
                        std::span<const std::uint32_t> taps) const noexcept {
  to.count_ = 0;
  to.either_count_ = 0;
  auto& of_tap = to.all_[to.count_++];
  for (std::size_t i = 0; i < keys.size(); ++i) of_tap[i] = vector(tables_.taps[taps[i]].tap_class);
  select_ends(to, keys.size(), VTAP_DIM_ADDR,
              [&](int end) { classify_addresses(keys, end, to.number_); });
  select_ends(to, keys.size(), VTAP_DIM_PORT, [&](int end) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const std::uint32_t port = end == VTAP_AS_SRC ? keys[i].sport : keys[i].dport;
      to.number_[i] =
          tables_.config.first_port + std::uint32_t{VTAP_ENDS} * tables_.fields->port[port];
    }
  });
  select_ends(to, keys.size(), VTAP_DIM_MAC, [&](int end) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const auto* const mac = end == VTAP_AS_SRC ? keys[i].smac : keys[i].dmac;
      to.number_[i] = class_of_mac(mac, keys[i].mac != 0);
    }
  });
  select_fields(to, keys);
}

/// `classes_of(end)` leaves the class of that end's value in number_, of each frame.
template <typename ClassesOf>
void Classifier::select_ends(Scratch& to, std::size_t frames, std::uint32_t dim,
                             ClassesOf&& classes_of) const noexcept {
  const std::uint32_t ends = ends_of(dim);
  const auto take = [&](auto& vectors, int as) {
    for (std::size_t i = 0; i < frames; ++i) {
      vectors[i] = vector(to.number_[i] + static_cast<std::uint32_t>(as));
      fetch_vector(vectors[i]);
    }
  };
  for (const int end : {VTAP_AS_SRC, VTAP_AS_DST}) {
    if ((ends & (1U << end | VTAP_ENDS_EITHER)) == 0) continue;
    classes_of(end);
    if ((ends & 1U << end) != 0) take(to.all_[to.count_++], end);
    if ((ends & VTAP_ENDS_EITHER) != 0) take(to.either_[to.either_count_++], VTAP_AS_EITHER);
  }
}

void Classifier::select_fields(Scratch& to, Keys keys) const noexcept {
  const auto select_field = [&](std::uint32_t dim, const std::uint16_t* class_of, auto value) {
    if ((tables_.config.dims & dim) == 0) return;
    auto& vectors = to.all_[to.count_++];
    for (std::size_t i = 0; i < keys.size(); ++i) {
      vectors[i] = vector(class_of[keys[i].*value]);
      fetch_vector(vectors[i]);
    }
  };
  const vtap_fields& fields = *tables_.fields;
  select_field(VTAP_DIM_PROTO, fields.proto, &vtap_key::proto);
  select_field(VTAP_DIM_VLAN, fields.vlan, &vtap_key::vlan);
  select_field(VTAP_DIM_INNER_VLAN, fields.inner_vlan, &vtap_key::inner_vlan);
  select_field(VTAP_DIM_ETHERTYPE, fields.ethertype, &vtap_key::ethertype);
  select_field(VTAP_DIM_TCP_FLAGS, fields.tcp_flags, &vtap_key::tcp_flags);
  select_field(VTAP_DIM_DSCP, fields.dscp, &vtap_key::dscp);
  select_field(VTAP_DIM_FRAGMENT, fields.fragment, &vtap_key::fragment);
  select_field(VTAP_DIM_LENGTH, fields.length, &vtap_key::length);
}

void Classifier::classify_addresses(Keys keys, int end, Numbers& number) const noexcept {
  classify_ipv4(keys, end, number);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (keys[i].family == VTAP_L3_IPV4) continue;
    number[i] = keys[i].family == VTAP_L3_IPV6 ? class_of_ipv6(address_at(keys[i], end))
                                               : tables_.config.default_addr;
  }
}

const vtap_bucket4& Classifier::bucket_of(const std::uint8_t* address) const noexcept {
  return tables_.buckets4[vtap_bucket4_of(load<std::uint32_t>(address), tables_.config.bucket4_seed,
                                          tables_.config.buckets4)];
}

std::uint32_t Classifier::class_of_host4(const std::uint8_t* address) const noexcept {
  const auto key = load<std::uint32_t>(address);
  const vtap_bucket4& bucket = bucket_of(address);
  std::uint32_t number = VTAP_NO_CLASS;
  for (std::size_t place = 0; place < VTAP_BUCKET4_PLACES; ++place)
    number = bucket.addr[place] == key && bucket.number[place] != VTAP_NO_CLASS
                 ? bucket.number[place]
                 : number;
  return number;
}

/// Of all frames, whether they are IPv4 or not: those that are not have zeros or other bytes there.
/// Where an entry is a class already, the next step reads any block and keeps the entry: so there
/// is no branch to guess, and the steps of many frames overlap.
void Classifier::walk_trie(Keys keys, int end, Numbers& number) const noexcept {
  const std::uint32_t* const root = tables_.trie4.front().entry;
  const std::size_t offset = end == VTAP_AS_SRC ? offsetof(vtap_key, src) : offsetof(vtap_key, dst);
  const auto address = [&](std::size_t i) {
    return vtap_be32(reinterpret_cast<const std::uint8_t*>(&keys[i]) + offset);
  };
  for (std::size_t i = 0; i < keys.size(); ++i) number[i] = root[address(i) >> 16];
  if (tables_.trie4_blocks.empty()) return;
  const std::uint32_t* const blocks = tables_.trie4_blocks.front().entry;
  const auto step = [&](std::uint32_t entry, std::uint32_t bits) {
    constexpr unsigned kFlag = std::countr_zero(std::uint32_t{VTAP_TRIE4_BLOCK});
    const std::uint32_t goes_on = 0U - (entry >> kFlag & 1);  // all bits or none
    const std::size_t block = entry & goes_on & ~std::uint32_t{VTAP_TRIE4_BLOCK};
    const std::uint32_t next = blocks[block * VTAP_TRIE4_FAN_OUT + bits];
    return (next & goes_on) | (entry & ~goes_on);
  };
  for (std::size_t i = 0; i < keys.size(); ++i)
    number[i] = step(step(number[i], address(i) >> 8 & 0xff), address(i) & 0xff);
}

void Classifier::classify_ipv4(Keys keys, int end, Numbers& number) const noexcept {
  if (tables_.trie4.empty())
    number.fill(tables_.config.default_addr);
  else
    walk_trie(keys, end, number);
  if ((tables_.config.dims & VTAP_DIM_HOST4) == 0) return;
  for (const vtap_key& key : keys) __builtin_prefetch(&bucket_of(address_at(key, end)));
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::uint32_t found = class_of_host4(address_at(keys[i], end));
    if (found != VTAP_NO_CLASS) number[i] = found;
  }
}

std::uint32_t Classifier::class_of_ipv6(const std::uint8_t* address) const noexcept {
  const std::uint32_t found = hosts6_.find(load<Key128>(address));
  return found != hosts6_.kAbsent ? found : prefixes6_.find(address);
}

std::uint32_t Classifier::class_of_mac(const std::uint8_t* mac, bool valid) const noexcept {
  if (!valid) return tables_.config.default_mac;
  const std::uint32_t found = macs_.find(load<std::uint64_t>(mac));
  return found != macs_.kAbsent ? found : tables_.config.default_mac;
}

// ---- from the vectors to the policies

/// `word_of(vector, word)` reads a word, match words and then except words.
template <typename WordOf>
void Classifier::match_word(Scratch& scratch, std::uint32_t frame, std::uint32_t word,
                            WordOf&& word_of) const noexcept {
  const auto rules = [&](std::uint32_t at) {
    return scratch.combine(frame, [&](const std::uint64_t* v) { return word_of(v, at); });
  };
  const std::uint64_t matched = rules(word);
  if (matched == 0) return;
  const std::uint64_t top = word_of(segment_tops_, word);
  std::uint64_t bits = any_of_segments(matched, top);
  if (tables_.config.except_words != 0) bits &= ~any_of_segments(rules(words() + word), top);
  if (bits != 0) scratch.hits_.push_back({frame, word, bits});
}

/// Visits only the words in which every vector has a bit.
void Classifier::match_paged(Scratch& scratch, std::size_t frames) const noexcept {
  scratch.visits_.clear();
  for (std::uint32_t i = 0; i < frames; ++i) {
    for (std::uint32_t sum = 0; sum < tables_.config.sum_words; ++sum) {
      auto left = scratch.combine(i, [&](const std::uint64_t* vector) { return vector[sum]; });
      for (; left != 0; left &= left - 1)
        scratch.visits_.push_back(
            {i, sum * 64 + static_cast<std::uint32_t>(std::countr_zero(left))});
    }
  }
  for (std::size_t first = 0; first < scratch.visits_.size(); first += kVisits) {
    const std::size_t end = std::min(first + kVisits, scratch.visits_.size());
    fetch_pages(scratch, first, end);
    for (std::size_t at = first; at < end; ++at) {
      const auto [i, word] = scratch.visits_[at];
      match_word(scratch, i, word, [&](const std::uint64_t* vector, std::uint32_t number) {
        return tables_.page(vector, number)[number % VTAP_PAGE_WORDS];
      });
    }
  }
}

void Classifier::fetch_pages(const Scratch& scratch, std::size_t first,
                             std::size_t end) const noexcept {
  for (std::size_t at = first; at < end; ++at) {
    const auto [i, word] = scratch.visits_[at];
    for (std::uint32_t v = 0; v < scratch.count_; ++v)
      __builtin_prefetch(tables_.page(scratch.all_[v][i], word));
    for (std::uint32_t v = 0; v < scratch.either_count_; ++v)
      __builtin_prefetch(tables_.page(scratch.either_[v][i], word));
  }
}

}  // namespace vtap::plan
