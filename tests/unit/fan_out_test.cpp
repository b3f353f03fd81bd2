// SPDX-License-Identifier: Apache-2.0
// Fan-out copies nothing: N monitors are given N descriptors of the same frame, in memory that
// cannot be written meanwhile, or not even read where no policy looks at frames.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "pipeline/pipeline.hpp"
#include "support/frames.hpp"
#include "support/memory_broker.hpp"

namespace vtap::test {
namespace {

using pipeline::Burst;
using pipeline::FrameAddress;
using pipeline::FrameNumber;
using pipeline::TxDescriptor;

constexpr std::uint32_t kFrames = 128;
constexpr std::uint32_t kFrameSize = 4096;
constexpr std::uint32_t kSlice = 64;

/// A UMEM whose access can be taken away: whoever uses it all the same ends the test by SIGSEGV.
class GuardedUmem {
 public:
  GuardedUmem()
      : base_(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {}
  GuardedUmem(const GuardedUmem&) = delete;
  GuardedUmem& operator=(const GuardedUmem&) = delete;
  ~GuardedUmem() { munmap(base_, kBytes); }

  [[nodiscard]] pipeline::UmemView view() const {
    return {static_cast<std::uint8_t*>(base_), kFrameSize, kFrames};
  }
  void allow(int protection) { ASSERT_EQ(mprotect(base_, kBytes, protection), 0); }

 private:
  static constexpr std::size_t kBytes = std::size_t{kFrames} * kFrameSize;
  void* base_;
};

/// Takes all and keeps the descriptors, nothing else.
class DescriptorSink final : public pipeline::Sink {
 public:
  Posted post(std::span<const TxDescriptor> frames) noexcept override {
    ++posts;
    taken.insert(taken.end(), frames.begin(), frames.end());
    return {static_cast<std::uint32_t>(frames.size())};
  }
  std::uint32_t posts = 0;
  std::vector<TxDescriptor> taken;
};

plan::Plan plan_for(std::uint32_t monitors, bool looks) {
  plan::Plan plan;
  plan.config.taps.resize(1);
  plan.config.taps[0].ports = {"a"};
  plan.config.monitors.resize(monitors);
  config::Policy policy;
  policy.taps = {0};
  for (std::uint32_t i = 0; i < monitors; ++i) policy.monitors.push_back(i);
  if (looks) policy.match = {{.dst_port = {{53, 53}}, .proto = {{17, 17}}}};
  policy.slice = kSlice;
  plan.config.policies = {policy};
  auto tables = plan::compile(plan.config);
  EXPECT_TRUE(tables.ok());
  if (tables) plan.tables = std::move(*tables);
  return plan;
}

class FanOut : public testing::TestWithParam<std::uint32_t> {
 protected:
  /// A full burst to all monitors, while memory may be used in this way only.
  void fan_out(bool looks, int protection) {
    const std::uint32_t monitors = GetParam();
    const plan::Plan plan = plan_for(monitors, looks);
    const pipeline::SharedPlan shared(plan);
    const pipeline::UmemView view = umem_.view();
    pipeline::FramePool pool(FrameNumber{0}, kFrames);
    std::vector<DescriptorSink> sinks(monitors);
    std::vector<pipeline::Sink*> pointers;
    for (DescriptorSink& sink : sinks) pointers.push_back(&sink);
    pipeline::Pipeline pipeline(shared, view, pool, pointers);

    const Bytes bytes =
        FrameBuilder().ethernet().type(0x0800).ipv4({}).udp(1000, 53).payload(200).build();
    auto burst = std::make_unique<Burst>();
    while (!burst->full()) {
      const FrameAddress address = view.start(pool.take());
      std::memcpy(view.at(address), bytes.data(), bytes.size());
      burst->push(address, static_cast<std::uint32_t>(bytes.size()), 0);
    }
    umem_.allow(protection);
    pipeline.process(*burst, 0);
    umem_.allow(PROT_READ | PROT_WRITE);

    for (const DescriptorSink& sink : sinks) {
      EXPECT_EQ(sink.posts, 1U) << "one call a burst";
      ASSERT_EQ(sink.taken.size(), burst->size);
      for (std::uint32_t i = 0; i < burst->size; ++i) {
        EXPECT_EQ(sink.taken[i].address, burst->address[i]) << "the same frame";
        EXPECT_EQ(sink.taken[i].length, kSlice) << "cut in the descriptor";
      }
    }
    for (std::uint32_t i = 0; i < burst->size; ++i) {
      EXPECT_EQ(pool.references(view.number(burst->address[i])), monitors + 1);
    }
    EXPECT_EQ(pool.available(), kFrames - burst->size) << "no frame but those of the burst";
  }

  GuardedUmem umem_;
};

TEST_P(FanOut, WritesNoByte) { fan_out(true, PROT_READ); }

TEST_P(FanOut, ReadsNoByteWherePoliciesDoNotLook) { fan_out(false, PROT_NONE); }

INSTANTIATE_TEST_SUITE_P(Monitors, FanOut, testing::Values(1, 2, 8, 64));

}  // namespace
}  // namespace vtap::test
