// SPDX-License-Identifier: Apache-2.0
#include "plan/vector_pool.hpp"

#include <vtap/abi.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace vtap::plan {
namespace {

constexpr std::uint32_t kPageWords = VTAP_PAGE_WORDS;
constexpr std::uint32_t kWordBits = 64;

bool is_flat(std::uint32_t match_words) noexcept { return match_words <= VTAP_FLAT_WORDS; }

std::uint64_t hash(std::span<const std::uint64_t> words) noexcept {
  std::uint64_t h = words.size();
  for (const std::uint64_t word : words) {
    h = (h ^ word) * 0x9e3779b97f4a7c15U;  // odd, so nothing is lost
    h ^= h >> 32;                          // a product carries upwards only
  }
  return h;
}

}  // namespace

std::uint32_t UniqueStore::add(std::span<const std::uint64_t> words) {
  const std::uint64_t key = hash(words);
  const auto [first, last] = numbers_.equal_range(key);
  for (auto it = first; it != last; ++it) {
    if (stored_at(it->second, words)) return it->second;
  }
  const auto number = static_cast<std::uint32_t>(store_.size() / size_);
  store_.insert(store_.end(), words.begin(), words.end());
  numbers_.emplace(key, number);
  return number;
}

bool UniqueStore::stored_at(std::uint32_t number,
                            std::span<const std::uint64_t> words) const noexcept {
  const std::size_t at = std::size_t{number} * size_;
  return at + words.size() <= store_.size() &&
         std::equal(words.begin(), words.end(), store_.begin() + static_cast<std::ptrdiff_t>(at));
}

std::uint32_t VectorPool::stored_words(std::uint32_t match_words,
                                       std::uint32_t except_words) noexcept {
  const std::uint32_t words = match_words + except_words;
  if (is_flat(match_words)) return words;
  return match_words / kWordBits + words / kPageWords / 2;  // sums; two page numbers a word
}

VectorPool::VectorPool(std::vector<std::uint64_t>& vectors, std::vector<std::uint64_t>& pages,
                       std::uint32_t match_words, std::uint32_t except_words)
    : match_words_(match_words),
      words_(match_words + except_words),
      stored_words_(stored_words(match_words, except_words)),
      vectors_(vectors, stored_words_),
      pages_(pages, kPageWords) {}

std::uint32_t VectorPool::add(std::span<const std::uint64_t> words) {
  if (words_ == 0) return 0;  // a plan without policies has no vectors
  if (is_flat(match_words_)) return vectors_.add(words);
  const std::size_t count = words.size() / words_;
  page(words);
  rows_.assign(count * stored_words_, 0);
  for (std::size_t i = 0; i < count; ++i) fill_row(words.subspan(i * words_, words_), i);
  return vectors_.add(rows_);
}

void VectorPool::page(std::span<const std::uint64_t> words) {
  constexpr std::array<std::uint64_t, kPageWords> kZeros{};
  last_words_.resize(std::max(last_words_.size(), words.size()), 0);
  last_pages_.resize(last_words_.size() / kPageWords, pages_.add(kZeros));
  for (std::size_t page = 0; page < words.size() / kPageWords; ++page) {
    const auto content = words.subspan(page * kPageWords, kPageWords);
    const auto last = std::span(last_words_).subspan(page * kPageWords, kPageWords);
    if (std::ranges::equal(content, last)) continue;
    std::ranges::copy(content, last.begin());
    last_pages_[page] = pages_.add(content);
  }
}

void VectorPool::fill_row(std::span<const std::uint64_t> vector, std::size_t i) {
  std::uint64_t* const sums = rows_.data() + i * stored_words_;
  for (std::uint32_t word = 0; word < match_words_; ++word) {
    if (vector[word] != 0) sums[word / kWordBits] |= std::uint64_t{1} << (word % kWordBits);
  }
  const std::size_t pages = words_ / kPageWords;
  std::memcpy(sums + match_words_ / kWordBits, last_pages_.data() + i * pages,
              pages * sizeof(std::uint32_t));
}

}  // namespace vtap::plan
