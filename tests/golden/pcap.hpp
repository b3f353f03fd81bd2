// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "support/frames.hpp"

/// Classic pcap files of Ethernet frames, little-endian with microseconds, as everything reads
/// them.
namespace vtap::test {

struct PcapFrame {
  std::uint64_t us = 0;  ///< since the capture began
  Bytes bytes;
  bool operator==(const PcapFrame&) const = default;
};

/// Throws std::runtime_error where the file is not there or is no such pcap.
std::vector<PcapFrame> read_pcap(const std::filesystem::path& path);

/// Throws std::runtime_error.
void write_pcap(const std::filesystem::path& path, const std::vector<PcapFrame>& frames);

}  // namespace vtap::test
