// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

#include "vtapctl_fake.hpp"

/// What shells are told that may come next, and bash itself with the script.
namespace vtap::ctl {
namespace {

using Words = std::vector<std::string>;

class Completion : public WithBroker {
 protected:
  void SetUp() override {
    WithBroker::SetUp();
    broker_->answer("GET /v1/policies", 200,
                    R"j({"policies":[{"name":"web"},{"name":"$(reboot)"},{"name":"-x"},)j"
                    R"({"name":"dns"},{"name":"we b"},7]})");
    broker_->answer("GET /v1/monitors", 200, R"({"monitors":[{"name":"ids"}]})");
    broker_->answer("GET /v1/taps", 200, R"({"taps":[{"name":"wan"}]})");
  }

  /// The candidates for the last of `words`, without their descriptions.
  [[nodiscard]] Words complete(Words words) const {
    words.insert(words.begin(), "__complete");
    World world;
    world.sockets = directory_;
    const Ran ran = world.run(words);
    EXPECT_EQ(ran.code, 0);
    EXPECT_EQ(ran.err, "");
    Words out;
    std::istringstream lines(ran.out);
    for (std::string line; std::getline(lines, line);)
      out.push_back(line.substr(0, line.find('\t')));
    return out;
  }
};

TEST_F(Completion, OfCommands) {
  EXPECT_EQ(complete({"st"}), (Words{"status", "stats"}));
  EXPECT_EQ(complete({"policy", ""}), (Words{"list", "show", "add", "replace", "rm"}));
  EXPECT_EQ(complete({"--json", "mon"}), Words{"monitor"});
  EXPECT_EQ(complete({"nonsense", "x"}), Words{});
  EXPECT_EQ(complete({"completion", ""}), (Words{"bash", "zsh", "fish"}));
  EXPECT_EQ(complete({}).size(), complete({""}).size());
}

TEST_F(Completion, OfOptions) {
  EXPECT_EQ(complete({"stats", "--w"}), Words{"--watch"});
  EXPECT_EQ(complete({"stats", "--j"}), Words{"--json"});
  EXPECT_EQ(complete({"stats", "--json", "--j"}), Words{});
  EXPECT_EQ(complete({"--url", "x", "stats", "--so"}), Words{});  // one excludes the other
  EXPECT_EQ(complete({"policy", "add", "web", "--src"}), (Words{"--src", "--src-port"}));
  EXPECT_EQ(complete({"policy", "add", "web", "--src", "a", "--src"}),
            (Words{"--src", "--src-port"}));  // may be given again
  EXPECT_EQ(complete({"policy", "add", "web", "--from", "x", "--mon"}), Words{});
}

TEST_F(Completion, OfNamesAtTheBroker) {
  for (const char* verb : {"rm", "show", "replace"}) {
    EXPECT_EQ(complete({"policy", verb, ""}), (Words{"web", "dns"})) << verb;  // no $(reboot)
    EXPECT_EQ(complete({"monitor", verb, ""}), Words{"ids"}) << verb;
  }
  EXPECT_EQ(complete({"policy", "rm", "w"}), Words{"web"});
  EXPECT_EQ(complete({"policy", "rm", "web", "w"}), Words{});
  EXPECT_EQ(complete({"tap", "show", ""}), Words{"wan"});
  EXPECT_EQ(complete({"policy", "add", "w"}), Words{});  // a new name is for people to think of
  EXPECT_EQ(complete({"policy", "add", "x", "--monitor", ""}), Words{"ids"});
  EXPECT_EQ(complete({"policy", "add", "x", "--monitor=i"}), Words{"--monitor=ids"});
  EXPECT_EQ(complete({"policy", "add", "x", "--tap", "wa"}), Words{"wan"});
}

TEST_F(Completion, AsksTheBrokerThatTheWordsName) {
  FakeBroker other(path("other.sock"));
  other.answer("GET /v1/policies", 200, R"({"policies":[{"name":"elsewhere"}]})");
  EXPECT_EQ(complete({"--socket", path("other.sock"), "policy", "rm", ""}), Words{"elsewhere"});
  EXPECT_EQ(complete({"policy", "rm", "--socket=" + path("other.sock"), "e"}), Words{"elsewhere"});
  EXPECT_EQ(complete({"--socket", path("none.sock"), "policy", "rm", "e"}), Words{});
}

TEST_F(Completion, OfOtherValues) {
  EXPECT_EQ(complete({"policy", "add", "x", "--offload", ""}), (Words{"auto", "never", "require"}));
  EXPECT_EQ(complete({"policy", "add", "x", "--sample", ""}), (Words{"one_in=", "flows="}));
  EXPECT_EQ(complete({"policy", "add", "x", "--from", ""}), Words{":files"});
  EXPECT_EQ(complete({"--socket=/ru"}), Words{":files"});
  EXPECT_EQ(complete({"monitor", "add", "x", "--port", "l"}), Words{"lo"});
  EXPECT_EQ(complete({"detach", "eth0", "l"}), Words{"lo"});
  EXPECT_EQ(complete({"policy", "add", "x", "--meter", ""}), Words{});
}

TEST_F(Completion, HasDescriptions) {
  const Ran ran = World{}.run({"__complete", "relo"});
  EXPECT_EQ(ran.out, "reload\tHave the broker read its config file again\n");
}

/// What bash offers for `line` with the script that vtapctl prints: "a,b".
std::string bash(const std::string& line, const std::string& directory) {
  std::ofstream(directory + "/try.sh") << R"sh(
source <("$VTAPCTL" completion bash) || exit 9
vtapctl() { "$VTAPCTL" "$@"; }  # the word that a user types
COMP_LINE=$1; COMP_POINT=${#COMP_LINE}
eval "COMP_WORDS=($2)"; COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
$(complete -p vtapctl | sed 's/.*-F \([^ ]*\).*/\1/')
IFS=,; echo "${COMPREPLY[*]}"
)sh";
  // As readline cuts a line into words: '=' and ':' are words of their own.
  std::string words;
  std::istringstream in(line);
  for (std::string word; in >> word;) {
    std::string part;
    for (const char c : word) {
      if (c == '=' || c == ':') {
        words += (part.empty() ? "" : "'" + part + "' ") + "'" + c + "' ";
        part.clear();
      } else {
        part += c;
      }
    }
    if (!part.empty()) words += "'" + part + "' ";
  }
  if (line.back() == ' ') words += "''";
  const std::string command =
      "VTAPCTL='" VTAPCTL "' bash '" + directory + "/try.sh' '" + line + "' \"" + words + "\" 2>&1";
  std::FILE* pipe = ::popen(command.c_str(), "r");
  std::string out;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) out += static_cast<char>(c);
  EXPECT_EQ(::pclose(pipe), 0) << out;
  return out.substr(0, out.find_last_not_of('\n') + 1);
}

TEST_F(Completion, InBash) {
  const std::string socket = "vtapctl --socket " + path("b.sock") + " ";
  std::ofstream(path("one.json")) << "{}";
  EXPECT_EQ(bash("vtapctl st", directory_), "status,stats");
  EXPECT_EQ(bash(socket + "policy rm ", directory_), "web,dns");
  EXPECT_EQ(bash(socket + "policy rm d", directory_), "dns");
  EXPECT_EQ(bash("vtapctl --socket=" + path("b.sock") + " policy show w", directory_), "web");
  EXPECT_EQ(bash(socket + "policy add x --monitor=i", directory_), "ids");
  EXPECT_EQ(bash(socket + "policy add x --src 2001:db8::1 --offload n", directory_), "never");
  EXPECT_EQ(bash("vtapctl policy add x --sample o", directory_), "one_in=");
  EXPECT_EQ(bash("vtapctl policy add x --from " + path("o"), directory_), path("one.json"));
  EXPECT_EQ(bash("vtapctl --socket=" + path("on"), directory_), path("one.json"));
}

TEST(CompletionScripts, AskTheCommandTree) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const Ran ran = World{}.run({"completion", shell});
    EXPECT_EQ(ran.code, 0);
    EXPECT_TRUE(has(ran.out, "__complete"));
    EXPECT_EQ(ran.out.find("replace"), std::string::npos);  // no list that could go stale
  }
}

}  // namespace
}  // namespace vtap::ctl
