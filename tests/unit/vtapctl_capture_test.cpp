// SPDX-License-Identifier: Apache-2.0
#include <fstream>

#include "capture/pcapng.hpp"
#include "vtapctl_fake.hpp"

namespace vtap::ctl {
namespace {

using Capture = WithBroker;

std::string pcapng(std::size_t frames) {
  std::string out;
  capture::add_section(out, "test");
  capture::add_interface(out, "eth1", 65535);
  for (std::size_t i = 0; i < frames; ++i) {
    capture::add_packet(out, {.original = 60}, std::vector<std::uint8_t>(60));
  }
  capture::add_statistics(out, 0, 1, 7);
  return out;
}

std::string content_of(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST_F(Capture, WritesWhatTheBrokerSendsAndCounts) {
  broker_->answer("GET /v1/capture", 200, pcapng(3));
  for (const auto& arguments : {std::vector<std::string>{"capture"}, {"capture", "-w", "-"}}) {
    const Ran ran = ctl(arguments);
    EXPECT_EQ(ran.code, 0) << ran.err;
    EXPECT_EQ(ran.out, pcapng(3));
    EXPECT_EQ(ran.err, "3 frames captured, 7 dropped\n");
  }
  const Ran ran = ctl({"capture", "--write", path("x.pcapng")});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out, "");
  EXPECT_EQ(content_of(path("x.pcapng")), pcapng(3));
}

TEST_F(Capture, AsksForWhatTheCommandLineSays) {
  ctl({"capture", "--policy", "web", "--filter", "tcp port 80 & 1 != 0", "--snaplen", "96",
       "--frames", "5", "--rate", "10"});
  EXPECT_EQ(broker_->only().target,
            "/v1/capture?policy=web&filter=tcp%20port%2080%20%26%201%20%21%3D%200&snaplen=96"
            "&frames=5&rate=10");
}

TEST_F(Capture, ARefusalLeavesTheFileAlone) {
  std::ofstream(path("x.pcapng")) << "old";
  broker_->answer("GET /v1/capture?tap=wan", 409, R"({"error":"two captures are running"})");
  const Ran ran = ctl({"capture", "--tap", "wan", "-w", path("x.pcapng")});
  EXPECT_EQ(ran.code, 1);
  EXPECT_TRUE(has(ran.err, "two captures are running"));
  EXPECT_EQ(content_of(path("x.pcapng")), "old");
}

TEST_F(Capture, IsNotForATerminalNorForWrongNumbersOrBothPolicyAndTap) {
  World world;
  world.terminal = Screen{24, 80};
  EXPECT_EQ(ctl(world, {"capture"}).code, 2);
  EXPECT_EQ(ctl({"capture", "--frames", "-1"}).code, 2);
  EXPECT_EQ(ctl({"capture", "--policy", "web", "--tap", "wan"}).code, 2);
  EXPECT_TRUE(broker_->asked().empty());
  broker_->answer("GET /v1/capture", 200, pcapng(1));
  EXPECT_EQ(ctl({"capture", "-w", path("nowhere/x.pcapng")}).code, 1);
  EXPECT_EQ(ctl(world, {"capture", "-w", path("x.pcapng")}).code, 0);
}

TEST_F(Capture, WhatIsNoPcapngIsAnError) {
  broker_->answer("GET /v1/capture", 200, R"({"name":"something else"})");
  const Ran ran = ctl({"capture"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_TRUE(has(ran.err, "no pcapng"));
}

}  // namespace
}  // namespace vtap::ctl
