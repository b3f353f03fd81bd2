// SPDX-License-Identifier: Apache-2.0
#include "config/edit.hpp"

#include <gtest/gtest.h>

#include <random>
#include <sstream>

#include "config/statements.hpp"

namespace vtap::config {
namespace {

Json json(const std::string& text) { return Json::parse(text); }

Json config_of(const std::string& text) {
  auto parsed = to_json(text);
  EXPECT_TRUE(parsed.ok()) << parsed.error().message << "\n" << text;
  return parsed ? *parsed : Json();
}

std::string edited(const Result<std::string>& result) {
  EXPECT_TRUE(result.ok()) << result.error().message;
  return result ? result.value() : "";
}

const Json kNew = json(R"({"name":"new","monitors":["ids"]})");
constexpr auto kPolicy = Section::policy;

// ---- TOML -> JSON

TEST(ToJson, KeepsTheOrderOfTheFile) {
  const auto out =
      config_of("[[tap]]\nzeta = 1\nalpha = [1, 2.5, \"x\", true]\n[broker]\nname=\"a\"");
  EXPECT_EQ(out.dump(), R"({"tap":[{"zeta":1,"alpha":[1,2.5,"x",true]}],"broker":{"name":"a"}})");
}

TEST(ToJson, KeepsTheOrderInsideInlineTablesAndOfDottedKeys) {
  EXPECT_EQ(config_of("umem = { frames = 1, alpha = 2 }\nb.z = 1\nb.a = 2\n").dump(),
            R"({"umem":{"frames":1,"alpha":2},"b":{"z":1,"a":2}})");
}

TEST(ToJson, DatesAreText) {
  EXPECT_EQ(config_of("d = 1979-05-27\nt = 07:32:00\ndt = 1979-05-27T07:32:00Z\n").dump(),
            R"({"d":"1979-05-27","t":"07:32:00","dt":"1979-05-27T07:32:00Z"})");
}

TEST(ToJson, SaysWhereTextIsNoToml) {
  const auto out = to_json("a = 1\nb = = 2\n");
  ASSERT_FALSE(out.ok());
  EXPECT_EQ(out.error().kind, ErrorKind::usage);
  EXPECT_EQ(out.error().message.rfind("2:5: ", 0), 0U) << out.error().message;
}

// ---- JSON -> TOML

TEST(ToToml, WritesEachKindOfValue) {
  const auto out = to_toml(json(
      R"({"s":"a\"b\\c\n\t\u0001é","i":-3,"f":0.25,"w":2.0,"b":true,"l":[],"t":{},"a b":{"":1}})"));
  ASSERT_TRUE(out.ok());
  EXPECT_EQ(out.value(),
            R"({ s = "a\"b\\c\n\t\u0001é", i = -3, f = 0.25, w = 2.0, b = true, l = [], t = {}, )"
            R"("a b" = { "" = 1 } })");
}

TEST(ToToml, RefusesWhatTomlDoesNotHave) {
  for (const char* const text : {"null", "[null]", "18446744073709551615", R"({"a":{"b":null}})"}) {
    const auto out = to_toml(json(text));
    ASSERT_FALSE(out.ok()) << text;
    EXPECT_EQ(out.error().kind, ErrorKind::usage);
  }
  EXPECT_TRUE(to_toml(json("9223372036854775807")).ok());
  EXPECT_FALSE(to_toml(json(std::string(100, '[') + std::string(100, ']'))).ok());
}

TEST(ToToml, ErrorsNameTheKey) {
  const auto out = to_toml_lines(json(R"({"name":"a","slice":null})"));
  ASSERT_FALSE(out.ok());
  EXPECT_EQ(out.error().message.rfind("slice: null", 0), 0U) << out.error().message;
}

TEST(ToToml, PutsTablesOfAListOnLinesOfTheirOwn) {
  const auto out = to_toml_lines(
      json(R"({"name":"a","match":[{"proto":"tcp","port":[80,443]},{"host":"10.1.2.3"}]})"));
  ASSERT_TRUE(out.ok());
  EXPECT_EQ(out.value(),
            "name = \"a\"\n"
            "match = [\n"
            "  { proto = \"tcp\", port = [80, 443] },\n"
            "  { host = \"10.1.2.3\" },\n"
            "]\n");
}

TEST(ToToml, BreaksLongLists) {
  Json item = {{"name", "a"}};
  for (int i = 0; i < 100; ++i) item["taps"].push_back("tap-" + std::to_string(i));
  const auto out = to_toml_lines(item);
  ASSERT_TRUE(out.ok());
  std::istringstream lines(out.value());
  std::size_t count = 0;
  for (std::string line; std::getline(lines, line); ++count) EXPECT_LE(line.size(), 100U) << line;
  EXPECT_GT(count, 8U);
  EXPECT_EQ(config_of(out.value()), item);
}

// ---- edits

constexpr auto kFile =
    "# The lab's broker\n"
    "[broker]\n"
    "name = \"t\"   # short\n"
    "\n"
    "[[tap]]\n"
    "name = \"wan\"\n"
    "\n"
    "# web: for the IDS\n"
    "[[policy]]  # first\n"
    "  name  = \"web\"\n"
    "  match = [   # two\n"
    "    { proto = \"tcp\" },  # ]\n"
    "  ]\n"
    "\n"
    "# dns: for nobody\n"
    "[[policy]]\n"
    "name = 'dns'\n"
    "\n"
    "[[monitor]]\n"
    "name = \"ids\"\n"
    "# the end\n";

TEST(Edit, AddsBehindTheOthersOfItsKind) {
  const std::string out = edited(add(kFile, kPolicy, kNew));
  std::string expected = kFile;
  expected.insert(expected.find("\n[[monitor]]"),
                  "\n[[policy]]\nname = \"new\"\nmonitors = [\"ids\"]\n");
  EXPECT_EQ(out, expected);
}

TEST(Edit, AddsTheFirstOfItsKindAtTheEnd) {
  EXPECT_EQ(edited(add("", kPolicy, json(R"({"name":"a"})"))), "[[policy]]\nname = \"a\"\n");
  EXPECT_EQ(edited(add("a = 1", Section::tap, json(R"({"name":"a"})"))),
            "a = 1\n\n[[tap]]\nname = \"a\"\n");
  EXPECT_EQ(edited(add("a = 1 # x\n", Section::monitor, json(R"({"name":"a"})"))),
            "a = 1 # x\n\n[[monitor]]\nname = \"a\"\n");
}

TEST(Edit, AddRefusesANameThatExists) {
  const auto out = add(kFile, kPolicy, json(R"({"name":"dns"})"));
  ASSERT_FALSE(out.ok());
  EXPECT_EQ(out.error().kind, ErrorKind::conflict);
  EXPECT_TRUE(add(kFile, Section::tap, json(R"({"name":"dns"})")).ok());  // another kind
}

TEST(Edit, RefusesWhatIsNoTable) {
  for (const char* const text : {"[]", "3", "null", R"({"name":"x","slice":null})"}) {
    const auto out = add(kFile, kPolicy, json(text));
    ASSERT_FALSE(out.ok()) << text;
    EXPECT_EQ(out.error().kind, ErrorKind::usage) << text;
  }
}

TEST(Edit, RemovesATableAndKeepsTheRest) {
  std::string expected = kFile;
  const auto begin = expected.find("[[policy]]  # first");
  expected.erase(begin, expected.find("\n# dns") - begin + 1);
  EXPECT_EQ(edited(remove(kFile, kPolicy, "web")), expected);
}

TEST(Edit, ReplacesATableInItsPlace) {
  std::string expected = kFile;
  const auto begin = expected.find("  name  = \"web\"");
  expected.replace(begin, expected.find("\n# dns") - begin, "  name = \"web\"\n  slice = 128\n");
  EXPECT_EQ(edited(replace(kFile, kPolicy, "web", json(R"({"name":"web","slice":128})"))),
            expected);
}

TEST(Edit, RefusesANameThatIsNotThere) {
  EXPECT_FALSE(remove(kFile, kPolicy, "wan").ok());
  EXPECT_FALSE(replace(kFile, kPolicy, "wan", kNew).ok());
  EXPECT_FALSE(remove("", kPolicy, "web").ok());
}

TEST(Edit, TheLastTableOfAFileWithoutANewline) {
  const std::string text = "[[policy]]\nname = \"a\"\n[[policy]]\nname = \"b\" # b";
  EXPECT_EQ(edited(remove(text, kPolicy, "b")), "[[policy]]\nname = \"a\"\n");
  EXPECT_EQ(edited(replace(text, kPolicy, "b", kNew)),
            "[[policy]]\nname = \"a\"\n[[policy]]\nname = \"new\"\nmonitors = [\"ids\"]\n");
  EXPECT_EQ(edited(add(text, kPolicy, json(R"({"name":"c"})"))),
            text + "\n\n[[policy]]\nname = \"c\"\n");
  EXPECT_EQ(edited(remove("[[policy]]\nname = \"a\"", kPolicy, "a")), "");
}

TEST(Edit, KeepsWindowsNewlines) {
  std::string text;
  for (const char c : std::string(kFile)) c == '\n' ? text.append("\r\n") : text.append(1, c);
  for (const std::string& out :
       {edited(add(text, kPolicy, kNew)), edited(replace(text, kPolicy, "web", kNew)),
        edited(remove(text, kPolicy, "web"))}) {
    for (std::size_t at = out.find('\n'); at != std::string::npos; at = out.find('\n', at + 1)) {
      ASSERT_EQ(out[at - 1], '\r') << at;
    }
    EXPECT_EQ(out.find("\r\r"), std::string::npos);
  }
  EXPECT_EQ(edited(remove(edited(add(text, kPolicy, kNew)), kPolicy, "new")), text);
}

TEST(Edit, TablesWithHeadersInsideBelongTogether) {
  const std::string text =
      "[[policy]]\n"
      "name = \"a\"\n"
      "# of a\n"
      "[policy.sample]\n"
      "one_in = 10\n"
      "\n"
      "  [[policy.match]]\n"
      "  proto = \"tcp\"\n"
      "[[policy]]\n"
      "name = \"b\"\n"
      "[policy.sample]\n"
      "one_in = 3\n";
  EXPECT_EQ(edited(remove(text, kPolicy, "a")),
            "[[policy]]\nname = \"b\"\n[policy.sample]\none_in = 3\n");
  EXPECT_EQ(edited(replace(text, kPolicy, "a", json(R"({"name":"a"})"))),
            "[[policy]]\nname = \"a\"\n[[policy]]\nname = \"b\"\n[policy.sample]\none_in = 3\n");
  EXPECT_EQ(edited(add(text, kPolicy, json(R"({"name":"c"})"))),
            text + "\n[[policy]]\nname = \"c\"\n");
}

TEST(Edit, AHeaderInsideMayStandFarFromItsTable) {
  const std::string text =
      "[[policy]]\nname = \"a\"\n[[tap]]\nname = \"t\"\n[policy.sample]\none_in = 3\n[broker]\n";
  EXPECT_EQ(edited(remove(text, kPolicy, "a")), "[[tap]]\nname = \"t\"\n[broker]\n");
  EXPECT_EQ(edited(replace(text, kPolicy, "a", json(R"({"name":"a"})"))),
            "[[policy]]\nname = \"a\"\n[[tap]]\nname = \"t\"\n[broker]\n");
  EXPECT_EQ(edited(add(text, kPolicy, json(R"({"name":"b"})"))),
            "[[policy]]\nname = \"a\"\n[[tap]]\nname = \"t\"\n[policy.sample]\none_in = 3\n"
            "\n[[policy]]\nname = \"b\"\n[broker]\n");
}

TEST(Edit, NamesAndKeysThatNeedQuotes) {
  const std::string text =
      "[[ \"pol\\u0069cy\" ]] # [[policy]]\n\"na\\u006de\" = 'a # \"b\"'\n\"x.y\" = \"]]\"\n";
  EXPECT_EQ(edited(remove(text, kPolicy, "a # \"b\"")), "");
  const std::string added = edited(add(text, kPolicy, json(R"({"name":"ü \"q\"\n","k.é":1})")));
  EXPECT_EQ(added, text + "\n[[policy]]\nname = \"ü \\\"q\\\"\\n\"\n\"k.é\" = 1\n");
  EXPECT_EQ(edited(remove(added, kPolicy, "ü \"q\"\n")), text);
}

TEST(Edit, IsNotMisledByTextsThatLookLikeTables) {
  const std::string text =
      "note = \"\"\"\n[[policy]]\nname = \"a\"\n\\\"\"\"\"\"\"\nmore = '''\n[[policy]]'''''\n"
      "list = [ # [[policy]]\n  [\"[[policy]]\"],\n]\n"
      "[[policy]]\nname = \"a\"\nfilter = '''x\n[[tap]]\n'''\n# z\n";
  const std::string out = edited(remove(text, kPolicy, "a"));
  EXPECT_EQ(out, text.substr(0, text.rfind("[[policy]]")) + "# z\n");
}

TEST(Edit, AByteOrderMarkStays) {
  const std::string text = "\xef\xbb\xbf[[policy]]\nname = \"a\"\n";
  EXPECT_EQ(edited(remove(text, kPolicy, "a")), "\xef\xbb\xbf");
  EXPECT_EQ(edited(replace(text, kPolicy, "a", json(R"({"name":"a","slice":64})"))),
            text + "slice = 64\n");
}

TEST(Edit, CommentedKeysBelowATableStayWithIt) {
  const std::string text = "[[policy]]\nname = \"a\"\n# slice = 3\n\n[[tap]]\nname = \"t\"\n";
  EXPECT_EQ(edited(add(text, kPolicy, json(R"({"name":"b"})"))),
            "[[policy]]\nname = \"a\"\n# slice = 3\n\n[[policy]]\nname = \"b\"\n"
            "\n[[tap]]\nname = \"t\"\n");
}

// ---- policy = [{ ... }]

TEST(EditInline, AddsAsTheLastOneIsSpaced) {
  EXPECT_EQ(edited(add("policy = [{ name = \"a\" }] # p\n", kPolicy, json(R"({"name":"b"})"))),
            "policy = [{ name = \"a\" }, { name = \"b\" }] # p\n");
  EXPECT_EQ(edited(add("policy = [\n  { name = \"a\" },\n  { name = \"b\" }, # b\n]\n", kPolicy,
                       json(R"({"name":"c"})"))),
            "policy = [\n  { name = \"a\" },\n  { name = \"b\" },\n  { name = \"c\" }, # b\n]\n");
  EXPECT_EQ(
      edited(add("policy = [\n\t{ name = \"a\" } # a\n]\n", kPolicy, json(R"({"name":"c"})"))),
      "policy = [\n\t{ name = \"a\" },\n\t{ name = \"c\" } # a\n]\n");
  EXPECT_EQ(edited(add("policy = [ ]\n", kPolicy, json(R"({"name":"c"})"))),
            "policy = [{ name = \"c\" } ]\n");
}

TEST(EditInline, RemovesAndReplaces) {
  const std::string text =
      "policy = [{ name = \"a\" }, { name = \"b\", x = [1, '}'] } , { name = \"c\" }]\n";
  EXPECT_EQ(edited(remove(text, kPolicy, "a")),
            "policy = [{ name = \"b\", x = [1, '}'] } , { name = \"c\" }]\n");
  EXPECT_EQ(edited(remove(text, kPolicy, "c")),
            "policy = [{ name = \"a\" }, { name = \"b\", x = [1, '}'] }  ]\n");
  EXPECT_EQ(edited(replace(text, kPolicy, "b", json(R"({"name":"b","y":1})"))),
            "policy = [{ name = \"a\" }, { name = \"b\", y = 1 } , { name = \"c\" }]\n");
  EXPECT_EQ(
      edited(remove("policy = [\n  { name = \"a\" }, # a\n  { name = \"b\" },\n]\n", kPolicy, "b")),
      "policy = [\n  { name = \"a\" }, # a\n]\n");
}

TEST(EditInline, TheLastOneTakesItsListAlong) {
  EXPECT_EQ(edited(remove("x = 1\npolicy = [\n  { name = \"a\" }\n] # p\ny = 2\n", kPolicy, "a")),
            "x = 1\ny = 2\n");
}

TEST(Edit, SaysWhatCannotBeEdited) {
  for (const char* const text :
       {"policy = 3\n", "[policy]\nname = \"a\"\n", "policy.name = \"a\"\n", "a = = 1"}) {
    const auto out = add(text, kPolicy, kNew);
    ASSERT_FALSE(out.ok()) << text;
    EXPECT_EQ(out.error().kind, ErrorKind::usage);
  }
}

// ---- texts and edits by chance

class Chance {
 public:
  explicit Chance(std::uint32_t seed) : engine_(seed) {}
  std::size_t below(std::size_t count) { return engine_() % count; }
  bool often() { return below(3) != 0; }
  template <typename List>
  std::string of(const List& list) {
    return list[below(std::size(list))];
  }

 private:
  std::mt19937 engine_;
};

constexpr const char* kNames[] = {"a",   "b.c",  "d-e",        "_", "ü",
                                  "x y", "q\"q", "[[policy]]", "#", ""};
constexpr const char* kSections[] = {"tap", "monitor", "policy"};

Json random_value(Chance& chance, int depth) {
  switch (chance.below(depth > 2 ? 5 : 7)) {
    case 0:
      return chance.of(kNames) + (chance.often() ? "" : "\n'''\"\"\"\\ # ] }");
    case 1:
      return static_cast<std::int64_t>(chance.below(1000)) - 500;
    case 2:
      return static_cast<double>(chance.below(1000)) / 7;
    case 3:
      return chance.often();
    case 4:
      return "plain";
    case 5: {
      Json list = Json::array();
      for (auto n = chance.below(4); n > 0; --n) list.push_back(random_value(chance, depth + 1));
      return list;
    }
    default: {
      Json table = Json::object();
      for (auto n = chance.below(4); n > 0; --n) {
        table[chance.of(kNames)] = random_value(chance, depth + 1);
      }
      return table;
    }
  }
}

Json random_item(Chance& chance, const std::string& name) {
  Json item = {{"name", name}};
  for (auto n = chance.below(4); n > 0; --n) {
    const std::string key = chance.of(kNames);
    if (key != "name") item[key] = random_value(chance, 0);
  }
  return item;
}

std::string random_comments(Chance& chance) {
  std::string out;
  for (auto n = chance.below(3); n > 0; --n) {
    static constexpr const char* kLines[] = {"\n", "# [[policy]] \"'''\n", "\t \n", "  # é = [\n"};
    out += chance.of(kLines);
  }
  return out;
}

/// Tables of all sections in any order, with sub-tables, comments and spacing.
std::string random_text(Chance& chance) {
  std::string text = random_comments(chance);
  const bool list = chance.below(4) == 0;
  if (list) {
    text += "policy = [" + random_comments(chance);
    for (std::size_t i = 0; i < 3; ++i) {
      text += "{ name = 'p" + std::to_string(i) + "', x = [{}] }" + random_comments(chance);
      if (i < 2 || chance.often()) text += "," + random_comments(chance);
    }
    text += "] # end\n";
  }
  for (std::size_t i = 0, count = chance.below(6); i < count; ++i) {
    const std::string section = chance.of(kSections);
    if (list && section == "policy") continue;
    const std::string indent = chance.often() ? "" : "  ";
    text += random_comments(chance) + indent + "[[" + section + "]]\n";
    text += indent + "name = 'n" + std::to_string(i) + "' # n\n" + random_comments(chance);
    if (chance.often()) text += to_toml_lines({{"v", random_value(chance, 0)}}, indent).value();
    if (chance.often()) continue;
    text += random_comments(chance) + "[" + section + ".sub]\nk = 1\n" + random_comments(chance);
  }
  text += random_comments(chance);
  if (chance.below(4) == 0) {
    std::string windows;
    for (const char c : text) c == '\n' ? windows.append("\r\n") : windows.append(1, c);
    text = windows;
  }
  return text;
}

/// The lines that are comments, for comparing what edits left.
std::vector<std::string> comments_outside(const std::string& text) {
  std::vector<std::string> found;
  std::size_t at = 0;
  const auto statements = statements_of(text);
  EXPECT_TRUE(statements.has_value());
  const auto look = [&](std::size_t end) {
    std::istringstream lines(text.substr(at, end - at));
    for (std::string line; std::getline(lines, line);) {
      if (line.find('#') != std::string::npos) found.push_back(line);
    }
  };
  for (const Statement& statement : *statements) {
    look(statement.lines.begin);
    at = statement.lines.end;
  }
  look(text.size());
  return found;
}

TEST(EditByChance, HoldsWhatWasMeantAndNothingElseChanges) {
  for (std::uint32_t seed = 0; seed < 3000; ++seed) {
    Chance chance(seed);
    std::string text = random_text(chance);
    Json expected = config_of(text);
    for (int step = 0; step < 4; ++step) {
      const auto section = static_cast<Section>(chance.below(3));
      const std::string key(name_of(section));
      const Json list = expected.contains(key) ? expected[key] : Json::array();
      const auto index = list.empty() ? 0 : chance.below(list.size());
      const std::string name = list.empty() ? "" : list[index]["name"].get<std::string>();
      const std::string fresh = "new" + std::to_string(step);
      Result<std::string> out = std::string();
      switch (chance.below(3)) {
        case 0: {
          const Json item = random_item(chance, fresh);
          out = add(text, section, item);
          expected[key].push_back(item);
          ASSERT_TRUE(out.ok()) << out.error().message << "\nseed " << seed << "\n" << text;
          EXPECT_EQ(comments_outside(*out), comments_outside(text)) << text << "\n--->\n" << *out;
          // Taken back, it is as if it had never been (spacing inside an odd inline list aside).
          const auto back = remove(*out, section, fresh);
          ASSERT_TRUE(back.ok()) << back.error().message << "\nseed " << seed << "\n" << *out;
          if (text.ends_with('\n') && text.find("policy = [") == std::string::npos) {
            EXPECT_EQ(back.value(), text) << seed;
          }
          break;
        }
        case 1: {
          if (list.empty()) continue;
          const Json item = random_item(chance, name);
          out = replace(text, section, name, item);
          expected[key][index] = item;
          break;
        }
        default:
          if (list.empty()) continue;
          out = remove(text, section, name);
          expected[key].erase(index);
          if (expected[key].empty()) expected.erase(key);
      }
      ASSERT_TRUE(out.ok()) << out.error().message << "\nseed " << seed << "\n" << text;
      const Json found = config_of(*out);
      // The order of sections may differ: a first table goes to the end.
      ASSERT_EQ(nlohmann::json(found), nlohmann::json(expected)) << "seed " << seed << "\n"
                                                                 << text << "\n--->\n"
                                                                 << *out;
      text = *out;
      expected = found;
    }
  }
}

}  // namespace
}  // namespace vtap::config
