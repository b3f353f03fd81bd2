// SPDX-License-Identifier: Apache-2.0
// What cannot be copied is counted, under its own name, and the original does not notice.
#include <time.h>

#include <algorithm>
#include <deque>

#include "bpf/rig.hpp"

namespace vtap::test {
namespace {

using io::ProgramHook;

__sk_buff super_packet(std::uint32_t segments) {
  __sk_buff skb{};
  skb.gso_size = 100;
  skb.gso_segs = segments;
  return skb;
}

/// The clock of bpf_ktime_get_ns(), ns.
std::uint64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U +
         static_cast<std::uint64_t>(now.tv_nsec);
}

class Ledger : public BpfTest, public testing::WithParamInterface<ProgramHook> {
 protected:
  /// A program of a tap with that policy.
  static Tap tap(const Tee& tee, const config::Config& config) {
    const Compiled plan(config);
    return {GetParam(), constants(plan.tables, 0, tee), tee, plan};
  }
};

INSTANTIATE_TEST_SUITE_P(Hooks, Ledger, testing::Values(ProgramHook::xdp, ProgramHook::tc),
                         [](const auto& made) { return std::string(name_of(made.param)); });

/// The first copy and then each VTAP_TIMED_EVERY-th has the clock's time, also of a CPU that makes
/// copies alone and stamps the others by it; and no stamp is older than the one before.
TEST_P(Ledger, SomeCopiesHaveTheTimeOfTheirMaking) {
  constexpr std::uint32_t kCopies = 2 * VTAP_TIMED_EVERY + 2;
  Tee tee(256);
  Tap programs = tap(tee, one_policy());
  tee.give(kCopies);
  std::vector<std::uint64_t> before;
  for (std::uint32_t i = 0; i < kCopies; ++i) {
    before.push_back(monotonic_ns());
    programs.run(udp_frame(60));
  }
  before.push_back(monotonic_ns());
  const std::vector<Copy> copies = tee.take();
  ASSERT_EQ(copies.size(), kCopies);
  for (std::uint32_t i = 0; i < kCopies; ++i) {
    const vtap_desc& desc = copies[i].desc;
    ASSERT_EQ((desc.flags & VTAP_DESC_TIMED) != 0, i % VTAP_TIMED_EVERY == 0) << i;
    if (i != 0) {
      EXPECT_GE(desc.time, copies[i - 1].desc.time) << i;
    }
    if ((desc.flags & VTAP_DESC_TIMED) == 0) continue;
    EXPECT_GE(desc.time, before[i]) << i;
    EXPECT_LE(desc.time, before[i + 1]) << i;
  }
}

TEST_P(Ledger, NoFreeFrame) {
  Tee tee;
  Tap programs = tap(tee, one_policy());
  for (int i = 0; i < 5; ++i) EXPECT_EQ(programs.run(udp_frame(60)), Fate::passed);
  EXPECT_EQ(tee.counters().no_free_frame, 5U);
  EXPECT_EQ(tee.counters().matched, 5U);
  EXPECT_EQ(tee.waiting(), 0U);

  tee.give(2);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(programs.run(udp_frame(60)), Fate::passed);
  EXPECT_EQ(tee.counters().no_free_frame, 6U);
  EXPECT_EQ(tee.counters().copied, 2U);
  EXPECT_EQ(tee.take().size(), 2U);
  expect_ledgers(tee.counters());
}

TEST_P(Ledger, RingFull) {
  Tee tee(VTAP_RING_SLOTS + 64);
  Tap programs = tap(tee, one_policy());
  tee.give(VTAP_RING_SLOTS);
  for (int i = 0; i < VTAP_RING_SLOTS; ++i) programs.run(udp_frame(60));
  tee.give(10);
  ASSERT_EQ(tee.free_there(), 10U);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(programs.run(udp_frame(60)), Fate::passed);
  EXPECT_EQ(tee.counters().ring_full, 3U);
  EXPECT_EQ(tee.counters().copied, std::uint64_t{VTAP_RING_SLOTS});
  EXPECT_EQ(tee.free_there(), 10U) << "a frame was lost with a copy that was not published";

  EXPECT_EQ(tee.take().size(), std::size_t{VTAP_RING_SLOTS});
  programs.run(udp_frame(60));
  EXPECT_EQ(tee.counters().ring_full, 3U);
  EXPECT_EQ(tee.take().size(), 1U);
  expect_ledgers(tee.counters());
}

TEST_P(Ledger, FramesUpToTheFrameSize) {
  for (const std::uint32_t frame_size : {2048U, 4096U}) {
    Tee tee(8, frame_size);
    Tap programs = tap(tee, one_policy({{.dst_port = {{53, 53}}}}));
    std::uint64_t too_long = 0;
    // From 3521 bytes on, XDP has them in several buffers; TC test runs end at a page.
    for (const std::size_t length : {2047, 2048, 2049, 3000, 3521, 4095, 4096, 4097, 9000}) {
      if (GetParam() == ProgramHook::tc && length > 3000) continue;
      tee.give(1);
      EXPECT_EQ(programs.run(udp_frame(length)), Fate::passed);
      const std::vector<Copy> copies = tee.take();
      if (length <= frame_size) {
        ASSERT_EQ(copies.size(), 1U) << length;
        EXPECT_EQ(hex(copies[0].bytes), hex(udp_frame(length)));
      } else {
        EXPECT_TRUE(copies.empty()) << length;
        ++too_long;
      }
      EXPECT_EQ(tee.counters().too_long, too_long) << length;
      // No policy takes this one, so its length is nobody's concern.
      EXPECT_EQ(programs.run(udp_frame(length, 54)), Fate::passed);
      EXPECT_EQ(tee.counters().too_long, too_long);
    }
    EXPECT_EQ(too_long, GetParam() == ProgramHook::tc ? (frame_size == 2048 ? 2U : 0U)
                                                      : (frame_size == 2048 ? 7U : 2U));
    expect_ledgers(tee.counters());
  }
}

TEST_P(Ledger, FrameNumberOutsideTheMemoryIsNoCopyAndCounted) {
  Tee tee(8);
  Tap programs = tap(tee, one_policy());
  tee.cpu().free_ring[0] = 8;
  tee.cpu().free_prod = 1;
  EXPECT_EQ(programs.run(udp_frame(60)), Fate::passed);
  EXPECT_EQ(tee.waiting(), 0U);
  EXPECT_EQ(tee.counters().matched, 1U);
  EXPECT_EQ(tee.counters().copy_failed, 1U);
}

using TcLedger = BpfTest;

TEST_F(TcLedger, SuperPacketsCountAsTheirSegmentsAndAreNotCopied) {
  Tee tee;
  const Compiled plan(one_policy({{.dst_port = {{53, 53}}}}));
  Tap programs(ProgramHook::tc, constants(plan.tables, 0, tee), tee, plan);
  tee.give(8);
  EXPECT_EQ(programs.run(udp_frame(1000), super_packet(10)), Fate::passed);
  EXPECT_EQ(tee.counters().rx_frames, 10U);
  EXPECT_EQ(tee.counters().rx_bytes, 1000U);
  EXPECT_EQ(tee.counters().matched, 10U);
  EXPECT_EQ(tee.counters().super_packet, 10U);
  EXPECT_EQ(tee.counters().passed, 10U);
  EXPECT_EQ(programs.run(udp_frame(1000, 54), super_packet(10)), Fate::passed);
  EXPECT_EQ(tee.counters().matched, 10U);
  EXPECT_EQ(tee.counters().rx_frames, 20U);
  EXPECT_EQ(tee.waiting(), 0U);
  expect_ledgers(tee.counters());
}

/// The tee ring as it must be, for any sequence of what both sides may do.
class Model {
 public:
  Model(Tee& tee, Tap& tap, ProgramHook hook) : tee_(tee), tap_(tap), hook_(hook) {}

  void step(Random& random) {
    const std::uint32_t what = random.below(20);
    if (what < 3) {
      tee_.give(random.below(6));
    } else if (what < 5) {
      take();
    } else {
      send(random);
    }
  }

  void take() {
    const std::vector<Copy> copies = tee_.take();
    ASSERT_EQ(copies.size(), expected_.size());
    for (const Copy& copy : copies) {
      EXPECT_EQ(hex(copy.bytes), hex(expected_.front()));
      expected_.pop_front();
    }
  }

  void compare() const {
    const vtap_port_counters count = tee_.counters();
    EXPECT_EQ(count.copied, want_.copied);
    EXPECT_EQ(count.no_free_frame, want_.no_free_frame);
    EXPECT_EQ(count.too_long, want_.too_long);
    EXPECT_EQ(count.super_packet, want_.super_packet);
    EXPECT_EQ(count.rx_frames, want_.rx_frames);
    EXPECT_EQ(count.rx_bytes, want_.rx_bytes);
    expect_ledgers(count);
  }

  [[nodiscard]] const vtap_port_counters& want() const { return want_; }

 private:
  void send(Random& random) {
    const bool wanted = random.percent(70);
    const std::size_t length =
        random.percent(15) ? random.between(2049, 3000) : random.between(42, 1514);
    const bool super = hook_ == ProgramHook::tc && random.percent(10);
    const std::uint32_t frames = super ? random.between(2, 20) : 1;
    Bytes frame = udp_frame(length, wanted ? 53 : 54);
    frame.back() = random.byte();
    const bool room = tee_.free_there() > 0;
    if (super) {
      tap_.run(frame, super_packet(frames));
    } else {
      tap_.run(frame);
    }
    want_.rx_frames += frames;
    want_.rx_bytes += length;
    if (!wanted) return;
    if (super) {
      want_.super_packet += frames;
    } else if (length > tee_.frame_size()) {
      ++want_.too_long;
    } else if (!room) {
      ++want_.no_free_frame;
    } else {
      ++want_.copied;
      expected_.push_back(std::move(frame));
    }
  }

  Tee& tee_;
  Tap& tap_;
  ProgramHook hook_;
  std::deque<Bytes> expected_;
  vtap_port_counters want_{};
};

TEST_P(Ledger, AddsUpForAnySequenceAndAcrossTheWrapOfTheIndexes) {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    Random random(seed);
    Tee tee(16);
    // Indexes count freely: a broker that has run for long looks like this.
    const std::uint32_t start = 0U - random.below(300);
    vtap_cpu& cpu = tee.cpu();
    cpu.desc_prod = cpu.desc_cons = cpu.desc_cons_seen = start;
    cpu.free_prod = cpu.free_cons = cpu.free_prod_seen = start + random.below(100);
    Tap programs = tap(tee, one_policy({{.dst_port = {{53, 53}}}}));
    Model model(tee, programs, GetParam());
    for (int i = 0; i < 2000 && !HasFailure(); ++i) model.step(random);
    model.take();
    model.compare();
    EXPECT_LT(cpu.desc_prod, start) << "the indexes never wrapped";
    EXPECT_GT(model.want().copied, 100U);
    EXPECT_GT(model.want().no_free_frame, 100U);
    EXPECT_GT(model.want().too_long, 100U);
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
  }
}

}  // namespace
}  // namespace vtap::test
