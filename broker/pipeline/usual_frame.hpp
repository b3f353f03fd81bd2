// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vtap/parse.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace vtap::pipeline {

/// A short cut through vtap_parse() for frames as most are: Ethernet without tags, IPv4 without
/// options, not a fragment, and the headers there up to the TCP flags. The same key, without a
/// branch that would have to be guessed from frame to frame.
///
/// Returns whether it is such a frame; if not, the key holds nothing of use. Reads the first
/// kUsualBytes bytes, if the frame has as many.
inline constexpr std::uint32_t kUsualBytes = VTAP_ETH_HLEN + VTAP_IPV4_HLEN + VTAP_TCP_FLAGS_AT + 1;

namespace usual {

template <typename Word>
Word load(const std::uint8_t* at) noexcept {
  Word word;
  std::memcpy(&word, at, sizeof(word));
  return word;
}

// Words of a key in the memory of a little-endian machine.
static_assert(sizeof(vtap_key) == 10 * sizeof(std::uint64_t));
static_assert(offsetof(vtap_key, src) == 0 && offsetof(vtap_key, dst) == 16 &&
              offsetof(vtap_key, smac) == 32 && offsetof(vtap_key, dmac) == 40);
static_assert(offsetof(vtap_key, sport) == 48 && offsetof(vtap_key, dport) == 52 &&
              offsetof(vtap_key, ethertype) == 56 && offsetof(vtap_key, length) == 60);
static_assert(offsetof(vtap_key, vlan) == 64 && offsetof(vtap_key, inner_vlan) == 66 &&
              offsetof(vtap_key, proto) == 68 && offsetof(vtap_key, tcp_flags) == 70);
static_assert(offsetof(vtap_key, dscp) == 72 && offsetof(vtap_key, fragment) == 73 &&
              offsetof(vtap_key, family) == 74 && offsetof(vtap_key, mac) == 75 &&
              offsetof(vtap_key, fragment_id) == 76);

constexpr std::uint64_t kMacMask = (std::uint64_t{1} << 48) - 1;
/// Bytes 12 to 14: type IPv4, version 4, five words of header.
constexpr std::uint32_t kTypeMask = 0x00ffffff, kType = 0x00450008;
/// Bytes 20 and 21: offset and MF.
constexpr std::uint16_t kFragmentMask = 0xff3f;

/// By protocol: 1: it has ports; 2: it has TCP's flags.
constexpr std::array<std::uint8_t, 256> kLayer4 = [] {
  std::array<std::uint8_t, 256> has{};
  has[VTAP_PROTO_TCP] = 3;
  has[VTAP_PROTO_UDP] = has[VTAP_PROTO_SCTP] = 1;
  return has;
}();

}  // namespace usual

inline bool parse_usual(const std::uint8_t* frame, std::uint32_t length, vtap_key& key) noexcept {
  if constexpr (std::endian::native != std::endian::little) return false;
  if (length - kUsualBytes > VTAP_MAX_LENGTH - kUsualBytes) return false;
  using usual::load;
  const std::uint8_t* const ip = frame + VTAP_ETH_HLEN;
  const std::uint8_t* const l4 = ip + VTAP_IPV4_HLEN;

  const std::uint64_t proto = ip[9];
  const std::uint64_t layer4 = usual::kLayer4[proto];
  const std::uint64_t has_ports = 0 - (layer4 & 1);  // all bits or none
  const std::uint64_t has_flags = 0 - (layer4 >> 1);
  const std::uint32_t pair = __builtin_bswap32(load<std::uint32_t>(l4));
  const std::uint64_t ports = std::uint64_t{pair >> 16} | std::uint64_t{pair & 0xffff} << 32;
  constexpr std::uint64_t kNoPorts = std::uint64_t{VTAP_NO_PORT} << 32 | VTAP_NO_PORT;
  const std::uint64_t flags =
      (l4[VTAP_TCP_FLAGS_AT] & has_flags) | (std::uint64_t{VTAP_NO_TCP_FLAGS} & ~has_flags);

  // Word by word: wider stores would wait for the words to be put together in memory.
  const auto store = [&key](std::size_t at, std::uint64_t word) {
    std::memcpy(reinterpret_cast<std::uint8_t*>(&key) + at * sizeof(word), &word, sizeof(word));
  };
  store(0, load<std::uint32_t>(ip + 12));
  store(1, 0);
  store(2, load<std::uint32_t>(ip + 16));
  store(3, 0);
  store(4, load<std::uint64_t>(frame + 6) & usual::kMacMask);
  store(5, load<std::uint64_t>(frame) & usual::kMacMask);
  store(6, (ports & has_ports) | (kNoPorts & ~has_ports));
  store(7, std::uint64_t{VTAP_TYPE_IPV4} | std::uint64_t{length} << 32);
  store(8, std::uint64_t{VTAP_NO_VLAN} | std::uint64_t{VTAP_NO_VLAN} << 16 | proto << 32 |
               flags << 48);
  store(9, std::uint64_t{ip[1]} >> 2 | std::uint64_t{VTAP_L3_IPV4} << 16 | std::uint64_t{1} << 24);
  const std::uint32_t type = (load<std::uint32_t>(frame + 12) & usual::kTypeMask) ^ usual::kType;
  const std::uint32_t fragment = load<std::uint16_t>(ip + 6) & usual::kFragmentMask;
  return (type | fragment) == 0;
}

}  // namespace vtap::pipeline
