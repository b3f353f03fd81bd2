// SPDX-License-Identifier: Apache-2.0
// A sleeper is woken once, and nobody else.
#include <bpf/libbpf.h>
#include <poll.h>

#include <memory>

#include "bpf/rig.hpp"
#include "pipeline/burst.hpp"
#include "pipeline/frame_pool.hpp"

namespace vtap::test {
namespace {

using io::ProgramHook;

bool readable(int fd) {
  pollfd poll{fd, POLLIN, 0};
  return ::poll(&poll, 1, 0) == 1;
}

/// Takes all records of a doorbell, and counts them.
class Listener {
 public:
  explicit Listener(const io::Doorbell& bell)
      : buffer_(::ring_buffer__new(bell.fd(), &Listener::count, this, nullptr)) {}
  std::uint32_t heard() {
    heard_ = 0;
    ::ring_buffer__consume(buffer_.get());
    return heard_;
  }

 private:
  static int count(void* self, void*, std::size_t) {
    ++static_cast<Listener*>(self)->heard_;
    return 0;
  }
  struct Free {
    void operator()(ring_buffer* buffer) const { ::ring_buffer__free(buffer); }
  };
  std::unique_ptr<ring_buffer, Free> buffer_;
  std::uint32_t heard_ = 0;
};

class DoorbellTest : public BpfTest, public testing::WithParamInterface<ProgramHook> {};

INSTANTIATE_TEST_SUITE_P(Hooks, DoorbellTest, testing::Values(ProgramHook::xdp, ProgramHook::tc),
                         [](const auto& made) { return std::string(name_of(made.param)); });

TEST_P(DoorbellTest, RingsOnceForASleeperAndNotForTheBusy) {
  Tee tee;
  const Compiled plan(one_policy({{.dst_port = {{53, 53}}}}));
  Tap port(GetParam(), constants(plan.tables, 0, tee), tee, plan);
  tee.give(32);
  const io::Doorbell bell = require(io::Doorbell::create());
  const io::Doorbell elsewhere = require(io::Doorbell::create());
  ASSERT_TRUE(succeeded(tee.memory().set_doorbell(tee.cpu_number(), bell.fd())));
  if (tee.memory().cpus() > 1) {
    const std::uint32_t other = tee.cpu_number() == 0 ? 1 : 0;
    ASSERT_TRUE(succeeded(tee.memory().set_doorbell(other, elsewhere.fd())));
  }
  Listener listener(bell);

  for (int i = 0; i < 3; ++i) port.run(udp_frame(60));
  EXPECT_FALSE(readable(bell.fd()));
  EXPECT_EQ(listener.heard(), 0U) << "nobody sleeps";

  for (int round = 0; round < 3; ++round) {
    tee.cpu().sleeping = 1;
    port.run(udp_frame(60, 54));
    EXPECT_EQ(tee.cpu().sleeping, 1U) << "nothing was published";
    EXPECT_FALSE(readable(bell.fd()));
    for (int i = 0; i < 3; ++i) port.run(udp_frame(60));
    EXPECT_TRUE(readable(bell.fd()));
    EXPECT_EQ(tee.cpu().sleeping, 0U);
    EXPECT_EQ(listener.heard(), 1U);
    EXPECT_FALSE(readable(bell.fd()));
  }
  EXPECT_FALSE(readable(elsewhere.fd()));
}

TEST_P(DoorbellTest, ACopyWithoutADoorbellIsStillPublished) {
  Tee tee;
  const Compiled plan(one_policy());
  Tap port(GetParam(), constants(plan.tables, 0, tee), tee, plan);
  tee.give(1);
  tee.cpu().sleeping = 1;
  EXPECT_EQ(port.run(udp_frame(60)), Fate::passed);
  EXPECT_EQ(tee.take().size(), 1U);
}

TEST_P(DoorbellTest, WorksWithTheWorkersEndOfTheRing) {
  Tee tee(256);  // pins the thread; its own half of the ring is not used here
  const Compiled plan(one_policy());
  Tap port(GetParam(), constants(plan.tables, 0, tee), tee, plan);
  const io::Doorbell bell = require(io::Doorbell::create());
  std::vector<vtap_cpu*> rings;
  for (std::uint32_t cpu = 0; cpu < tee.memory().cpus(); ++cpu) {
    rings.push_back(&tee.memory().cpu(cpu));
    ASSERT_TRUE(succeeded(tee.memory().set_doorbell(cpu, bell.fd())));
  }
  pipeline::FramePool pool(pipeline::FrameNumber{0}, 256);
  io::TeeSource source(rings, tee.memory().umem(), pool, 128);
  Listener listener(bell);

  EXPECT_TRUE(source.prepare_sleep());
  port.run(udp_frame(60));
  EXPECT_EQ(listener.heard(), 1U);
  source.wake();
  port.run(udp_frame(70));
  EXPECT_EQ(listener.heard(), 0U);
  EXPECT_FALSE(source.prepare_sleep()) << "two copies wait";
  port.run(udp_frame(80));
  EXPECT_EQ(listener.heard(), 0U) << "a refused sleep must leave no flag behind";

  pipeline::Burst burst;
  source.receive(burst, kAllOfThem);
  ASSERT_EQ(burst.size, 3U);
  EXPECT_EQ(pool.available() + source.frames_out() + burst.size, pool.total());
  EXPECT_TRUE(source.prepare_sleep());
}

}  // namespace
}  // namespace vtap::test
