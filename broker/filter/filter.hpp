// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vtap/result.hpp"

/// pcap-filter(7) expressions: compiled by libpcap, judged by its interpreter, translated for the
/// kernel.
namespace vtap::filter {

/// One instruction of classic BPF (struct bpf_insn of libpcap, struct sock_filter of Linux).
struct Instruction {
  std::uint16_t code = 0;
  std::uint8_t jt = 0;
  std::uint8_t jf = 0;
  std::uint32_t k = 0;
};

/// An expression, for Ethernet frames as they are on the wire (tags in place).
class Filter {
 public:
  /// Names of hosts, networks, ports and protocols are looked up now, as libpcap does. Error
  /// (usage): libpcap's words.
  static Result<Filter> compile(const std::string& expression);

  /// By libpcap's own interpreter. `frame`: the whole of it.
  [[nodiscard]] bool matches(std::span<const std::uint8_t> frame) const noexcept;

  [[nodiscard]] const std::string& expression() const noexcept { return expression_; }
  [[nodiscard]] std::span<const Instruction> program() const noexcept { return program_; }

 private:
  std::string expression_;
  std::vector<Instruction> program_;
};

}  // namespace vtap::filter
