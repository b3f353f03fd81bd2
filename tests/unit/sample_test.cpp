// SPDX-License-Identifier: Apache-2.0
#include "pipeline/sample.hpp"

#include <gtest/gtest.h>
#include <vtap/parse.h>

#include <atomic>
#include <bit>
#include <thread>

#include "support/frames.hpp"
#include "support/threads.hpp"

namespace vtap::test {
namespace {

using pipeline::Burst;
using pipeline::flow_hash;
using pipeline::FrameSet;
using pipeline::Sampler;

constexpr std::array<std::uint8_t, 6> kMacA{2, 0, 0, 0, 0, 0xa};
constexpr std::array<std::uint8_t, 6> kMacB{2, 0, 0, 0, 0, 0xb};

vtap_key parse(const Bytes& frame) {
  vtap_key key;
  const auto length = static_cast<__u32>(frame.size());
  vtap_parse(frame.data(), std::min<__u32>(length, VTAP_WINDOW), length, &key);
  return key;
}

std::uint64_t count(FrameSet frames) { return static_cast<std::uint64_t>(std::popcount(frames)); }

Sampler one_in(std::uint64_t n) { return Sampler({.one_in = n, .flows = {}}); }
Sampler flows(double share) { return Sampler({.one_in = 0, .flows = share}); }

TEST(OneIn, TakesTheFirstThenEachNthAcrossBursts) {
  for (const std::uint64_t n : {1, 2, 3, 7, 64, 100, 1000}) {
    Sampler sampler = one_in(n);
    Random random(n);
    const Burst burst;
    std::uint64_t offered = 0;
    for (int round = 0; round < 200; ++round) {
      // Any subset of a burst: the frames of this policy.
      const FrameSet frames = std::uint64_t{random.below(~0U)} << random.below(32);
      FrameSet expected = 0;
      pipeline::for_each_frame(frames, [&](std::uint32_t i) {
        if (offered++ % n == 0) expected |= FrameSet{1} << i;
      });
      ASSERT_EQ(sampler.chosen(frames, burst), expected) << "one in " << n << ", round " << round;
    }
  }
}

TEST(OneIn, IsExactOverAllThreads) {
  constexpr std::uint64_t kN = 7;
  constexpr std::uint64_t kThreads = 2;
  constexpr std::uint64_t kRounds = 1'000'000;
  constexpr FrameSet kFrames = 0b1011;
  Sampler sampler = one_in(kN);
  std::atomic<std::uint64_t> ready{0};
  std::atomic<std::uint64_t> chosen{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.push_back(thread_on(t, [&] {
      const Burst burst;
      std::uint64_t mine = 0;
      ++ready;
      while (ready < kThreads) std::this_thread::yield();
      for (std::uint64_t round = 0; round < kRounds; ++round) {
        mine += count(sampler.chosen(kFrames, burst));
      }
      chosen += mine;
    }));
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(chosen, (kThreads * kRounds * count(kFrames) + kN - 1) / kN);
}

/// A packet and the answer to it.
std::pair<Bytes, Bytes> both_ways(bool v6, std::uint8_t proto, Random& random) {
  const std::uint16_t sport = pool::port(random);
  const std::uint16_t dport = pool::port(random);
  FrameBuilder there;
  FrameBuilder back;
  there.ethernet(kMacB, kMacA);
  back.ethernet(kMacA, kMacB);
  if (v6) {
    const auto a = pool::ipv6(random);
    const auto b = pool::ipv6(random);
    there.type(0x86dd).ipv6({.src = a, .dst = b, .next = proto});
    back.type(0x86dd).ipv6({.src = b, .dst = a, .next = proto});
  } else {
    const auto a = pool::ipv4(random);
    const auto b = pool::ipv4(random);
    there.type(0x0800).ipv4({.src = a, .dst = b, .proto = proto});
    back.type(0x0800).ipv4({.src = b, .dst = a, .proto = proto});
  }
  there.tcp(sport, dport, 0x02).payload(20);
  back.tcp(dport, sport, 0x12).payload(200);
  return {there.build(), back.build()};
}

TEST(Flows, BothDirectionsHaveOneHash) {
  static constexpr std::array<std::uint8_t, 6> kProtos{6, 17, 132, 1, 58, 47};
  Random random(1);
  for (int i = 0; i < 2000; ++i) {
    for (const bool v6 : {false, true}) {
      const auto [there, back] = both_ways(v6, random.pick(kProtos), random);
      ASSERT_EQ(flow_hash(parse(there)), flow_hash(parse(back))) << hex(there);
    }
  }
  const Bytes arp = FrameBuilder().ethernet(kMacB, kMacA).type(0x0806).payload(28).build();
  const Bytes reply = FrameBuilder().ethernet(kMacA, kMacB).type(0x0806).payload(30).build();
  EXPECT_EQ(flow_hash(parse(arp)), flow_hash(parse(reply)));
}

TEST(Flows, EveryPartOfAFlowsNameCounts) {
  const FrameBuilder::Ipv4 ip{.proto = 6};
  const auto hash = [](const FrameBuilder::Ipv4& header, std::uint16_t sport, std::uint16_t dport) {
    return flow_hash(
        parse(FrameBuilder().ethernet().type(0x0800).ipv4(header).tcp(sport, dport, 0).build()));
  };
  const std::uint64_t base = hash(ip, 1000, 80);
  EXPECT_NE(hash({.src = {10, 0, 0, 9}, .proto = 6}, 1000, 80), base);
  EXPECT_NE(hash({.dst = {10, 0, 0, 9}, .proto = 6}, 1000, 80), base);
  EXPECT_NE(hash({.proto = 17}, 1000, 80), base);
  EXPECT_NE(hash(ip, 1001, 80), base);
  EXPECT_NE(hash(ip, 1000, 81), base);
  EXPECT_NE(hash(ip, 80, 1000), base) << "ports belong to their ends";
}

TEST(Flows, AllFragmentsOfAPacketStayTogether) {
  const auto part = [](std::uint16_t offset, bool more) {
    FrameBuilder::Ipv4 ip{.proto = 17};
    ip.offset = offset;
    ip.more = more;
    return flow_hash(parse(FrameBuilder().ethernet().type(0x0800).ipv4(ip).udp(1, 2).build()));
  };
  EXPECT_EQ(part(0, true), part(185, true));
  EXPECT_EQ(part(0, true), part(370, false));
}

/// Flows of neighbouring addresses and ports, as real ones are.
double share_taken(double share) {
  constexpr std::uint32_t kFlows = 40'000;
  Sampler sampler = flows(share);
  std::uint64_t taken = 0;
  Burst burst;
  for (std::uint32_t i = 0; i < kFlows; ++i) {
    const FrameBuilder::Ipv4 ip{
        .src = {10, 0, static_cast<std::uint8_t>(i / 250 % 4), static_cast<std::uint8_t>(i % 250)},
        .proto = 6};
    const auto sport = static_cast<std::uint16_t>(32768 + i / 1000);
    burst.key[0] =
        parse(FrameBuilder().ethernet().type(0x0800).ipv4(ip).tcp(sport, 443, 2).build());
    const FrameSet chosen = sampler.chosen(1, burst);
    EXPECT_EQ(sampler.chosen(1, burst), chosen) << "the same flows always";
    taken += count(chosen);
  }
  return static_cast<double>(taken) / kFlows;
}

TEST(Flows, TheShareIsNearTheOneAskedFor) {
  EXPECT_EQ(share_taken(1.0), 1.0);
  for (const double share : {0.01, 0.25, 0.5, 0.9}) EXPECT_NEAR(share_taken(share), share, 0.01);
}

}  // namespace
}  // namespace vtap::test
