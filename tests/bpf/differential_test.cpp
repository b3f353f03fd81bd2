// SPDX-License-Identifier: Apache-2.0
// The kernel's classifier against the one in C++, and against the oracle: the same frames, the same
// plans, and the copies byte for byte.
#include <vtap/parse.h>

#include <algorithm>
#include <memory>

#include "bpf/rig.hpp"
#include "plan/classifier.hpp"
#include "plan/layout.hpp"
#include "support/classified.hpp"
#include "support/random_config.hpp"
#include "support/reference.hpp"

namespace vtap::test {
namespace {

using io::ProgramHook;

enum { kFirstLook = 128 /* xdp/select.bpf.h */, kPort = 7, kGeneration = 0x01020304 };

bool needs_second_look(const Bytes& frame) {
  vtap_key key;
  const auto length = static_cast<__u32>(frame.size());
  return vtap_parse(frame.data(), std::min<__u32>(length, kFirstLook), length, &key) ==
         VTAP_PARSE_MORE;
}

/// What a comparison went through, so that it can be told whether it says anything.
struct Sample {
  std::size_t verdicts = 0, copied = 0, second_look_copied = 0, second_look_left = 0;
  std::uint32_t dims = 0, most_words = 0;
  std::size_t with_except = 0;
};

/// A config in all its forms.
class Subject {
 public:
  explicit Subject(config::Config config)
      : config_(std::move(config)),
        compiled_(config_),
        classifier_(compiled_.tables),
        found_(classifier_) {}

  [[nodiscard]] const config::Config& config() const { return config_; }
  [[nodiscard]] const Compiled& compiled() const { return compiled_; }

  bool wanted(const Bytes& frame, std::uint32_t tap) {
    vtap_key key;
    const auto length = static_cast<__u32>(frame.size());
    vtap_parse(frame.data(), std::min<__u32>(length, VTAP_WINDOW), length, &key);
    return found_.classify(key, tap);
  }

 private:
  config::Config config_;
  Compiled compiled_;
  plan::Classifier classifier_;
  Found found_;
};

class Differential : public BpfTest {
 protected:
  /// All frames through the program of one tap. False: stop, the reason was reported.
  bool compare(Subject& subject, std::uint32_t tap, ProgramHook hook,
               const std::vector<Bytes>& frames, const std::string& what, bool with_oracle) {
    const plan::Tables& tables = subject.compiled().tables;
    vtap_port_config config = constants(tables, tap, *tee_);
    config.port = kPort;
    config.generation = kGeneration;
    Tap programs(hook, config, *tee_, subject.compiled());
    sample_.dims |= tables.config.dims;
    sample_.most_words = std::max(sample_.most_words, tables.config.match_words);
    sample_.with_except += tables.config.except_words != 0;

    for (const Bytes& frame : frames) {
      if (!runnable(hook, frame)) continue;
      const bool expected = subject.wanted(frame, tap);
      if (!run(programs, frame, expected)) {
        ADD_FAILURE() << what << ", tap " << tap << " at " << name_of(hook) << ", frame "
                      << hex(frame);
        return false;
      }
      if (with_oracle && policies(subject.config(), tap, frame).empty() == expected) {
        ADD_FAILURE() << "the oracle: " << what << ", tap " << tap << ", frame " << hex(frame);
        return false;
      }
      ++sample_.verdicts;
      sample_.copied += expected;
      if (needs_second_look(frame))
        ++(expected ? sample_.second_look_copied : sample_.second_look_left);
    }
    return true;
  }

  void SetUp() override {
    BpfTest::SetUp();
    if (!IsSkipped() && !HasFatalFailure()) tee_ = std::make_unique<Tee>(8);
  }

  Sample sample_;

 private:
  /// One frame: the verdict, the counters and the copy.
  bool run(Tap& programs, const Bytes& frame, bool expected) {
    tee_->give(1);
    const vtap_port_counters before = tee_->counters(kPort);
    EXPECT_EQ(programs.run(frame), Fate::passed);
    const vtap_port_counters after = tee_->counters(kPort);
    const std::vector<Copy> copies = tee_->take();

    EXPECT_EQ(after.rx_frames, before.rx_frames + 1);
    EXPECT_EQ(after.rx_bytes, before.rx_bytes + frame.size());
    EXPECT_EQ(after.passed, before.passed + 1);
    EXPECT_EQ(after.matched, before.matched + (expected ? 1 : 0));
    EXPECT_EQ(after.copied, before.copied + (expected ? 1 : 0));
    EXPECT_EQ(copies.size(), expected ? 1U : 0U);
    for (const Copy& copy : copies) {
      EXPECT_EQ(copy.desc.port, kPort);
      EXPECT_EQ(copy.desc.generation, kGeneration);
      EXPECT_EQ(copy.desc.flags & ~(VTAP_DESC_CSUM_UNKNOWN | VTAP_DESC_TIMED), 0);
      EXPECT_EQ(copy.desc.len, frame.size());
      EXPECT_EQ(hex(copy.bytes), hex(frame));
    }
    return !HasFailure();
  }

  std::unique_ptr<Tee> tee_;
};

TEST_F(Differential, RandomPlansAgreeOnBothHooks) {
  constexpr std::uint64_t kConfigs = 32;
  constexpr std::size_t kFrames = 400;
  for (std::uint64_t seed = 0; seed < kConfigs; ++seed) {
    Subject subject(random_config(seed));
    const auto tap = static_cast<std::uint32_t>(seed % subject.config().taps.size());
    const std::vector<Bytes> frames = corpus(seed, kFrames);
    for (const ProgramHook hook : {ProgramHook::xdp, ProgramHook::tc}) {
      ASSERT_TRUE(
          compare(subject, tap, hook, frames, "config " + std::to_string(seed), seed % 8 == 0));
    }
  }
  // Else the agreement says little: a good part of everything must be in the sample.
  EXPECT_GT(sample_.copied, sample_.verdicts / 5);
  EXPECT_LT(sample_.copied, sample_.verdicts * 9 / 10);
  EXPECT_GT(sample_.second_look_copied, sample_.verdicts / 100);
  EXPECT_GT(sample_.second_look_left, sample_.verdicts / 100);
  constexpr std::uint32_t kAllDims =
      VTAP_DIM_TRIE4 | VTAP_DIM_HOST6 | VTAP_DIM_LPM6 | VTAP_DIM_PROTO | VTAP_DIM_VLAN |
      VTAP_DIM_INNER_VLAN | VTAP_DIM_ETHERTYPE | VTAP_DIM_TCP_FLAGS | VTAP_DIM_DSCP |
      VTAP_DIM_FRAGMENT | VTAP_DIM_LENGTH | VTAP_ENDS_ANY << VTAP_DIM_ADDR |
      VTAP_ENDS_ANY << VTAP_DIM_PORT | VTAP_ENDS_ANY << VTAP_DIM_MAC;
  EXPECT_EQ(sample_.dims, kAllDims);
  EXPECT_GT(sample_.with_except, 20U);
  EXPECT_GT(sample_.most_words, 8U);
}

/// A random config and a policy of more hosts than the trie takes, so that all hosts are hashed.
config::Config many_hosts(std::uint64_t seed) {
  config::Config config = random_config(seed);
  std::erase_if(config.policies, [](const config::Policy& policy) { return policy.match.empty(); });
  config.policies.resize(std::min<std::size_t>(config.policies.size(), 3));
  config::Match hosts;
  for (std::uint32_t i = 0; i <= VTAP_TRIE4_MAX_HOSTS; ++i) {
    const auto byte = [&](unsigned shift) { return static_cast<std::uint8_t>(i >> shift & 0xff); };
    hosts.src.push_back({false, 32, {10, byte(16), byte(8), byte(0)}});
  }
  auto& policy = config.policies.emplace_back();
  policy.taps = {0};
  policy.monitors = {0};
  policy.match = {hosts};
  return config;
}

TEST_F(Differential, ManyHostsAgreeOnBothHooks) {
  std::size_t with_both = 0;
  for (std::uint64_t seed = 500; seed < 506; ++seed) {
    Subject subject(many_hosts(seed));
    const std::uint32_t dims = subject.compiled().tables.config.dims;
    ASSERT_TRUE((dims & VTAP_DIM_HOST4) != 0);
    with_both += (dims & VTAP_DIM_TRIE4) != 0;
    for (const ProgramHook hook : {ProgramHook::xdp, ProgramHook::tc}) {
      ASSERT_TRUE(
          compare(subject, 0, hook, corpus(seed, 400), "many hosts " + std::to_string(seed), true));
    }
  }
  EXPECT_GT(with_both, 2U);
  EXPECT_GT(sample_.copied, sample_.verdicts / 5);
  EXPECT_LT(sample_.copied, sample_.verdicts * 9 / 10);
}

/// Policies that take few of the corpus' frames each, on one tap, until the tables are full.
config::Config full_config(const std::vector<Bytes>& frames) {
  config::Config full = no_policy();
  std::vector<Fields> fields;
  for (const Bytes& frame : frames) fields.push_back(read_fields(frame));
  const auto words = [](const config::Config& config) {
    const std::vector<plan::Placement> all_broker(config.policies.size());
    const auto layout = plan::lay_out(config, all_broker);
    return layout.ok() ? layout.value().match_words : VTAP_MAX_WORDS + 1U;
  };
  std::size_t passed_over = 0;
  for (std::uint64_t seed = 1000; passed_over < 20; ++seed) {
    for (config::Policy& policy : random_config(seed).policies) {
      policy.taps = {0};
      config::Config alone = no_policy();
      alone.policies = {policy};
      const auto taken = std::count_if(fields.begin(), fields.end(), [&](const Fields& frame) {
        return !policies(alone, 0, frame).empty();
      });
      if (taken * 300 > static_cast<std::ptrdiff_t>(fields.size())) continue;
      full.policies.push_back(policy);
      if (words(full) <= VTAP_MAX_WORDS) continue;
      full.policies.pop_back();
      ++passed_over;
    }
  }
  return full;
}

TEST_F(Differential, FullTablesAgreeOnBothHooks) {
  const std::vector<Bytes> frames = corpus(99, 1500);
  Subject subject(full_config(frames));
  ASSERT_EQ(subject.compiled().tables.config.match_words, VTAP_MAX_WORDS);
  ASSERT_EQ(subject.compiled().tables.config.except_words, VTAP_MAX_WORDS);
  ASSERT_GT(subject.config().policies.size(), 64U);
  for (const ProgramHook hook : {ProgramHook::xdp, ProgramHook::tc})
    ASSERT_TRUE(compare(subject, 0, hook, frames, "full tables", true));
  EXPECT_GT(sample_.copied, sample_.verdicts / 10);
  EXPECT_LT(sample_.copied, sample_.verdicts * 9 / 10);
}

/// UDP to port 53 behind `words` * 8 + 8 bytes of destination options.
Bytes long_chain(std::uint8_t words, std::uint16_t dport) {
  return FrameBuilder()
      .ethernet()
      .tag(10)
      .type(0x86dd)
      .ipv6({.next = 60})
      .extension(60, words)
      .extension(17)
      .udp(1000, dport)
      .payload(20)
      .build();
}

TEST_F(Differential, HeadersAnywhereInTheWindow) {
  // Every position of the L4 header from the first look's end to the window's end and beyond.
  Subject subject(one_policy({{.dst_port = {{53, 53}}}}));
  std::vector<Bytes> frames;
  for (std::uint8_t words = 0; words < 130; ++words) {
    frames.push_back(long_chain(words, 53));
    frames.push_back(long_chain(words, 54));
  }
  for (const ProgramHook hook : {ProgramHook::xdp, ProgramHook::tc})
    ASSERT_TRUE(compare(subject, 0, hook, frames, "chains", true));
  EXPECT_GT(sample_.second_look_copied, 200U);
  EXPECT_GT(sample_.second_look_left, 200U);
}

TEST_F(Differential, EveryLengthOfOneFrame) {
  Subject subject(one_policy({{.length = {{14, 200}, {1000, 1001}, {2048, 2048}}}}));
  std::vector<Bytes> frames;
  for (std::size_t length = kLeastFrame; length <= 2048; ++length)
    frames.push_back(udp_frame(2048));
  for (std::size_t i = 0; i < frames.size(); ++i) frames[i].resize(kLeastFrame + i);
  for (const ProgramHook hook : {ProgramHook::xdp, ProgramHook::tc})
    ASSERT_TRUE(compare(subject, 0, hook, frames, "lengths", true));
}

}  // namespace
}  // namespace vtap::test
