// SPDX-License-Identifier: Apache-2.0
// The TX ring of an AF_XDP socket on a real device: what is posted leaves, what is taken back does
// not, and every frame comes home once. And the queue of a scheduled monitor before such a ring.
#include <linux/if_xdp.h>
#include <sys/socket.h>

#include <cerrno>

#include "bpf/netns.hpp"
#include "io/xsk_ports.hpp"
#include "support/memory_broker.hpp"
#include "worker/monitor_queue.hpp"

namespace vtap::test {
namespace {

constexpr std::uint32_t kFrames = 256;
constexpr std::uint16_t kLength = 60;

class Home final : public io::FrameReturn {
 public:
  void give_back(pipeline::FrameNumber frame) noexcept override {
    const auto number = static_cast<std::uint32_t>(frame);
    if (number < kFrames) {
      ++times_[number];
    } else {
      ++strangers_;
    }
  }
  [[nodiscard]] std::uint32_t times(std::uint32_t frame) const { return times_[frame]; }
  [[nodiscard]] std::uint32_t strangers() const { return strangers_; }

 private:
  std::array<std::uint32_t, kFrames> times_{};
  std::uint32_t strangers_ = 0;
};

/// A sink on one end of a veth; the other end counts what arrives.
class Wire {
 public:
  explicit Wire(std::uint32_t limit = kFrames) : sink(umem_.umem(), home, limit) {
    attach_native_xdp(link_.other_ifindex(), far_.fd(io::ProgramHook::xdp));
    sink.connect(socket_.get());
  }

  void post(std::uint32_t first, std::uint32_t count) {
    for (std::uint32_t frame = first; frame < first + count; ++frame) {
      const pipeline::TxDescriptor one{umem_.umem().start(pipeline::FrameNumber{frame}), kLength};
      ASSERT_EQ(sink.post({&one, 1}).taken, 1U);
    }
  }
  bool all_home() {
    return eventually([&] {
      sink.kick();
      sink.reclaim();
      return sink.held() == 0;
    });
  }
  [[nodiscard]] std::uint64_t arrived() const { return far_.arrived(); }
  [[nodiscard]] pipeline::UmemView umem() const { return umem_.umem(); }
  [[nodiscard]] io::XskSocket& socket() { return *socket_; }
  static constexpr std::uint32_t kRing = 64;

 private:
  Veth link_{"near", "far"};
  io::MonitorProgram far_ = require(io::MonitorProgram::load());
  io::TeeMemory umem_ = require(io::TeeMemory::create(kFrames, 2048));
  std::unique_ptr<io::XskSocket> socket_ = require(io::XskSocket::open(
      {.port = link_.one, .queue = 0, .rx_size = 0, .tx_size = kRing}, umem_.umem()));

 public:
  Home home;
  io::XskSink sink;
};

using XskSinkTest = NetnsTest;

TEST_F(XskSinkTest, WhatIsPostedLeavesAndComesHome) {
  Wire wire;
  wire.post(0, 50);
  ASSERT_TRUE(wire.all_home());
  EXPECT_EQ(wire.sink.sent_frames().read(), 50U);
  EXPECT_EQ(wire.sink.sent_bytes().read(), 50U * kLength);
  EXPECT_TRUE(eventually([&] { return wire.arrived() == 50; })) << wire.arrived();
}

/// Also of a ring that is smaller than what is asked for at best: a kernel refuses more than the
/// ring holds, and would go on with 32.
TEST_F(XskSinkTest, OneCallMovesAsMuchAsTheKernelAllows) {
  Wire wire;
  wire.post(0, Wire::kRing);
  wire.sink.kick();
  // By what arrives, as kernel 6.1 publishes the ring's index only with the next call.
  EXPECT_TRUE(eventually([&] { return wire.arrived() >= wire.socket().tx_budget(); }));
  const std::uint64_t moved = wire.arrived();
  ASSERT_TRUE(wire.all_home());
  EXPECT_EQ(wire.sink.sent_frames().read(), Wire::kRing);
  constexpr int kOption = 9;  // XDP_MAX_TX_SKB_BUDGET
  const std::uint32_t ring = Wire::kRing;
  const bool known =
      setsockopt(wire.socket().fd(), SOL_XDP, kOption, &ring, sizeof(ring)) == 0 || errno == EACCES;
  EXPECT_EQ(wire.socket().tx_budget(), known ? Wire::kRing : io::XskSocket::kOldTxBudget);
  EXPECT_EQ(moved, wire.socket().tx_budget());
}

/// Some kernels skip descriptors that point nowhere, others hand them back as completed.
TEST_F(XskSinkTest, WhatIsTakenBackNeverLeaves) {
  Wire wire;
  wire.post(0, 10);
  ASSERT_TRUE(wire.all_home());
  wire.post(10, 40);
  EXPECT_EQ(wire.sink.retract(), 40U);
  EXPECT_EQ(wire.sink.retract(), 0U) << "they are back already";
  EXPECT_EQ(wire.sink.held(), 0U);
  wire.post(50, 5);
  ASSERT_TRUE(wire.all_home());
  // The ring goes on, around its end.
  for (std::uint32_t round = 0; round < 4; ++round) {
    wire.post(55 + round * 40, 40);
    ASSERT_TRUE(wire.all_home()) << round;
  }
  EXPECT_EQ(wire.sink.sent_frames().read(), 10U + 5 + 160);
  EXPECT_EQ(wire.sink.sent_bytes().read(), (10U + 5 + 160) * kLength);
  EXPECT_TRUE(eventually([&] { return wire.arrived() == 175; })) << wire.arrived();
  for (std::uint32_t frame = 0; frame < 215; ++frame)
    EXPECT_EQ(wire.home.times(frame), 1U) << frame;
  EXPECT_EQ(wire.home.strangers(), 0U);
}

std::uint64_t timed_copies(const io::XskSink& sink) {
  std::uint64_t count = 0;
  for (std::size_t i = 0; i <= pipeline::LatencyHistogram::kBounds.size(); ++i) {
    count += sink.latency().read(i);
  }
  return count;
}

TEST_F(XskSinkTest, TheTimedFrameIsObservedWhenItWasSent) {
  Wire wire;
  pipeline::TimedFrame timed;
  std::uint64_t now = 0;
  wire.sink.time_copies(timed, now);
  wire.post(0, 10);
  timed = {wire.umem().start(pipeline::FrameNumber{99}), 1'000};
  wire.post(10, 10);  // not among them
  timed = {wire.umem().start(pipeline::FrameNumber{23}), 1'000};
  wire.post(20, 10);
  timed = {wire.umem().start(pipeline::FrameNumber{33}), 40'000};
  wire.post(30, 10);  // one at a time
  timed = {};
  EXPECT_EQ(timed_copies(wire.sink), 0U);
  now = 31'000;
  ASSERT_TRUE(wire.all_home());
  EXPECT_EQ(timed_copies(wire.sink), 1U);
  EXPECT_EQ(wire.sink.latency().read(5), 1U) << "30 us: above 20, not above 50";
  EXPECT_EQ(wire.sink.latency().sum_ns(), 30'000U);

  timed = {wire.umem().start(pipeline::FrameNumber{41}), 50'000};
  wire.post(40, 10);
  now = 49'000;  // never below zero
  ASSERT_TRUE(wire.all_home());
  EXPECT_EQ(timed_copies(wire.sink), 2U);
  EXPECT_EQ(wire.sink.latency().sum_ns(), 30'000U);
}

TEST_F(XskSinkTest, WhatIsTakenBackIsNotObserved) {
  Wire wire;
  pipeline::TimedFrame timed{wire.umem().start(pipeline::FrameNumber{3}), 1'000};
  const std::uint64_t now = 2'000;
  wire.sink.time_copies(timed, now);
  wire.post(0, 10);
  EXPECT_EQ(wire.sink.retract(), 10U);
  timed = {};
  wire.post(0, 10);
  ASSERT_TRUE(wire.all_home());
  EXPECT_EQ(timed_copies(wire.sink), 0U) << "frame 3 is another one now";
}

/// A queue of 100 frames before a ring of 16, and two policies, the second of them served first.
class QueueTest : public NetnsTest {
 protected:
  void offer(std::uint32_t first, std::uint32_t count, std::uint32_t traffic_class) {
    for (std::uint32_t frame = first; frame < first + count; ++frame) {
      const pipeline::TxDescriptor one{wire_->umem().start(pipeline::FrameNumber{frame}), kLength,
                                       traffic_class};
      ASSERT_EQ(queue_->post({&one, 1}).taken, 1U);
    }
  }
  bool all_sent(std::uint32_t frames) {
    return eventually([&] {
      queue_->serve(1);
      wire_->sink.kick();
      wire_->sink.reclaim();
      return wire_->sink.sent_frames().read() == frames;
    });
  }
  /// How many of these frames came home so many times.
  std::uint32_t home(std::uint32_t first, std::uint32_t count, std::uint32_t times = 1) {
    std::uint32_t found = 0;
    for (std::uint32_t i = first; i < first + count; ++i) {
      found += wire_->home.times(i) == times ? 1 : 0;
    }
    return found;
  }

  void SetUp() override {
    NetnsTest::SetUp();
    if (testing::Test::IsSkipped()) return;
    wire_ = std::make_unique<Wire>(16);
    const pipeline::Scheduler::Spec spec{
        .classes = {{0, 1}, {7, 1}}, .rate = {}, .capacity = 100, .longest = 2048};
    queue_ = std::make_unique<worker::MonitorQueue>(spec, wire_->sink, wire_->umem(), wire_->home,
                                                    timed_, now_);
  }

  std::unique_ptr<Wire> wire_;
  pipeline::TimedFrame timed_;
  std::uint64_t now_ = 0;
  std::unique_ptr<worker::MonitorQueue> queue_;
};

TEST_F(QueueTest, GivesBackWhatGivesWayAndSendsTheRest) {
  offer(0, 120, 0);
  EXPECT_EQ(queue_->waiting(), 100U);
  EXPECT_EQ(home(100, 20), 20U) << "the newest went home at once";
  offer(120, 10, 1);
  EXPECT_EQ(queue_->waiting(), 100U);
  EXPECT_EQ(home(90, 10), 10U);
  EXPECT_EQ(queue_->dropped().read(), 30U);
  EXPECT_EQ(queue_->next_at(), 0U);
  EXPECT_FALSE(queue_->blocked());

  EXPECT_TRUE(queue_->serve(1));
  EXPECT_EQ(wire_->sink.held(), 16U) << "no more than the ring may hold";
  EXPECT_EQ(queue_->last_waiting(), 84U);
  EXPECT_TRUE(queue_->blocked());
  EXPECT_EQ(queue_->next_at(), pipeline::Scheduler::kNever);
  EXPECT_FALSE(queue_->serve(1));
  // The high priority was in the ring first.
  wire_->sink.kick();
  ASSERT_TRUE(eventually([&] { return wire_->sink.reclaim() != 0 || wire_->sink.held() == 0; }));
  EXPECT_GT(home(120, 10), 0U);
  EXPECT_EQ(home(6, 84), 0U);

  ASSERT_TRUE(all_sent(100));
  EXPECT_EQ(home(0, 130), 130U);
  EXPECT_EQ(queue_->waiting(), 0U);
  EXPECT_TRUE(eventually([&] { return wire_->arrived() == 100; })) << wire_->arrived();
}

TEST_F(QueueTest, ATimedFrameIsTimedWhileItWaits) {
  timed_ = {wire_->umem().start(pipeline::FrameNumber{39}), 1'000};
  offer(0, 40, 0);
  timed_ = {};  // as with the next burst
  queue_->serve(1);
  ASSERT_TRUE(eventually([&] {
    wire_->sink.kick();
    return wire_->sink.reclaim() != 0;
  }));
  EXPECT_EQ(timed_copies(wire_->sink), 0U) << "it still waits";
  now_ = 7'001'000;
  ASSERT_TRUE(all_sent(40));
  EXPECT_EQ(timed_copies(wire_->sink), 1U);
  EXPECT_EQ(wire_->sink.latency().sum_ns(), 7'000'000U);
}

TEST_F(QueueTest, ATimedFrameThatGivesWayIsNotObserved) {
  timed_ = {wire_->umem().start(pipeline::FrameNumber{99}), 1'000};
  offer(0, 100, 0);
  timed_ = {};
  offer(100, 1, 1);  // frame 99 gives way
  EXPECT_EQ(home(99, 1), 1U);
  timed_ = {wire_->umem().start(pipeline::FrameNumber{110}), 500};
  offer(110, 1, 1);
  timed_ = {};
  now_ = 2'500;
  ASSERT_TRUE(all_sent(100));
  EXPECT_EQ(timed_copies(wire_->sink), 1U);
  EXPECT_EQ(wire_->sink.latency().sum_ns(), 2'000U);
}

TEST_F(QueueTest, WithoutASocketItTakesNothingAndGivesUpWhatWaits) {
  offer(0, 50, 0);
  queue_->serve(1);
  wire_->sink.disconnect();
  const pipeline::TxDescriptor late{wire_->umem().start(pipeline::FrameNumber{60}), kLength, 1};
  const auto posted = queue_->post({&late, 1});
  EXPECT_EQ(posted.taken, 0U);
  EXPECT_EQ(posted.refusal, pipeline::Sink::Refusal::down);
  EXPECT_FALSE(queue_->serve(1));
  EXPECT_FALSE(queue_->blocked());
  EXPECT_EQ(queue_->next_at(), pipeline::Scheduler::kNever);
  EXPECT_EQ(queue_->abandon(), 34U);
  EXPECT_EQ(home(0, 50), 34U) << "the others are the ring's";
  EXPECT_EQ(queue_->waiting(), 0U);
  EXPECT_EQ(queue_->last_waiting(), 0U);
  EXPECT_EQ(queue_->dropped().read(), 0U);
  EXPECT_EQ(home(60, 1), 0U) << "what was not taken is the caller's";
}

}  // namespace
}  // namespace vtap::test
