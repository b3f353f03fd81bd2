// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "vtapctl_fake.hpp"

/// status, stats, config, reload, detach, doctor, and what every command does with a broker that
/// refuses, answers nonsense or is not there.
namespace vtap::ctl {
namespace {

constexpr const char* kBefore =
    R"({"name":"npb1","plan":{"generation":3},"uptime_s":10,
        "taps":[{"name":"wan","mode":"inline","capture":"tee","hook":"xdp","ports":[
          {"name":"eth1","state":"up","rx_frames":0,"copied_frames":0}]}],
        "policies":[{"name":"web","placement":"broker","matched_frames":0}],
        "monitors":[{"name":"ids","port":"eth3","state":"up","tx_frames":0,
                     "dropped":{"ring_full":0}}]})";
constexpr const char* kAfter =
    R"({"name":"npb1","plan":{"generation":3},"uptime_s":12,
        "taps":[{"name":"wan","mode":"inline","capture":"tee","hook":"xdp","ports":[
          {"name":"eth1","state":"up","rx_frames":2468000,"copied_frames":2000}]}],
        "policies":[{"name":"web","placement":"broker","matched_frames":3000}],
        "monitors":[{"name":"ids","port":"eth3","state":"up","tx_frames":70,
                     "dropped":{"ring_full":20}}]})";
constexpr const char* kStatus =
    R"({"name":"npb1","version":"0.1.0","generation":3,"uptime_s":12.5,
        "config":{"file":"/etc/vtap/tap.toml","loaded_at":"2026-01-02T03:04:05Z","persisted":false},
        "last_reload":{"ok":false,"at":"2026-01-02T04:00:00Z",
                       "error":"tap.toml:3:1: unknown key\ntap.toml:9:1: no such tap"},
        "ready":false,
        "taps":[{"name":"wan","mode":"inline","capture":"tee","hook":"xdp","why":"ports are native",
                 "ports":[{"name":"eth1","state":"up"},{"name":"eth2","state":"down"}]}],
        "monitors":[{"name":"ids","port":"eth3","state":"up",
                     "queues":[{"queue":0,"zero_copy":false},{"queue":1,"zero_copy":false}]}],
        "policies":[{"name":"web","placement":"kernel","why":"span taps","taps":["wan"],
                     "monitors":["ids"]}],
        "findings":[{"id":"h","severity":"warning","subject":"eth2","what":"GRO is on"},
                    {"id":"vlan-offload","severity":"error","subject":"eth1",
                     "what":"VLAN offload is on","why":"copies lose their tags",
                     "fix":"ethtool -K eth1 rxvlan off","safe":true,"fixed":false}]})";

class Command : public WithBroker {};

TEST_F(Command, StatusShowsAllOnOneScreen) {
  broker_->answer("GET /v1/stats", 200, kBefore);
  broker_->answer("GET /v1/stats", 200, kAfter);
  broker_->answer("GET /v1/status", 200, kStatus);
  const Ran ran = ctl({"status"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_TRUE(has(ran.out,
                  "npb1   vtap-broker 0.1.0   up 12.5 s   generation 3   not ready\n"
                  "config /etc/vtap/tap.toml, loaded 2026-01-02T03:04:05Z; changed since, and not "
                  "written back (--persist)\n"));
  EXPECT_TRUE(has(ran.out,
                  "  wan  inline  tee      eth1  up     xdp   1.23 Mpps  0 bit/s  1.00 "
                  "kpps  -       ports are native\n"));
  EXPECT_TRUE(has(ran.out, "  wan  inline  tee      eth2  down   xdp       0 pps"));
  EXPECT_TRUE(
      has(ran.out, "  web     kernel     wan   1.50 kpps  0 bit/s  ids          span taps"));
  EXPECT_TRUE(has(ran.out, "  ids      eth3  up     35.0 pps  0 bit/s  10.0 pps  0-1 copy\n"));
  EXPECT_TRUE(has(ran.out,
                  "What is wrong\n"
                  "  the last reload failed (2026-01-02T04:00:00Z), the config before it runs on:\n"
                  "      tap.toml:3:1: unknown key\n"
                  "      tap.toml:9:1: no such tap\n"
                  "  not ready: not every port carries yet\n"
                  "  tap wan, port eth2: the port is down\n"
                  "  monitor ids: copies dropped 20 (ring_full, now 10.0 pps): "));
  EXPECT_TRUE(has(ran.out,
                  "  error: eth1: VLAN offload is on; copies lose their tags; mend it by `ethtool "
                  "-K eth1 rxvlan off`\n"
                  "  warning: eth2: GRO is on\n"));
  const auto asked = broker_->asked();
  ASSERT_EQ(asked.size(), 3U);
  EXPECT_EQ(asked[2].text(), "GET /v1/status");
}

TEST_F(Command, StatusOfABrokerWithoutTheDocument) {
  broker_->answer("GET /v1/stats", 200, kBefore);
  broker_->answer("GET /v1/stats", 200, kAfter);
  for (const int status : {404, 501}) {
    broker_->answer("GET /v1/status", status, R"({"error":"not here"})");
  }
  for (int run = 0; run < 2; ++run) {  // one of each, and 501 from then on
    const Ran ran = ctl({"status"});
    EXPECT_EQ(ran.code, 0) << ran.err;
    EXPECT_TRUE(has(ran.out, "npb1   up 12.0 s   plan 3\n"));
    EXPECT_TRUE(has(ran.out, "  web     broker"));
  }
  EXPECT_EQ(ctl({"status", "--json"}).code, 3);
}

TEST_F(Command, StatusDoesNotHideARefusal) {
  broker_->answer("GET /v1/stats", 200, kBefore);
  broker_->answer("GET /v1/status", 500, R"({"error":"out of luck"})");
  const Ran ran = ctl({"status"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_TRUE(has(ran.err, "out of luck"));
}

TEST_F(Command, WatchFitsTheTerminalTheBusiestFirst) {
  std::string before = R"({"name":"npb1","uptime_s":1,"policies":[)";
  std::string after = R"({"name":"npb1","uptime_s":2,"policies":[)";
  for (int i = 0; i < 50; ++i) {
    const std::string name = (i == 0 ? R"({"name":")" : R"(,{"name":")") +
                             std::string("policy-of-a-customer-with-a-long-name-") +
                             std::to_string(i);
    before += name + R"(","matched_frames":0})";
    after += name + R"(","matched_frames":)" + std::to_string(1000 + i) + "}";
  }
  broker_->answer("GET /v1/stats", 200, before + "]}");
  broker_->answer("GET /v1/stats", 200, after + "]}");
  World world;
  world.ticks = 1;
  world.terminal = Screen{30, 50};
  const Ran ran = ctl(world, {"stats", "--watch"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  // 29 between the lines of the screen, and one when it is left.
  EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '\n'), 30);
  EXPECT_TRUE(has(ran.out, " more\x1b[K\n"));
  EXPECT_TRUE(has(ran.out, "\xe2\x80\xa6"));  // a name that was shortened
  EXPECT_TRUE(has(ran.out, "1.05 kpps"));
  EXPECT_EQ(ran.out.find("1.00 kpps"), std::string::npos);  // the least busy one has no line
  std::istringstream lines(ran.out);
  for (std::string line; std::getline(lines, line);) {
    std::string shown;
    for (size_t i = 0; i < line.size(); ++i) {
      if (line[i] == '\x1b') {
        while (i < line.size() && std::isalpha(static_cast<unsigned char>(line[i])) == 0) ++i;
      } else if ((static_cast<unsigned char>(line[i]) & 0xc0) != 0x80) {
        shown += line[i];
      }
    }
    EXPECT_LE(shown.size(), 50U) << line;
  }
}

TEST_F(Command, WatchWithoutATerminalShowsAll) {
  broker_->answer("GET /v1/stats", 200, kBefore);
  broker_->answer("GET /v1/stats", 200, kAfter);
  World world;
  world.ticks = 2;
  const Ran ran = ctl(world, {"stats", "--watch"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out.find('\x1b'), std::string::npos);
  EXPECT_TRUE(has(ran.out, "1.23 Mpps"));
  EXPECT_EQ(broker_->asked().size(), 3U);
}

TEST_F(Command, WatchAsJsonIsALineEach) {
  broker_->answer("GET /v1/stats", 200, "{\"a\":1}");
  broker_->answer("GET /v1/stats", 200, "{\"a\":2}\n");
  World world;
  world.ticks = 1;
  EXPECT_EQ(ctl(world, {"stats", "--watch", "--json"}).out, "{\"a\":1}\n{\"a\":2}\n");
}

TEST_F(Command, WatchEndsWithTheBroker) {
  broker_->answer("GET /v1/stats", 200, kBefore);
  broker_->answer("GET /v1/stats", 500, "{}");
  World world;
  world.ticks = 100;
  EXPECT_EQ(ctl(world, {"stats", "--watch"}).code, 1);
}

TEST_F(Command, StatsShowsCounters) {
  broker_->answer("GET /v1/stats", 200, kAfter);
  const Ran ran = ctl({"stats"});
  EXPECT_TRUE(has(ran.out, "2468000"));
  EXPECT_TRUE(has(ran.out, "20 (ring_full 20)"));
}

TEST_F(Command, ConfigIsTheRunningText) {
  broker_->answer("GET /v1/config", 200,
                  R"({"file":"f","generation":3,"text":"# mine\n[broker]\nname = \"\u001b\"\n"})");
  EXPECT_EQ(ctl({"config"}).out, "# mine\n[broker]\nname = \"\x1b\"\n");
  World world;
  world.terminal = Screen{};
  EXPECT_EQ(ctl(world, {"config"}).out, "# mine\n[broker]\nname = \"?\"\n");
  broker_->answer("GET /v1/config", 200, "{}");
  EXPECT_EQ(ctl({"config"}).code, 0);  // the second answer, from now on
  EXPECT_EQ(ctl({"config"}).code, 1);
}

TEST_F(Command, ReloadSaysWhatRuns) {
  broker_->answer("POST /v1/reload", 200, R"({"reloaded":true,"generation":4})");
  EXPECT_EQ(ctl({"reload"}).out, "reloaded (generation 4)\n");
  EXPECT_EQ(broker_->only().text(), "POST /v1/reload");
}

TEST_F(Command, ReloadOfABadConfigPrintsTheFindings) {
  broker_->answer("POST /v1/reload", 422,
                  R"({"error":"tap.toml:3:1: unknown key \u001b\ntap.toml:9:1: no such tap\n"})");
  const Ran ran = ctl({"reload"});
  EXPECT_EQ(ran.code, 2);
  EXPECT_EQ(ran.out, "");
  EXPECT_EQ(ran.err, "vtapctl: the vtap-broker at " + path("b.sock") +
                         " does not take this, and goes on as before:\n"
                         "  tap.toml:3:1: unknown key ?\n"
                         "  tap.toml:9:1: no such tap\n");
}

TEST_F(Command, DetachNamesWhatItUndid) {
  broker_->answer("POST /v1/detach", 200, R"({"undone":["eth1: stub removed","eth1: gro on"]})");
  broker_->answer("POST /v1/detach", 200, R"({"undone":[]})");
  EXPECT_EQ(ctl({"detach", "eth1", "eth2"}).out, "eth1: stub removed\neth1: gro on\n");
  EXPECT_EQ(ctl({"detach"}).out, "nothing was left to undo\n");
  EXPECT_EQ(broker_->asked()[0].text(), R"(POST /v1/detach {"ports":["eth1","eth2"]})");
  EXPECT_EQ(broker_->asked()[1].text(), "POST /v1/detach {}");
}

constexpr const char* kSick =
    R"({"findings":[
      {"id":"k","severity":"ok","subject":"","what":"kernel 6.18"},
      {"id":"iso","severity":"hint","what":"no isolated CPUs","why":"jitter"},
      {"id":"v","severity":"error","subject":"eth1","what":"VLAN offload","why":"tags are lost",
       "fix":"ethtool -K eth1 rxvlan off","safe":true,"fixed":false},
      {"id":"m","severity":"warning","subject":"eth2","what":"MTU 1500","why":"shorter",
       "fix":"ip link set eth2 mtu 9000","safe":false,"fixed":false}]})";

TEST_F(Command, DoctorSortsBySeverityAndFailsOnErrors) {
  broker_->answer("GET /v1/doctor", 200, kSick);
  const Ran ran = ctl({"doctor"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.err, "");
  EXPECT_EQ(ran.out,
            "error  eth1: VLAN offload\n"
            "  why: tags are lost\n"
            "  mend: ethtool -K eth1 rxvlan off   (safe: `vtapctl doctor --fix` does it)\n"
            "warning  eth2: MTU 1500\n"
            "  why: shorter\n"
            "  mend: ip link set eth2 mtu 9000\n"
            "hint  no isolated CPUs\n"
            "  why: jitter\n"
            "1 check is fine.\n");
  const Ran json = ctl({"doctor", "--json"});
  EXPECT_EQ(json.code, 1);
  EXPECT_EQ(json.out, std::string(kSick) + "\n");
}

TEST_F(Command, DoctorFixFailsOnWhatIsLeftOnly) {
  broker_->answer("POST /v1/doctor/fix", 200,
                  R"({"findings":[{"severity":"error","subject":"eth1","what":"VLAN offload",)"
                  R"("fix":"ethtool","safe":true,"fixed":true}]})");
  broker_->answer("POST /v1/doctor/fix", 200, R"({"findings":[]})");
  broker_->answer("POST /v1/doctor/fix", 200, "{}");
  const Ran mended = ctl({"doctor", "--fix"});
  EXPECT_EQ(mended.code, 0);
  EXPECT_TRUE(has(mended.out, "  mended: ethtool\n"));
  const Ran well = ctl({"doctor", "--fix"});
  EXPECT_EQ(well.code, 0);
  EXPECT_EQ(well.out, "Nothing is wrong.\n");
  EXPECT_EQ(ctl({"doctor", "--fix"}).code, 1);  // no list of findings is not a good one
  EXPECT_EQ(broker_->asked()[0].text(), "POST /v1/doctor/fix");
}

// ---- refusals, of every command

struct Case {
  std::vector<std::string> arguments;
  const char* request;
};

const std::vector<Case>& every_command() {
  static const std::vector<Case> kCases = {
      {{"status"}, "GET /v1/stats"},
      {{"status", "--json"}, "GET /v1/status"},
      {{"stats"}, "GET /v1/stats"},
      {{"stats", "--json"}, "GET /v1/stats"},
      {{"stats", "--watch"}, "GET /v1/stats"},
      {{"policy", "list"}, "GET /v1/policies"},
      {{"policy", "show", "web"}, "GET /v1/policies/web"},
      {{"policy", "add", "web", "--monitor", "m"}, "POST /v1/policies"},
      {{"policy", "replace", "web", "--monitor", "m"}, "PUT /v1/policies/web"},
      {{"policy", "rm", "web"}, "DELETE /v1/policies/web"},
      {{"monitor", "list"}, "GET /v1/monitors"},
      {{"monitor", "show", "ids"}, "GET /v1/monitors/ids"},
      {{"monitor", "add", "ids", "--port", "p"}, "POST /v1/monitors"},
      {{"monitor", "replace", "ids", "--port", "p"}, "PUT /v1/monitors/ids"},
      {{"monitor", "rm", "ids"}, "DELETE /v1/monitors/ids"},
      {{"tap", "list"}, "GET /v1/taps"},
      {{"tap", "show", "wan"}, "GET /v1/taps/wan"},
      {{"config"}, "GET /v1/config"},
      {{"reload"}, "POST /v1/reload"},
      {{"detach"}, "POST /v1/detach"},
      {{"doctor"}, "GET /v1/doctor"},
      {{"doctor", "--fix"}, "POST /v1/doctor/fix"}};
  return kCases;
}

struct Refusal {
  int status;
  const char* body;
  int code;
  const char* said;
};

class Refused : public WithBroker, public testing::WithParamInterface<Refusal> {
 protected:
  void SetUp() override { WithBroker::SetUp(); }
  void TearDown() override { WithBroker::TearDown(); }
};

TEST_P(Refused, EveryCommandSaysSo) {
  const Refusal& refusal = GetParam();
  for (const Case& one : every_command()) {
    broker_->answer(one.request, refusal.status, refusal.body);
    const Ran ran = ctl(one.arguments);
    EXPECT_EQ(ran.code, refusal.code) << one.request;
    EXPECT_EQ(ran.out, "") << one.request;
    EXPECT_TRUE(has(ran.err, refusal.said)) << one.request;
    EXPECT_TRUE(has(ran.err, path("b.sock"))) << one.request;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Statuses, Refused,
    testing::Values(Refusal{400, R"({"error":"bad body"})", 1, "refuses: bad body"},
                    Refusal{401, R"({"error":"no token"})", 1, "--token-file FILE"},
                    Refusal{404, R"({"error":"no such policy"})", 1, "no such policy"},
                    Refusal{409, R"({"error":"it exists"})", 1, "it exists"},
                    Refusal{422, R"({"error":"f:1:1: bad"})", 2, "goes on as before: f:1:1: bad"},
                    Refusal{500, R"({"error":"oh\u001b"})", 1, "oh?"},
                    Refusal{501, R"({"error":"kernel too old"})", 3, "cannot do this: kernel"},
                    Refusal{502, "<html>", 1, "HTTP status 502"},
                    Refusal{302, "", 1, "HTTP status 302"},
                    Refusal{200, "<html>", 1, "is no JSON object; is it a vtap-broker?"},
                    Refusal{200, R"({"policies":[)", 1, "is no JSON object"},
                    Refusal{200, "[]", 1, "is no JSON object"},
                    Refusal{200, "", 1, "is no JSON object"}));

TEST_F(InDirectory, EveryCommandSaysThatNobodyIsThere) {
  for (const Case& one : every_command()) {
    std::vector<std::string> arguments = one.arguments;
    arguments.insert(arguments.end(), {"--socket", path("none.sock")});
    const Ran ran = World{}.run(arguments);
    EXPECT_EQ(ran.code, 1) << one.request;
    EXPECT_EQ(ran.out, "") << one.request;
    EXPECT_TRUE(has(ran.err, "no vtap-broker at " + path("none.sock"))) << one.request;
    EXPECT_TRUE(has(ran.err, "vtap-broker -c FILE")) << one.request;
  }
}

TEST_F(Command, TheSocketNobodyNamedIsFound) {
  broker_->answer("GET /v1/stats", 200, "{}");
  World world;
  world.sockets = directory_;
  EXPECT_EQ(world.run({"stats", "--json"}).out, "{}\n");
}

TEST_F(Command, OddJsonIsSurvived) {
  const std::vector<const char*> odd = {
      "{}", R"({"policies":1,"monitors":{"a":1},"taps":[1,null,{}],"findings":{"a":7}})",
      R"({"policies":[1,{"match":7,"taps":"x","monitors":[3]}],"monitors":[null,{"queue":"x"}],
          "taps":[{"ports":[1],"name":2}],"findings":[1,{"severity":3}],"undone":[1,{}]})"};
  for (const char* body : odd) {
    FakeBroker broker(path("o.sock"));
    for (const Case& one : every_command()) {
      broker.answer(one.request, 200, body);
      std::vector<std::string> arguments = one.arguments;
      arguments.insert(arguments.end(), {"--socket", path("o.sock")});
      EXPECT_LE(World{}.run(arguments).code, 1) << one.request;
    }
    std::filesystem::remove(path("o.sock"));
  }
}

TEST(CommandLine, HelpAndVersionAreNoFailures) {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--help"}, {"--version"}, {"policy", "add", "--help"}}) {
    const Ran ran = World{}.run(arguments);
    EXPECT_EQ(ran.code, 0);
    EXPECT_NE(ran.out, "");
    EXPECT_EQ(ran.err, "");
  }
}

}  // namespace
}  // namespace vtap::ctl
