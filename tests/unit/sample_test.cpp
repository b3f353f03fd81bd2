// SPDX-License-Identifier: Apache-2.0
#include "pipeline/sample.hpp"

#include <gtest/gtest.h>
#include <vtap/parse.h>

#include <atomic>
#include <bit>
#include <thread>

#include "pipeline/flow.hpp"
#include "support/frames.hpp"
#include "support/threads.hpp"

namespace vtap::test {
namespace {

using pipeline::Burst;
using pipeline::Fragments;
using pipeline::FrameSet;
using pipeline::Sampler;

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

/// Puts a frame into the burst's first place, as the pipeline does.
void place(Burst& burst, Fragments& fragments, const Bytes& frame) {
  burst.key[0] = parse(frame);
  burst.transport[0] = fragments.transport(burst.key[0], 0);
}

/// Packets in three fragments, a whole packet and an answer: all of a flow or none of it.
TEST(Flows, AllFragmentsStayWithTheirFlow) {
  for (const bool v6 : {false, true}) {
    Sampler sampler = flows(0.5);
    Fragments fragments;
    std::uint64_t taken = 0;
    for (std::uint16_t port = 1; port <= 400; ++port) {
      const auto packet = [&](std::uint16_t offset, bool more, bool back) {
        FrameBuilder frame;
        const bool part = offset != 0 || more;
        if (v6) {
          FrameBuilder::Ipv6 ip;
          if (back) std::swap(ip.src, ip.dst);
          ip.next = part ? 44 : 17;
          frame.ethernet().type(0x86dd).ipv6(ip);
          if (part) frame.fragment(17, offset, more);
        } else {
          FrameBuilder::Ipv4 ip;
          if (back) std::swap(ip.src, ip.dst);
          ip.offset = offset;
          ip.more = more;
          frame.ethernet().type(0x0800).ipv4(ip);
        }
        if (offset == 0) frame.udp(back ? 53 : port, back ? port : 53);
        return frame.payload(64).build();
      };
      Burst burst;
      FrameSet chosen = 0;
      for (const Bytes& frame :
           {packet(0, true, false), packet(8, true, false), packet(16, false, false),
            packet(0, false, true), packet(0, true, true), packet(8, false, true)}) {
        place(burst, fragments, frame);
        chosen = chosen << 1 | sampler.chosen(1, burst);
      }
      ASSERT_TRUE(chosen == 0 || chosen == 0b111111) << "port " << port << ": " << chosen;
      taken += chosen & 1;
    }
    EXPECT_GT(taken, 150U);
    EXPECT_LT(taken, 250U);
  }
}

/// Flows of neighbouring addresses and ports, as real ones are.
double share_taken(double share) {
  constexpr std::uint32_t kFlows = 40'000;
  Sampler sampler = flows(share);
  Fragments fragments;
  std::uint64_t taken = 0;
  Burst burst;
  for (std::uint32_t i = 0; i < kFlows; ++i) {
    const FrameBuilder::Ipv4 ip{
        .src = {10, 0, static_cast<std::uint8_t>(i / 250 % 4), static_cast<std::uint8_t>(i % 250)},
        .proto = 6};
    const auto sport = static_cast<std::uint16_t>(32768 + i / 1000);
    place(burst, fragments,
          FrameBuilder().ethernet().type(0x0800).ipv4(ip).tcp(sport, 443, 2).build());
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
