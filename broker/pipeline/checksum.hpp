// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

namespace vtap::pipeline {

/// One's complement sum of the bytes (RFC 1071), not folded to its complement. An odd last byte
/// counts as the high byte of a word.
std::uint16_t ones_complement_sum(std::span<const std::uint8_t> bytes) noexcept;

/// Completes a checksum as the sending device would have (Linux: CHECKSUM_PARTIAL): sums from
/// `start` to the end of the frame, the field at `start + offset` holding the pseudo-header sum,
/// and stores the complement there. A field outside the frame changes nothing and returns false.
bool complete_checksum(std::span<std::uint8_t> frame, std::uint32_t start,
                       std::uint32_t offset) noexcept;

/// For kernels that do not tell (before 6.2): finds the TCP or UDP header of the frame and
/// completes its checksum if the field holds exactly the pseudo-header sum. Returns whether it did.
bool complete_if_unfinished(std::span<std::uint8_t> frame) noexcept;

}  // namespace vtap::pipeline
