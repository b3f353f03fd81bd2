// SPDX-License-Identifier: Apache-2.0
#include "pcapng_tally.hpp"

#include <cstring>
#include <stdexcept>

namespace vtap::ctl {
namespace {

constexpr std::uint32_t kStatistics = 5, kPacket = 6;
constexpr std::uint16_t kDropped = 5;
constexpr std::size_t kLeast = 12, kMost = std::size_t{1} << 20;  // bytes of a block

template <typename T>
T number_at(std::string_view bytes, std::size_t at) {
  T value{};
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

}  // namespace

std::string PcapngTally::take(std::string_view bytes) {
  rest_ += bytes;
  std::size_t whole = 0;
  while (rest_.size() - whole >= kLeast) {
    const auto length = number_at<std::uint32_t>(rest_, whole + 4);
    if (length < kLeast || length % 4 != 0 || length > kMost) {
      throw std::runtime_error("what the broker sends is no pcapng");
    }
    if (rest_.size() - whole < length) break;
    count(std::string_view(rest_).substr(whole, length));
    whole += length;
  }
  std::string out = rest_.substr(0, whole);
  rest_.erase(0, whole);
  return out;
}

void PcapngTally::count(std::string_view block) {
  const auto type = number_at<std::uint32_t>(block, 0);
  if (type == kPacket) ++captured_;
  if (type != kStatistics) return;
  // Type, length, interface and time; options; length.
  for (std::size_t at = 20; at + 4 + 4 <= block.size();) {
    const auto code = number_at<std::uint16_t>(block, at);
    const auto size = number_at<std::uint16_t>(block, at + 2);
    if (code == kDropped && size == 8 && at + 12 + 4 <= block.size()) {
      dropped_ += number_at<std::uint64_t>(block, at + 4);
    }
    at += 4 + (size + 3U) / 4 * 4;
  }
}

}  // namespace vtap::ctl
