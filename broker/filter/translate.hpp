// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <linux/bpf.h>

#include <cstdint>
#include <span>
#include <vector>

#include "filter/filter.hpp"

namespace vtap::filter {

/// Where a fragment finds what it reads, and leaves what it finds. It calls nothing, and uses r0 to
/// r5 and kStack bytes of stack.
enum FragmentRegister : std::uint8_t {
  kVerdict = BPF_REG_0,   ///< at its end: 0: the frame does not match; 1: it does, or may
  kWindow = BPF_REG_7,    ///< first byte of a copy of the frame's first bytes
  kLength = BPF_REG_8,    ///< bytes of the frame on the wire
  kAvailable = BPF_REG_9  ///< bytes of it in the copy: 1 to kWindowBytes
};
constexpr std::uint32_t kWindowBytes = 1024;
constexpr std::uint32_t kWindowSlack = 4;  ///< readable bytes behind the window
constexpr std::uint32_t kStack = 64;

/// Appends a classic program as eBPF that ends in falling through. A verdict that hangs on bytes
/// behind the window is 1. Error (unsupported): what eBPF cannot do the same way, or too long.
Result<void> translate(std::span<const Instruction> program, std::vector<bpf_insn>& code);

/// Whether a program may read the checksum field of TCP or UDP, which a sender may leave to be
/// computed: by a look at where its loads can lead. False is sure.
bool may_read_checksum(std::span<const Instruction> program);

}  // namespace vtap::filter
