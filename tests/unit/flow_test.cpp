// SPDX-License-Identifier: Apache-2.0
#include "pipeline/flow.hpp"

#include <gtest/gtest.h>
#include <vtap/parse.h>

#include <atomic>
#include <map>
#include <thread>
#include <tuple>

#include "support/frames.hpp"
#include "support/threads.hpp"

namespace vtap::test {
namespace {

using pipeline::Burst;
using pipeline::flow_hash;
using pipeline::FlowCounts;
using pipeline::Fragments;
using pipeline::FrameSet;
using pipeline::own_transport;
using pipeline::Transport;

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::array<std::uint8_t, 6> kMacA{2, 0, 0, 0, 0, 0xa};
constexpr std::array<std::uint8_t, 6> kMacB{2, 0, 0, 0, 0, 0xb};

vtap_key parse(const Bytes& frame) {
  vtap_key key;
  const auto length = static_cast<__u32>(frame.size());
  vtap_parse(frame.data(), std::min<__u32>(length, VTAP_WINDOW), length, &key);
  return key;
}

std::uint64_t hash_of(const Bytes& frame, std::uint64_t seed = 0) {
  const vtap_key key = parse(frame);
  return flow_hash(key, own_transport(key), seed);
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

TEST(FlowHash, BothDirectionsHaveOne) {
  static constexpr std::array<std::uint8_t, 6> kProtos{6, 17, 132, 1, 58, 47};
  Random random(1);
  for (int i = 0; i < 2000; ++i) {
    for (const bool v6 : {false, true}) {
      const auto [there, back] = both_ways(v6, random.pick(kProtos), random);
      ASSERT_EQ(hash_of(there), hash_of(back)) << hex(there);
    }
  }
  const Bytes arp = FrameBuilder().ethernet(kMacB, kMacA).type(0x0806).payload(28).build();
  const Bytes reply = FrameBuilder().ethernet(kMacA, kMacB).type(0x0806).payload(30).build();
  EXPECT_EQ(hash_of(arp), hash_of(reply));
}

TEST(FlowHash, EveryPartOfAFlowsNameCounts) {
  const FrameBuilder::Ipv4 ip{.proto = 6};
  const auto hash = [](const FrameBuilder::Ipv4& header, std::uint16_t sport, std::uint16_t dport) {
    return hash_of(
        FrameBuilder().ethernet().type(0x0800).ipv4(header).tcp(sport, dport, 0).build());
  };
  const std::uint64_t base = hash(ip, 1000, 80);
  EXPECT_NE(hash({.src = {10, 0, 0, 9}, .proto = 6}, 1000, 80), base);
  EXPECT_NE(hash({.dst = {10, 0, 0, 9}, .proto = 6}, 1000, 80), base);
  EXPECT_NE(hash({.proto = 17}, 1000, 80), base);
  EXPECT_NE(hash(ip, 1001, 80), base);
  EXPECT_NE(hash(ip, 1000, 81), base);
  EXPECT_NE(hash(ip, 80, 1000), base) << "ports belong to their ends";
  // A port must not make up for a part of the address.
  EXPECT_NE(hash({.src = {10, 1, 0, 1}, .proto = 6}, 1000 ^ 0x100, 80), base);
}

TEST(FlowHash, TheSeedCounts) {
  const Bytes frame = FrameBuilder().ethernet().type(0x0800).ipv4({}).udp(1, 2).build();
  EXPECT_NE(hash_of(frame, 1), hash_of(frame, 2));
  const Bytes arp = FrameBuilder().ethernet().type(0x0806).payload(28).build();
  EXPECT_NE(hash_of(arp, 1), hash_of(arp, 2));
}

// ---- fragments

struct Part {
  bool v6 = false;
  std::uint16_t offset = 0;
  bool more = true;
  std::uint8_t proto = 17;
  std::uint16_t id = 1;
  std::uint8_t host = 1;
};

/// A fragment of a UDP packet from port 1000 to 53. What lies behind the IP header of a later one
/// looks like ports, and is none.
vtap_key fragment(const Part& part) {
  FrameBuilder frame;
  frame.ethernet();
  if (part.v6) {
    FrameBuilder::Ipv6 ip{.next = 44};
    ip.src[15] = part.host;
    const std::array<std::uint8_t, 4> id{0, 1, static_cast<std::uint8_t>(part.id >> 8),
                                         static_cast<std::uint8_t>(part.id)};
    const std::size_t at = frame.type(0x86dd).ipv6(ip).size() + 4;
    Bytes bytes = frame.fragment(part.proto, part.offset, part.more).build();
    std::copy(id.begin(), id.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
    frame = FrameBuilder().bytes(bytes);
  } else {
    FrameBuilder::Ipv4 ip{.src = {10, 0, 0, part.host}, .proto = part.proto};
    ip.offset = part.offset;
    ip.more = part.more;
    Bytes bytes = frame.type(0x0800).ipv4(ip).build();
    bytes[14 + 4] = static_cast<std::uint8_t>(part.id >> 8);
    bytes[14 + 5] = static_cast<std::uint8_t>(part.id);
    frame = FrameBuilder().bytes(bytes);
  }
  if (part.offset == 0) {
    frame.udp(1000, 53);
  } else {
    frame.udp(7, 8);
  }
  return parse(frame.payload(64).build());
}

Bytes whole(bool v6) {
  FrameBuilder frame;
  frame.ethernet();
  if (v6) {
    frame.type(0x86dd).ipv6({});
  } else {
    frame.type(0x0800).ipv4({});
  }
  return frame.udp(1000, 53).payload(64).build();
}

std::uint64_t hash_of(Fragments& fragments, const vtap_key& key, std::uint64_t now = 0) {
  return flow_hash(key, fragments.transport(key, now), 0);
}

TEST(Fragments, AllOfAPacketBelongToItsFlow) {
  for (const bool v6 : {false, true}) {
    Fragments fragments;
    const std::uint64_t flow = hash_of(whole(v6));
    EXPECT_EQ(hash_of(fragments, fragment({.v6 = v6})), flow);
    EXPECT_EQ(hash_of(fragments, fragment({.v6 = v6, .offset = 185})), flow);
    EXPECT_EQ(hash_of(fragments, fragment({.v6 = v6, .offset = 370, .more = false})), flow);
  }
}

TEST(Fragments, OnlyThoseOfTheSamePacket) {
  for (const bool v6 : {false, true}) {
    Fragments fragments;
    const std::uint64_t flow = hash_of(fragments, fragment({.v6 = v6, .id = 7}));
    EXPECT_EQ(hash_of(fragments, fragment({.v6 = v6, .offset = 9, .id = 7})), flow);
    EXPECT_NE(hash_of(fragments, fragment({.v6 = v6, .offset = 9, .id = 8})), flow);
    const auto others = fragment({.v6 = v6, .offset = 9, .id = 7, .host = 9});
    EXPECT_EQ(fragments.transport(others, 0).sport, 0) << "another host's packet";
  }
  Fragments fragments;
  (void)fragments.transport(fragment({.id = 7}), 0);
  EXPECT_EQ(fragments.transport(fragment({.offset = 9, .proto = 6, .id = 7}), 0).sport, 0);
}

TEST(Fragments, WithoutTheFirstTheyHaveNoPorts) {
  Fragments fragments;
  for (const bool v6 : {false, true}) {
    const Transport transport = fragments.transport(fragment({.v6 = v6, .offset = 9}), 0);
    EXPECT_EQ(transport.sport, 0);
    EXPECT_EQ(transport.dport, 0);
    EXPECT_EQ(transport.proto, 17);
  }
}

/// A destination options header in the fragmentable part: later fragments announce that, not UDP.
TEST(Fragments, Ipv6HeadersBehindTheFragmentHeader) {
  Fragments fragments;
  const auto part = [](std::uint16_t offset) {
    FrameBuilder frame;
    frame.ethernet().type(0x86dd).ipv6({.next = 44}).fragment(60, offset, true);
    if (offset == 0) frame.extension(17);
    return parse(frame.udp(1000, 53).payload(64).build());
  };
  EXPECT_EQ(hash_of(fragments, part(0)), hash_of(whole(true)));
  EXPECT_EQ(part(9).proto, 60);
  EXPECT_EQ(hash_of(fragments, part(9)), hash_of(whole(true)));
}

TEST(Fragments, PatienceEnds) {
  for (const std::uint64_t start : {std::uint64_t{0}, 400 * 24 * 3600 * kSecond}) {
    Fragments fragments;
    (void)fragments.transport(fragment({}), start);
    const auto late = [&](std::uint64_t after) {
      return fragments.transport(fragment({.offset = 9}), start + after).sport;
    };
    EXPECT_EQ(late(29 * kSecond), 1000);
    EXPECT_EQ(late(31 * kSecond), 0);
  }
}

TEST(Fragments, ANewPacketTakesOverTheId) {
  Fragments fragments;
  (void)fragments.transport(fragment({}), 0);
  vtap_key other = fragment({});
  other.sport = 4000;
  (void)fragments.transport(other, kSecond);
  EXPECT_EQ(fragments.transport(fragment({.offset = 9}), kSecond).sport, 4000);
}

/// Another worker's clock may be behind.
TEST(Fragments, TheFirstMayComeFromTheFuture) {
  Fragments fragments;
  (void)fragments.transport(fragment({}), 2 * kSecond);
  EXPECT_EQ(fragments.transport(fragment({.offset = 9}), kSecond).sport, 1000);
}

// ---- counts

/// A frame of a flow by its number; odd rounds go the other way.
void push(Burst& burst, std::uint32_t flow, bool back = false) {
  vtap_key key{};
  key.family = VTAP_L3_IPV4;
  key.proto = 17;
  key.src[0] = back ? 2 : 1;
  key.dst[0] = back ? 1 : 2;
  key.sport = back ? 53 : 1024 + flow;
  key.dport = back ? 1024 + flow : 53;
  burst.key[burst.size] = key;
  burst.transport[burst.size] = own_transport(key);
  burst.push({}, 64, 0);
}

TEST(FlowCounts, NumberTheFramesOfEachFlow) {
  FlowCounts counts(65536, 1);
  std::map<std::uint32_t, std::uint32_t> truth;
  Random random(1);
  for (int round = 0; round < 2000; ++round) {
    Burst burst;
    std::vector<std::uint32_t> flows;
    for (std::uint32_t n = random.between(1, 64); n > 0; --n) {
      flows.push_back(random.below(100));
      push(burst, flows.back(), random.percent(50));
    }
    // Not all are this policy's.
    const FrameSet frames =
        burst.all() & (std::uint64_t{random.below(~0U)} << 32 | random.below(~0U));
    FlowCounts::Numbers before;
    counts.count(frames, burst, static_cast<std::uint64_t>(round) * 1000, before);
    pipeline::for_each_frame(frames,
                             [&](std::uint32_t i) { ASSERT_EQ(before[i], truth[flows[i]]++); });
  }
}

std::uint32_t next_number(FlowCounts& counts, std::uint32_t flow, std::uint64_t now) {
  Burst burst;
  push(burst, flow);
  FlowCounts::Numbers before;
  counts.count(1, burst, now, before);
  return before[0];
}

TEST(FlowCounts, AFlowThatWasIdleIsNew) {
  for (const std::uint64_t start : {std::uint64_t{0}, 700 * 24 * 3600 * kSecond}) {
    FlowCounts counts(64, 1);
    EXPECT_EQ(next_number(counts, 1, start), 0U);
    EXPECT_EQ(next_number(counts, 1, start + 59 * kSecond), 1U);
    EXPECT_EQ(next_number(counts, 1, start + 118 * kSecond), 2U)
        << "idle since the last, not first";
    EXPECT_EQ(next_number(counts, 1, start + 179 * kSecond), 0U);
    EXPECT_EQ(next_number(counts, 1, start + 100 * 24 * 3600 * kSecond), 0U);
  }
}

TEST(FlowCounts, AnotherWorkersClockMayBeAhead) {
  FlowCounts counts(64, 1);
  EXPECT_EQ(next_number(counts, 1, 2 * kSecond), 0U);
  EXPECT_EQ(next_number(counts, 1, kSecond), 1U);
}

TEST(FlowCounts, TheLeastRecentlySeenGivesWay) {
  FlowCounts counts(8, 1);
  for (std::uint32_t flow = 0; flow < 8; ++flow) (void)next_number(counts, flow, flow * kSecond);
  EXPECT_EQ(next_number(counts, 0, 8 * kSecond), 1U);
  EXPECT_EQ(next_number(counts, 99, 9 * kSecond), 0U);
  EXPECT_EQ(next_number(counts, 0, 10 * kSecond), 2U);
  for (std::uint32_t flow = 2; flow < 8; ++flow) {
    EXPECT_EQ(next_number(counts, flow, 11 * kSecond), 1U);
  }
  EXPECT_EQ(next_number(counts, 1, 12 * kSecond), 0U) << "it was the one";
}

/// Of each flow exactly the first ones, whoever sees them.
TEST(FlowCounts, AreExactOverAllThreads) {
  constexpr std::uint32_t kThreads = 4;
  constexpr std::uint32_t kFlows = 5000;
  constexpr std::uint32_t kHead = 5;
  FlowCounts counts(65536, 1);
  std::atomic<std::uint32_t> ready{0};
  std::atomic<std::uint64_t> heads{0};
  std::vector<std::thread> threads;
  for (std::uint32_t t = 0; t < kThreads; ++t) {
    threads.push_back(thread_on(t, [&, t] {
      std::uint64_t mine = 0;
      ++ready;
      while (ready < kThreads) std::this_thread::yield();
      for (std::uint32_t flow = 0; flow < kFlows; flow += 4) {
        Burst burst;
        for (std::uint32_t i = 0; i < 16; ++i) push(burst, flow + i % 4, t % 2 == 1);
        FlowCounts::Numbers before;
        counts.count(burst.all(), burst, flow * 1000, before);
        for (std::uint32_t i = 0; i < 16; ++i) mine += before[i] < kHead ? 1 : 0;
      }
      heads += mine;
    }));
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(heads, kFlows * kHead);
}

}  // namespace
}  // namespace vtap::test
