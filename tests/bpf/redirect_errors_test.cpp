// SPDX-License-Identifier: Apache-2.0
// Originals that the kernel loses behind the programs' back are counted, under the right name, for
// the right port, and for nobody else's.
#include "bpf/netns.hpp"
#include "io/xsk.hpp"

namespace vtap::test {
namespace {

using io::ProgramHook;

constexpr std::uint32_t kPort = 5;

/// An inline tap port whose frames go out of a veth that a test spoils: gen → in → out → far.
class Wire {
 public:
  explicit Wire(const Tee& tee)
      : in_("in", "gen", 3000), out_("out", "far", 1500), sender_(in_.other_ifindex()) {
    const Compiled plan(no_policy());
    vtap_port_config config = constants(plan.tables, 0, tee);
    config.port = kPort;
    config.mode = VTAP_MODE_INLINE;
    config.out_ifindex = static_cast<__u32>(out_.ifindex());
    programs_.emplace(ProgramHook::xdp, config, tee, plan);
    EXPECT_TRUE(succeeded(programs_->programs().engage()));
    attach_native_xdp(in_.ifindex(), programs_->programs().stub_fd());
  }

  [[nodiscard]] int in_ifindex() const { return in_.ifindex(); }
  [[nodiscard]] int out_ifindex() const { return out_.ifindex(); }
  [[nodiscard]] int stub_fd() { return programs_->programs().stub_fd(); }
  void send(const Bytes& frame, int times) const {
    for (int i = 0; i < times; ++i) ASSERT_EQ(sender_.send(frame), 0);
  }
  /// Makes far a device to which XDP can redirect.
  void give_far_a_napi() {
    monitor_.emplace(require(io::MonitorProgram::load()));
    attach_native_xdp(out_.other_ifindex(), monitor_->fd(ProgramHook::xdp));
  }
  [[nodiscard]] std::uint64_t arrived() const { return monitor_->arrived(); }

 private:
  Veth in_, out_;
  Sender sender_;
  std::optional<Tap> programs_;
  std::optional<io::MonitorProgram> monitor_;
};

/// All of them, for one glance.
std::uint64_t total(const vtap_redirect_errors& errors) {
  return errors.tx_failed + errors.too_long + errors.rx_ring_full + errors.no_free_frame +
         errors.xsk_too_long + errors.no_socket;
}

class RedirectErrorsTest : public NetnsTest {
 protected:
  static void expect_forwarded(const Tee& tee, std::uint64_t frames) {
    EXPECT_TRUE(eventually([&] { return tee.counters(kPort).forwarded == frames; }))
        << tee.counters(kPort).forwarded << " of " << frames;
  }
};

TEST_F(RedirectErrorsTest, AnOutputThatTakesNoRedirects) {
  Tee tee;
  const Wire wire(tee);
  io::RedirectErrors errors = require(io::RedirectErrors::attach());
  ASSERT_TRUE(succeeded(errors.add_port(wire.in_ifindex(), kPort)));
  wire.send(udp_frame(100), 100);
  expect_forwarded(tee, 100);
  EXPECT_TRUE(eventually([&] { return errors.read(kPort).tx_failed == 100; }))
      << errors.read(kPort).tx_failed;
  EXPECT_EQ(total(errors.read(kPort)), 100U);
  EXPECT_EQ(total(errors.read(0)), 0U);

  errors.remove_port(wire.in_ifindex());
  wire.send(udp_frame(100), 10);
  expect_forwarded(tee, 110);
  EXPECT_EQ(total(errors.read(kPort)), 100U);
}

TEST_F(RedirectErrorsTest, FramesLongerThanTheOutputTakes) {
  Tee tee;
  Wire wire(tee);
  wire.give_far_a_napi();
  io::RedirectErrors errors = require(io::RedirectErrors::attach());
  ASSERT_TRUE(succeeded(errors.add_port(wire.in_ifindex(), kPort)));
  wire.send(udp_frame(1518), 5);  // with room for a tag
  wire.send(udp_frame(1519), 7);
  wire.send(udp_frame(2500), 3);
  expect_forwarded(tee, 15);
  EXPECT_TRUE(eventually([&] { return wire.arrived() == 5; })) << wire.arrived();
  EXPECT_EQ(errors.read(kPort).too_long, 10U);
  EXPECT_EQ(total(errors.read(kPort)), 10U);
}

TEST_F(RedirectErrorsTest, ADriverThatRefusesABulk) {
  // The far end keeps its program but goes down: the output is still marked as one that takes
  // redirected frames, and refuses them at the flush.
  Tee tee;
  Wire wire(tee);
  wire.give_far_a_napi();
  io::RedirectErrors errors = require(io::RedirectErrors::attach());
  ASSERT_TRUE(succeeded(errors.add_port(wire.in_ifindex(), kPort)));
  wire.send(udp_frame(100), 4);
  EXPECT_TRUE(eventually([&] { return wire.arrived() == 4; }));
  command("ip link set far down");
  wire.send(udp_frame(100), 33);
  expect_forwarded(tee, 37);
  EXPECT_TRUE(eventually([&] { return errors.read(kPort).tx_failed == 33; }))
      << errors.read(kPort).tx_failed;
  run_live(wire.stub_fd(), wire.in_ifindex(), udp_frame(100), 100);  // many at one flush
  expect_forwarded(tee, 137);
  EXPECT_EQ(errors.read(kPort).tx_failed, 133U);
  EXPECT_EQ(total(errors.read(kPort)), 133U);
}

TEST_F(RedirectErrorsTest, AnOutputThatIsDown) {
  Tee tee;
  Wire wire(tee);
  wire.give_far_a_napi();
  io::RedirectErrors errors = require(io::RedirectErrors::attach());
  ASSERT_TRUE(succeeded(errors.add_port(wire.in_ifindex(), kPort)));
  command("ip link set out down");
  wire.send(udp_frame(100), 20);
  expect_forwarded(tee, 20);
  EXPECT_TRUE(eventually([&] { return errors.read(kPort).tx_failed == 20; }))
      << errors.read(kPort).tx_failed;
}

TEST_F(RedirectErrorsTest, OtherNamespacesAreNotCounted) {
  Tee tee;
  const Wire ours(tee);
  io::RedirectErrors errors = require(io::RedirectErrors::attach());
  ASSERT_TRUE(succeeded(errors.add_port(ours.in_ifindex(), kPort)));
  {
    const Namespace elsewhere;
    Tee other_tee;
    const Wire theirs(other_tee);
    ASSERT_EQ(theirs.in_ifindex(), ours.in_ifindex()) << "else this test shows nothing";
    io::RedirectErrors theirs_errors = require(io::RedirectErrors::attach());
    ASSERT_TRUE(succeeded(theirs_errors.add_port(theirs.in_ifindex(), kPort)));
    theirs.send(udp_frame(100), 30);
    expect_forwarded(other_tee, 30);
    EXPECT_TRUE(eventually([&] { return theirs_errors.read(kPort).tx_failed == 30; }));
  }
  EXPECT_EQ(total(errors.read(kPort)), 0U);
  ours.send(udp_frame(100), 3);
  EXPECT_TRUE(eventually([&] { return errors.read(kPort).tx_failed == 3; }));
}

TEST_F(RedirectErrorsTest, FullAndStarvedAfXdpRings) {
  constexpr std::uint32_t kRing = 64;
  Tee tee(256);
  const Veth in("in", "gen", 3000);
  const Sender sender(in.other_ifindex());
  const Compiled plan(one_policy());
  vtap_port_config config = constants(plan.tables, 0, tee);
  config.port = kPort;
  config.mode = VTAP_MODE_SPAN;
  config.capture = VTAP_CAPTURE_REDIRECT;
  Tap tap(ProgramHook::xdp, config, tee, plan);
  ASSERT_TRUE(succeeded(tap.programs().engage()));
  attach_native_xdp(in.ifindex(), tap.programs().stub_fd());
  const auto socket = require(io::XskSocket::open(
      {.port = "in", .queue = 0, .rx_size = kRing, .tx_size = 0}, tee.memory().umem()));
  ASSERT_TRUE(succeeded(tap.programs().set_socket(0, socket->fd())));
  io::RedirectErrors errors = require(io::RedirectErrors::attach());
  ASSERT_TRUE(succeeded(errors.add_port(in.ifindex(), kPort)));

  std::uint64_t sent = 0;
  const auto send = [&](std::uint32_t times) {
    for (std::uint32_t i = 0; i < times; ++i) ASSERT_EQ(sender.send(udp_frame(100)), 0);
    sent += times;
    ASSERT_TRUE(eventually([&] { return tee.counters(kPort).rx_frames == sent; }));
  };
  const auto fill = [&](std::uint64_t first, std::uint32_t count) {
    std::uint32_t at = 0;
    ASSERT_EQ(::xsk_ring_prod__reserve(&socket->fill, count, &at), count);
    for (std::uint32_t i = 0; i < count; ++i)
      *::xsk_ring_prod__fill_addr(&socket->fill, at + i) = (first + i) * tee.frame_size();
    ::xsk_ring_prod__submit(&socket->fill, count);
  };

  ASSERT_NO_FATAL_FAILURE(send(3));
  EXPECT_TRUE(eventually([&] { return errors.read(kPort).no_free_frame == 3; }));
  ASSERT_NO_FATAL_FAILURE(fill(0, kRing));
  ASSERT_NO_FATAL_FAILURE(send(kRing));
  ASSERT_NO_FATAL_FAILURE(fill(kRing, kRing));
  ASSERT_NO_FATAL_FAILURE(send(4));
  EXPECT_TRUE(eventually([&] { return errors.read(kPort).rx_ring_full == 4; }));
  EXPECT_EQ(errors.read(kPort).no_free_frame, 3U);
  EXPECT_EQ(total(errors.read(kPort)), 7U);
  std::uint32_t at = 0;
  EXPECT_EQ(::xsk_ring_cons__peek(&socket->rx, 2 * kRing, &at), kRing);

  const Veth elsewhere("elsewhere", "its-end");
  const auto stranger = require(io::XskSocket::open(
      {.port = "elsewhere", .queue = 0, .rx_size = kRing, .tx_size = 0}, tee.memory().umem()));
  ASSERT_TRUE(succeeded(tap.programs().set_socket(0, stranger->fd())));
  ASSERT_NO_FATAL_FAILURE(send(5));
  EXPECT_TRUE(eventually([&] { return errors.read(kPort).no_socket == 5; }));
  EXPECT_EQ(total(errors.read(kPort)), 12U);
}

}  // namespace
}  // namespace vtap::test
