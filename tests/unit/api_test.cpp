// SPDX-License-Identifier: Apache-2.0
// What the API does to the config, without sockets.
#include "control/api.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <thread>

#include "config/json.hpp"

namespace vtap::control {
namespace {

constexpr auto kText =
    "# lab\n"
    "[[tap]]\nname = \"wan\"\nmode = \"span\"\nports = [\"eth1\"]\n"
    "\n[[monitor]]\nname = \"ids\"\nport = \"eth3\"\n"
    "\n[[policy]]\nname = \"web\"\nmonitors = [\"ids\"]\n"
    "\n[[policy]]\nname = \"a/b c\"\nmonitors = [\"ids\"]\n";

/// A broker that takes every config but one that says "refused".
struct Broker {
  std::mutex mutex;
  RunningConfig running{kText, "/etc/vtap/tap.toml", 1};
  std::string file = kText;
  int applies = 0;
  int reloads_between = 0;  ///< that many applies find that another change came first
  bool file_changed = false;

  Handlers handlers() {
    return {.version = "1",
            .config =
                [this] {
                  const std::lock_guard lock(mutex);
                  return running;
                },
            .apply = [this](const std::string& text, std::uint32_t base,
                            bool persist) { return apply(text, base, persist); }};
  }

  Result<std::uint32_t> apply(const std::string& text, std::uint32_t base, bool persist) {
    const std::lock_guard lock(mutex);
    ++applies;
    if (reloads_between > 0) {
      --reloads_between;
      ++running.generation;
      running.text += "# reloaded\n";
    }
    if (base != running.generation) return Error{"another change came first", ErrorKind::conflict};
    if (text.find("refused") != std::string::npos) {
      return Error{"tap.toml:1:1: refused", ErrorKind::usage};
    }
    if (persist && file_changed) {
      return Error{"the file has changed; reload first", ErrorKind::conflict};
    }
    running.text = text;
    if (persist) file = text;
    return ++running.generation;
  }
};

class ApiTest : public testing::Test {
 protected:
  Reply ask(const std::string& method, const std::string& target, const std::string& body = "") {
    auto found = Api::find(method, target);
    if (auto* refused = std::get_if<Reply>(&found)) return *refused;
    auto& match = std::get<Api::Match>(found);
    match.call.body = body;
    return api_.answer(match);
  }
  int status(const std::string& method, const std::string& target, const std::string& body = "") {
    return ask(method, target, body).status;
  }

  Broker broker_;
  Api api_{broker_.handlers()};
};

TEST_F(ApiTest, ShowsTheConfigAsTextAndAsJson) {
  const Json json = Json::parse(ask("GET", "/v1/config").body);
  EXPECT_EQ(json["file"], "/etc/vtap/tap.toml");
  EXPECT_EQ(json["generation"], 1);
  EXPECT_EQ(json["text"], kText);
  EXPECT_EQ(json["config"]["monitor"], Json::parse(R"([{"name":"ids","port":"eth3"}])"));
}

TEST_F(ApiTest, ListsInFileOrderAndShowsOne) {
  EXPECT_EQ(
      ask("GET", "/v1/policies").body,
      R"({"policies":[{"name":"web","monitors":["ids"]},{"name":"a/b c","monitors":["ids"]}]})");
  EXPECT_EQ(ask("GET", "/v1/taps/wan").body, R"({"name":"wan","mode":"span","ports":["eth1"]})");
  EXPECT_EQ(ask("GET", "/v1/monitors").body, R"({"monitors":[{"name":"ids","port":"eth3"}]})");
  broker_.running.text = "";
  EXPECT_EQ(ask("GET", "/v1/policies").body, R"({"policies":[]})");
}

TEST_F(ApiTest, NamesAreDecoded) {
  EXPECT_EQ(ask("GET", "/v1/policies/a%2Fb%20c").body, R"({"name":"a/b c","monitors":["ids"]})");
  EXPECT_EQ(status("GET", "/v1/policies/a/b%20c"), 404);
  EXPECT_EQ(status("GET", "/v1/policies/"), 404);
  EXPECT_EQ(status("GET", "/v1/policies/none"), 404);
  EXPECT_EQ(ask("GET", "/v1/policies/%00%ff%22").status, 404);
}

TEST_F(ApiTest, CreatesWithoutTouchingTheRest) {
  const Reply reply =
      ask("POST", "/v1/policies", R"({"name":"dns","monitors":["ids"],"slice":64})");
  EXPECT_EQ(reply.status, 201);
  EXPECT_EQ(reply.body, R"({"generation":2})");
  EXPECT_EQ(
      broker_.running.text,
      std::string(kText) + "\n[[policy]]\nname = \"dns\"\nmonitors = [\"ids\"]\nslice = 64\n");
  EXPECT_EQ(broker_.file, kText);  // nobody said persist
  EXPECT_EQ(status("POST", "/v1/policies", R"({"name":"dns","monitors":["ids"]})"), 409);
  EXPECT_EQ(broker_.running.generation, 2U);
}

TEST_F(ApiTest, ReplacesInItsPlaceOrCreates) {
  EXPECT_EQ(status("PUT", "/v1/policies/web", R"({"monitors":["ids"],"slice":64})"), 200);
  std::string expected = kText;
  expected.insert(expected.find("\n[[policy]]\nname = \"a/b"), "slice = 64\n");
  EXPECT_EQ(broker_.running.text, expected);
  EXPECT_EQ(status("PUT", "/v1/monitors/rec", R"({"name":"rec","port":"eth4"})"), 201);
  EXPECT_EQ(ask("GET", "/v1/monitors/rec").body, R"({"name":"rec","port":"eth4"})");
  EXPECT_EQ(status("PUT", "/v1/policies/web", R"({"name":"other","monitors":["ids"]})"), 400);
}

TEST_F(ApiTest, Deletes) {
  EXPECT_EQ(ask("DELETE", "/v1/policies/a%2Fb%20c").body, R"({"generation":2})");
  EXPECT_EQ(status("GET", "/v1/policies/a%2Fb%20c"), 404);
  EXPECT_EQ(status("DELETE", "/v1/policies/a%2Fb%20c"), 404);
  EXPECT_EQ(status("DELETE", "/v1/taps/wan"), 200);
  EXPECT_EQ(ask("GET", "/v1/taps").body, R"({"taps":[]})");
}

TEST_F(ApiTest, PersistsOnRequestOnly) {
  EXPECT_EQ(status("DELETE", "/v1/policies/web?persist=false"), 200);
  EXPECT_EQ(broker_.file, kText);
  EXPECT_EQ(status("PUT", "/v1/policies/web?persist=true", R"({"monitors":["ids"]})"), 201);
  EXPECT_EQ(broker_.file, broker_.running.text);
  EXPECT_NE(broker_.file, kText);
  broker_.file_changed = true;
  const int before = broker_.applies;
  EXPECT_EQ(status("DELETE", "/v1/policies/web?persist=true"), 409);
  EXPECT_EQ(broker_.applies, before + 1);  // trying again would not help
  EXPECT_EQ(status("DELETE", "/v1/policies/web"), 200);
}

TEST_F(ApiTest, AMistypedQueryIsNotIgnored) {
  for (const char* const query :
       {"?persits=true", "?persist=yes", "?persist", "?persist=true&x=1"}) {
    EXPECT_EQ(status("DELETE", std::string("/v1/policies/web") + query), 400) << query;
  }
  EXPECT_EQ(status("GET", "/v1/policies?persist=true"), 400);
  EXPECT_EQ(broker_.applies, 0);
}

TEST_F(ApiTest, AConfigThatDoesNotLoadIsRefusedAndNothingChanges) {
  const Reply reply = ask("POST", "/v1/policies", R"({"name":"refused","monitors":["ids"]})");
  EXPECT_EQ(reply.status, 422);
  EXPECT_EQ(reply.body, R"({"error":"tap.toml:1:1: refused"})");
  EXPECT_EQ(broker_.running.text, kText);
  EXPECT_EQ(broker_.applies, 1);
}

TEST_F(ApiTest, BodiesThatAreNoTable) {
  for (const char* const body :
       {"", "{", "[]", "3", "{}", R"({"name":3})", "\xff", R"({"name":"x"}})"}) {
    EXPECT_EQ(status("POST", "/v1/policies", body), 400) << body;
  }
  EXPECT_EQ(status("POST", "/v1/policies", R"({"name":"x","slice":null})"), 422);
  EXPECT_EQ(
      status("POST", "/v1/policies",
             "{\"name\":\"x\",\"y\":" + std::string(100000, '[') + std::string(100000, ']') + "}"),
      422);
  EXPECT_EQ(broker_.applies, 0);
}

TEST_F(ApiTest, AChangeThatWasOvertakenIsMadeOnTheFreshText) {
  broker_.reloads_between = 2;
  EXPECT_EQ(ask("DELETE", "/v1/policies/web").body, R"({"generation":4})");
  EXPECT_EQ(broker_.applies, 3);
  std::string expected = kText;
  const auto at = expected.find("\n[[policy]]");
  expected.erase(at, expected.find("\n[[policy]]", at + 1) - at);
  EXPECT_EQ(broker_.running.text, expected + "# reloaded\n# reloaded\n");
}

TEST_F(ApiTest, AChangeThatIsOvertakenForEverGivesUp) {
  broker_.reloads_between = 1000;
  EXPECT_EQ(status("DELETE", "/v1/policies/web"), 409);
  EXPECT_LT(broker_.applies, 10);
}

TEST_F(ApiTest, ReplacesTheWholeConfig) {
  EXPECT_EQ(ask("PUT", "/v1/config", R"({"text":"x = 1\n"})").body, R"({"generation":2})");
  EXPECT_EQ(broker_.running.text, "x = 1\n");
  EXPECT_EQ(status("PUT", "/v1/config", R"({"text":"x = 2\n","generation":1})"), 409);
  EXPECT_EQ(status("PUT", "/v1/config?persist=true", R"({"text":"x = 2\n","generation":2})"), 200);
  EXPECT_EQ(broker_.file, "x = 2\n");
  for (const char* const body : {"{}", R"({"text":3})", R"({"text":"","more":1})",
                                 R"({"text":"","generation":-1})", R"({"generation":3})"}) {
    EXPECT_EQ(status("PUT", "/v1/config", body), 400) << body;
  }
}

TEST_F(ApiTest, ManyChangesAtOnceAreAllMade) {
  constexpr int kClients = 8;
  constexpr int kEach = 20;
  std::atomic<int> made = 0;
  std::vector<std::thread> clients;
  for (int client = 0; client < kClients; ++client) {
    clients.emplace_back([&, client] {
      for (int i = 0; i < kEach; ++i) {
        const std::string name = "p" + std::to_string(client) + '-' + std::to_string(i);
        made += status("PUT", "/v1/policies/" + name, R"({"monitors":["ids"]})") == 201 ? 1 : 0;
        if (i % 2 == 0) made += status("DELETE", "/v1/policies/" + name) == 200 ? 1 : 0;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(made, kClients * kEach * 3 / 2);
  const Json list = Json::parse(ask("GET", "/v1/policies").body)["policies"];
  EXPECT_EQ(list.size(), 2U + kClients * kEach / 2);
}

TEST_F(ApiTest, Detach) {
  std::vector<std::string> asked = {"none"};
  Api api({.detach = [&asked](const std::vector<std::string>& ports) -> Result<std::string> {
    asked = ports;
    return std::string(R"({"undone":[]})");
  }});
  const auto ask_api = [&](const std::string& body) {
    auto match = std::get<Api::Match>(Api::find("POST", "/v1/detach"));
    match.call.body = body;
    return api.answer(match).status;
  };
  EXPECT_EQ(ask_api(R"({"ports":["eth1","eth2"]})"), 200);
  EXPECT_EQ(asked, (std::vector<std::string>{"eth1", "eth2"}));
  for (const char* const body : {"", "{}"}) {
    asked = {"none"};
    EXPECT_EQ(ask_api(body), 200);
    EXPECT_TRUE(asked.empty());
  }
  asked = {"none"};
  for (const char* const body : {"[", "[]", R"({"ports":[]})", R"({"ports":"eth1"})",
                                 R"({"ports":[3]})", R"({"port":["a"]})"}) {
    EXPECT_EQ(ask_api(body), 400) << body;
  }
  EXPECT_EQ(asked, std::vector<std::string>{"none"});
}

}  // namespace
}  // namespace vtap::control
