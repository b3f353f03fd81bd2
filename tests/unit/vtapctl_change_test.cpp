// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <fstream>

#include "policy_keys.hpp"
#include "toml_view.hpp"
#include "vtapctl_fake.hpp"

/// The commands for policies, monitors and taps: what request goes out, what is printed.
namespace vtap::ctl {
namespace {

class Change : public WithBroker {
 protected:
  static Json json(const std::string& text) { return Json::parse(text); }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name)) << text;
  }
};

TEST_F(Change, PolicyAddMakesTheKeysOfTheConfig) {
  broker_->answer("POST /v1/policies", 201, R"({"generation":4})");
  const Ran ran =
      ctl({"policy",      "add",        "web",        "--monitor", "ids",        "--monitor",
           "rec",         "--tap",      "wan",        "--src",     "10.0.0.0/8", "--src",
           "2001:db8::1", "--dst",      "192.0.2.1",  "--host",    "10.1.2.3",   "--proto",
           "tcp",         "--src-port", "1024-65535", "--port",    "80,443",     "--vlan",
           "none",        "--dst-port", "8000",       "--filter",  "len > 100",  "--sample",
           "one_in=10",   "--meter",    "200Mbit/s",  "--slice",   "128",        "--offload",
           "never",       "--priority", "7"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out, "policy web added (generation 4, until the next reload)\n");
  EXPECT_EQ(ran.err, "");
  const Asked asked = broker_->only();
  EXPECT_EQ(asked.method, "POST");
  EXPECT_EQ(asked.target, "/v1/policies");
  EXPECT_EQ(asked.type, "application/json");
  EXPECT_EQ(json(asked.body), json(R"({"name":"web","taps":["wan"],"monitors":["ids","rec"],
      "match":[{"src":["10.0.0.0/8","2001:db8::1"],"dst":"192.0.2.1","host":"10.1.2.3",
                "proto":"tcp","src_port":"1024-65535","dst_port":8000,"port":[80,443],
                "vlan":"none"}],
      "filter":"len > 100","sample":{"one_in":10},"meter":{"rate":"200Mbit/s"},"slice":128,
      "priority":7,"offload":"never"})"));
}

TEST_F(Change, WhatIsNotSaidIsLeftOut) {
  broker_->answer("POST /v1/policies?persist=true", 201, R"({"generation":2})");
  const Ran ran = ctl({"policy", "add", "all", "--monitor", "ids", "--persist"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out, "policy all added (generation 2, written to the config file)\n");
  EXPECT_EQ(broker_->only().text(),
            R"(POST /v1/policies?persist=true {"name":"all","monitors":["ids"]})");
}

TEST(PolicyJson, SamplesAndNumbers) {
  PolicyOptions options;
  EXPECT_FALSE(policy_json(options).ok());  // no monitor
  options.monitors = {"ids"};
  options.sample = "flows=0.25";
  options.proto = {"47"};
  options.vlan = {"1", "100-199"};
  EXPECT_EQ(policy_json(options).value().dump(),
            R"({"monitors":["ids"],"match":[{"proto":47,"vlan":[1,"100-199"]}],)"
            R"("sample":{"flows":0.25}})");
  for (const char* wrong : {"10", "one_in", "one_in=", "one_in=x", "one_in=1.5", "one_in=-1",
                            "flows=x", "flow=0.1", "=1", "one_in=10,"}) {
    options.sample = wrong;
    const auto result = policy_json(options);
    ASSERT_FALSE(result.ok()) << wrong;
    EXPECT_EQ(result.error().kind, ErrorKind::usage);
    EXPECT_TRUE(has(result.error().message, "one_in=N or flows=F"));
  }
}

TEST_F(Change, FromTakesJsonAsItIs) {
  broker_->answer("POST /v1/policies", 201, R"({"generation":4})");
  write("p.json", R"({"once":true,"monitors":["ids"],"match":[{"tcp_flags":"syn,!ack"}]})");
  EXPECT_EQ(ctl({"policy", "add", "web", "--from", path("p.json")}).code, 0);
  World world;
  world.input = R"({"name":"web","monitors":["ids"]})";
  EXPECT_EQ(ctl(world, {"policy", "add", "web", "--from", "-"}).code, 0);
  const auto asked = broker_->asked();
  ASSERT_EQ(asked.size(), 2U);
  EXPECT_EQ(asked[0].body, R"({"name":"web","once":true,"monitors":["ids"],)"
                           R"("match":[{"tcp_flags":"syn,!ack"}]})");
  EXPECT_EQ(asked[1].body, R"({"name":"web","monitors":["ids"]})");
}

TEST_F(Change, WhatCannotBeSentIsRefusedBeforeAnythingIsAsked) {
  write("list.json", "[]");
  write("broken.json", R"({"name":)");
  write("other.json", R"({"name":"other"})");
  const std::vector<std::vector<std::string>> wrong = {
      {"policy", "add", "web", "--from", path("list.json")},
      {"policy", "add", "web", "--from", path("broken.json")},
      {"policy", "add", "web", "--from", path("other.json")},
      {"policy", "add", "web", "--from", path("absent.json")},
      {"policy", "add", "web", "--from", path("other.json"), "--monitor", "ids"},
      {"policy", "add", "web"},
      {"policy", "add"},
      {"policy", "add", "web", "extra", "--monitor", "ids"},
      {"policy", "add", "web", "--monitor", "ids", "--slice", "many"},
      {"policy", "add", "web", "--monitor", "ids", "--slice", "-1"},
      {"policy", "add", "web", "--monitor", "ids", "--offload", "perhaps"},
      {"policy", "add", "web", "--monitor", "ids", "--sample", "10"},
      {"policy"},
      {"policy", "edit", "web"},
      {"policy", "rm"},
      {"monitor", "add", "ids"},
      {"monitor", "add", "ids", "--port", "eth3", "--queue", "x"},
      {"tap", "add", "wan"},
      {"capture", "--frames", "many"},
      {},
      {"nonsense"},
      {"doctor", "-c", "tap.toml"},
      {"completion", "csh"},
      {"--socket", path("b.sock"), "--url", "http://localhost", "status"}};
  for (const auto& arguments : wrong) {
    std::string all;
    for (const auto& argument : arguments) all += " " + argument;
    const Ran ran = arguments.empty() ? World{}.run({}) : ctl(arguments);
    EXPECT_EQ(ran.code, 2) << all;
    EXPECT_EQ(ran.out, "") << all;
    EXPECT_NE(ran.err, "") << all;
  }
  EXPECT_TRUE(broker_->asked().empty());
}

TEST_F(Change, ReplaceSaysWhetherThereWasOne) {
  broker_->answer("PUT /v1/policies/web", 200, R"({"generation":5})");
  broker_->answer("PUT /v1/policies/new", 201, R"({"generation":6})");
  const Ran old = ctl({"policy", "replace", "web", "--monitor", "ids"});
  EXPECT_EQ(old.out, "policy web replaced (generation 5, until the next reload)\n") << old.err;
  EXPECT_EQ(ctl({"policy", "replace", "new", "--monitor", "ids"}).out,
            "policy new added (generation 6, until the next reload)\n");
  EXPECT_EQ(broker_->asked()[0].text(),
            R"(PUT /v1/policies/web {"name":"web","monitors":["ids"]})");
}

TEST_F(Change, RmTakesAnyName) {
  for (const char* name : {"list", "status", "-x", "rm"}) {  // names of commands are names as well
    broker_->answer(std::string("DELETE /v1/policies/") + name, 200, R"({"generation":7})");
  }
  broker_->answer("DELETE /v1/policies/a%2Fb%20%3F%C3%A4?persist=true", 200, R"({"generation":9})");
  EXPECT_EQ(ctl({"policy", "rm", "list"}).out,
            "policy list removed (generation 7, until the next reload)\n");
  EXPECT_EQ(ctl({"policy", "rm", "status"}).code, 0);
  EXPECT_EQ(ctl({"policy", "rm", "rm"}).code, 0);
  EXPECT_EQ(ctl({"policy", "rm", "--", "-x"}).code, 0);
  EXPECT_EQ(ctl({"policy", "rm", "a/b ?\xc3\xa4", "--persist"}).code, 0);
  EXPECT_EQ(broker_->asked()[0].body, "");
}

TEST_F(Change, ListIsATable) {
  broker_->answer("GET /v1/policies", 200, R"({"policies":[
      {"name":"web","taps":["wan","lan"],"monitors":["ids"],"slice":128,
       "match":[{"proto":"tcp","port":[80,443]}],"sample":{"one_in":10}},
      {"name":"all","monitors":["ids","rec"]}]})");
  EXPECT_EQ(ctl({"policy", "list"}).out,
            "  policy  taps      monitors  match\n"
            "  web     wan, lan  ids       [{ proto = \"tcp\", port = [80, 443] }]  slice = 128, "
            "sample = { one_in = 10 }\n"
            "  all     all       ids, rec  every frame\n");
  EXPECT_EQ(broker_->only().text(), "GET /v1/policies");
}

TEST_F(Change, ShowIsTheTextOfTheConfig) {
  broker_->answer(
      "GET /v1/policies/web", 200,
      R"({"name":"web","monitors":["ids"],"once":true,"odd key":"a\u001b\n\u007f\u009b",)"
      R"("match":[{"proto":"tcp"}],"sample":{"flows":0.25},"empty":{}})");
  EXPECT_EQ(ctl({"policy", "show", "web"}).out,
            "[[policy]]\n"
            "name      = \"web\"\n"
            "monitors  = [\"ids\"]\n"
            "once      = true\n"
            "\"odd key\" = \"a\\u001b\\n\\u007f\\u009b\"\n"
            "match     = [{ proto = \"tcp\" }]\n"
            "sample    = { flows = 0.25 }\n"
            "empty     = {}\n");
}

TEST_F(Change, JsonIsTheBrokersAnswer) {
  const std::string odd = R"({ "generation" : 4, "more":[1.50] })";
  for (const char* request :
       {"POST /v1/policies", "PUT /v1/policies/web", "DELETE /v1/policies/web", "GET /v1/policies",
        "GET /v1/policies/web", "GET /v1/taps", "GET /v1/taps/wan", "POST /v1/monitors",
        "DELETE /v1/monitors/ids", "POST /v1/reload", "POST /v1/detach", "GET /v1/config",
        "GET /v1/status", "GET /v1/stats"}) {
    broker_->answer(request, 200, odd);
  }
  const std::vector<std::vector<std::string>> commands = {
      {"policy", "add", "web", "--monitor", "ids"},
      {"policy", "replace", "web", "--monitor", "ids"},
      {"policy", "rm", "web"},
      {"policy", "list"},
      {"policy", "show", "web"},
      {"tap", "list"},
      {"tap", "show", "wan"},
      {"monitor", "add", "ids", "--port", "eth3"},
      {"monitor", "rm", "ids"},
      {"reload"},
      {"detach"},
      {"config"},
      {"status"},
      {"stats"}};
  for (auto arguments : commands) {
    arguments.push_back("--json");
    const Ran ran = ctl(arguments);
    EXPECT_EQ(ran.code, 0) << arguments[0] << ran.err;
    EXPECT_EQ(ran.out, odd + "\n") << arguments[0];
  }
}

TEST_F(Change, Monitors) {
  broker_->answer("POST /v1/monitors", 201, R"({"generation":4})");
  broker_->answer("PUT /v1/monitors/ids", 200, R"({"generation":5})");
  broker_->answer("DELETE /v1/monitors/ids", 200, R"({"generation":6})");
  broker_->answer("GET /v1/monitors", 200,
                  R"({"monitors":[{"name":"ids","port":"eth3","rate":"1Gbit/s","queue":64},)"
                  R"({"name":"rec","port":"eth4"}]})");
  broker_->answer("GET /v1/monitors/ids", 200, R"({"name":"ids","port":"eth3"})");
  EXPECT_EQ(
      ctl({"monitor", "add", "ids", "--port", "eth3", "--rate", "1Gbit/s", "--queue", "64"}).out,
      "monitor ids added (generation 4, until the next reload)\n");
  EXPECT_EQ(ctl({"monitor", "replace", "ids", "--port", "eth5"}).out,
            "monitor ids replaced (generation 5, until the next reload)\n");
  EXPECT_EQ(ctl({"monitor", "rm", "ids"}).out,
            "monitor ids removed (generation 6, until the next reload)\n");
  EXPECT_EQ(ctl({"monitor", "list"}).out,
            "  monitor  port  rate     queue\n"
            "  ids      eth3  1Gbit/s     64\n"
            "  rec      eth4  -            -\n");
  EXPECT_EQ(ctl({"monitor", "show", "ids"}).out, "[[monitor]]\nname = \"ids\"\nport = \"eth3\"\n");
  const auto asked = broker_->asked();
  EXPECT_EQ(asked[0].text(),
            R"(POST /v1/monitors {"name":"ids","port":"eth3","rate":"1Gbit/s","queue":64})");
  EXPECT_EQ(asked[1].text(), R"(PUT /v1/monitors/ids {"name":"ids","port":"eth5"})");
}

TEST_F(Change, Taps) {
  broker_->answer("GET /v1/taps", 200,
                  R"({"taps":[{"name":"wan","mode":"inline","ports":["eth1","eth2"],)"
                  R"("capture":"tee"}]})");
  broker_->answer("GET /v1/taps/wan", 200, R"({"name":"wan","ports":["eth1","eth2"]})");
  EXPECT_EQ(ctl({"tap", "list"}).out,
            "  tap  mode    ports       capture  hook\n"
            "  wan  inline  eth1, eth2  tee      auto\n");
  EXPECT_EQ(ctl({"tap", "show", "wan"}).out,
            "[[tap]]\nname  = \"wan\"\nports = [\"eth1\", \"eth2\"]\n");
}

}  // namespace
}  // namespace vtap::ctl
