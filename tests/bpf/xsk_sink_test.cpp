// SPDX-License-Identifier: Apache-2.0
// The TX ring of an AF_XDP socket on a real device: what is posted leaves, what is taken back does
// not, and every frame comes home once.
#include "bpf/netns.hpp"
#include "io/xsk_ports.hpp"
#include "support/memory_broker.hpp"

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
  Wire() {
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

 private:
  Veth link_{"near", "far"};
  io::MonitorProgram far_ = require(io::MonitorProgram::load());
  io::TeeMemory umem_ = require(io::TeeMemory::create(kFrames, 2048));
  std::unique_ptr<io::XskSocket> socket_ = require(io::XskSocket::open(
      {.port = link_.one, .queue = 0, .rx_size = 0, .tx_size = 64}, umem_.umem()));

 public:
  Home home;
  io::XskSink sink{umem_.umem(), home, kFrames};
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

}  // namespace
}  // namespace vtap::test
