// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vtap/abi.h>

#include <array>
#include <cstdint>

#include "pipeline/burst.hpp"
#include "pipeline/flow_table.hpp"

namespace vtap::pipeline {

/// Ports and protocol as the frame itself has them.
inline Transport own_transport(const vtap_key& key) noexcept {
  if (key.family == VTAP_L3_NONE) return {};
  const bool has_ports = key.sport != VTAP_NO_PORT;
  return {.sport = static_cast<std::uint16_t>(has_ports ? key.sport : 0),
          .dport = static_cast<std::uint16_t>(has_ports ? key.dport : 0),
          .proto = key.proto};
}

/// Hash of a flow, the same for both directions: addresses, protocol and ports of an IP packet,
/// else MACs and ethertype. `transport`: of the flow, see Burst. With the same seed it is the same
/// on every machine.
std::uint64_t flow_hash(const vtap_key& key, const Transport& transport,
                        std::uint64_t seed) noexcept;

/// Brings fragments to their flow, for all workers. Only the first one of a packet has the ports;
/// they are remembered for the others.
class Fragments {
 public:
  /// How long a packet's fragments may take (as ipfrag_time of Linux).
  static constexpr std::uint64_t kPatienceNs = 30'000'000'000;

  explicit Fragments(std::uint32_t packets = 16384) : packets_(packets) {}

  /// Ports and protocol of the frame's flow. Without ports where the first fragment has not come.
  /// `now`: ns since the broker started.
  Transport transport(const vtap_key& key, std::uint64_t now) noexcept {
    return key.fragment == 1 ? of_fragment(key, now) : own_transport(key);
  }

 private:
  Transport of_fragment(const vtap_key& key, std::uint64_t now) noexcept;

  FlowTable packets_;
};

/// Counts the packets of each flow, both directions together, for all workers. A flow that was idle
/// for a minute is a new one; so is one that gave way to others.
class FlowCounts {
 public:
  static constexpr std::uint64_t kIdleNs = 60'000'000'000;

  /// As FlowTable.
  explicit FlowCounts(std::uint32_t entries, std::uint64_t seed = random_seed())
      : flows_(entries, seed) {}

  /// How many packets of its flow came before each frame, this burst's included; 2^32 - 1 stands
  /// for all larger numbers.
  using Numbers = std::array<std::uint32_t, Burst::kCapacity>;

  /// Counts the frames. Fills in the numbers of these alone. `now`: ns since the broker started.
  void count(FrameSet frames, const Burst& burst, std::uint64_t now, Numbers& before) noexcept;

 private:
  FlowTable flows_;
};

}  // namespace vtap::pipeline
