// SPDX-License-Identifier: Apache-2.0
// The TC program on skbs as a veth delivers them: with the tag beside the packet, unfinished
// checksums and super-packets, none of which BPF_PROG_TEST_RUN can make.
#include <vtap/parse.h>

#include <algorithm>
#include <memory>

#include "bpf/netns.hpp"
#include "pipeline/burst.hpp"
#include "pipeline/frame_pool.hpp"
#include "plan/classifier.hpp"
#include "support/classified.hpp"
#include "support/random_config.hpp"

namespace vtap::test {
namespace {

using io::ProgramHook;

class Skb : public NetnsTest {
 protected:
  void SetUp() override {
    NetnsTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    tee_.emplace(64);
    veth_.emplace("tap", "gen", 9000);
    sender_.emplace(veth_->other_ifindex());
  }

  /// Attaches a span port that consumes everything, so that nothing is answered.
  void attach(const Compiled& plan, std::uint32_t tap = 0) {
    vtap_port_config config = constants(plan.tables, tap, *tee_);
    config.mode = VTAP_MODE_SPAN;
    config.unmatched_drop = 1;
    programs_.emplace(ProgramHook::tc, config, *tee_, plan);
    ASSERT_TRUE(succeeded(programs_->programs().engage()));
    command("tc qdisc del dev tap clsact 2>/dev/null || true");
    attach_tc_ingress(veth_->ifindex(), programs_->programs().stub_fd());
  }

  /// Waits for what was sent to have been seen.
  [[nodiscard]] bool arrived(std::uint64_t bytes) const {
    return eventually([&] { return tee_->counters().rx_bytes == bytes; });
  }

  std::optional<Tee> tee_;
  std::optional<Veth> veth_;
  std::optional<Sender> sender_;
  std::optional<Tap> programs_;
};

bool tagged(const Bytes& frame) {
  return frame.size() >= 14 &&
         ((frame[12] == 0x81 && frame[13] == 0x00) || (frame[12] == 0x88 && frame[13] == 0xa8));
}

/// The kernel wants room for a tag and a type where the type says tag, and drops the frame else.
bool dropped_before_tc(const Bytes& frame) { return tagged(frame) && frame.size() < 20; }

TEST_F(Skb, RandomPlansAgreeAndTagsAreBack) {
  std::size_t copies_with_tag = 0;
  std::size_t left_with_tag = 0;
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    const config::Config config = random_config(seed);
    const Compiled plan(config);
    const plan::Classifier classifier(plan.tables);
    Found found(classifier);
    ASSERT_NO_FATAL_FAILURE(attach(plan));
    for (const Bytes& frame : corpus(seed, 300)) {
      if (frame.size() < kLeastFrame || dropped_before_tc(frame)) continue;
      tee_->give(1);
      const std::uint64_t before = tee_->counters().rx_bytes;
      ASSERT_EQ(sender_->send(frame), 0);
      ASSERT_TRUE(arrived(before + frame.size())) << hex(frame);

      vtap_key key;
      const auto length = static_cast<__u32>(frame.size());
      vtap_parse(frame.data(), std::min<__u32>(length, VTAP_WINDOW), length, &key);
      const bool expected = found.classify(key, 0);
      const std::vector<Copy> copies = tee_->take();
      ASSERT_EQ(copies.size(), expected ? 1U : 0U) << "config " << seed << ", " << hex(frame);
      for (const Copy& copy : copies) ASSERT_EQ(hex(copy.bytes), hex(frame));
      if (tagged(frame)) ++(expected ? copies_with_tag : left_with_tag);
    }
    expect_ledgers(tee_->counters());
  }
  EXPECT_GT(copies_with_tag, 300U);
  EXPECT_GT(left_with_tag, 300U);
}

TEST_F(Skb, ATaggedFrameHasTheSameLimits) {
  ASSERT_NO_FATAL_FAILURE(attach(Compiled(one_policy({{.vlan = {{10, 10}}}}))));
  std::uint64_t bytes = 0;
  for (const std::size_t length : {20, 2047, 2048, 2049}) {
    Bytes frame = FrameBuilder().ethernet().tag(10, 0x88a8).type(0x0800).payload(2100).build();
    frame.resize(length);
    tee_->give(1);
    ASSERT_EQ(sender_->send(frame), 0);
    ASSERT_TRUE(arrived(bytes += length));
    const std::vector<Copy> copies = tee_->take();
    ASSERT_EQ(copies.size(), length <= 2048 ? 1U : 0U) << length;
    for (const Copy& copy : copies) EXPECT_EQ(hex(copy.bytes), hex(frame));
  }
  EXPECT_EQ(tee_->counters().too_long, 1U);
  expect_ledgers(tee_->counters());
}

// --- what the sender left to its hardware ---

void put16(Bytes& frame, std::size_t at, std::uint32_t value) {
  frame[at] = static_cast<std::uint8_t>(value >> 8);
  frame[at + 1] = static_cast<std::uint8_t>(value & 0xff);
}

/// Ones' complement sum of bytes [from, to), folded.
std::uint32_t sum(const Bytes& frame, std::size_t from, std::size_t to, std::uint32_t start = 0) {
  std::uint64_t total = start;
  for (std::size_t i = from; i < to; ++i)
    total += (i - from) % 2 == 0 ? std::uint64_t{frame[i]} << 8 : frame[i];
  while (total >> 16 != 0) total = (total & 0xffff) + (total >> 16);
  return static_cast<std::uint32_t>(total);
}

/// A frame as a sender hands it down with its L4 checksum unfinished, and as it is on the wire.
struct Unfinished {
  Unfinished(std::uint32_t tags, std::uint8_t proto, std::size_t payload) {
    FrameBuilder builder;
    builder.ethernet();
    for (std::uint32_t i = 0; i < tags; ++i) builder.tag(static_cast<std::uint16_t>(10 + i));
    builder.type(0x0800);
    const std::size_t ip = builder.size();
    builder.ipv4({.proto = proto});
    l4 = builder.size();
    if (proto == 6) {
      builder.tcp(1000, 80, 0x10);
    } else {
      builder.udp(1000, 53, static_cast<std::uint16_t>(8 + payload));
    }
    headers = builder.size();
    frame = builder.payload(payload).build();
    field = l4 + (proto == 6 ? 16 : 6);
    put16(frame, ip + 2, static_cast<std::uint32_t>(frame.size() - ip));
    put16(frame, ip + 10, 0xffffU - sum(frame, ip, l4));
    const auto l4_length = static_cast<std::uint32_t>(frame.size() - l4);
    const std::uint32_t pseudo = sum(frame, ip + 12, ip + 20, proto + l4_length);
    put16(frame, field, pseudo);
    wire = frame;
    put16(wire, field, 0);
    put16(wire, field, 0xffffU - sum(wire, l4, wire.size(), pseudo));
  }

  /// `gso_size`: bytes that a segment of this super-packet carries.
  [[nodiscard]] Offload offload(std::uint16_t gso_size = 0) const {
    Offload offload;
    offload.flags = Offload::kNeedsChecksum;
    offload.csum_start = static_cast<std::uint16_t>(l4);
    offload.csum_offset = static_cast<std::uint16_t>(field - l4);
    if (gso_size != 0) {
      offload.gso_type = Offload::kTcp4;
      offload.gso_size = gso_size;
      offload.header_length = static_cast<std::uint16_t>(headers);
    }
    return offload;
  }

  Bytes frame, wire;
  std::size_t l4 = 0, field = 0, headers = 0;
};

TEST_F(Skb, UnfinishedChecksumsAreDescribedAndCompleted) {
  ASSERT_NO_FATAL_FAILURE(attach(Compiled(one_policy())));
  // The broker's own end of the rings, as it is what completes the checksum.
  std::vector<vtap_cpu*> rings;
  for (std::uint32_t cpu = 0; cpu < tee_->memory().cpus(); ++cpu)
    rings.push_back(&tee_->memory().cpu(cpu));
  const pipeline::UmemView umem = tee_->memory().umem();
  pipeline::FramePool pool(pipeline::FrameNumber{0}, 64);
  io::TeeSource source(rings, umem, pool, 64);

  std::uint64_t bytes = 0;
  std::uint32_t descriptors = 0;
  for (const std::uint8_t proto : {std::uint8_t{17}, std::uint8_t{6}}) {
    for (std::uint32_t tags = 0; tags <= 2; ++tags) {
      const Unfinished packet(tags, proto, 101);
      ASSERT_NE(packet.frame, packet.wire);
      ASSERT_EQ(sender_->send(packet.offload(), packet.frame), 0);
      ASSERT_TRUE(arrived(bytes += packet.frame.size()));
      const vtap_desc desc = tee_->cpu().desc_ring[descriptors++];
      if ((desc.flags & VTAP_DESC_CSUM_UNKNOWN) == 0) {  // kernels before 6.2
        EXPECT_EQ(desc.flags & ~VTAP_DESC_TIMED, VTAP_DESC_CSUM_PARTIAL);
        EXPECT_EQ(desc.csum_start, packet.l4) << tags;
        EXPECT_EQ(desc.csum_offset, packet.field - packet.l4);
      }
      pipeline::Burst burst;
      source.receive(burst, kAllOfThem);
      ASSERT_EQ(burst.size, 1U);
      const std::uint8_t* const start = umem.at(umem.start(pipeline::FrameNumber{desc.frame}));
      EXPECT_EQ(hex(Bytes(start, start + desc.len)), hex(packet.wire)) << tags << " tags";
    }
  }
}

TEST_F(Skb, ACompleteChecksumIsLeftAlone) {
  ASSERT_NO_FATAL_FAILURE(attach(Compiled(one_policy())));
  const Unfinished packet(1, 17, 60);
  Bytes wrong = packet.wire;
  wrong[packet.field] ^= 0xff;  // a copy is what was on the wire, right or wrong
  tee_->give(1);
  ASSERT_EQ(sender_->send(wrong), 0);
  ASSERT_TRUE(arrived(wrong.size()));
  const std::vector<Copy> copies = tee_->take();
  ASSERT_EQ(copies.size(), 1U);
  EXPECT_EQ(hex(copies[0].bytes), hex(wrong));
  EXPECT_EQ(copies[0].desc.flags & VTAP_DESC_CSUM_PARTIAL, 0);
}

TEST_F(Skb, SuperPacketsCountAsTheirSegments) {
  ASSERT_NO_FATAL_FAILURE(attach(Compiled(one_policy())));
  tee_->give(8);
  std::uint64_t bytes = 0;
  for (std::uint32_t tags = 0; tags <= 1; ++tags) {
    const Unfinished packet(tags, 6, 3500);
    ASSERT_EQ(sender_->send(packet.offload(1000), packet.frame), 0);
    ASSERT_TRUE(arrived(bytes += packet.frame.size()));
  }
  EXPECT_EQ(tee_->counters().rx_frames, 8U);
  EXPECT_EQ(tee_->counters().super_packet, 8U);
  EXPECT_EQ(tee_->counters().consumed, 8U);
  EXPECT_EQ(tee_->waiting(), 0U);
  expect_ledgers(tee_->counters());
}

TEST_F(Skb, SuperPacketsOfAVirtualMachineCountAsTheirSegments) {
  // What comes out of a guest is not trusted: its number of segments is not filled in.
  const VmPort vm("vm");
  const Compiled plan(one_policy());
  vtap_port_config config = constants(plan.tables, 0, *tee_);
  config.mode = VTAP_MODE_SPAN;
  Tap programs(ProgramHook::tc, config, *tee_, plan);
  attach_tc_ingress(vm.ifindex(), programs.programs().plan_fd());
  std::uint64_t frames = 0;
  for (std::uint32_t tags = 0; tags <= 2; ++tags) {
    const Unfinished packet(tags, 6, 4000);  // not a byte more than four hold
    ASSERT_EQ(vm.send(packet.offload(1000), packet.frame), 0);
    frames += 4;
    EXPECT_TRUE(eventually([&] { return tee_->counters().rx_frames == frames; }))
        << tee_->counters().rx_frames << " with " << tags << " tags";
  }
  EXPECT_EQ(tee_->counters().super_packet, frames);
  expect_ledgers(tee_->counters());
}

}  // namespace
}  // namespace vtap::test
