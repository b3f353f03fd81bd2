// SPDX-License-Identifier: Apache-2.0
#include "io/filters.hpp"

#include <bpf/bpf.h>
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <algorithm>
#include <cerrno>
#include <span>

#include "filter/translate.hpp"
#include "io/bpf.hpp"

namespace vtap::io {
namespace {

using filter::kAvailable;
using filter::kLength;
using filter::kVerdict;
using filter::kWindow;

static_assert(filter::kWindowBytes == VTAP_WINDOW);
static_assert(sizeof(vtap_cpu::headers) >= filter::kWindowBytes + filter::kWindowSlack);

constexpr std::uint8_t kContext = BPF_REG_6;
/// Operations whose parts are partly zero, which clang-tidy takes for a slip.
constexpr int kAdd = BPF_ALU64 | BPF_K;  // BPF_ADD
constexpr int kWide = BPF_LD | BPF_DW;   // BPF_IMM
static_assert(BPF_ADD == 0 && BPF_IMM == 0);

/// Of a field of struct vtap_cpu, from its `headers`.
constexpr std::int16_t from_window(std::size_t field) {
  return static_cast<std::int16_t>(static_cast<std::ptrdiff_t>(field) -
                                   static_cast<std::ptrdiff_t>(offsetof(vtap_cpu, headers)));
}

class Generator {
 public:
  Generator(ProgramHook hook, const vtap_port_config& config, int out_fd)
      : hook_(hook), config_(config), out_fd_(out_fd) {}

  void begin(int cpus_fd) {
    move(kContext, BPF_REG_1);
    call(BPF_FUNC_get_smp_processor_id);
    emit(BPF_STX | BPF_MEM | BPF_W, BPF_REG_10, BPF_REG_0, -4, 0);
    move(BPF_REG_2, BPF_REG_10);
    add(BPF_REG_2, -4);
    map(BPF_REG_1, cpus_fd);
    call(BPF_FUNC_map_lookup_elem);
    emit(BPF_JMP | BPF_JNE | BPF_K, BPF_REG_0, 0, plain_size(), 0);  // over the plain path
    plain();
    move(kWindow, BPF_REG_0);
    add(kWindow, offsetof(vtap_cpu, headers));
    load_word(kLength, offsetof(vtap_cpu, frame_length));
    load_word(kAvailable, offsetof(vtap_cpu, available));
  }

  /// Skips the rest of a fragment and what notes its verdict, if the checksum may be unfinished.
  void judge(const PortFilter& port_filter, bool reads_checksum) {
    std::vector<bpf_insn> fragment;
    if (!filter::translate(port_filter.filter->program(), fragment)) return;
    Generator note(hook_, config_, out_fd_);
    for (const auto& [word, tops] : port_filter.tops) note.reject(word, tops);
    const std::size_t noting = note.code_.size();
    if (fragment.size() + noting + 2 > INT16_MAX) return;
    if (reads_checksum) {
      load_word(BPF_REG_1, offsetof(vtap_cpu, unfinished));
      emit(BPF_JMP | BPF_JNE | BPF_K, BPF_REG_1, 0,
           static_cast<std::int16_t>(fragment.size() + 1 + noting), 0);
    }
    append(fragment);
    emit(BPF_JMP | BPF_JNE | BPF_K, kVerdict, 0, static_cast<std::int16_t>(noting), 0);
    append(note.code_);
  }

  void end(int chain_fd) {
    move(BPF_REG_1, kContext);
    map(BPF_REG_2, chain_fd);
    constant(BPF_REG_3, VTAP_CHAIN_FILTERED);
    call(BPF_FUNC_tail_call);
    plain();
  }

  [[nodiscard]] const std::vector<bpf_insn>& code() const { return code_; }

 private:
  void emit(int op, int dst, int src, std::int16_t off, std::int32_t imm) {
    bpf_insn insn{};
    insn.code = static_cast<__u8>(op);
    insn.dst_reg = static_cast<__u8>(dst & 0xf);
    insn.src_reg = static_cast<__u8>(src & 0xf);
    insn.off = off;
    insn.imm = imm;
    code_.push_back(insn);
  }
  void append(const std::vector<bpf_insn>& more) {
    code_.insert(code_.end(), more.begin(), more.end());
  }
  void move(int dst, int src) { emit(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0); }
  void add(int dst, std::int32_t k) { emit(kAdd, dst, 0, 0, k); }
  void constant(int dst, std::int32_t k) { emit(BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, k); }
  void call(std::int32_t helper) { emit(BPF_JMP | BPF_CALL, 0, 0, 0, helper); }
  void wide(int dst, int src, std::uint64_t value) {
    emit(kWide, dst, src, 0, static_cast<std::int32_t>(value & 0xffffffff));
    emit(0, 0, 0, 0, static_cast<std::int32_t>(value >> 32));
  }
  void map(int dst, int fd) { wide(dst, BPF_PSEUDO_MAP_FD, static_cast<std::uint32_t>(fd)); }
  void load_word(int dst, std::size_t field) {
    emit(BPF_LDX | BPF_MEM | BPF_W, dst, kWindow, from_window(field), 0);
  }

  void reject(std::uint32_t word, std::uint64_t tops) {
    const auto at = from_window(offsetof(vtap_cpu, rejected) + word * sizeof(std::uint64_t));
    wide(BPF_REG_1, 0, tops);
    emit(BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_2, kWindow, at, 0);
    emit(BPF_ALU64 | BPF_OR | BPF_X, BPF_REG_2, BPF_REG_1, 0, 0);
    emit(BPF_STX | BPF_MEM | BPF_DW, kWindow, BPF_REG_2, at, 0);
  }

  /// What the stub would do with the original (stub_xdp.bpf.c, stub_tc.bpf.c).
  void plain() {
    const bool by_stack = hook_ == ProgramHook::xdp && config_.by_stack != 0;
    const bool forwards = config_.mode == VTAP_MODE_INLINE && !by_stack;
    if (!forwards) {
      constant(BPF_REG_0, hook_ == ProgramHook::xdp ? static_cast<int>(XDP_PASS) : TC_ACT_UNSPEC);
    } else if (hook_ == ProgramHook::xdp) {
      map(BPF_REG_1, out_fd_);
      constant(BPF_REG_2, 0);
      constant(BPF_REG_3, 0);
      call(BPF_FUNC_redirect_map);
    } else {
      constant(BPF_REG_1, static_cast<std::int32_t>(config_.out_ifindex));
      constant(BPF_REG_2, 0);
      call(BPF_FUNC_redirect);
    }
    emit(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
  }
  [[nodiscard]] std::int16_t plain_size() const {
    Generator plain_only(hook_, config_, out_fd_);
    plain_only.plain();
    return static_cast<std::int16_t>(plain_only.code_.size());
  }

  ProgramHook hook_;
  const vtap_port_config& config_;
  int out_fd_;
  std::vector<bpf_insn> code_;
};

Result<UniqueFd> load_all(ProgramHook hook, const vtap_port_config& config,
                          std::span<const PortFilter> filters, int cpus_fd, int chain_fd,
                          int out_fd) {
  Generator generator(hook, config, out_fd);
  generator.begin(cpus_fd);
  for (const PortFilter& port_filter : filters) {
    generator.judge(port_filter, filter::may_read_checksum(port_filter.filter->program()));
  }
  generator.end(chain_fd);
  LIBBPF_OPTS(bpf_prog_load_opts, options);
  const bool xdp = hook == ProgramHook::xdp;
  if (xdp) {  // as the programs on either side of it are
    options.expected_attach_type = BPF_XDP;
    options.prog_flags = BPF_F_XDP_HAS_FRAGS;
  }
  UniqueFd program(bpf_prog_load(xdp ? BPF_PROG_TYPE_XDP : BPF_PROG_TYPE_SCHED_CLS, "vtap_filters",
                                 "GPL", generator.code().data(), generator.code().size(),
                                 &options));
  if (!program) return bpf_error("loading the filters", -errno);
  return program;
}

}  // namespace

std::vector<PortFilter> filters_of(const config::Config& config, const plan::Tables& tables,
                                   std::uint32_t tap) {
  std::vector<PortFilter> filters;
  const std::vector<plan::Tables::Tops> tops = tables.early_tops();
  for (std::uint32_t i = 0; i < config.policies.size(); ++i) {
    const config::Policy& policy = config.policies[i];
    if (!tables.judged[i]) continue;
    if (std::ranges::find(policy.taps, tap) == policy.taps.end()) continue;
    filters.push_back({&*policy.filter, tops[i]});
  }
  return filters;
}

Result<Filters> load_filters(ProgramHook hook, const vtap_port_config& config,
                             const std::vector<PortFilter>& filters, int cpus_fd, int chain_fd,
                             int out_fd) {
  for (std::size_t count = filters.size();; count /= 2) {
    auto program =
        load_all(hook, config, std::span(filters).first(count), cpus_fd, chain_fd, out_fd);
    if (program) return Filters{std::move(*program), filters.size() - count};
    if (count == 0) return program.error();
  }
}

}  // namespace vtap::io
