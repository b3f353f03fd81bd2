// SPDX-License-Identifier: Apache-2.0
#include "plan/verdict_cache.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>

namespace vtap::plan {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kAligned = 64;
constexpr std::uint8_t kFree = 0;  // no hash has this tag
constexpr std::uint64_t kEachByte = 0x0101010101010101U;

/// Zeroed, on huge pages where there are any: entries are met at random.
std::byte* allocate(std::size_t bytes) {
  const std::size_t unit = bytes < kHugePage ? kAligned : kHugePage;
  bytes = (bytes + unit - 1) / unit * unit;
  void* const memory = std::aligned_alloc(unit, bytes);
  if (memory == nullptr) throw std::bad_alloc();
  if (unit == kHugePage) ::madvise(memory, bytes, MADV_HUGEPAGE);  // if not, then not
  std::memset(memory, 0, bytes);
  return static_cast<std::byte*>(memory);
}

/// A step of xorshift64 (Marsaglia 2003).
std::uint64_t next(std::uint64_t state) noexcept {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^ state << 17;
}

/// Which bytes are equal to `tag`, as a bit each; now and then also the one above such a byte.
std::uint32_t equal_bytes(std::uint64_t bytes, std::uint8_t tag) noexcept {
  const std::uint64_t zero_where_equal = bytes ^ kEachByte * tag;
  const std::uint64_t high = (zero_where_equal - kEachByte) & ~zero_where_equal & kEachByte << 7;
  return static_cast<std::uint32_t>((high >> 7) * 0x0102040810204080U >> 56);
}

}  // namespace

void VerdictCache::Free::operator()(std::byte* memory) const noexcept { std::free(memory); }

VerdictCache::VerdictCache(std::span<const __u64, VTAP_KEY_WORDS> mask, std::uint32_t entries)
    : sets_(entries / kWays) {
  std::random_device random;
  const auto random_word = [&] { return std::uint64_t{random()} << 32 | random(); };
  for (std::uint32_t i = 0; i < mask.size(); ++i) {
    secret_[i] = random_word();
    if (mask[i] == 0) continue;
    word_[words_] = i;
    mask_[words_++] = mask[i];
  }
  chance_ = random_word() | 1;
  const std::size_t left =
      kEntryBytes - words_ * sizeof(std::uint64_t) - offsetof(Verdict, numbers);
  most_ = std::min(kMostNumbers, static_cast<std::uint32_t>(left / sizeof(std::uint16_t)));
  entries_.reset(allocate(std::size_t{entries} * kEntryBytes));
}

VerdictCache::Verdict* VerdictCache::verdict(std::byte* entry) const noexcept {
  return reinterpret_cast<Verdict*>(entry + words_ * sizeof(std::uint64_t));
}

/// Hashed by NH (Black and others, UMAC, 1999), whose secret keeps a sender from choosing keys that
/// meet: a product for each word, none of which waits for another.
void VerdictCache::want(std::uint32_t frame, const vtap_key& key, std::uint32_t tap) noexcept {
  const auto* const bytes = reinterpret_cast<const std::byte*>(&key);
  std::uint64_t hash = tap;
  for (std::size_t i = 0; i < words_; ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes + word_[i] * sizeof(word), sizeof(word));
    word &= mask_[i];
    keys_[frame][i] = word;
    hash += std::uint64_t{static_cast<std::uint32_t>(word + secret_[i])} *
            static_cast<std::uint32_t>((word >> 32) + (secret_[i] >> 32));
  }
  hash ^= hash >> 32;
  hash *= 0x9e3779b97f4a7c15U;  // the upper half depends on all of it
  Wanted& wanted = wanted_[frame];
  wanted.set =
      static_cast<std::uint32_t>(hash >> 32) & static_cast<std::uint32_t>(sets_.size() - 1);
  wanted.tag = static_cast<std::uint8_t>(hash >> 24);
  if (wanted.tag == kFree) wanted.tag = kFree + 1;
  static_assert(VTAP_MAX_PORTS < 255, "a tap has a port");
  wanted.owner = static_cast<std::uint8_t>(tap + 1);
}

bool VerdictCache::is(std::byte* entry, std::uint32_t frame) const noexcept {
  const auto* const words = reinterpret_cast<const std::uint64_t*>(entry);
  std::uint64_t differs = verdict(entry)->owner ^ wanted_[frame].owner;
  for (std::size_t i = 0; i < words_; ++i) differs |= words[i] ^ keys_[frame][i];
  return differs == 0;
}

/// Where the frame is, of those ways of its set; null: nowhere.
std::byte* VerdictCache::find(std::uint32_t frame, std::uint32_t ways) const noexcept {
  for (; ways != 0; ways &= ways - 1) {
    std::byte* const at =
        entry(wanted_[frame].set, static_cast<std::uint32_t>(std::countr_zero(ways)));
    if (is(at, frame)) return at;
  }
  return nullptr;
}

std::uint32_t VerdictCache::ways_with(std::uint8_t tag, std::uint32_t set) const noexcept {
  const Tags& tags = sets_[set];
  return equal_bytes(tags[0], tag) | equal_bytes(tags[1], tag) << 8;
}

std::uint64_t VerdictCache::look_up(std::span<const vtap_key> keys,
                                    std::span<const std::uint32_t> taps,
                                    LineVector<Hit>& hits) noexcept {
  const auto frames = static_cast<std::uint32_t>(keys.size());
  for (std::uint32_t i = 0; i < frames; ++i) {
    want(i, keys[i], taps[i]);
    __builtin_prefetch(&sets_[wanted_[i].set]);
  }
  std::array<std::uint32_t, kBurst> ways;
  for (std::uint32_t i = 0; i < frames; ++i) {
    ways[i] = ways_with(wanted_[i].tag, wanted_[i].set);
    for (std::uint32_t left = ways[i]; left != 0; left &= left - 1) {
      const std::byte* const at =
          entry(wanted_[i].set, static_cast<std::uint32_t>(std::countr_zero(left)));
      __builtin_prefetch(at);
      if (words_ > kWideKey) __builtin_prefetch(at + kLine);
    }
  }
  std::uint64_t unknown = 0;
  for (std::uint32_t i = 0; i < frames; ++i) {
    std::byte* const at = find(i, ways[i]);
    if (at == nullptr) {
      unknown |= std::uint64_t{1} << i;
      continue;
    }
    const Verdict& found = *verdict(at);
    for (std::uint32_t n = 0; n < found.count; ++n) {
      const std::uint32_t number = found.numbers[n];
      hits.push_back({i, number / 64, std::uint64_t{1} << (number % 64)});
    }
  }
  return unknown;
}

void VerdictCache::store(std::uint32_t frame, std::span<const Hit> hits) noexcept {
  const Wanted& wanted = wanted_[frame];
  Verdict made;
  made.owner = wanted.owner;
  made.count = 0;
  for (const Hit& hit : hits) {
    for (std::uint64_t bits = hit.bits; bits != 0; bits &= bits - 1) {
      if (made.count == most_) return;
      made.numbers[made.count++] = static_cast<std::uint16_t>(
          hit.word * 64 + static_cast<std::uint32_t>(std::countr_zero(bits)));
    }
  }
  // An earlier frame of the burst may have been of the same flow.
  if (find(frame, ways_with(wanted.tag, wanted.set)) != nullptr) return;
  const std::uint32_t way = take_way(wanted);
  std::byte* const at = entry(wanted.set, way);
  std::memcpy(at, keys_[frame].data(), words_ * sizeof(std::uint64_t));
  std::memcpy(verdict(at), &made,
              offsetof(Verdict, numbers) + made.count * sizeof(made.numbers[0]));
}

/// A free one, or any.
std::uint32_t VerdictCache::take_way(const Wanted& wanted) noexcept {
  std::uint32_t way = 0;
  if (const std::uint32_t free = ways_with(kFree, wanted.set); free != 0) {
    way = static_cast<std::uint32_t>(std::countr_zero(free));
  } else {
    chance_ = next(chance_);
    way = static_cast<std::uint32_t>(chance_ >> 32) % kWays;
  }
  std::uint64_t& tags = sets_[wanted.set][way / 8];
  const std::uint32_t shift = way % 8 * 8;
  tags = (tags & ~(std::uint64_t{0xff} << shift)) | std::uint64_t{wanted.tag} << shift;
  return way;
}

}  // namespace vtap::plan
