// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "address.hpp"
#include "vtap/result.hpp"

namespace vtap::gen {

enum class Proto { udp, tcp };

/// What the frames look like.
struct FrameSpec {
  std::size_t size = 64;  ///< bytes from the destination MAC to the last of the payload, no FCS
  Proto proto = Proto::udp;
  Address src;
  Address dst;
  Mac src_mac{};
  Mac dst_mac{};
  std::uint16_t src_port = 0;
  std::uint16_t dst_port = 0;
  std::optional<std::uint16_t> vlan;
};

/// The frame of flow 0, checksums complete, and where its changing fields are.
struct Frame {
  std::vector<std::uint8_t> bytes;
  std::uint32_t header_len = 0;
  std::uint32_t off_address = 0;  ///< last four bytes of the source address
  std::uint32_t off_port = 0;
  std::uint32_t off_ip_csum = 0;  ///< 0: none (IPv6)
  std::uint32_t off_l4_csum = 0;
  std::uint32_t off_payload = 0;
};

/// Live frames live in one page, which also holds headroom and bookkeeping (net/bpf/test_run.c).
inline constexpr std::size_t max_frame_size = 3328;

Result<Frame> build_frame(const FrameSpec& spec);

}  // namespace vtap::gen
