// SPDX-License-Identifier: Apache-2.0
// The journal and the claims of broker/host: no privilege, no device.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "host/link.hpp"
#include "host/state.hpp"

namespace vtap::host {
namespace {

namespace fs = std::filesystem;

class HostState : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "vtap-state-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    base_ = name;
  }
  void TearDown() override { fs::remove_all(base_); }

  [[nodiscard]] StateDir state() const {
    Result<StateDir> dir = StateDir::open(base_ / "state");
    EXPECT_TRUE(dir.ok());
    return *dir;
  }

  static Journal load(const StateDir& dir, int ifindex) {
    Result<Journal> journal = Journal::load(dir, "eth1", ifindex);
    EXPECT_TRUE(journal.ok());
    return *journal;
  }

  static Changes sample() {
    Changes changes;
    changes.features = {{"rx-gro", true}, {"rx-lro", false}};
    changes.promisc = false;
    changes.disable_ipv6 = "0";
    changes.clsact = true;
    return changes;
  }

  fs::path base_;
};

TEST_F(HostState, JournalComesBackAsItWasStored) {
  const StateDir dir = state();
  ASSERT_TRUE(load(dir, 7).remember(sample()).ok());
  EXPECT_EQ(load(dir, 7).changes(), sample());
  EXPECT_EQ(Journal::stored_ifindex(dir, "eth1").value(), std::optional<int>(7));
  EXPECT_EQ(Journal::stored_ifindex(dir, "eth2").value(), std::nullopt);
}

TEST_F(HostState, NothingIsCreatedBeforeThereIsSomethingToStore) {
  const StateDir dir = state();
  Journal journal = load(dir, 7);
  EXPECT_TRUE(journal.changes().empty());
  ASSERT_TRUE(journal.remember({}).ok());
  ASSERT_TRUE(journal.erase().ok());
  EXPECT_FALSE(fs::exists(base_ / "state"));
}

TEST_F(HostState, SecondStartKeepsTheOriginals) {
  const StateDir dir = state();
  ASSERT_TRUE(load(dir, 7).remember(sample()).ok());

  Changes after_crash;  // what the first start left, and one more
  after_crash.features = {{"rx-gro", false}, {"tx-vlan-hw-insert", true}};
  after_crash.promisc = true;
  after_crash.disable_ipv6 = "1";
  ASSERT_TRUE(load(dir, 7).remember(after_crash).ok());

  Changes expected = sample();
  expected.features["tx-vlan-hw-insert"] = true;
  EXPECT_EQ(load(dir, 7).changes(), expected);
}

TEST_F(HostState, AnotherDeviceOfThatNameStartsAnew) {
  const StateDir dir = state();
  ASSERT_TRUE(load(dir, 7).remember(sample()).ok());
  EXPECT_TRUE(load(dir, 8).changes().empty());
  EXPECT_TRUE(load(dir, 7).changes().empty()) << "the old originals must not come back";
}

TEST_F(HostState, WhatIsSetBackIsForgotten) {
  const StateDir dir = state();
  Journal journal = load(dir, 7);
  ASSERT_TRUE(journal.remember(sample()).ok());
  Changes rest;
  rest.clsact = true;
  ASSERT_TRUE(journal.keep_only(rest).ok());
  EXPECT_EQ(load(dir, 7).changes(), rest);
  ASSERT_TRUE(journal.keep_only({}).ok());
  EXPECT_TRUE(fs::is_empty(dir.path()));
  dir.remove_if_empty();
  EXPECT_FALSE(fs::exists(base_ / "state"));
}

TEST_F(HostState, DamagedJournalIsAnErrorThatNamesTheFile) {
  const StateDir dir = state();
  ASSERT_TRUE(load(dir, 7).remember(sample()).ok());
  const fs::path file = dir.path() / "eth1.json";
  for (const char* text : {"", "{\"ifindex\": 7, \"feat", "[]", "{\"ifindex\": \"x\"}"}) {
    std::ofstream(file, std::ios::trunc) << text;
    const Result<Journal> journal = Journal::load(dir, "eth1", 7);
    ASSERT_FALSE(journal.ok()) << text;
    EXPECT_NE(journal.error().message.find(file.string()), std::string::npos);
  }
}

TEST_F(HostState, HalfWrittenTemporaryFileIsNotRead) {
  const StateDir dir = state();
  ASSERT_TRUE(load(dir, 7).remember(sample()).ok());
  std::ofstream(dir.path() / "eth1.json.tmp") << "{\"ifindex\"";
  EXPECT_EQ(load(dir, 7).changes(), sample());
  ASSERT_TRUE(load(dir, 7).erase().ok());
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST_F(HostState, FailedWriteLeavesTheOldContent) {
  const StateDir dir = state();
  Journal journal = load(dir, 7);
  ASSERT_TRUE(journal.remember(sample()).ok());
  fs::create_directory(dir.path() / "eth1.json.tmp");  // makes the write fail, for root too
  Changes more;
  more.features["tx-vlan-hw-insert"] = true;
  EXPECT_FALSE(journal.remember(more).ok());
  EXPECT_EQ(journal.changes(), sample());
  EXPECT_EQ(load(dir, 7).changes(), sample());
}

TEST_F(HostState, SecondClaimIsRefusedWithPortAndHolder) {
  const StateDir dir = state();
  Result<PortClaim> first = PortClaim::acquire(dir, "eth1", "broker a");
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(PortClaim::acquire(dir, "eth2", "broker a").ok());

  const Result<PortClaim> second = PortClaim::acquire(dir, "eth1", "broker a");
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.error().message.find("eth1"), std::string::npos);
  EXPECT_NE(second.error().message.find(std::to_string(::getpid())), std::string::npos);

  { const PortClaim gone = std::move(*first); }
  EXPECT_TRUE(PortClaim::acquire(dir, "eth1", "broker a").ok());
  EXPECT_TRUE(fs::is_empty(dir.path())) << "a released claim leaves no file";
}

TEST_F(HostState, ClaimOfAKilledProcessIsFree) {
  const StateDir dir = state();
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const Result<PortClaim> claim = PortClaim::acquire(dir, "eth1", "broker a");
    const char result = claim.ok() ? '+' : '-';
    (void)!::write(ready[1], &result, 1);
    ::pause();
    ::_exit(0);
  }
  char result = 0;
  EXPECT_EQ(::read(ready[0], &result, 1), 1);
  EXPECT_EQ(result, '+');
  const Result<PortClaim> held = PortClaim::acquire(dir, "eth1", "broker a");
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);

  ASSERT_FALSE(held.ok());
  EXPECT_NE(held.error().message.find(std::to_string(child)), std::string::npos);
  EXPECT_TRUE(fs::exists(dir.path() / "eth1.lock"));
  EXPECT_TRUE(PortClaim::acquire(dir, "eth1", "broker a").ok());
}

TEST_F(HostState, HolderIsToldWithoutAClaim) {
  const StateDir dir = state();
  EXPECT_FALSE(PortClaim::holder(dir, "eth1"));
  {
    const Result<PortClaim> claim = PortClaim::acquire(dir, "eth1", "broker a");
    EXPECT_EQ(PortClaim::holder(dir, "eth1"),
              "broker a (process " + std::to_string(::getpid()) + ")");
    EXPECT_FALSE(PortClaim::holder(dir, "eth2"));
  }
  EXPECT_FALSE(PortClaim::holder(dir, "eth1"));
  ASSERT_TRUE(dir.create().ok());
  std::ofstream(dir.path() / "eth1.lock") << "broker a (process 1)\n";
  EXPECT_FALSE(PortClaim::holder(dir, "eth1")) << "a killed broker leaves its file, but no lock";
  EXPECT_FALSE(PortClaim::holder(dir, "../eth1"));
}

TEST_F(HostState, JournalSeesWhatAnotherOfThisProcessAdded) {
  const StateDir dir = state();
  Journal journal = load(dir, 7);
  ASSERT_TRUE(journal.remember(sample()).ok());
  Changes more;
  more.features = {{"tx-vlan-hw-insert", true}};
  EXPECT_FALSE(journal.covers(more));
  ASSERT_TRUE(load(dir, 7).remember(more).ok());
  Changes last;
  last.clsact = true;
  ASSERT_TRUE(journal.remember(last).ok());
  EXPECT_TRUE(journal.covers(more));
  EXPECT_TRUE(load(dir, 7).covers(more)) << "not overwritten by what was in memory";
}

TEST_F(HostState, OddNamesNeverBecomePaths) {
  for (const char* name :
       {"", ".", "..", "a/b", "../eth1", "a b", "a:b", "abcdefghijklmnop", "a\n"}) {
    EXPECT_FALSE(valid_port_name(name)) << name;
    EXPECT_FALSE(PortClaim::acquire(state(), name, "broker a").ok()) << name;
  }
  for (const char* name : {"eth1", "eth1.100", "..x", "abcdefghijklmno", "vtap@0"}) {
    EXPECT_TRUE(valid_port_name(name)) << name;
  }
}

// --- which hook `auto` means: a decision on facts, so it needs no device either ---

Link hardware(std::string driver, std::optional<std::uint64_t> features) {
  Link link;
  link.ethernet = true;
  link.driver = std::move(driver);
  link.xdp_features = features;
  return link;
}

TEST(NaturalHook, HardwareAndVirtioTakeXdpWhereTheyHaveIt) {
  EXPECT_EQ(natural_hook(hardware("virtio_net", 0x3)), Hook::xdp);
  EXPECT_EQ(natural_hook(hardware("newdriver", 0x7f)), Hook::xdp);
  EXPECT_EQ(natural_hook(hardware("virtio_net", 0)), Hook::tc);
  EXPECT_EQ(natural_hook(hardware("virtio_net", xdp_act::basic)), Hook::tc) << "no redirect";
}

TEST(NaturalHook, OlderKernelsAreAskedByDriverName) {
  EXPECT_EQ(natural_hook(hardware("ixgbe", std::nullopt)), Hook::xdp);
  EXPECT_EQ(natural_hook(hardware("e1000e", std::nullopt)), Hook::tc);
}

TEST(NaturalHook, VirtualDevicesTakeTcWhateverTheyReport) {
  for (const char* kind : {"veth", "tun", "macvlan", "bridge", "bond"}) {
    Link link = hardware(kind, 0x67);
    link.kind = kind;
    EXPECT_EQ(natural_hook(link), Hook::tc) << kind;
  }
  Link loopback = hardware("", 0x3);
  loopback.loopback = true;
  EXPECT_EQ(natural_hook(loopback), Hook::tc);
}

// --- zero-copy frames without headroom, likewise ---

TEST(RefusesZeroCopyFrames, OnlyVirtioBehindAPortThatMayBeZeroCopy) {
  constexpr std::uint64_t kZeroCopy = xdp_act::basic | xdp_act::redirect | xdp_act::zero_copy;
  const Link zero_copy = hardware("virtio_net", kZeroCopy);
  EXPECT_TRUE(refuses_zero_copy_frames(zero_copy, zero_copy));
  EXPECT_TRUE(refuses_zero_copy_frames(hardware("igb", kZeroCopy), zero_copy));
  EXPECT_FALSE(refuses_zero_copy_frames(zero_copy, hardware("igb", kZeroCopy)));
  EXPECT_FALSE(refuses_zero_copy_frames(hardware("virtio_net", 0x3), zero_copy));
  EXPECT_FALSE(refuses_zero_copy_frames(hardware("virtio_net", std::nullopt), zero_copy))
      << "before 6.3, where virtio_net has no zero-copy";
}

}  // namespace
}  // namespace vtap::host
