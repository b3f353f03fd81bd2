// SPDX-License-Identifier: Apache-2.0
#include "filter/filter.hpp"

#include <pcap/pcap.h>

#include <memory>

namespace vtap::filter {
namespace {

constexpr int kLongest = 65535;  // bytes of a frame
/// libpcap's optimiser takes time by the square of the expression and more: 0.7 s for 200 hosts,
/// over a minute for 1000. Longer ones go without; what they take is the same.
constexpr std::size_t kLongestOptimised = 2000;

static_assert(sizeof(Instruction) == sizeof(bpf_insn));
static_assert(offsetof(Instruction, k) == offsetof(bpf_insn, k));

struct Close {
  void operator()(pcap_t* handle) const noexcept { pcap_close(handle); }
};

/// Frees what pcap_compile() fills.
struct Program {
  Program() = default;
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() { pcap_freecode(&code); }
  bpf_program code{};
};

}  // namespace

Result<Filter> Filter::compile(const std::string& expression) {
  const std::unique_ptr<pcap_t, Close> handle(pcap_open_dead(DLT_EN10MB, kLongest));
  if (!handle) return Error{"libpcap has no memory"};
  Program program;
  const int optimise = expression.size() <= kLongestOptimised ? 1 : 0;
  if (pcap_compile(handle.get(), &program.code, expression.c_str(), optimise,
                   PCAP_NETMASK_UNKNOWN) != 0)
    return Error{pcap_geterr(handle.get()), ErrorKind::usage};
  Filter filter;
  filter.expression_ = expression;
  for (const bpf_insn& insn : std::span(program.code.bf_insns, program.code.bf_len))
    filter.program_.push_back({insn.code, insn.jt, insn.jf, insn.k});
  return filter;
}

bool Filter::matches(std::span<const std::uint8_t> frame) const noexcept {
  const auto length = static_cast<u_int>(frame.size());
  const auto* const program = reinterpret_cast<const bpf_insn*>(program_.data());
  return bpf_filter(program, frame.data(), length, length) != 0;
}

}  // namespace vtap::filter
