// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

/// Blocks of pcapng (draft-ietf-opsawg-pcapng), in this machine's byte order, appended to `out`.
/// Ethernet frames, times in ns since 1970.
namespace vtap::capture {

/// Section header: the first block.
void add_section(std::string& out, std::string_view application);
/// Interfaces have the numbers 0, 1, ... in the order in which they are added. `most`: bytes of a
/// frame; the same for all, as libpcap wants it.
void add_interface(std::string& out, std::string_view name, std::uint32_t most);
struct Packet {
  std::uint32_t interface = 0;
  std::uint64_t time_ns = 0;
  std::uint32_t original = 0;  ///< bytes of the frame before it was cut
};
void add_packet(std::string& out, const Packet& packet, std::span<const std::uint8_t> frame);
/// Interface statistics: frames that were not captured, since the beginning.
void add_statistics(std::string& out, std::uint32_t interface, std::uint64_t time_ns,
                    std::uint64_t dropped);

}  // namespace vtap::capture
