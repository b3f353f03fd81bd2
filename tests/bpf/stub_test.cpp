// SPDX-License-Identifier: Apache-2.0
// The stub is a wire unless a living process has engaged its program.
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <array>
#include <cstring>

#include "bpf/netns.hpp"

namespace vtap::test {
namespace {

using io::ProgramHook;

/// A span port that drops everything while its program is engaged: the two verdicts differ.
vtap_port_config telling(const Compiled& plan, const Tee& tee) {
  vtap_port_config config = constants(plan.tables, 0, tee);
  config.mode = VTAP_MODE_SPAN;
  config.unmatched_drop = 1;
  return config;
}

class Stub : public BpfTest, public testing::WithParamInterface<ProgramHook> {};

INSTANTIATE_TEST_SUITE_P(Hooks, Stub, testing::Values(ProgramHook::xdp, ProgramHook::tc),
                         [](const auto& made) { return std::string(name_of(made.param)); });

TEST_P(Stub, IsAWireUntilEngagedAndAfterwards) {
  Tee tee;
  const Compiled plan(one_policy());
  Tap port(GetParam(), telling(plan, tee), tee, plan);
  EXPECT_EQ(port.run_stub(udp_frame(60)), Fate::passed);
  EXPECT_EQ(tee.counters().rx_frames, 0U);

  ASSERT_TRUE(succeeded(port.programs().engage()));
  EXPECT_EQ(port.run_stub(udp_frame(60)), Fate::dropped);
  EXPECT_EQ(tee.counters().rx_frames, 1U);
  ASSERT_TRUE(succeeded(port.programs().engage())) << "twice is no error";

  for (int i = 0; i < 2; ++i) ASSERT_TRUE(succeeded(port.programs().disengage()));
  EXPECT_EQ(port.run_stub(udp_frame(60)), Fate::passed);
  EXPECT_EQ(tee.counters().rx_frames, 1U);
}

TEST_P(Stub, EmptiesItsSlotWhenTheProgramsAreGone) {
  Tee tee;
  const Compiled plan(one_policy());
  std::optional<Tap> port(std::in_place, GetParam(), telling(plan, tee), tee, plan);
  ASSERT_TRUE(succeeded(port->programs().engage()));
  const UniqueFd attached(::dup(port->programs().stub_fd()));  // as a device holds it
  EXPECT_EQ(run_program(attached.get(), GetParam(), udp_frame(60)), Fate::dropped);
  port.reset();
  EXPECT_TRUE(eventually(
      [&] { return run_program(attached.get(), GetParam(), udp_frame(60)) == Fate::passed; }));
}

// --- death of the owner ---

constexpr std::size_t kPassed = 2;  ///< the stub, and the map that holds the counters

union Control {
  cmsghdr header;
  std::array<char, CMSG_SPACE(kPassed * sizeof(int))> room;
};

bool send_fds(int socket, const std::array<int, kPassed>& fds) {
  Control control{};
  char byte = 1;
  iovec data{&byte, 1};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = &control;
  message.msg_controllen = sizeof(control);
  control.header.cmsg_level = SOL_SOCKET;
  control.header.cmsg_type = SCM_RIGHTS;
  control.header.cmsg_len = CMSG_LEN(sizeof(fds));
  std::memcpy(CMSG_DATA(&control.header), fds.data(), sizeof(fds));
  return ::sendmsg(socket, &message, 0) == 1;
}

std::array<UniqueFd, kPassed> receive_fds(int socket) {
  Control control{};
  char byte = 0;
  iovec data{&byte, 1};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = &control;
  message.msg_controllen = sizeof(control);
  std::array<int, kPassed> fds{-1, -1};
  if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) == 1 &&
      control.header.cmsg_len == CMSG_LEN(sizeof(fds))) {
    std::memcpy(fds.data(), CMSG_DATA(&control.header), sizeof(fds));
  }
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

/// A broker in small: loads, engages, hands out its stub and waits for its death.
[[noreturn]] void live_until_killed(ProgramHook hook, int socket) {
  try {
    Tee tee;
    const Compiled plan(one_policy());
    Tap port(hook, telling(plan, tee), tee, plan);
    tee.give(4);
    if (port.programs().engage().ok() &&
        send_fds(socket, {port.programs().stub_fd(), tee.memory().cpus_fd()})) {
      while (true) ::pause();
    }
  } catch (const std::exception&) {
  }
  ::_exit(1);
}

TEST_P(Stub, EmptiesItsSlotWhenTheOwnerIsKilled) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), 0);
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  const pid_t broker = ::fork();
  ASSERT_GE(broker, 0);
  if (broker == 0) live_until_killed(GetParam(), theirs.get());
  theirs.reset();

  const auto [stub, cpus] = receive_fds(ours.get());
  int status = 0;
  if (!stub || !cpus) {
    ::kill(broker, SIGKILL);
    ::waitpid(broker, &status, 0);
    FAIL() << "the broker in small did not come up";
  }
  const auto possible = require(io::possible_cpus());
  const auto rings = require(io::Mapping::open(cpus.get(), sizeof(vtap_cpu) * possible));
  const auto seen = [&] {
    std::uint64_t frames = 0;
    for (std::uint32_t cpu = 0; cpu < possible; ++cpu)
      frames += reinterpret_cast<const vtap_cpu*>(rings.base())[cpu].port[0].rx_frames;
    return frames;
  };

  EXPECT_EQ(run_program(stub.get(), GetParam(), udp_frame(60)), Fate::dropped);
  EXPECT_EQ(seen(), 1U);

  EXPECT_EQ(::kill(broker, SIGSTOP), 0);
  EXPECT_EQ(::waitpid(broker, &status, WUNTRACED), broker);
  EXPECT_EQ(run_program(stub.get(), GetParam(), udp_frame(60)), Fate::dropped) << "only stopped";
  EXPECT_EQ(seen(), 2U);

  EXPECT_EQ(::kill(broker, SIGKILL), 0);
  ASSERT_EQ(::waitpid(broker, &status, 0), broker);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(eventually(
      [&] { return run_program(stub.get(), GetParam(), udp_frame(60)) == Fate::passed; }));
  const std::uint64_t at_death = seen();
  for (int i = 0; i < 10; ++i)
    EXPECT_EQ(run_program(stub.get(), GetParam(), udp_frame(60)), Fate::passed);
  EXPECT_EQ(seen(), at_death);
}

}  // namespace
}  // namespace vtap::test
