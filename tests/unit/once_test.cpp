// SPDX-License-Identifier: Apache-2.0
#include "pipeline/once.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "support/frames.hpp"
#include "support/threads.hpp"

namespace vtap::test {
namespace {

using pipeline::Burst;
using pipeline::FrameAddress;
using pipeline::Once;
using pipeline::packet_hash;
using pipeline::UmemView;

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::size_t kMacs = 12;
constexpr std::size_t kEthernet = 14;

/// An IPv4 or IPv6 frame with `data` behind its header; the rest of the header is fixed.
Bytes ip(bool v6, std::uint8_t ttl, std::uint16_t data, std::size_t padding = 0) {
  Bytes frame(kEthernet + (v6 ? 40 : 20) + 2 + padding);
  std::uint8_t* const at = &frame[kEthernet];
  frame[5] = 1;
  frame[11] = 2;
  frame[12] = v6 ? 0x86 : 0x08;
  frame[13] = v6 ? 0xdd : 0x00;
  at[0] = v6 ? 0x60 : 0x45;
  at[v6 ? 5 : 3] = v6 ? 2 : 22;
  at[v6 ? 7 : 8] = ttl;
  if (!v6) at[10] = static_cast<std::uint8_t>(~ttl);  // as the checksum would change
  at[v6 ? 23 : 15] = 7;
  at[v6 ? 40 : 20] = static_cast<std::uint8_t>(data >> 8);
  at[v6 ? 41 : 21] = static_cast<std::uint8_t>(data);
  return frame;
}

Bytes tagged(Bytes frame, std::initializer_list<std::uint8_t> tag) {
  frame.insert(frame.begin() + kMacs, tag);
  return frame;
}

TEST(PacketHash, IsThatOfThePacketWhereverItIsSeen) {
  for (const bool v6 : {false, true}) {
    const Bytes frame = ip(v6, 64, 1);
    const std::uint64_t hash = packet_hash(frame);
    Bytes routed = ip(v6, 63, 1);
    routed[0] = routed[6] = 0xaa;
    EXPECT_EQ(packet_hash(routed), hash) << "other MACs, a hop further";
    EXPECT_EQ(packet_hash(tagged(frame, {0x81, 0, 0, 5})), hash);
    EXPECT_EQ(packet_hash(tagged(tagged(frame, {0x81, 0, 0, 5}), {0x88, 0xa8, 0, 6})), hash);
    EXPECT_EQ(packet_hash(ip(v6, 64, 1, 20)), hash) << "padded";
    EXPECT_NE(packet_hash(ip(v6, 64, 2)), hash);
    for (std::size_t i = kEthernet; i < frame.size(); ++i) {
      const std::size_t at = i - kEthernet;
      const bool changes = v6 ? at == 7 : at == 8 || at == 10 || at == 11;
      const bool length = v6 ? at == 4 || at == 5 : at == 2 || at == 3;
      Bytes other = frame;
      other[i] ^= 0x10;
      if (length) continue;
      EXPECT_EQ(packet_hash(other) == hash, changes) << "byte " << i;
    }
  }
}

TEST(PacketHash, WhatIsNotIpIsAllOfIt) {
  Random random(1);
  for (std::size_t size = 0; size < 80; ++size) {
    Bytes frame(size, 0x5a);
    const std::uint64_t hash = packet_hash(frame);
    EXPECT_EQ(packet_hash(frame), hash);
    for (std::size_t i = 0; i < size; ++i) {
      Bytes other = frame;
      other[i] ^= 1;
      EXPECT_NE(packet_hash(other), hash) << size << " bytes, byte " << i;
    }
  }
  for (int i = 0; i < 2000; ++i) {
    Bytes frame(random.below(100));
    for (auto& byte : frame) byte = static_cast<std::uint8_t>(random.below(256));
    if (frame.size() > 13 && random.below(2) != 0) {
      frame[12] = 0x08;
      frame[13] = 0x00;  // whatever the lengths say: no read behind the end (ASan)
    }
    packet_hash(frame);
  }
}

/// Bursts of one frame each.
class OnceTest : public testing::Test {
 protected:
  bool fresh(const Bytes& frame, std::uint8_t port, std::uint64_t now) {
    std::copy(frame.begin(), frame.end(), memory_.begin());
    Burst burst;
    burst.push(FrameAddress{0}, static_cast<std::uint32_t>(frame.size()), port);
    return once_.fresh(1, burst, umem_, now) == 1;
  }

  Once once_;
  std::vector<std::uint8_t> memory_ = std::vector<std::uint8_t>(2048);
  UmemView umem_{.base = memory_.data(), .frame_size = 2048, .frames = 1};
};

TEST_F(OnceTest, OneCopyHoweverManyPortsItCrosses) {
  EXPECT_TRUE(fresh(ip(false, 64, 1), 0, 5 * kMs));
  EXPECT_FALSE(fresh(ip(false, 64, 1), 1, 5 * kMs));
  EXPECT_FALSE(fresh(ip(false, 63, 1), 2, 6 * kMs));
  EXPECT_FALSE(fresh(ip(false, 62, 1), 63, 14 * kMs));
  EXPECT_TRUE(fresh(ip(false, 64, 2), 1, 5 * kMs)) << "another packet";
}

TEST_F(OnceTest, TheSameAgainAtAPortIsAnotherPacket) {
  EXPECT_TRUE(fresh(ip(true, 64, 1), 3, 0));
  EXPECT_TRUE(fresh(ip(true, 64, 1), 3, 1 * kMs));
  EXPECT_FALSE(fresh(ip(true, 64, 1), 4, 2 * kMs));
}

TEST_F(OnceTest, TheWindowIsTenMilliseconds) {
  for (const std::uint64_t start : {std::uint64_t{0}, 123 * kMs, (std::uint64_t{1} << 44) - kMs}) {
    const auto number = static_cast<std::uint16_t>(start / kMs);
    EXPECT_TRUE(fresh(ip(false, 64, number), 0, start));
    EXPECT_FALSE(fresh(ip(false, 64, number), 1, start + 10 * kMs)) << start;
    EXPECT_TRUE(fresh(ip(false, 64, number), 2, start + 12 * kMs)) << start;
  }
}

TEST_F(OnceTest, AnEntryStaysOldUntilTheTimeComesRoundAgain) {
  constexpr std::uint64_t kMinute = 60'000 * kMs;
  constexpr std::uint64_t kRound = std::uint64_t{1}
                                   << (26 + 18);  // ns that an entry can tell apart
  for (std::uint64_t gap = kMinute; gap + kMinute < kRound; gap += kMinute) {
    const auto number = static_cast<std::uint16_t>(gap / kMinute);
    EXPECT_TRUE(fresh(ip(false, 64, number), 0, 0));
    ASSERT_TRUE(fresh(ip(false, 64, number), 1, gap)) << gap / kMinute << " minutes later";
  }
}

TEST_F(OnceTest, AClockThatIsAheadDoesNotMatter) {
  EXPECT_TRUE(fresh(ip(false, 64, 1), 0, 100 * kMs));
  EXPECT_FALSE(fresh(ip(false, 64, 1), 1, 99 * kMs));
}

TEST_F(OnceTest, ThousandsInAWindow) {
  constexpr std::uint16_t kPackets = 10000;
  std::uint32_t first = 0;
  std::uint32_t second = 0;
  for (std::uint16_t i = 0; i < kPackets; ++i) first += fresh(ip(false, 64, i), 0, kMs) ? 1 : 0;
  for (std::uint16_t i = 0; i < kPackets; ++i) second += fresh(ip(false, 64, i), 1, kMs) ? 1 : 0;
  EXPECT_EQ(first, kPackets);
  EXPECT_LE(second, kPackets / 100) << "doubles that passed, as a bucket was full";
}

/// Two workers see every packet at a port each, at the same time: one of them gets it.
TEST(OnceThreads, OneOfTwoWorkers) {
  constexpr std::uint32_t kPackets = 60000;
  constexpr std::uint32_t kTogether = 100;  // packets that share a millisecond
  Once once;
  std::atomic<std::uint32_t> taken{0};
  std::atomic<std::uint32_t> arrived{0};
  const auto work = [&](std::uint8_t port) {
    Bytes memory(2048);
    const UmemView umem{.base = memory.data(), .frame_size = 2048, .frames = 1};
    for (std::uint32_t i = 0; i < kPackets; ++i) {
      if (i % kTogether == 0) {
        const std::uint32_t both = 2 * (i / kTogether + 1);
        for (++arrived; arrived < both;) std::this_thread::yield();
      }
      const Bytes frame = ip(false, 64, static_cast<std::uint16_t>(i));
      std::copy(frame.begin(), frame.end(), memory.begin());
      Burst burst;
      burst.push(FrameAddress{0}, static_cast<std::uint32_t>(frame.size()), port);
      if (once.fresh(1, burst, umem, i / kTogether * kMs) == 1) ++taken;
    }
  };
  std::thread other = thread_on(1, [&] { work(1); });
  work(0);
  other.join();
  EXPECT_EQ(taken.load(), kPackets);
}

}  // namespace
}  // namespace vtap::test
