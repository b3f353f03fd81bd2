// SPDX-License-Identifier: Apache-2.0
#include "filter/translate.hpp"

#include <linux/filter.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>

namespace vtap::filter {
namespace {

/// BPF_ADD is zero, which clang-tidy takes for a slip beside BPF_K.
constexpr int kAdd = BPF_ALU64 | BPF_K;
static_assert(BPF_ADD == 0);

constexpr std::uint8_t kA = BPF_REG_2;
constexpr std::uint8_t kX = BPF_REG_3;
constexpr std::uint8_t kScratch = BPF_REG_4;
constexpr std::uint8_t kEnd = BPF_REG_5;
constexpr std::uint32_t kShiftLimit = 32;

/// A fragment's own places to jump to; smaller numbers are classic instructions.
enum Place : std::uint32_t { kOut = 0xfffffffd, kReject, kAccept };

std::uint32_t bytes_of(std::uint16_t size) { return size == BPF_W ? 4 : size == BPF_H ? 2 : 1; }

class Translator {
 public:
  Translator(std::span<const Instruction> program, std::vector<bpf_insn>& code)
      : program_(program), code_(code), at_(program.size()) {}

  Result<void> run() {
    zero(kVerdict);
    zero(kA);
    zero(kX);
    zero_memory();
    for (std::uint32_t i = 0; i < program_.size(); ++i) {
      at_[i] = code_.size();
      if (!instruction(program_[i], i + 1)) {
        return Error{"its instruction " + std::to_string(i) + " (code " +
                         std::to_string(program_[i].code) + ") means something else in eBPF",
                     ErrorKind::unsupported};
      }
    }
    ends();
    return resolve();
  }

 private:
  void emit(std::uint8_t op, std::uint8_t dst, std::uint8_t src, std::int16_t off,
            std::uint32_t imm) {
    bpf_insn insn{};
    insn.code = op;
    insn.dst_reg = dst & 0xf;
    insn.src_reg = src & 0xf;
    insn.off = off;
    insn.imm = static_cast<std::int32_t>(imm);
    code_.push_back(insn);
  }
  void alu_k(std::uint8_t op, std::uint8_t dst, std::uint32_t k) {
    emit(BPF_ALU | op | BPF_K, dst, 0, 0, k);
  }
  void alu_x(std::uint8_t op, std::uint8_t dst, std::uint8_t src) {
    emit(BPF_ALU | op | BPF_X, dst, src, 0, 0);
  }
  void zero(std::uint8_t dst) { alu_k(BPF_MOV, dst, 0); }

  void jump_to(std::uint32_t place) {
    jumps_.push_back({code_.size(), place});
    emit(BPF_JMP | BPF_JA, 0, 0, 0, 0);
  }
  void jump_if(std::uint8_t op, std::uint8_t dst, std::uint32_t k, std::uint32_t place) {
    jumps_.push_back({code_.size(), place});
    emit(op | BPF_K, dst, 0, 0, k);
  }
  void jump_if_x(std::uint8_t op, std::uint8_t dst, std::uint8_t src, std::uint32_t place) {
    jumps_.push_back({code_.size(), place});
    emit(op | BPF_X, dst, src, 0, 0);
  }

  /// Always taken. A plain jump might leave instructions behind it that nobody reaches, which the
  /// verifier refuses; what only a condition keeps from being reached it removes.
  void surely_out() { jump_if(BPF_JMP | BPF_JGE, kAvailable, 0, kOut); }

  static std::int16_t memory(std::uint32_t slot) {
    return static_cast<std::int16_t>(-4 * (static_cast<std::int32_t>(slot) + 1));
  }

  /// The verifier wants every word written before it is read.
  void zero_memory() {
    std::uint32_t used = 0;
    for (const Instruction& insn : program_) {
      const auto kind = static_cast<std::uint16_t>(insn.code & 0xe7);
      if (kind == (BPF_LD | BPF_MEM) || kind == (BPF_LDX | BPF_MEM)) used |= 1U << (insn.k & 15);
    }
    for (std::uint32_t slot = 0; slot < BPF_MEMWORDS; ++slot) {
      if ((used >> slot & 1) != 0) emit(BPF_ST | BPF_MEM | BPF_W, BPF_REG_10, 0, memory(slot), 0);
    }
  }

  void load(std::uint8_t to, std::uint8_t from, std::uint32_t offset, std::uint16_t size) {
    emit(static_cast<std::uint8_t>(BPF_LDX | BPF_MEM | size), to, from,
         static_cast<std::int16_t>(offset), 0);
    if (size != BPF_B) emit(BPF_ALU | BPF_END | BPF_TO_BE, to, 0, 0, bytes_of(size) * 8);
  }

  /// Leaves the fragment if the window has not all of these bytes.
  bool in_window(std::uint32_t offset, std::uint32_t bytes) {
    if (offset >= kWindowBytes) {
      surely_out();
      return false;
    }
    jump_if(BPF_JMP | BPF_JLT, kAvailable, offset + bytes, kOut);
    return true;
  }

  void load_indirect(std::uint32_t k, std::uint16_t size) {
    if (k >= kWindowBytes) return surely_out();
    alu_x(BPF_MOV, kScratch, kX);
    emit(kAdd, kScratch, 0, 0, k);
    jump_if(BPF_JMP | BPF_JGT, kScratch, kWindowBytes - 1, kOut);
    emit(BPF_ALU64 | BPF_MOV | BPF_X, kEnd, kScratch, 0, 0);
    emit(kAdd, kEnd, 0, 0, bytes_of(size));
    jump_if_x(BPF_JMP | BPF_JGT, kEnd, kAvailable, kOut);
    emit(BPF_ALU64 | BPF_ADD | BPF_X, kScratch, kWindow, 0, 0);
    load(kA, kScratch, 0, size);
  }

  bool instruction(const Instruction& insn, std::uint32_t next) {
    switch (BPF_CLASS(insn.code)) {
      case BPF_LD:
        return load_a(insn);
      case BPF_LDX:
        return load_x(insn);
      case BPF_ST:
      case BPF_STX:
        if (insn.k >= BPF_MEMWORDS) return false;
        emit(BPF_STX | BPF_MEM | BPF_W, BPF_REG_10, BPF_CLASS(insn.code) == BPF_ST ? kA : kX,
             memory(insn.k), 0);
        return true;
      case BPF_ALU:
        return arithmetic(insn);
      case BPF_JMP:
        return jump(insn, next);
      case BPF_RET:
        return leave(insn);
      default:
        if (insn.code == (BPF_MISC | BPF_TAX)) return alu_x(BPF_MOV, kX, kA), true;
        if (insn.code == (BPF_MISC | BPF_TXA)) return alu_x(BPF_MOV, kA, kX), true;
        return false;
    }
  }

  bool load_a(const Instruction& insn) {
    const std::uint16_t size = BPF_SIZE(insn.code);
    switch (BPF_MODE(insn.code)) {
      case BPF_IMM:
        alu_k(BPF_MOV, kA, insn.k);
        return true;
      case BPF_ABS:
        if (in_window(insn.k, bytes_of(size))) load(kA, kWindow, insn.k, size);
        return true;
      case BPF_IND:
        load_indirect(insn.k, size);
        return true;
      case BPF_LEN:
        alu_x(BPF_MOV, kA, kLength);
        return true;
      case BPF_MEM:
        return load_memory(kA, insn.k);
      default:
        return false;
    }
  }

  bool load_x(const Instruction& insn) {
    switch (BPF_MODE(insn.code)) {
      case BPF_IMM:
        alu_k(BPF_MOV, kX, insn.k);
        return true;
      case BPF_LEN:
        alu_x(BPF_MOV, kX, kLength);
        return true;
      case BPF_MEM:
        return load_memory(kX, insn.k);
      case BPF_MSH:  // four times the low half of a byte: the length of an IPv4 header
        if (!in_window(insn.k, 1)) return true;
        load(kX, kWindow, insn.k, BPF_B);
        alu_k(BPF_AND, kX, 0xf);
        alu_k(BPF_LSH, kX, 2);
        return true;
      default:
        return false;
    }
  }

  bool load_memory(std::uint8_t to, std::uint32_t slot) {
    if (slot >= BPF_MEMWORDS) return false;
    emit(BPF_LDX | BPF_MEM | BPF_W, to, BPF_REG_10, memory(slot), 0);
    return true;
  }

  bool arithmetic(const Instruction& insn) {
    const auto op = static_cast<std::uint8_t>(BPF_OP(insn.code));
    const bool by_x = BPF_SRC(insn.code) == BPF_X;
    if (op > BPF_XOR) return false;
    if (op == BPF_NEG) return alu_k(BPF_NEG, kA, 0), true;
    const bool divides = op == BPF_DIV || op == BPF_MOD;
    const bool shifts = op == BPF_LSH || op == BPF_RSH;
    if (!by_x) {
      if ((divides && insn.k == 0) || (shifts && insn.k >= kShiftLimit)) return false;
      alu_k(op, kA, insn.k);
      return true;
    }
    if (divides) jump_if(BPF_JMP32 | BPF_JEQ, kX, 0, kReject);
    if (shifts) {  // by 32 and more: nothing is left; eBPF takes the number's low bits
      emit(BPF_JMP32 | BPF_JLT | BPF_K, kX, 0, 2, kShiftLimit);
      zero(kA);
      emit(BPF_JMP | BPF_JA, 0, 0, 1, 0);
    }
    alu_x(op, kA, kX);
    return true;
  }

  bool jump(const Instruction& insn, std::uint32_t next) {
    const auto op = static_cast<std::uint8_t>(BPF_OP(insn.code));
    if (op == BPF_JA) return jump_to(next + insn.k), true;
    if (op != BPF_JEQ && op != BPF_JGT && op != BPF_JGE && op != BPF_JSET) return false;
    if (BPF_SRC(insn.code) == BPF_X)
      jump_if_x(BPF_JMP32 | op, kA, kX, next + insn.jt);
    else
      jump_if(BPF_JMP32 | op, kA, insn.k, next + insn.jt);
    if (insn.jf != 0) jump_to(next + insn.jf);
    return true;
  }

  bool leave(const Instruction& insn) {
    if (BPF_RVAL(insn.code) == BPF_A) {
      jump_if(BPF_JMP32 | BPF_JNE, kA, 0, kAccept);
      jump_to(kReject);
      return true;
    }
    if (BPF_RVAL(insn.code) != BPF_K) return false;
    jump_to(insn.k != 0 ? kAccept : kReject);
    return true;
  }

  [[nodiscard]] bool used(std::uint32_t place) const {
    return std::ranges::find(jumps_, place, &Jump::place) != jumps_.end();
  }

  /// Only those that are jumped to: the verifier refuses what nobody reaches. What is not in the
  /// window may be in the frame all the same, if that is longer.
  void ends() {
    out_ = code_.size();
    if (used(kOut)) {
      jump_if_x(BPF_JMP | BPF_JLT, kAvailable, kLength, kAccept);
      jump_to(kReject);
    }
    accept_ = code_.size();
    if (used(kAccept)) alu_k(BPF_MOV, kVerdict, 1);
    end_ = code_.size();
  }

  [[nodiscard]] std::optional<std::size_t> position(std::uint32_t place) const {
    if (place == kOut) return out_;
    if (place == kReject) return end_;
    if (place == kAccept) return accept_;
    if (place >= at_.size()) return std::nullopt;
    return at_[place];
  }

  Result<void> resolve() {
    for (const auto& [from, place] : jumps_) {
      const auto to = position(place);
      if (!to) return Error{"it jumps out of the program", ErrorKind::unsupported};
      if (*to <= from) return Error{"it loops (protochain)", ErrorKind::unsupported};
      const std::size_t distance = *to - from - 1;
      if (distance > std::numeric_limits<std::int16_t>::max())
        return Error{"it is too long", ErrorKind::unsupported};
      code_[from].off = static_cast<std::int16_t>(distance);
    }
    return {};
  }

  struct Jump {
    std::size_t from;
    std::uint32_t place;
  };

  std::span<const Instruction> program_;
  std::vector<bpf_insn>& code_;
  std::vector<std::size_t> at_;  ///< where the eBPF of a classic instruction begins
  std::vector<Jump> jumps_;
  std::size_t out_ = 0, accept_ = 0, end_ = 0;
};

/// Bytes in front of which no checksum of an inner frame can be: behind the least outer headers.
constexpr std::uint32_t kFirstInner = 14 + 20 + 8 + 8 + 14 + 20 + 6;

/// Whether bytes [at, at + n) may hold a checksum, where the L4 header begins at `l4` or up to two
/// tags behind it.
bool overlaps_checksum(std::uint32_t at, std::uint32_t n, std::uint32_t l4) {
  constexpr std::uint32_t two_tags = 8;
  constexpr std::uint32_t udp_at = 6;
  constexpr std::uint32_t tcp_at = 16;
  for (std::uint32_t tags = 0; tags <= two_tags; tags += 4) {
    for (const std::uint32_t field : {udp_at, tcp_at}) {
      const std::uint32_t first = l4 + tags + field;
      if (at < first + 2 && first < at + n) return true;
    }
  }
  return false;
}

}  // namespace

bool may_read_checksum(std::span<const Instruction> program) {
  constexpr std::uint32_t ethernet = 14;
  constexpr std::uint32_t ipv4 = 20;
  constexpr std::uint32_t ipv6 = 40;
  // X is the length of an IPv4 header, or anything.
  const bool plain_x = std::ranges::none_of(program, [](const Instruction& insn) {
    const bool sets_x = BPF_CLASS(insn.code) == BPF_LDX && BPF_MODE(insn.code) != BPF_MSH;
    return sets_x || insn.code == (BPF_MISC | BPF_TAX);
  });
  return std::ranges::any_of(program, [&](const Instruction& insn) {
    if (BPF_CLASS(insn.code) != BPF_LD) return false;
    const std::uint32_t n = bytes_of(BPF_SIZE(insn.code));
    if (BPF_MODE(insn.code) == BPF_IND) {
      return !plain_x || insn.k >= kFirstInner - ipv4 || overlaps_checksum(insn.k, n, ethernet);
    }
    if (BPF_MODE(insn.code) != BPF_ABS) return false;
    return insn.k >= kFirstInner || overlaps_checksum(insn.k, n, ethernet + ipv4) ||
           overlaps_checksum(insn.k, n, ethernet + ipv6);
  });
}

Result<void> translate(std::span<const Instruction> program, std::vector<bpf_insn>& code) {
  return Translator(program, code).run();
}

}  // namespace vtap::filter
