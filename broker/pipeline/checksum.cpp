// SPDX-License-Identifier: Apache-2.0
#include "pipeline/checksum.hpp"

#include <array>
#include <bit>
#include <cstring>

namespace vtap::pipeline {
namespace {

constexpr std::uint8_t kTcp = 6;
constexpr std::uint8_t kUdp = 17;

std::uint16_t be16(std::span<const std::uint8_t> bytes, std::size_t at) noexcept {
  return static_cast<std::uint16_t>(bytes[at] << 8 | bytes[at + 1]);
}

void put_be16(std::span<std::uint8_t> bytes, std::size_t at, std::uint16_t value) noexcept {
  bytes[at] = static_cast<std::uint8_t>(value >> 8);
  bytes[at + 1] = static_cast<std::uint8_t>(value);
}

std::uint16_t fold(std::uint64_t sum) noexcept {
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(sum);
}

/// The transport header of a frame, as far as a checksum needs it.
struct Transport {
  std::size_t start = 0;         ///< offset of the TCP or UDP header
  std::size_t length = 0;        ///< bytes of it and its payload, by the IP header
  std::uint16_t pseudo_sum = 0;  ///< of the pseudo-header
  std::size_t field = 0;         ///< offset of the checksum field in the frame; 0: none found
};

Transport find_transport(std::span<const std::uint8_t> frame) noexcept {
  std::size_t at = 12;
  for (int tags = 0; tags < 2 && at + 6 <= frame.size(); ++tags) {
    const std::uint16_t type = be16(frame, at);
    if (type != 0x8100 && type != 0x88a8) break;
    at += 4;
  }
  if (at + 2 > frame.size()) return {};
  const std::uint16_t type = be16(frame, at);
  at += 2;
  const std::size_t rest = frame.size() - at;
  Transport found;
  std::uint8_t proto = 0;
  std::span<const std::uint8_t> addresses;
  if (type == 0x0800 && rest >= 20 && frame[at] >> 4 == 4 && (be16(frame, at + 6) & 0x3fff) == 0) {
    const std::size_t header = static_cast<std::size_t>(frame[at] & 15) * 4;
    const std::size_t total = be16(frame, at + 2);
    if (header < 20 || total < header) return {};
    proto = frame[at + 9];
    addresses = frame.subspan(at + 12, 8);
    found.start = at + header;
    found.length = total - header;
  } else if (type == 0x86dd && rest >= 40 && frame[at] >> 4 == 6) {
    proto = frame[at + 6];  // extension headers: not sent unfinished by a host's own stack
    addresses = frame.subspan(at + 8, 32);
    found.start = at + 40;
    found.length = be16(frame, at + 4);
  }
  if (proto != kTcp && proto != kUdp) return {};
  const std::size_t field = found.start + (proto == kTcp ? 16 : 6);
  if (field + 2 > found.start + found.length || found.start + found.length > frame.size()) {
    return {};
  }
  found.field = field;
  found.pseudo_sum = fold(std::uint64_t{ones_complement_sum(addresses)} + proto + found.length);
  return found;
}

}  // namespace

std::uint16_t ones_complement_sum(std::span<const std::uint8_t> bytes) noexcept {
  // Summed in the machine's byte order, eight bytes at a time: the sum of swapped words is the
  // swapped sum (RFC 1071, 2 (B)).
  std::uint64_t sum = 0;
  while (bytes.size() >= 8) {
    std::array<std::uint32_t, 2> words{};
    std::memcpy(words.data(), bytes.data(), sizeof(words));
    sum += std::uint64_t{words[0]} + words[1];
    bytes = bytes.subspan(8);
  }
  std::array<std::uint16_t, 4> tail{};
  if (!bytes.empty()) std::memcpy(tail.data(), bytes.data(), bytes.size());
  for (const std::uint16_t word : tail) sum += word;
  const std::uint16_t folded = fold(sum);
  if constexpr (std::endian::native == std::endian::little) {
    return static_cast<std::uint16_t>(folded << 8 | folded >> 8);
  }
  return folded;
}

bool complete_checksum(std::span<std::uint8_t> frame, std::uint32_t start,
                       std::uint32_t offset) noexcept {
  const std::size_t field = std::size_t{start} + offset;
  if (field + 2 > frame.size()) return false;
  const auto sum = static_cast<std::uint16_t>(~ones_complement_sum(frame.subspan(start)));
  // 0 means "no checksum" to UDP and equals 0xffff to all others (skb_checksum_help does the same).
  put_be16(frame, field, sum == 0 ? 0xffff : sum);
  return true;
}

bool complete_if_unfinished(std::span<std::uint8_t> frame) noexcept {
  const Transport transport = find_transport(frame);
  if (transport.field == 0 || be16(frame, transport.field) != transport.pseudo_sum) return false;
  return complete_checksum(frame.first(transport.start + transport.length),
                           static_cast<std::uint32_t>(transport.start),
                           static_cast<std::uint32_t>(transport.field - transport.start));
}

}  // namespace vtap::pipeline
