// SPDX-License-Identifier: Apache-2.0
// The order between program and broker hangs on single instructions: an atomic whose result is
// unused compiles to a relaxed one on arm64 (DESIGN 4). So look at what the compiler made. Needs no
// root: nothing is loaded.
#include <bpf/libbpf.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <vtap/abi.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <vector>

namespace vtap::test {
namespace {

struct Source {
  const char* path;
  const char* program;
};
std::ostream& operator<<(std::ostream& to, const Source& source) { return to << source.program; }

#ifdef __x86_64__
constexpr bool kPublishesByStore = true;
#else
constexpr bool kPublishesByStore = false;
#endif

class ObjectCode : public testing::TestWithParam<Source> {
 protected:
  void SetUp() override {
    object_.reset(::bpf_object__open_file(GetParam().path, nullptr));
    ASSERT_NE(object_, nullptr) << GetParam().path;
    const bpf_program* const program =
        ::bpf_object__find_program_by_name(object_.get(), GetParam().program);
    ASSERT_NE(program, nullptr);
    code_ = {::bpf_program__insns(program), ::bpf_program__insn_cnt(program)};
  }

  static bool is_atomic(const bpf_insn& insn) {
    return BPF_CLASS(insn.code) == BPF_STX && BPF_MODE(insn.code) == BPF_ATOMIC;
  }
  /// A 32-bit store of a register; off the stack, where offsets are negative.
  static bool is_store(const bpf_insn& insn) {
    return insn.code == (BPF_STX | BPF_MEM | BPF_W) && insn.dst_reg != BPF_REG_10;
  }

  /// Atomics on a member of struct vtap_cpu.
  std::vector<std::size_t> find_atomics(std::size_t member) const {
    std::vector<std::size_t> found;
    for (std::size_t i = 0; i < code_.size(); ++i) {
      if (is_atomic(code_[i]) && code_[i].off == static_cast<std::int16_t>(member))
        found.push_back(i);
    }
    return found;
  }
  std::vector<std::size_t> find_exchanges(std::size_t member) const {
    auto found = find_atomics(member);
    std::erase_if(found, [this](std::size_t i) { return code_[i].imm != BPF_XCHG; });
    return found;
  }

  std::vector<std::size_t> find_stores(std::size_t member, std::uint8_t cpu) const {
    std::vector<std::size_t> found;
    for (std::size_t i = 0; i < code_.size(); ++i) {
      if (is_store(code_[i]) && code_[i].dst_reg == cpu &&
          code_[i].off == static_cast<std::int16_t>(member))
        found.push_back(i);
    }
    return found;
  }
  /// Everything that changes desc_prod. It is the first member, so a plain store to it is known by
  /// the one to free_cons close behind, on the same register.
  std::vector<std::size_t> find_publishing() const {
    constexpr std::size_t kClose = 8;
    static_assert(offsetof(vtap_cpu, desc_prod) == 0);
    auto found = find_exchanges(offsetof(vtap_cpu, desc_prod));
    for (std::size_t i = 0; i < code_.size(); ++i) {
      if (!is_store(code_[i]) || code_[i].off != offsetof(vtap_cpu, desc_prod)) continue;
      const auto freed = find_stores(offsetof(vtap_cpu, free_cons), code_[i].dst_reg);
      if (std::ranges::any_of(freed, [&](std::size_t at) { return at > i && at < i + kClose; }))
        found.push_back(i);
    }
    return found;
  }

  struct Close {
    void operator()(bpf_object* object) const { ::bpf_object__close(object); }
  };
  std::unique_ptr<bpf_object, Close> object_;
  std::span<const bpf_insn> code_;
};

INSTANTIATE_TEST_SUITE_P(Programs, ObjectCode,
                         testing::Values(Source{VTAP_TAP_XDP_OBJECT, "vtap_tap_xdp"},
                                         Source{VTAP_TAP_TC_OBJECT, "vtap_tap_tc"},
                                         Source{VTAP_LEG_OBJECT, "vtap_leg"}),
                         [](const auto& made) { return std::string(made.param.program); });

TEST_P(ObjectCode, EveryAtomicFetches) {
  std::size_t atomics = 0;
  for (std::size_t i = 0; i < code_.size(); ++i) {
    if (!is_atomic(code_[i])) continue;
    ++atomics;
    EXPECT_TRUE((code_[i].imm & BPF_FETCH) != 0) << "instruction " << i << " is a relaxed atomic";
  }
  EXPECT_EQ(atomics, kPublishesByStore ? 4U : 5U) << "those of the next tests";
}

TEST_P(ObjectCode, IndexesOfTheOtherSideAreReadByAFetchingOperation) {
  for (const std::size_t member : {offsetof(vtap_cpu, free_prod), offsetof(vtap_cpu, desc_cons)}) {
    const auto found = find_atomics(member);
    ASSERT_EQ(found.size(), 1U);
    const std::int32_t operation = code_[found[0]].imm;
    // Clang turns "add nothing" into "or nothing".
    EXPECT_TRUE(operation == (BPF_ADD | BPF_FETCH) || operation == (BPF_OR | BPF_FETCH))
        << operation;
    // A plain look before it may say that there is nothing new, and no more.
    std::vector<std::size_t> looks;
    for (std::size_t i = 0; i < code_.size(); ++i) {
      if (code_[i].code == (BPF_LDX | BPF_MEM | BPF_W) && code_[i].off == code_[found[0]].off &&
          code_[i].src_reg == code_[found[0]].dst_reg)
        looks.push_back(i);
    }
    EXPECT_LE(looks.size(), 1U);
    for (const std::size_t look : looks) EXPECT_LT(look, found[0]);
  }
}

TEST_P(ObjectCode, ADescriptorIsPublishedOnce) {
  const std::vector<std::size_t> published = find_publishing();
  ASSERT_EQ(published.size(), 1U);
  EXPECT_EQ(is_atomic(code_[published[0]]), !kPublishesByStore);
  // The descriptor is there by then.
  std::size_t fields = 0;
  for (std::size_t i = 0; i < code_.size(); ++i) {
    const bool store = BPF_CLASS(code_[i].code) == BPF_STX || BPF_CLASS(code_[i].code) == BPF_ST;
    const auto at = static_cast<std::size_t>(code_[i].off) - offsetof(vtap_cpu, desc_ring);
    if (!store || at >= sizeof(vtap_desc)) continue;
    ++fields;
    EXPECT_LT(i, published[0]) << "a field is written behind the publishing";
  }
  EXPECT_GE(fields, 5U) << "time, frame, generation, len, port, flags";
  // The slot is given back behind it: before, the broker could refill it too early.
  const auto freed = find_stores(offsetof(vtap_cpu, free_cons), code_[published[0]].dst_reg);
  ASSERT_EQ(freed.size(), 1U);
  EXPECT_GT(freed[0], published[0]);
}

TEST_P(ObjectCode, TheSleepersFlagIsTakenByAnExchangeBehindThePublishing) {
  const std::vector<std::size_t> published = find_publishing();
  const auto flag = find_exchanges(offsetof(vtap_cpu, sleeping));
  ASSERT_EQ(published.size(), 1U);
  ASSERT_EQ(flag.size(), 1U);
  // Its first, plain look as well: nothing reads the flag before the publishing.
  for (std::size_t i = 0; i < published[0]; ++i) {
    const bool load = code_[i].code == (BPF_LDX | BPF_MEM | BPF_W);
    EXPECT_FALSE(load && code_[i].src_reg == code_[published[0]].dst_reg &&
                 code_[i].off == offsetof(vtap_cpu, sleeping))
        << i;
  }
  EXPECT_GT(flag[0], published[0]);
}

/// What docs/decisions/0010 asks for: oneself before the clock, "many" behind it.
TEST_P(ObjectCode, AMakerIsAnnouncedBeforeItsTimeAndManyAfterIt) {
  const auto announced = find_atomics(offsetof(vtap_cpu, maker));
  ASSERT_EQ(announced.size(), 1U);
  EXPECT_EQ(code_[announced[0]].imm, BPF_CMPXCHG);
  std::vector<std::size_t> clocks;
  std::vector<std::size_t> manys;
  for (std::size_t i = 0; i < code_.size(); ++i) {
    if (code_[i].code == (BPF_JMP | BPF_CALL) && code_[i].src_reg == 0 &&
        code_[i].imm == BPF_FUNC_ktime_get_ns)
      clocks.push_back(i);
    const bool store = BPF_CLASS(code_[i].code) == BPF_STX || BPF_CLASS(code_[i].code) == BPF_ST;
    if (store && i != announced[0] && code_[i].off == code_[announced[0]].off) manys.push_back(i);
  }
  ASSERT_EQ(manys.size(), 1U);
  EXPECT_TRUE(std::ranges::any_of(
      clocks, [&](std::size_t clock) { return clock > announced[0] && clock < manys[0]; }));
}

}  // namespace
}  // namespace vtap::test
