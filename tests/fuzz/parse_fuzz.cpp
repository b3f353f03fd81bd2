// SPDX-License-Identifier: Apache-2.0
#include <vtap/parse.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>

#include "support/reference.hpp"

namespace {

/// Not assert(): the invariant holds in release builds too.
void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

/// A heap block of exactly `avail` bytes, so that the sanitizer sees a read behind it.
int parse_first(std::span<const std::uint8_t> frame, std::size_t avail, vtap_key& key) {
  const auto buffer = std::make_unique<unsigned char[]>(avail);
  std::copy_n(frame.begin(), avail, buffer.get());
  std::memset(&key, 0xa5, sizeof(key));
  return vtap_parse(buffer.get(), static_cast<__u32>(avail), static_cast<__u32>(frame.size()),
                    &key);
}

bool same(const vtap_key& a, const vtap_key& b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

}  // namespace

/// Any frame is read inside its bounds, as the oracle reads it. The first byte says how much of it
/// the first look gets.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::span<const std::uint8_t> frame(data + 1, size - 1);
  const std::size_t window = std::min<std::size_t>(frame.size(), VTAP_WINDOW);

  vtap_key key;
  require(parse_first(frame, window, key) == VTAP_PARSE_DONE);
  require(same(key, vtap::test::expected_key(vtap::test::read_fields(frame))));

  const std::size_t look = std::min<std::size_t>(data[0], window);
  vtap_key first;
  require(parse_first(frame, look, first) == VTAP_PARSE_DONE ? same(first, key) : look < window);
  return 0;
}
