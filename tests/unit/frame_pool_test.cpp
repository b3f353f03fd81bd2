// SPDX-License-Identifier: Apache-2.0
#include "pipeline/frame_pool.hpp"

#include <gtest/gtest.h>
#include <vtap/abi.h>

#include <map>
#include <set>

#include "support/frames.hpp"

namespace vtap::pipeline {
namespace {

TEST(FramePool, GivesEveryFrameOfItsRangeOnce) {
  FramePool pool(FrameNumber{100}, 16);
  std::set<std::uint32_t> taken;
  while (pool.available() != 0) taken.insert(static_cast<std::uint32_t>(pool.take()));
  EXPECT_EQ(taken.size(), 16U);
  EXPECT_EQ(*taken.begin(), 100U);
  EXPECT_EQ(*taken.rbegin(), 115U);
  EXPECT_EQ(pool.total(), 16U);
}

TEST(FramePool, OwnsItsRangeOnly) {
  const FramePool pool(FrameNumber{100}, 16);
  EXPECT_FALSE(pool.owns(FrameNumber{0}));
  EXPECT_FALSE(pool.owns(FrameNumber{99}));
  EXPECT_TRUE(pool.owns(FrameNumber{100}));
  EXPECT_TRUE(pool.owns(FrameNumber{115}));
  EXPECT_FALSE(pool.owns(FrameNumber{116}));
}

TEST(FramePool, OnlyTheLastReferenceFreesAFrame) {
  FramePool pool(FrameNumber{0}, 2);
  const FrameNumber frame = pool.take();
  pool.add_reference(frame);
  pool.add_reference(frame);
  EXPECT_EQ(pool.references(frame), 3U);
  pool.release(frame);
  pool.release(frame);
  EXPECT_EQ(pool.available(), 1U);
  pool.release(frame);
  EXPECT_EQ(pool.available(), 2U);
  EXPECT_EQ(pool.references(frame), 0U);
}

TEST(FramePool, HoldsAReferenceForEveryMonitorAndMore) {
  FramePool pool(FrameNumber{0}, 1);
  const FrameNumber frame = pool.take();
  constexpr int kHolders = VTAP_MAX_MONITORS + 1;  // all monitors and the inline output
  for (int i = 0; i < kHolders; ++i) pool.add_reference(frame);
  for (int i = 0; i < kHolders; ++i) pool.release(frame);
  EXPECT_EQ(pool.available(), 0U);
  pool.release(frame);
  EXPECT_EQ(pool.available(), 1U);
}

/// Against a model: a map of counts.
TEST(FramePool, FreeAndOutAlwaysAddUp) {
  constexpr std::uint32_t kFrames = 24;
  FramePool pool(FrameNumber{7}, kFrames);
  std::map<std::uint32_t, std::uint32_t> out;
  test::Random random(1);
  for (int step = 0; step < 20'000; ++step) {
    const std::uint32_t action = random.below(4);
    if (action < 2 && pool.available() != 0) {
      const auto frame = static_cast<std::uint32_t>(pool.take());
      ASSERT_EQ(out.count(frame), 0U) << "frame " << frame << " was not free";
      out[frame] = 1;
    } else if (!out.empty()) {
      auto entry = out.begin();
      std::advance(entry, random.below(static_cast<std::uint32_t>(out.size())));
      const FrameNumber frame{entry->first};
      if (action == 3 && entry->second < 200) {
        pool.add_reference(frame);
        ++entry->second;
      } else {
        pool.release(frame);
        if (--entry->second == 0) out.erase(entry);
      }
    }
    ASSERT_EQ(pool.available() + out.size(), kFrames) << "step " << step;
    for (const auto& [frame, count] : out) ASSERT_EQ(pool.references(FrameNumber{frame}), count);
  }
}

}  // namespace
}  // namespace vtap::pipeline
