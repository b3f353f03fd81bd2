// SPDX-License-Identifier: Apache-2.0
#include "pipeline/once.hpp"

#include <vtap/abi.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>

namespace vtap::pipeline {
namespace {

constexpr std::size_t kMacs = 12;  // bytes
constexpr std::size_t kTag = 4;
constexpr int kMaxTags = 2;
constexpr std::size_t kIpv4Header = 20;
constexpr std::size_t kIpv6Header = 40;

constexpr unsigned kTimeBits = 26;
constexpr unsigned kPortBits = 6;
constexpr unsigned kTimeShift = 18;  // 0.26 ms
constexpr std::uint64_t kTimeMask = (std::uint64_t{1} << kTimeBits) - 1;
constexpr std::uint64_t kWindow = Once::kWindowNs >> kTimeShift;
static_assert(VTAP_MAX_PORTS == 1 << kPortBits);

std::uint32_t be16(const std::uint8_t* at) noexcept {
  return static_cast<std::uint32_t>(at[0]) << 8 | at[1];
}

bool is_tag(std::uint32_t type) noexcept { return type == 0x8100 || type == 0x88a8; }

std::uint64_t hash_of(std::span<const std::uint8_t> bytes, std::uint64_t seed) noexcept {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

/// A network header with the fields zeroed that change on the way, and what it says lies behind it.
template <std::size_t Size>
std::uint64_t hash_packet(std::span<const std::uint8_t> packet, std::size_t length,
                          std::initializer_list<std::size_t> zeroed) noexcept {
  std::array<std::uint8_t, Size> header;
  std::memcpy(header.data(), packet.data(), Size);
  for (const std::size_t at : zeroed) header[at] = 0;
  const std::size_t end = std::clamp(length, Size, packet.size());
  return hash_of(packet.subspan(Size, end - Size), hash_of(header, Size));
}

}  // namespace

std::uint64_t packet_hash(std::span<const std::uint8_t> frame) noexcept {
  std::size_t at = kMacs;
  for (int tag = 0; tag < kMaxTags; ++tag) {
    if (frame.size() < at + kTag + 2 || !is_tag(be16(&frame[at]))) break;
    at += kTag;
  }
  if (frame.size() < at + 2) return hash_of(frame, 0);
  const std::uint32_t type = be16(&frame[at]);
  const auto packet = frame.subspan(at + 2);
  if (type == 0x0800 && packet.size() >= kIpv4Header)
    return hash_packet<kIpv4Header>(packet, be16(&packet[2]), {8, 10, 11});
  if (type == 0x86dd && packet.size() >= kIpv6Header)
    return hash_packet<kIpv6Header>(packet, kIpv6Header + be16(&packet[4]), {7});
  return hash_of(frame.subspan(at), hash_of(frame.first(kMacs), 0));
}

Once::Once() : buckets_(std::make_unique<std::array<Bucket, kBuckets>>()) {}

FrameSet Once::fresh(FrameSet frames, const Burst& burst, UmemView umem,
                     std::uint64_t now) noexcept {
  FrameSet fresh = 0;
  for_each_frame(frames, [&](std::uint32_t i) {
    const std::span<const std::uint8_t> frame(umem.at(burst.address[i]), burst.length[i]);
    if (is_fresh(packet_hash(frame), burst.port[i], now)) fresh |= FrameSet{1} << i;
  });
  return fresh;
}

bool Once::is_fresh(std::uint64_t hash, std::uint8_t port, std::uint64_t now) noexcept {
  Bucket& bucket = (*buckets_)[hash % kBuckets];
  const std::uint64_t tag = hash >> 32;
  const std::uint64_t time = (now >> kTimeShift | 1) & kTimeMask;  // so that no entry is 0
  const std::uint64_t entry =
      tag << (kPortBits + kTimeBits) | std::uint64_t{port} << kTimeBits | time;
  const auto age = [&](std::uint64_t word) -> std::uint64_t {
    if (word == 0) return kTimeMask;
    const std::uint64_t passed = (time - (word & kTimeMask)) & kTimeMask;
    return passed > kTimeMask - 4 * kWindow ? 0 : passed;  // another worker's time may be ahead
  };
  while (true) {
    std::size_t oldest = 0;
    std::array<std::uint64_t, kWays> seen;
    for (std::size_t way = 0; way < kWays; ++way) {
      seen[way] = bucket[way].load(std::memory_order_relaxed);
      const bool same = seen[way] != 0 && seen[way] >> (kPortBits + kTimeBits) == tag;
      if (same && age(seen[way]) <= kWindow &&
          (seen[way] >> kTimeBits & (VTAP_MAX_PORTS - 1)) != port) {
        return false;
      }
      if (age(seen[way]) > age(seen[oldest])) oldest = way;
    }
    // Another worker took the place: perhaps for this very packet.
    if (bucket[oldest].compare_exchange_weak(seen[oldest], entry, std::memory_order_relaxed))
      return true;
  }
}

}  // namespace vtap::pipeline
