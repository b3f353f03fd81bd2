// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "pipeline/burst.hpp"

namespace vtap::pipeline {

/// What a packet keeps on its way through a host: everything from the network header on but for the
/// TTL (hop limit) and the IPv4 header checksum; without MACs, tags and padding. Frames that are
/// not IP: all of them but the tags.
std::uint64_t packet_hash(std::span<const std::uint8_t> frame) noexcept;

/// `once` of a policy, shared by all workers: remembers which packets were seen at which tap port
/// in the last 10 ms. The same packet at another port is a double; at the same port it is another
/// packet (a retransmission), as nothing crosses a port twice.
class Once {
 public:
  static constexpr std::uint64_t kWindowNs = 10'000'000;

  Once();

  /// The frames that were not seen at another port before. `now`: ns since the broker started. Two
  /// packets are taken for one with a probability of 2^-46 or so; beyond 64k packets in 10 ms,
  /// doubles may pass.
  FrameSet fresh(FrameSet frames, const Burst& burst, UmemView umem, std::uint64_t now) noexcept;

 private:
  static constexpr std::size_t kWays = 4;
  static constexpr std::size_t kBuckets = 1 << 14;

  /// A packet in one word: 32 bits of its hash, 6 of its port, 26 of the time in units of 2^18 ns;
  /// 0: free.
  using Bucket = std::array<std::atomic<std::uint64_t>, kWays>;

  bool is_fresh(std::uint64_t hash, std::uint8_t port, std::uint64_t now) noexcept;

  std::unique_ptr<std::array<Bucket, kBuckets>> buckets_;
};

}  // namespace vtap::pipeline
