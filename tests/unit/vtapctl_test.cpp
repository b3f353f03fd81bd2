// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "client.hpp"
#include "stats/snapshot.hpp"
#include "table.hpp"
#include "views.hpp"

namespace vtap::ctl {
namespace {

stats::Snapshot snapshot() {
  stats::Snapshot s;
  s.name = "npb1";
  s.uptime_s = 10;
  stats::TapPort port;
  port.name = "eth1";
  port.hook = "xdp";
  port.state = "up";
  port.queues = {{0, "rx+tx", true}, {1, "rx+tx", true}, {2, "rx+tx", false}};
  s.taps = {{"wan", "inline", "redirect", "xdp", {port}}};
  s.policies = {{"web", "broker", 0, 0, {}, {{"ids", 0, 0, 0}}}};
  stats::Monitor monitor;
  monitor.name = "ids";
  monitor.port = "eth3";
  monitor.state = "up";
  monitor.queues = {{0, "tx", false}};
  s.monitors = {monitor};
  s.workers = {{1, 0, 0, 0, 0.5}};
  s.umem = {1000, 2048, 900};
  return s;
}

/// The same broker two seconds later.
stats::Snapshot later() {
  stats::Snapshot s = snapshot();
  s.uptime_s = 12;
  s.taps[0].ports[0].rx_frames = 2'468'000;
  s.taps[0].ports[0].rx_bytes = 250'000'000;
  s.taps[0].ports[0].passed_frames = 2'000'000;
  s.policies[0].monitors[0].sent_frames = 3000;
  s.monitors[0].tx_frames = 70;
  s.workers[0].idle_ratio = 0.5;
  return s;
}

Json json(const stats::Snapshot& snapshot) { return parse_stats(stats::to_json(snapshot)).value(); }

Interval interval(const stats::Snapshot& before, const stats::Snapshot& after) {
  return {json(before), json(after)};
}

testing::AssertionResult has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "no \"" << part << "\" in:\n" << text;
}

TEST(Format, RatesHaveThreeDigits) {
  EXPECT_EQ(pps_text(0), "0 pps");
  EXPECT_EQ(pps_text(0.5), "0.50 pps");
  EXPECT_EQ(pps_text(9.999), "10.0 pps");
  EXPECT_EQ(pps_text(99.99), "100 pps");
  EXPECT_EQ(pps_text(999.4), "999 pps");
  EXPECT_EQ(pps_text(999.9), "1.00 kpps");
  EXPECT_EQ(pps_text(1'234'567), "1.23 Mpps");
  EXPECT_EQ(bits_text(125'000'000), "1.00 Gbit/s");
  EXPECT_EQ(pps_text(1e18), "1000000 Tpps");
}

TEST(Format, Durations) {
  EXPECT_EQ(duration_text(0), "0 s");
  EXPECT_EQ(duration_text(12.53), "12.5 s");
  EXPECT_EQ(duration_text(184), "3 min 4 s");
  EXPECT_EQ(duration_text(7500), "2 h 5 min");
  EXPECT_EQ(duration_text(3 * 86400 + 7 * 3600), "3 d 7 h");
}

TEST(Format, TableAlignsColumns) {
  Table table({{"name"}, {"count", true}, {"note"}});
  EXPECT_EQ(table.text(), "  none\n");
  table.row({"a", "1", "x"});
  table.row({"l\xc3\xa4ngerer", "123456"});
  EXPECT_EQ(table.text(),
            "  name       count  note\n"
            "  a              1  x\n"
            "  l\xc3\xa4ngerer  123456\n");
}

TEST(ParseStats, TakesObjectsOnly) {
  EXPECT_TRUE(parse_stats("{}").ok());
  EXPECT_FALSE(parse_stats("[]").ok());
  EXPECT_FALSE(parse_stats("").ok());
  EXPECT_FALSE(parse_stats("<html>").ok());
}

TEST(StatsView, ShowsEveryCounterAndNamesReasons) {
  stats::Snapshot s = later();
  s.taps[0].ports[0].missed = {{"ring_full", 10}, {"super_packet", 2}};
  s.monitors[0].arrived_frames = 4711;
  s.monitors[0].waiting_frames = 815;
  const std::string view = stats_view(json(s));
  EXPECT_TRUE(has(view, "npb1   up 12.0 s   plan 1\n"));
  EXPECT_TRUE(has(view, "2468000"));
  EXPECT_TRUE(has(view, "250000000"));
  EXPECT_TRUE(has(view, "12 (ring_full 10, super_packet 2)"));
  EXPECT_TRUE(has(view, "tx bytes  arrived  waiting  dropped\n"));
  EXPECT_TRUE(has(view, "   4711      815  0\n"));
  EXPECT_TRUE(has(view, "50.0 %"));
  EXPECT_TRUE(has(view, "900 of 1000 frames are free, of 2048 bytes each"));
}

TEST(RatesView, DividesByTheBrokersOwnClock) {
  const std::string view = rates_view(interval(snapshot(), later()));
  EXPECT_TRUE(has(view, "1.23 Mpps"));    // rx_frames
  EXPECT_TRUE(has(view, "1.00 Gbit/s"));  // rx_bytes
  EXPECT_TRUE(has(view, "1.00 Mpps"));    // passed
  EXPECT_TRUE(has(view, "1.50 kpps"));    // sent
  EXPECT_TRUE(has(view, "35.0 pps"));     // tx
}

TEST(RatesView, AsleepIsThatOfTheInterval) {
  stats::Snapshot after = later();
  after.workers[0].idle_ratio = 5.0 / 12;  // slept 5 s before, and not since
  EXPECT_TRUE(has(rates_view(interval(snapshot(), after)), "0.0 %"));
}

TEST(RatesView, ARestartedBrokerIsMeasuredFromItsStart) {
  stats::Snapshot before = later(), after = snapshot();
  before.uptime_s = 1000;
  after.uptime_s = 2;
  after.monitors[0].tx_frames = 10;
  EXPECT_TRUE(has(rates_view(interval(before, after)), "5.00 pps"));
}

TEST(RatesView, WhatIsNewAfterAReloadCountsFromZero) {
  stats::Snapshot before = snapshot();
  before.monitors.clear();
  EXPECT_TRUE(has(rates_view(interval(before, later())), "35.0 pps"));
}

TEST(StatusView, ShowsWhatRunsWhere) {
  const std::string view = status_view(interval(snapshot(), later()));
  EXPECT_TRUE(has(view, "npb1   up 12.0 s   plan 1\n"));
  EXPECT_TRUE(has(view, "wan  inline  redirect  eth1  up     xdp   1.23 Mpps  1.00 Gbit/s"));
  EXPECT_TRUE(has(view, "rx+tx 2 copy; rx+tx 0-1 zero-copy\n"));
  EXPECT_TRUE(has(view, "web     broker"));
  EXPECT_TRUE(has(view, "ids      eth3  up     35.0 pps"));
  EXPECT_TRUE(has(view, "Nothing is wrong.\n"));
}

TEST(Problems, NoneWhenAllIsWell) {
  stats::Snapshot after = later();
  after.policies[0].dropped = {{"once", 4}, {"sample", 5}, {"head", 7}, {"meter", 6}};  // asked for
  EXPECT_TRUE(problems(interval(snapshot(), after)).empty());
}

TEST(Problems, NameWhatIsDownAndWhatIsLost) {
  stats::Snapshot before = snapshot(), after = later();
  before.taps[0].ports[0].missed = {{"ring_full", 4}};
  after.taps[0].ports[0].missed = {{"ring_full", 4}};
  after.taps[0].ports[0].not_passed = {{"tx_failed", 20}};
  after.taps[0].ports[0].state = "down";
  after.monitors[0].state = "down";
  after.monitors[0].dropped = {{"down", 8}};
  after.policies[0].dropped = {{"odd", 2}};
  after.umem.free = 0;
  const std::vector<std::string> expected = {
      "tap wan, port eth1: the port is down",
      "monitor ids: its port eth3 is down; it gets no copies",
      "tap wan, port eth1: originals not passed 20 (tx_failed, now 10.0 pps): the other port did "
      "not take them",
      "tap wan, port eth1: copies missed 4 (ring_full, not growing): the workers do not keep up: "
      "give broker.workers more CPUs",
      "monitor ids: copies dropped 8 (down, now 4.00 pps): the monitor was down",
      "policy web: copies dropped 2 (odd, now 1.00 pps)",
      "memory: none of the 1000 frames is free"};
  EXPECT_EQ(problems(interval(before, after)), expected);
  EXPECT_TRUE(has(status_view(interval(before, after)), "What is wrong\n  tap wan, port eth1"));
}

TEST(Views, LiveWithAnyJson) {
  for (const char* body :
       {"{}", R"({"taps":1,"policies":"x","monitors":{},"workers":[1,null,"x"]})",
        R"({"taps":[{"ports":[{"queues":[1,{}],"missed":[1,2],"not_passed":{"a":-1}}]},7]})",
        R"({"name":7,"uptime_s":"x","plan":[],"policies":[{"dropped":3,"monitors":[null]}]})",
        R"({"policies":[{"dropped":[]}],"monitors":[{"state":null}],"umem":{"frames":1e9}})"}) {
    const Interval all(parse_stats(body).value(), parse_stats(body).value());
    EXPECT_FALSE(stats_view(all.after()).empty());
    EXPECT_FALSE(rates_view(all).empty());
    EXPECT_FALSE(status_view(all).empty());
  }
}

TEST(Views, DoNotLetNamesDriveTheTerminal) {
  stats::Snapshot s = snapshot();
  s.taps[0].ports[0].name = "e\x1b[2J";
  s.taps[0].ports[0].missed = {{"x\x1b", 1}};
  const Interval all = interval(s, s);
  EXPECT_EQ((stats_view(all.after()) + rates_view(all) + status_view(all)).find('\x1b'),
            std::string::npos);
}

class Sockets : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "vtapctl.XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string make_socket(const std::string& name) const {
    const std::string path = (directory_ / name).string();
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    EXPECT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    ::close(fd);
    return path;
  }

  std::filesystem::path directory_;
};

TEST_F(Sockets, TheDefaultIsTheOnlyOneOrVtapSock) {
  const std::string usual = (directory_ / "vtap.sock").string();
  EXPECT_EQ(default_socket(directory_ / "absent").value(),
            (directory_ / "absent/vtap.sock").string());
  EXPECT_EQ(default_socket(directory_).value(), usual);
  std::ofstream(directory_ / "not-a-socket.sock") << "x";
  EXPECT_EQ(default_socket(directory_).value(), usual);
  const std::string first = make_socket("npb1.sock");
  EXPECT_EQ(default_socket(directory_).value(), first);
  const std::string second = make_socket("npb2.sock");
  const auto several = default_socket(directory_);
  ASSERT_FALSE(several.ok());
  EXPECT_TRUE(has(several.error().message, "--socket: " + first + " " + second));
  make_socket("vtap.sock");
  EXPECT_EQ(default_socket(directory_).value(), usual);
}

TEST_F(Sockets, ErrorsNameTheSocketAndWhatToDo) {
  const std::string absent = (directory_ / "absent.sock").string();
  const auto ask = [](const std::string& socket) {
    return Client({socket, {}, {}, {}}).ask({Method::get, "/v1/stats"});
  };
  const auto none = ask(absent);
  ASSERT_FALSE(none.ok());
  EXPECT_TRUE(has(none.error().message, absent));
  EXPECT_TRUE(has(none.error().message, "--socket"));
  const auto dead = ask(make_socket("dead.sock"));
  ASSERT_FALSE(dead.ok());
  EXPECT_TRUE(has(dead.error().message, "is dead"));
  EXPECT_FALSE(ask(std::string(200, 'x')).ok());
}

}  // namespace
}  // namespace vtap::ctl
