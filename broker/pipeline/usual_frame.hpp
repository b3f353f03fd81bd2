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

}  // namespace usual

inline bool parse_usual(const std::uint8_t* frame, std::uint32_t length, vtap_key& key) noexcept {
  if constexpr (std::endian::native != std::endian::little) return false;
  if (length - kUsualBytes > VTAP_MAX_LENGTH - kUsualBytes) return false;
  using usual::load;
  const std::uint8_t* const ip = frame + VTAP_ETH_HLEN;
  const std::uint8_t* const l4 = ip + VTAP_IPV4_HLEN;

  const std::uint64_t proto = ip[9];
  const bool is_tcp = proto == VTAP_PROTO_TCP;
  const bool has_ports = is_tcp | (proto == VTAP_PROTO_UDP) | (proto == VTAP_PROTO_SCTP);
  const std::uint32_t ports = std::rotl(__builtin_bswap32(load<std::uint32_t>(l4)), 16);
  const std::uint64_t both = std::uint64_t{ports & 0xffff} | std::uint64_t{ports >> 16} << 32;
  constexpr std::uint64_t kNoPorts = std::uint64_t{VTAP_NO_PORT} << 32 | VTAP_NO_PORT;
  const std::uint64_t flags = is_tcp ? l4[VTAP_TCP_FLAGS_AT] : std::uint64_t{VTAP_NO_TCP_FLAGS};

  const std::array<std::uint64_t, 10> words{
      load<std::uint32_t>(ip + 12),
      0,
      load<std::uint32_t>(ip + 16),
      0,
      load<std::uint64_t>(frame + 6) & usual::kMacMask,
      load<std::uint64_t>(frame) & usual::kMacMask,
      has_ports ? both : kNoPorts,
      std::uint64_t{VTAP_TYPE_IPV4} | std::uint64_t{length} << 32,
      std::uint64_t{VTAP_NO_VLAN} | std::uint64_t{VTAP_NO_VLAN} << 16 | proto << 32 | flags << 48,
      std::uint64_t{ip[1]} >> 2 | std::uint64_t{VTAP_L3_IPV4} << 16 | std::uint64_t{1} << 24,
  };
  std::memcpy(&key, words.data(), sizeof(key));
  const std::uint32_t type = (load<std::uint32_t>(frame + 12) & usual::kTypeMask) ^ usual::kType;
  const std::uint32_t fragment = load<std::uint16_t>(ip + 6) & usual::kFragmentMask;
  return (type | fragment) == 0;
}

}  // namespace vtap::pipeline
