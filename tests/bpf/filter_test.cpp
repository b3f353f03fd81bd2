// SPDX-License-Identifier: Apache-2.0
// Filters in the kernel against libpcap's interpreter: real programs, thousands of frames.
#include "filter/filter.hpp"

#include <bpf/bpf.h>
#include <linux/bpf.h>
#include <sys/utsname.h>
#include <vtap/parse.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "bpf/rig.hpp"
#include "filter/translate.hpp"
#include "plan/classifier.hpp"
#include "support/classified.hpp"
#include "support/expressions.hpp"
#include "support/random_config.hpp"
#include "vtap/fd.hpp"

namespace vtap::test {
namespace {

using filter::Filter;

bpf_insn insn(int op, int dst, int src, int off, int imm) {
  bpf_insn made{};
  made.code = static_cast<__u8>(op);
  made.dst_reg = static_cast<__u8>(dst & 0xf);
  made.src_reg = static_cast<__u8>(src & 0xf);
  made.off = static_cast<__s16>(off);
  made.imm = imm;
  return made;
}

/// An XDP program around a fragment: its verdict is the fragment's.
class Harness {
 public:
  explicit Harness(const Filter& filter) {
    const std::uint32_t size = filter::kWindowBytes + filter::kWindowSlack;
    window_.reset(bpf_map_create(BPF_MAP_TYPE_ARRAY, "window", 4, size, 1, nullptr));
    std::vector<bpf_insn> code = {
        insn(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0),
        insn(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_xdp_get_buff_len),
        insn(BPF_ALU64 | BPF_MOV | BPF_X, filter::kLength, 0, 0, 0),
        insn(BPF_ST | BPF_MEM | BPF_W, 10, 0, -4, 0),
        insn(BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0),
        insn(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, -4),
        insn(BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_FD, 0, window_.get()),
        insn(0, 0, 0, 0, 0),
        insn(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_map_lookup_elem),
        insn(BPF_JMP | BPF_JNE | BPF_K, 0, 0, 1, 0),
        insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
        insn(BPF_ALU64 | BPF_MOV | BPF_X, filter::kWindow, 0, 0, 0),
        insn(BPF_ALU64 | BPF_MOV | BPF_X, filter::kAvailable, filter::kLength, 0, 0),
        insn(BPF_JMP | BPF_JLE | BPF_K, filter::kAvailable, 0, 1, filter::kWindowBytes),
        insn(BPF_ALU64 | BPF_MOV | BPF_K, filter::kAvailable, 0, 0, filter::kWindowBytes),
        insn(BPF_JMP | BPF_JGE | BPF_K, filter::kAvailable, 0, 2, 1),
        insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, kFailed),
        insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
        insn(BPF_ALU64 | BPF_MOV | BPF_X, 1, 6, 0, 0),
        insn(BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, 0),
        insn(BPF_ALU64 | BPF_MOV | BPF_X, 3, filter::kWindow, 0, 0),
        insn(BPF_ALU64 | BPF_MOV | BPF_X, 4, filter::kAvailable, 0, 0),
        insn(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_xdp_load_bytes),
        insn(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 2, 0),
        insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, kFailed),
        insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    };
    translated_ = filter::translate(filter.program(), code);
    code.push_back(insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
    instructions_ = code.size();
    std::vector<char> log(1 << 16);
    LIBBPF_OPTS(bpf_prog_load_opts, options);
    options.log_buf = log.data();
    options.log_size = static_cast<__u32>(log.size());
    program_.reset(
        bpf_prog_load(BPF_PROG_TYPE_XDP, "vtap_filter", "GPL", code.data(), code.size(), &options));
    if (!program_) problem_ = std::string(std::strerror(errno)) + "\n" + log.data();
  }

  [[nodiscard]] const Result<void>& translated() const { return translated_; }
  [[nodiscard]] const std::string& problem() const { return problem_; }
  [[nodiscard]] std::size_t instructions() const { return instructions_; }

  [[nodiscard]] bool matches(const Bytes& frame) const {
    LIBBPF_OPTS(bpf_test_run_opts, options);
    options.data_in = frame.data();
    options.data_size_in = static_cast<__u32>(frame.size());
    options.repeat = 1;
    EXPECT_EQ(bpf_prog_test_run_opts(program_.get(), &options), 0) << std::strerror(errno);
    EXPECT_NE(options.retval, static_cast<__u32>(kFailed));
    return options.retval == 1;
  }

 private:
  static constexpr int kFailed = 9;

  UniqueFd window_, program_;
  Result<void> translated_;
  std::string problem_;
  std::size_t instructions_ = 0;
};

class FilterTest : public BpfTest {};

TEST_F(FilterTest, TheKernelJudgesAsLibpcapDoes) {
  const std::vector<Bytes> frames = corpus(1, 3000);
  std::size_t matched = 0;
  std::size_t judged = 0;
  for (const char* expression : kExpressions) {
    const Result<Filter> filter = Filter::compile(expression);
    ASSERT_TRUE(filter.ok()) << expression << ": " << filter.error().message;
    const Harness harness(filter.value());
    if (std::string_view(expression).find("protochain") != std::string_view::npos) {
      EXPECT_FALSE(harness.translated().ok()) << "loops";
      continue;
    }
    ASSERT_TRUE(harness.translated().ok())
        << expression << ": " << harness.translated().error().message;
    ASSERT_EQ(harness.problem(), "") << expression;
    for (const Bytes& frame : frames) {
      if (!runnable(io::ProgramHook::xdp, frame)) continue;
      const bool wanted = filter.value().matches(frame);
      const bool kernel = harness.matches(frame);
      ++judged;
      matched += wanted ? 1 : 0;
      // Behind the window the kernel leaves it to the broker.
      const bool exact = frame.size() <= filter::kWindowBytes;
      ASSERT_TRUE(exact ? kernel == wanted : kernel || !wanted)
          << expression << " of " << hex(frame) << ": kernel " << kernel;
    }
  }
  std::printf("judged %zu matched %zu\n", judged, matched);
  EXPECT_GT(judged, 50'000U);
  EXPECT_GT(matched, judged / 20);
}

bool shows_checksums() {
  utsname name{};
  ::uname(&name);
  int major = 0;
  int minor = 0;
  return std::sscanf(name.release, "%d.%d", &major, &minor) == 2 &&
         (major > 6 || (major == 6 && minor >= 2));
}

/// Random plans with filters on some of their policies: a frame is copied if some policy's match
/// and filter both take it.
void compare_plan(io::ProgramHook hook, std::uint64_t seed, std::size_t* copied,
                  std::size_t* rejected) {
  Random random(seed);
  config::Config config = random_config(seed);
  for (auto& policy : config.policies) {
    if (!random.percent(70)) continue;
    const char* const expression =
        kExpressions[random.below(static_cast<std::uint32_t>(kExpressions.size()))];
    policy.filter = require(Filter::compile(expression));
  }
  const Compiled plan(config);
  const plan::Classifier classifier(plan.tables);
  Found found(classifier);
  const auto tap = static_cast<std::uint32_t>(seed % config.taps.size());
  Tee tee(8);
  vtap_port_config constants_of_tap = constants(plan.tables, tap, tee);
  const auto filters = io::filters_of(config, plan.tables, tap);
  constants_of_tap.filters = filters.empty() || constants_of_tap.match_all != 0 ? 0 : 1;
  Tap programs(hook, constants_of_tap, tee, plan, filters);
  for (const Bytes& frame : corpus(seed, 200)) {
    if (!runnable(hook, frame) || frame.size() > filter::kWindowBytes) continue;
    vtap_key key;
    const auto length = static_cast<__u32>(frame.size());
    vtap_parse(frame.data(), length, length, &key);
    found.classify(key, tap);
    bool wanted = false;
    bool kernel_only = true;  // no policy with a filter that the kernel cannot judge
    std::ranges::for_each(found.policies(), [&](std::uint32_t number) {
      const auto& filter = config.policies[number].filter;
      const bool takes = !filter || filter->matches(frame);
      std::vector<bpf_insn> code;
      if (filter && !filter::translate(filter->program(), code)) kernel_only = false;
      // A kernel that does not show whether a checksum is finished.
      if (filter && hook == io::ProgramHook::tc && !shows_checksums() &&
          filter::may_read_checksum(filter->program())) {
        kernel_only = false;
      }
      *rejected += takes ? 0 : 1;
      wanted |= takes;
    });
    if (!kernel_only && !wanted) continue;
    tee.give(1);
    ASSERT_EQ(programs.run(frame), Fate::passed);
    ASSERT_EQ(tee.take().size(), wanted ? 1U : 0U)
        << name_of(hook) << ", config " << seed << ", frame " << hex(frame);
    *copied += wanted ? 1 : 0;
  }
}

TEST_F(FilterTest, APolicyTakesWhatItsMatchAndItsFilterTake) {
  std::size_t copied = 0;
  std::size_t rejected = 0;
  for (std::uint64_t seed = 0; seed < 24; ++seed) {
    for (const auto hook : {io::ProgramHook::xdp, io::ProgramHook::tc})
      ASSERT_NO_FATAL_FAILURE(compare_plan(hook, seed, &copied, &rejected));
  }
  EXPECT_GT(copied, 300U);
  EXPECT_GT(rejected, 300U);
}

/// The verifier walks every way through them, and gives up at some number.
TEST_F(FilterTest, FewerFiltersIfTheVerifierDoesNotTakeThemTogether) {
  std::vector<filter::Filter> compiled;
  for (int round = 0; round < 20; ++round) {
    for (const auto& expression : kExpressions) {
      auto filter = filter::Filter::compile(std::string(expression));
      std::vector<bpf_insn> code;
      if (filter && filter::translate(filter->program(), code))
        compiled.push_back(std::move(*filter));
    }
  }
  std::vector<io::PortFilter> filters;
  for (const filter::Filter& filter : compiled) filters.push_back({&filter, {{0, 1}}});
  ASSERT_GT(filters.size(), 500U);
  const config::Config config = one_policy({config::Match{.proto = {{17, 17}}}});
  const Compiled plan(config);
  Tee tee(8);
  vtap_port_config constants_of_tap = constants(plan.tables, 0, tee);
  constants_of_tap.filters = 1;
  Tap few(io::ProgramHook::tc, constants_of_tap, tee, plan,
          std::vector(filters.begin(), filters.begin() + 20));
  EXPECT_EQ(few.programs().filters_left_out(), 0U);
  Tap many(io::ProgramHook::tc, constants_of_tap, tee, plan, filters);
  EXPECT_GT(many.programs().filters_left_out(), 0U);
  EXPECT_LT(many.programs().filters_left_out(), filters.size());
}

}  // namespace
}  // namespace vtap::test
