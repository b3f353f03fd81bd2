// SPDX-License-Identifier: Apache-2.0
#include "pipeline/flow.hpp"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>

namespace vtap::pipeline {
namespace {

/// As it is hashed: no padding in it.
struct PacketName {
  std::array<std::uint8_t, 16> src, dst;
  std::uint32_t id;
  std::uint32_t kind;
};
static_assert(sizeof(PacketName) == 40);

/// Finalizer of splitmix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
std::uint64_t mix(std::uint64_t x) noexcept {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

/// Hash of one end of the flow. Both ends are hashed alike and then added, so that the direction
/// does not matter.
template <std::size_t N>
std::uint64_t end_hash(const __u8 (&address)[N], std::uint16_t port, std::uint64_t seed) noexcept {
  static_assert(N % 8 == 0);
  std::uint64_t hash = mix(seed + port);
  for (std::size_t i = 0; i < N; i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, address + i, sizeof(word));
    hash = mix(hash ^ word);
  }
  return hash;
}

std::uint32_t kind_of(const vtap_key& key, std::uint32_t type) noexcept {
  return static_cast<std::uint32_t>(key.family) << 24 | type;
}

/// RFC 791: identification, addresses and protocol; RFC 8200 4.5: without the protocol, which
/// differs between fragments where extension headers follow.
std::uint64_t packet_hash(const vtap_key& key, std::uint64_t seed) noexcept {
  PacketName name;
  std::copy_n(key.src, name.src.size(), name.src.begin());
  std::copy_n(key.dst, name.dst.size(), name.dst.begin());
  name.id = key.fragment_id;
  name.kind = kind_of(key, key.family == VTAP_L3_IPV4 ? key.proto : 0U);
  return XXH3_64bits_withSeed(&name, sizeof(name), seed);
}

// ---- words of the tables

/// Moments in a part of a word: they wrap around.
template <unsigned Bits, unsigned Shift>
struct Clock {
  static constexpr std::uint64_t kMask = (std::uint64_t{1} << Bits) - 1;
  static constexpr std::uint64_t units(std::uint64_t ns) noexcept { return ns >> Shift; }
  static constexpr std::uint64_t moment(std::uint64_t ns) noexcept { return units(ns) & kMask; }
  /// Units between the two; 0 if the earlier one is of a worker whose clock is ahead by less than
  /// `tolerance`.
  static constexpr std::uint64_t age(std::uint64_t earlier, std::uint64_t later,
                                     std::uint64_t tolerance) noexcept {
    const std::uint64_t passed = (later - earlier) & kMask;
    return passed > kMask - tolerance ? 0 : passed;
  }
};

/// Of a packet in fragments: 16 bits each of its ports, 8 of the protocol, 24 of the time in units
/// of 2^24 ns, which last for 78 hours.
using PacketClock = Clock<24, 24>;
constexpr std::uint64_t kPatience = PacketClock::units(Fragments::kPatienceNs);

std::uint64_t pack(const Transport& transport, std::uint64_t moment) noexcept {
  return static_cast<std::uint64_t>(transport.sport) << 48 |
         static_cast<std::uint64_t>(transport.dport) << 32 |
         static_cast<std::uint64_t>(transport.proto & 0xff) << 24 | moment;
}

Transport unpack(std::uint64_t word) noexcept {
  return {static_cast<std::uint16_t>(word >> 48), static_cast<std::uint16_t>(word >> 32),
          static_cast<std::uint16_t>(word >> 24 & 0xff)};
}

/// Of a flow: 32 bits of its packets, 32 of the time of the last in units of 2^22 ns (4 ms), which
/// last for 200 days.
using FlowClock = Clock<32, 22>;
constexpr std::uint64_t kIdle = FlowClock::units(FlowCounts::kIdleNs);
constexpr std::uint64_t kMostPackets = std::numeric_limits<std::uint32_t>::max();

}  // namespace

std::uint64_t random_seed() {
  std::random_device random;
  return static_cast<std::uint64_t>(random()) << 32 | random();
}

std::uint64_t flow_hash(const vtap_key& key, const Transport& transport,
                        std::uint64_t seed) noexcept {
  if (key.family == VTAP_L3_NONE) {
    const std::uint64_t ends = end_hash(key.smac, 0, seed) + end_hash(key.dmac, 0, seed);
    return mix(ends + kind_of(key, key.ethertype));
  }
  const std::uint64_t ends =
      end_hash(key.src, transport.sport, seed) + end_hash(key.dst, transport.dport, seed);
  return mix(ends + kind_of(key, transport.proto));
}

Transport Fragments::of_fragment(const vtap_key& key, std::uint64_t now) noexcept {
  const Transport own = own_transport(key);
  const std::uint64_t hash = packet_hash(key, packets_.seed());
  const std::uint64_t moment = PacketClock::moment(now);
  const auto age = [&](std::uint64_t word) {
    return PacketClock::age(word & PacketClock::kMask, moment, kPatience);
  };
  if (key.sport == VTAP_NO_PORT) {
    const auto word = packets_.find(hash);
    return word && age(*word) <= kPatience ? unpack(*word) : own;
  }
  packets_.update(
      hash, [&](std::optional<std::uint64_t>) { return pack(own, moment); }, age);
  return own;
}

void FlowCounts::count(FrameSet frames, const Burst& burst, std::uint64_t now,
                       Numbers& before) noexcept {
  std::array<std::uint64_t, Burst::kCapacity> hashes;
  for_each_frame(frames, [&](std::uint32_t i) {
    hashes[i] = flow_hash(burst.key[i], burst.transport[i], flows_.seed());
    flows_.prefetch(hashes[i]);
  });
  const std::uint64_t moment = FlowClock::moment(now);
  const auto age = [&](std::uint64_t word) {
    return FlowClock::age(word & FlowClock::kMask, moment, kIdle);
  };
  for_each_frame(frames, [&](std::uint32_t i) {
    const auto add = [&](std::optional<std::uint64_t> word) {
      const bool known = word && age(*word) < kIdle;
      const std::uint64_t packets = known ? *word >> 32 : 0;
      before[i] = static_cast<std::uint32_t>(packets);
      return std::min(packets + 1, kMostPackets) << 32 | moment;
    };
    flows_.update(hashes[i], add, age);
  });
}

}  // namespace vtap::pipeline
