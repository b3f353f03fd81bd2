// SPDX-License-Identifier: Apache-2.0
#include "config/config.hpp"

#include <gtest/gtest.h>
#include <vtap/abi.h>

#include <cstdio>
#include <fstream>
#include <ostream>
#include <string>
#include <vector>

namespace vtap::config {
namespace {

// Parts of a good file. A case puts the part under test first, so that its lines count from 1.
constexpr const char* kTap =
    "[[tap]]\nname = \"wan\"\nmode = \"inline\"\nports = [\"e1\", \"e2\"]\n";
constexpr const char* kMonitor = "[[monitor]]\nname = \"ids\"\nport = \"e3\"\n";
constexpr const char* kPolicy = "[[policy]]\nname = \"all\"\nmonitors = [\"ids\"]\n";

/// Key with more parts than toml++'s stack has room for, and the end of an inline table.
std::string deep_key() {
  std::string key = "b";
  for (int parts = 1; parts < 200'000; ++parts) key += ".b";
  return key + " = 1 }";
}

std::string join(std::initializer_list<std::string> parts) {
  std::string text;
  for (const auto& part : parts) {
    text += part;
  }
  return text;
}

// Each puts its lines from line 2 on.
std::string broker(const std::string& lines) {
  return join({"[broker]\n", lines, "\n", kTap, kMonitor, kPolicy});
}
std::string tap(const std::string& lines) {
  return join({"[[tap]]\n", lines, "\n", kMonitor, kPolicy});
}
std::string monitor(const std::string& lines) {
  return join(
      {"[[monitor]]\n", lines, "\n", kTap, "[[policy]]\nname = \"all\"\nmonitors = [\"m\"]\n"});
}
std::string policy(const std::string& lines) {
  return join({"[[policy]]\n", lines, "\n", kTap, kMonitor});
}
/// Lines behind the two that every policy has: from line 2, name and monitors stand behind them.
std::string rule(const std::string& lines) {
  return policy(lines + "\nname = \"p\"\nmonitors = [\"ids\"]");
}
/// A meter that thins what exceeds its rate, so that it may have a peak rate.
std::string thinned(const std::string& keys) {
  return rule("meter = { " + keys + ", exceed = { one_in = 2 } }");
}
std::string match(const std::string& keys) { return rule("match = [{ " + keys + " }]"); }
constexpr std::uint32_t kMatchColumn = 12;  // of the first character of `keys`

std::string all(const Parsed& parsed) {
  std::string text;
  for (const auto& error : parsed.errors) {
    text += format(error, "t.toml") + "\n";
  }
  return text;
}

/// The config of a text that must be good.
Config good(const std::string& text) {
  auto parsed = parse(text, "t.toml");
  EXPECT_TRUE(parsed.config.has_value()) << all(parsed) << "---\n" << text;
  EXPECT_TRUE(parsed.errors.empty());
  return parsed.config.value_or(Config{});
}

struct Refusal {
  const char* name;
  std::string text;
  std::uint32_t line;
  std::uint32_t column;
  const char* message;  ///< part of it
};

void PrintTo(const Refusal& refusal, std::ostream* out) { *out << refusal.text; }

class Refused : public testing::TestWithParam<Refusal> {};

/// Exactly one error, at its place: no cascade either.
TEST_P(Refused, OneErrorAtItsPlace) {
  const auto& expected = GetParam();
  const auto parsed = parse(expected.text, "t.toml");
  EXPECT_FALSE(parsed.config.has_value());
  ASSERT_EQ(parsed.errors.size(), 1U) << all(parsed);
  const auto& error = parsed.errors.front();
  EXPECT_EQ(error.at.line, expected.line) << error.message;
  EXPECT_EQ(error.at.column, expected.column) << error.message;
  EXPECT_NE(error.message.find(expected.message), std::string::npos) << error.message;
}

std::string name_of(const testing::TestParamInfo<Refusal>& info) { return info.param.name; }

std::string many_ports(int count) {
  std::string list;
  for (int i = 0; i < count; ++i) {
    list += "\"p" + std::to_string(i) + "\", ";
  }
  return "name = \"t\"\nmode = \"span\"\nports = [" + list + "]";
}

std::string many_monitors(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    const auto number = std::to_string(i);
    text += "[[monitor]]\nname = \"m" + number + "\"\nport = \"p" + number + "\"\n";
  }
  return text;
}

INSTANTIATE_TEST_SUITE_P(
    File, Refused,
    testing::Values(
        Refusal{"Syntax", "[broker]\nname = = 1\n", 2, 8, ""},
        Refusal{"NotUtf8", "# \xff\n", 1, 2, "utf-8"},
        Refusal{"HugeNumber", broker("workers = 99999999999999999999"), 2, 31, "64 bits"},
        Refusal{"KeyTwice", "[broker]\nname = \"a\"\nname = \"b\"\n", 3, 8, "redefine"},
        Refusal{"DeepKey", "x = 1\n" + std::string(100'000, '.'), 2, 1, "parts"},
        Refusal{"DeepKeyBehindEscape", R"(x = { a = "\"", )" + deep_key(), 1, 1, "parts"},
        Refusal{"DeepKeyBehindLines", "x = { a = \"\"\"\n\"\"\", " + deep_key(), 2, 1, "parts"},
        Refusal{"DeepKeyBehindNoComment", "x = { a = '''\n#''', " + deep_key(), 2, 1, "parts"},
        Refusal{"DeepKeyBehindFourQuotes", R"(x = { a = """a"""", )" + deep_key(), 1, 1, "parts"},
        Refusal{"UnknownTable", "[borker]\n" + broker(""), 1, 2, "did you mean \"broker\"?"},
        Refusal{"UnknownRootKey", "zzzzzz = 1\n" + broker(""), 1, 1,
                "known are broker, tap, monitor, policy"},
        Refusal{"NoTap", join({kMonitor, kPolicy}), 1, 1, "no \"tap\"; write a [[tap]] table"},
        Refusal{"NoMonitor", join({kTap}), 1, 1, "no \"monitor\"; write a [[monitor]] table"},
        Refusal{"TapIsTable", join({"[tap]\nname = \"wan\"\n", kMonitor}), 1, 1, "[[tap]]"},
        Refusal{"TapIsNumber", join({"tap = 1\n", kMonitor}), 1, 7, "found an integer"},
        Refusal{"TapIsEmptyList", join({"tap = []\n", kMonitor}), 1, 7, "empty"},
        Refusal{"TapIsListOfNumbers", join({"tap = [1]\n", kMonitor}), 1, 8, "expected a table"},
        Refusal{"BrokerIsList", join({"[[broker]]\n", kTap, kMonitor}), 1, 1, "[broker]"}),
    name_of);

INSTANTIATE_TEST_SUITE_P(
    Broker, Refused,
    testing::Values(
        Refusal{"UnknownKey", broker("nmae = \"x\""), 2, 1, "did you mean \"name\"?"},
        Refusal{"NameType", broker("name = 1"), 2, 8, "expected a string, found an integer"},
        Refusal{"NameEmpty", broker("name = \"\""), 2, 8, "1 to 63"},
        Refusal{"NameSpace", broker("name = \"a b\""), 2, 8, "\"a b\""},
        Refusal{"NameLong", broker("name = \"" + std::string(64, 'a') + "\""), 2, 8, "1 to 63"},
        Refusal{"WorkersZero", broker("workers = 0"), 2, 11, "1 to 64"},
        Refusal{"WorkersMany", broker("workers = 65"), 2, 11, "1 to 64"},
        Refusal{"WorkersNegative", broker("workers = -1"), 2, 11, "-1 is out of range"},
        Refusal{"WorkersWord", broker("workers = \"all\""), 2, 11, "auto"},
        Refusal{"WorkersType", broker("workers = 1.5"), 2, 11, "\"auto\", a number, or a list"},
        Refusal{"CpusEmpty", broker("workers = []"), 2, 11, "empty"},
        Refusal{"CpusTwice", broker("workers = [2, 3, 2]"), 2, 18, "CPU 2 is listed twice"},
        Refusal{"CpusType", broker("workers = [\"2\"]"), 2, 12, "a CPU number"},
        Refusal{"CpusRange", broker("workers = [1024]"), 2, 12, "0 to 1023"},
        Refusal{"CpusNested", broker("workers = [[1]]"), 2, 12, "found a list"},
        Refusal{"UmemType", broker("umem = 5"), 2, 8, "a table"},
        Refusal{"UmemKey", broker("umem = { frame = 1 }"), 2, 10, "did you mean \"frames\"?"},
        Refusal{"FramesFew", broker("umem = { frames = 1023 }"), 2, 19, "1024 to 4194304"},
        Refusal{"FramesMany", broker("umem.frames = 4194368"), 2, 15, "1024 to 4194304"},
        Refusal{"FramesStep", broker("umem.frames = 1100"), 2, 15, "write 1088"},
        Refusal{"FrameSize", broker("umem.frame_size = 1024"), 2, 19, "2048 or 4096"},
        Refusal{"Poll", broker("poll = \"bussy\""), 2, 8, "did you mean \"busy\"?"},
        Refusal{"PollType", broker("poll = true"), 2, 8, "one of adaptive, busy, interrupt"},
        Refusal{"ControlRelative", broker("control = \"x.sock\""), 2, 11, "starts with '/'"},
        Refusal{"ControlEmpty", broker("control = \"\""), 2, 11, "starts with '/'"},
        Refusal{"ControlNul", broker("control = \"/a\\u0000b\""), 2, 11, "no path"},
        Refusal{"ControlLong", broker("control = \"/" + std::string(107, 'a') + "\""), 2, 11,
                "107"},
        Refusal{"ApiType", broker("api = 9470"), 2, 7, "expected a string"},
        Refusal{"ApiNoPort", broker("api = \"127.0.0.1\""), 2, 7, "no address with a port"},
        Refusal{"ApiPort0", broker("api = \"127.0.0.1:0\""), 2, 7, "1 to 65535"},
        Refusal{"ApiPortHigh", broker("api = \"127.0.0.1:65536\""), 2, 7, "1 to 65535"},
        Refusal{"ApiName", broker("api = \"localhost:9470\""), 2, 7, "no address with a port"},
        Refusal{"ApiV6NoBrackets", broker("api = \"::1:9470\""), 2, 7, "[::1]:9470"},
        Refusal{"ApiNul", broker("api = \"127.0.0.1\\u0000x:9470\""), 2, 7, "no address"},
        Refusal{"ApiWithoutToken", broker("api = \"127.0.0.1:9470\""), 2, 7,
                "write api_token_file"},
        Refusal{"ApiTokenFileRelative",
                broker("api = \"127.0.0.1:9470\"\napi_token_file = \"token\""), 3, 18,
                "starts with '/'"},
        Refusal{"ApiTokenFileAlone", broker("api_token_file = \"/t\""), 2, 18, "belongs to api"},
        Refusal{"ApiCertAlone", broker("api_cert = \"/c\""), 2, 12, "belongs to api"},
        Refusal{"ApiKeyAlone", broker("api_key = \"/k\""), 2, 11, "belongs to api"},
        Refusal{"ApiCertWithoutKey",
                broker("api = \"127.0.0.1:1\"\napi_token_file = \"/t\"\napi_cert = \"/c\""), 4, 12,
                "an api_key"},
        Refusal{"ApiKeyWithoutCert",
                broker("api = \"127.0.0.1:1\"\napi_token_file = \"/t\"\napi_key = \"/k\""), 4, 11,
                "an api_cert"},
        Refusal{"ApiFarWithoutTls", broker("api = \"192.0.2.1:9470\"\napi_token_file = \"/t\""), 2,
                7, "so TLS is needed"},
        Refusal{"ApiAnyWithoutTls", broker("api = \"0.0.0.0:9470\"\napi_token_file = \"/t\""), 2, 7,
                "so TLS is needed"},
        Refusal{"ApiAny6WithoutTls", broker("api = \"[::]:9470\"\napi_token_file = \"/t\""), 2, 7,
                "so TLS is needed"},
        Refusal{"MetricsNoPort", broker("metrics = \"127.0.0.1\""), 2, 11,
                "no address with a port"},
        Refusal{"MetricsName", broker("metrics = \"localhost:9471\""), 2, 11,
                "no address with a port"},
        Refusal{"MetricsNoHost", broker("metrics = \":9471\""), 2, 11, "no address with a port"},
        Refusal{"MetricsPortZero", broker("metrics = \"127.0.0.1:0\""), 2, 11, "1 to 65535"},
        Refusal{"MetricsPortBig", broker("metrics = \"127.0.0.1:65536\""), 2, 11, "1 to 65535"},
        Refusal{"MetricsPortSign", broker("metrics = \"127.0.0.1:+1\""), 2, 11, "1 to 65535"},
        Refusal{"MetricsBare6", broker("metrics = \"::1:9471\""), 2, 11, "[::1]:9470"},
        Refusal{"MetricsBrackets4", broker("metrics = \"[127.0.0.1]:1\""), 2, 11,
                "no address with a port"},
        Refusal{"MetricsHalf", broker("metrics = \"[::1:9471\""), 2, 11, "no address with a port"},
        Refusal{"MetricsType", broker("metrics = 9471"), 2, 11, "expected a string"},
        Refusal{"LogType", broker("log = \"info\""), 2, 7, "a table"},
        Refusal{"LogLevel", broker("log = { level = \"verbose\" }"), 2, 17, "trace, debug, info"},
        Refusal{"LogFormat", broker("log = { format = \"xml\" }"), 2, 18, "text, json"},
        Refusal{"LogKey", broker("log = { file = \"x\" }"), 2, 9, "known are level, format"}),
    name_of);

INSTANTIATE_TEST_SUITE_P(
    Tap, Refused,
    testing::Values(
        Refusal{"UnknownKey", tap("name = \"t\"\nmode = \"span\"\nports = [\"a\"]\nhok = \"tc\""),
                5, 1, "unknown key \"hok\" in [[tap]]; did you mean \"hook\"?"},
        Refusal{"NoName", tap("mode = \"span\"\nports = [\"a\"]"), 1, 1, "no \"name\""},
        Refusal{"NoMode", tap("name = \"t\"\nports = [\"a\"]"), 1, 1, "no \"mode\""},
        Refusal{"NoPorts", tap("name = \"t\"\nmode = \"span\""), 1, 1, "no \"ports\""},
        Refusal{"Name", tap("name = \"t/1\"\nmode = \"span\"\nports = [\"a\"]"), 2, 8, "1 to 63"},
        Refusal{
            "NameTwice",
            join({kTap, "[[tap]]\nname = \"wan\"\nmode = \"span\"\nports = [\"x\"]\n", kMonitor}),
            6, 8, "already, in line 1"},
        Refusal{"Mode", tap("name = \"t\"\nmode = \"inlin\"\nports = [\"a\"]"), 3, 8,
                "did you mean \"inline\"?"},
        Refusal{"PortsType", tap("name = \"t\"\nmode = \"span\"\nports = \"a\""), 4, 9,
                "interface names like"},
        Refusal{"PortsEmpty", tap("name = \"t\"\nmode = \"inline\"\nports = []"), 4, 9, "empty"},
        Refusal{"PortsElement", tap("name = \"t\"\nmode = \"span\"\nports = [\"a\", 1]"), 4, 15,
                "the name of an interface"},
        Refusal{"PortLong", tap("name = \"t\"\nmode = \"span\"\nports = [\"abcdefghijklmnop\"]"), 4,
                10, "1 to 15 characters"},
        Refusal{"PortSlash", tap("name = \"t\"\nmode = \"span\"\nports = [\"a/b\"]"), 4, 10, "a/b"},
        Refusal{"PortSpace", tap("name = \"t\"\nmode = \"span\"\nports = [\"a b\"]"), 4, 10, "a b"},
        Refusal{"PortDots", tap("name = \"t\"\nmode = \"span\"\nports = [\"..\"]"), 4, 10, ".."},
        Refusal{"InlineOnePort", tap("name = \"t\"\nmode = \"inline\"\nports = [\"a\"]"), 4, 9,
                "exactly 2 ports, found 1"},
        Refusal{"InlineThreePorts",
                tap("name = \"t\"\nmode = \"inline\"\nports = [\"a\", \"b\", \"c\"]"), 4, 9,
                "exactly 2 ports, found 3"},
        Refusal{"InlineSamePort", tap("name = \"t\"\nmode = \"inline\"\nports = [\"a\", \"a\"]"), 4,
                15, "\"a\" is also used by tap \"t\" in line 4"},
        Refusal{
            "PortInTwoTaps",
            join({kTap, "[[tap]]\nname = \"t\"\nmode = \"span\"\nports = [\"e2\"]\n", kMonitor}), 8,
            10, "by tap \"wan\" in line 4"},
        Refusal{"PortIsMonitorToo", join({kTap, "[[monitor]]\nname = \"ids\"\nport = \"e1\"\n"}), 7,
                8, "by tap \"wan\" in line 4"},
        Refusal{"TooManyPorts", tap(many_ports(VTAP_MAX_PORTS + 1)), 1, 1, "VTAP_MAX_PORTS"},
        Refusal{"CloneAtXdp",
                tap("name = \"t\"\nmode = \"span\"\nports = [\"a\"]\ncapture = \"clone\"\n"
                    "hook = \"xdp\""),
                6, 8, "\"xdp\" cannot clone"},
        Refusal{"Capture", tap("name = \"t\"\nmode = \"span\"\nports = [\"a\"]\ncapture = \"te\""),
                5, 11, "did you mean \"tee\"?"},
        Refusal{"Hook", tap("name = \"t\"\nmode = \"span\"\nports = [\"a\"]\nhook = \"nft\""), 5, 8,
                "auto, xdp, tc"},
        Refusal{
            "RedirectAtTc",
            tap("name = \"t\"\nmode = \"inline\"\nports = [\"a\", \"b\"]\ncapture = \"redirect\"\n"
                "hook = \"tc\""),
            6, 8, "cannot redirect into AF_XDP"},
        Refusal{"SpanRedirectAtTc",
                tap("name = \"t\"\nmode = \"span\"\nports = [\"a\"]\ncapture = \"redirect\"\n"
                    "hook = \"tc\""),
                6, 8, "cannot redirect into AF_XDP"},
        Refusal{"HostRedirect",
                tap("name = \"t\"\nmode = \"host\"\nports = [\"a\"]\ndirection = \"ingress\"\n"
                    "capture = \"redirect\""),
                6, 11, "cannot both redirect a frame and pass it"},
        Refusal{"HostEgressAtXdp",
                tap("name = \"t\"\nmode = \"host\"\nports = [\"a\"]\ndirection = \"egress\"\n"
                    "hook = \"xdp\""),
                6, 8, "sees only what arrives"},
        Refusal{"Direction",
                tap("name = \"t\"\nmode = \"host\"\nports = [\"a\"]\ndirection = \"in\""), 5, 13,
                "ingress, egress, both"},
        Refusal{
            "InlineDirection",
            tap("name = \"t\"\nmode = \"inline\"\nports = [\"a\", \"b\"]\ndirection = \"egress\""),
            5, 13, "only a host tap"},
        Refusal{"HostUnmatched",
                tap("name = \"t\"\nmode = \"host\"\nports = [\"a\"]\ndirection = \"ingress\"\n"
                    "unmatched = \"drop\""),
                6, 13, "only a span tap"},
        Refusal{"Unmatched",
                tap("name = \"t\"\nmode = \"span\"\nports = [\"a\"]\nunmatched = \"keep\""), 5, 13,
                "pass, drop"},
        Refusal{"AllowManagement",
                tap("name = \"t\"\nmode = \"span\"\nports = [\"a\"]\nallow_management = 1"), 5, 20,
                "true or false"}),
    name_of);

INSTANTIATE_TEST_SUITE_P(
    Monitor, Refused,
    testing::Values(
        Refusal{"UnknownKey", monitor("name = \"m\"\nport = \"x\"\nports = 1"), 4, 1,
                "did you mean \"port\"?"},
        Refusal{"NoName", join({"[[monitor]]\nport = \"x\"\n", kTap}), 1, 1, "no \"name\""},
        Refusal{"NoPort", monitor("name = \"m\""), 1, 1, "no \"port\""},
        Refusal{"PortType", monitor("name = \"m\"\nport = [\"x\"]"), 3, 8, "found a list"},
        Refusal{"RateType", monitor("name = \"m\"\nport = \"x\"\nrate = 1000"), 4, 8,
                "a rate like \"1Gbit/s\" or \"50kpps\""},
        Refusal{"RateUnit", monitor("name = \"m\"\nport = \"x\"\nrate = \"1Gbps\""), 4, 8,
                "unknown unit \"Gbps\""},
        Refusal{"RateZero", monitor("name = \"m\"\nport = \"x\"\nrate = \"0pps\""), 4, 8,
                "write a rate above zero"},
        Refusal{"RateLarge", monitor("name = \"m\"\nport = \"x\"\nrate = \"10001Mpps\""), 4, 8,
                "10000Mpps"},
        Refusal{"QueueZero", monitor("name = \"m\"\nport = \"x\"\nqueue = 0"), 4, 9, "1 to 32768"},
        Refusal{"QueueLarge", monitor("name = \"m\"\nport = \"x\"\nqueue = 32769"), 4, 9,
                "1 to 32768"},
        Refusal{"QueueType", monitor("name = \"m\"\nport = \"x\"\nqueue = \"4k\""), 4, 9,
                "an integer"},
        Refusal{"NameTwice", join({kMonitor, "[[monitor]]\nname = \"ids\"\nport = \"x\"\n", kTap}),
                5, 8, "already, in line 1"},
        Refusal{"PortTwice", join({kMonitor, "[[monitor]]\nname = \"m\"\nport = \"e3\"\n", kTap}),
                6, 8, "by monitor \"ids\" in line 3"},
        Refusal{"QueuesTogether",
                join({"[[monitor]]\nname = \"a\"\nport = \"x\"\nqueue = 30000\n",
                      "[[monitor]]\nname = \"b\"\nport = \"y\"\nqueue = 3000\n", kTap}),
                5, 1, "33000 frames, umem has 32768"},
        Refusal{"TooMany", join({many_monitors(VTAP_MAX_MONITORS + 1), kTap}),
                3 * VTAP_MAX_MONITORS + 1, 1, "VTAP_MAX_MONITORS"}),
    name_of);

INSTANTIATE_TEST_SUITE_P(
    Policy, Refused,
    testing::Values(
        Refusal{"UnknownKey", policy("name = \"p\"\nmoniters = [\"ids\"]\nmonitors = [\"ids\"]"), 3,
                1, "did you mean \"monitors\"?"},
        Refusal{"NoName", policy("monitors = [\"ids\"]"), 1, 1, "no \"name\""},
        Refusal{"NoMonitors", policy("name = \"p\""), 1, 1, "no \"monitors\""},
        Refusal{"MonitorsEmpty", policy("name = \"p\"\nmonitors = []"), 3, 12, "empty"},
        Refusal{"MonitorsType", policy("name = \"p\"\nmonitors = \"ids\""), 3, 12,
                "a list of monitor names"},
        Refusal{"MonitorUnknown", policy("name = \"p\"\nmonitors = [\"idz\"]"), 3, 13,
                "no monitor \"idz\"; did you mean \"ids\"?"},
        Refusal{"MonitorTwice", policy("name = \"p\"\nmonitors = [\"ids\", \"ids\"]"), 3, 20,
                "listed twice"},
        Refusal{"TapUnknown", rule("taps = [\"lan7\"]"), 2, 9, "no tap \"lan7\"; there are wan"},
        Refusal{"TapsEmpty", rule("taps = []"), 2, 8, "empty"},
        Refusal{
            "NameTwice",
            join({kTap, kMonitor, kPolicy, "[[policy]]\nname = \"all\"\nmonitors = [\"ids\"]\n"}),
            12, 8, "already, in line 8"},
        Refusal{"Filter", rule("filter = \"tcp prot 80\""), 2, 10, "syntax error"},
        Refusal{"FilterType", rule("filter = [\"tcp\"]"), 2, 10, "a pcap-filter(7) expression"},
        Refusal{"FilterEmpty", rule("filter = \" \""), 2, 10, "leave the key out"},
        Refusal{"FilterOfNothing", rule("filter = \"ip and ip6\""), 2, 10, "rejects all packets"},
        Refusal{"FilterWithANul", rule("filter = \"tcp\\u0000 or udp\""), 2, 10, "this is not a"},
        Refusal{"Offload", rule("offload = \"yes\""), 2, 11, "auto, never, require"},
        Refusal{"Once", rule("once = 1"), 2, 8, "true or false"},
        Refusal{"PriorityHigh", rule("priority = 8"), 2, 12, "0 to 7"},
        Refusal{"PriorityNegative", rule("priority = -1"), 2, 12, "0 to 7"},
        Refusal{"PriorityType", rule("priority = \"high\""), 2, 12, "7 is served first"},
        Refusal{"WeightZero", rule("weight = 0"), 2, 10, "1 to 1000"},
        Refusal{"WeightHigh", rule("weight = 1001"), 2, 10, "1 to 1000"},
        Refusal{"WeightType", rule("weight = 1.5"), 2, 10, "an integer from 1 to 1000"},
        Refusal{"WeightKey", rule("wieght = 2"), 2, 1, "did you mean \"weight\"?"},
        Refusal{"SampleType", rule("sample = 10"), 2, 10, "one_in = 10"},
        Refusal{"SampleBoth", rule("sample = { one_in = 2, flows = 0.5 }"), 2, 10, "exclude"},
        Refusal{"SampleNeither", rule("sample = {}"), 2, 10, "one_in = 10"},
        Refusal{"SampleKey", rule("sample = { one_in = 2, rate = 1 }"), 2, 24, "unknown key"},
        Refusal{"OneInZero", rule("sample = { one_in = 0 }"), 2, 21, "1 to 4294967295"},
        Refusal{"OneInType", rule("sample = { one_in = 1.5 }"), 2, 21, "an integer"},
        Refusal{"FlowsZero", rule("sample = { flows = 0.0 }"), 2, 20, "above 0"},
        Refusal{"FlowsAboveOne", rule("sample = { flows = 1.01 }"), 2, 20, "at most 1"},
        Refusal{"FlowsNan", rule("sample = { flows = nan }"), 2, 20, "above 0"},
        Refusal{"FlowsInt", rule("sample = { flows = 9223372036854775807 }"), 2, 20, "at most 1"},
        Refusal{"FlowsType", rule("sample = { flows = \"half\" }"), 2, 20, "a number"},
        Refusal{"MeterType", rule("meter = \"1Gbit/s\""), 2, 9, "a table"},
        Refusal{"MeterNoRate", rule("meter = { burst = 5 }"), 2, 9, "no \"rate\""},
        Refusal{"MeterKey", rule("meter = { rate = \"1pps\", bursts = 5 }"), 2, 26, "\"burst\"?"},
        Refusal{"RateType", rule("meter = { rate = 1000 }"), 2, 18, "a string"},
        Refusal{"RateZero", rule("meter = { rate = \"0Mbit/s\" }"), 2, 18, "zero"},
        Refusal{"RateUnit", rule("meter = { rate = \"1Gbps\" }"), 2, 18, "unknown unit \"Gbps\""},
        Refusal{"RateCase", rule("meter = { rate = \"1mbit/s\" }"), 2, 18, "Mbit/s"},
        Refusal{"RateNoUnit", rule("meter = { rate = \"1000\" }"), 2, 18, "no unit"},
        Refusal{"RateNoNumber", rule("meter = { rate = \"Mbit/s\" }"), 2, 18, "200Mbit/s"},
        Refusal{"RateNegative", rule("meter = { rate = \"-1pps\" }"), 2, 18, "200Mbit/s"},
        Refusal{"RatePoint", rule("meter = { rate = \"1.kbit/s\" }"), 2, 18, "200Mbit/s"},
        Refusal{"RateTwoPoints", rule("meter = { rate = \"1.2.3kpps\" }"), 2, 18, "200Mbit/s"},
        Refusal{"RateHalfPacket", rule("meter = { rate = \"0.5pps\" }"), 2, 18, "no whole number"},
        Refusal{"RateLarge", rule("meter = { rate = \"10001Gbit/s\" }"), 2, 18, "10000Gbit/s"},
        Refusal{"RateHuge", rule("meter = { rate = \"18446744073709551615Gbit/s\" }"), 2, 18,
                "too large"},
        Refusal{"BurstZero", rule("meter = { rate = \"1Mbit/s\", burst = \"0KiB\" }"), 2, 37, "1B"},
        Refusal{"BurstUnit", rule("meter = { rate = \"1Mbit/s\", burst = \"9kB\" }"), 2, 37, "KiB"},
        Refusal{"BurstType", rule("meter = { rate = \"1Mbit/s\", burst = true }"), 2, 37, "256KiB"},
        Refusal{"BurstBytesOfPackets", rule("meter = { rate = \"1kpps\", burst = \"9KB\" }"), 2, 35,
                "a number of packets"},
        Refusal{"BurstNegative", rule("meter = { rate = \"1kpps\", burst = -1 }"), 2, 35, "range"},
        Refusal{"PeakUnit", thinned("rate = \"1Mbit/s\", peak_rate = \"9kpps\""), 2, 41,
                "write it in bits"},
        Refusal{"PeakUnitPackets", thinned("rate = \"1kpps\", peak_rate = \"9Mbit/s\""), 2, 39,
                "write it in packets"},
        Refusal{"PeakLow", thinned("rate = \"2kpps\", peak_rate = \"1999pps\""), 2, 39,
                "below the rate"},
        Refusal{"PeakType", thinned("rate = \"2kpps\", peak_rate = 3"), 2, 39, "a string"},
        Refusal{"PeakNoExceed", rule("meter = { rate = \"2kpps\", peak_rate = \"3kpps\" }"), 2, 39,
                "write exceed = { slice = 128 }"},
        Refusal{"PeakDrop",
                rule("meter = { rate = \"2kpps\", peak_rate = \"3kpps\", exceed = \"drop\" }"), 2,
                57, "between the rate and the peak rate"},
        Refusal{"PeakBurstAlone", rule("meter = { rate = \"2kpps\", peak_burst = 3 }"), 2, 40,
                "belongs to a peak_rate"},
        Refusal{"PeakBurstUnit",
                thinned("rate = \"2kpps\", peak_rate = \"3kpps\", peak_burst = \"9KB\""), 2, 61,
                "a number of packets"},
        Refusal{"ExceedWord", rule("meter = { rate = \"2kpps\", exceed = \"cut\" }"), 2, 36,
                "\"drop\", { slice = 128 }"},
        Refusal{"ExceedType", rule("meter = { rate = \"2kpps\", exceed = 128 }"), 2, 36,
                "\"drop\", { slice = 128 }"},
        Refusal{"ExceedNothing", rule("meter = { rate = \"2kpps\", exceed = {} }"), 2, 36,
                "write one"},
        Refusal{"ExceedBoth",
                rule("meter = { rate = \"2kpps\", exceed = { slice = 64, one_in = 2 } }"), 2, 36,
                "write one"},
        Refusal{"ExceedKey",
                rule("meter = { rate = \"2kpps\", exceed = { slice = 64, onein = 2 } }"), 2, 50,
                "\"one_in\"?"},
        Refusal{"ExceedSlice", rule("meter = { rate = \"2kpps\", exceed = { slice = 13 } }"), 2, 46,
                "14 to 65535"},
        Refusal{"ExceedOneIn", rule("meter = { rate = \"2kpps\", exceed = { one_in = 0 } }"), 2, 47,
                "1 to 4294967295"},
        Refusal{"PerWord", rule("meter = { rate = \"2kpps\", per = \"source\" }"), 2, 33,
                "src, dst, flow"},
        Refusal{"PerType", rule("meter = { rate = \"2kpps\", per = 1 }"), 2, 33, "src, dst, flow"},
        Refusal{"EntriesAlone", rule("meter = { rate = \"2kpps\", entries = 5 }"), 2, 37,
                "belongs to per"},
        Refusal{"EntriesMany",
                rule("meter = { rate = \"2kpps\", per = \"src\", entries = 16777217 }"), 2, 50,
                "1 to 16777216"},
        Refusal{"HeadZero", rule("head = 0"), 2, 8, "1 to 4294967295"},
        Refusal{"HeadType", rule("head = \"5\""), 2, 8, "an integer"},
        Refusal{"SliceNoAfter", rule("slice = { bytes = 64 }"), 2, 9, "after = 10"},
        Refusal{"SliceNoBytes", rule("slice = { after = 3 }"), 2, 9, "bytes = 128"},
        Refusal{"SliceAfterZero", rule("slice = { bytes = 64, after = 0 }"), 2, 31,
                "1 to 4294967295"},
        Refusal{"SliceBytesShort", rule("slice = { bytes = 13, after = 1 }"), 2, 19, "14 to 65535"},
        Refusal{"SliceKey", rule("slice = { bytes = 64, after = 1, before = 1 }"), 2, 34,
                "unknown key \"before\""},
        Refusal{"FlowEntriesAlone", rule("slice = 64\nflow_entries = 5"), 3, 16, "belongs to head"},
        Refusal{"FlowEntriesZero", rule("head = 1\nflow_entries = 0"), 3, 16, "1 to 16777216"},
        Refusal{"SliceShort", rule("slice = 13"), 2, 9, "14 to 65535"},
        Refusal{"SliceLong", rule("slice = 65536"), 2, 9, "14 to 65535"},
        Refusal{"SliceType", rule("slice = \"64\""), 2, 9, "an integer or {"}),
    name_of);

INSTANTIATE_TEST_SUITE_P(
    Match, Refused,
    testing::Values(
        Refusal{"Type", rule("match = \"tcp\""), 2, 9, "a list of tables"},
        Refusal{"Table", rule("match = { proto = \"tcp\" }"), 2, 9, "a list of tables"},
        Refusal{"EmptyList", rule("match = []"), 2, 9, "empty"},
        Refusal{"EmptyTable", rule("match = [{}]"), 2, 10, "every frame"},
        Refusal{"EmptyExcept", rule("except = [{}]"), 2, 11, "every frame"},
        Refusal{"NotATable", rule("match = [1]"), 2, 10, "a table"},
        Refusal{"UnknownKey", match("dport = 1"), 2, kMatchColumn, "\"dport\" in a table of match"},
        Refusal{"ExceptKey", rule("except = [{ scr = \"::1\" }]"), 2, 13,
                "in a table of except; did you mean \"src\"?"},
        Refusal{"Address", match("src = \"10.0.0\""), 2, kMatchColumn + 6, "no address or prefix"},
        Refusal{"AddressNul", match("src = \"1.1.1.1\\u0000\""), 2, kMatchColumn + 6, "no address"},
        Refusal{"AddressType", match("dst = 10"), 2, kMatchColumn + 6, "an address, a prefix"},
        Refusal{"AddressListEmpty", match("host = []"), 2, kMatchColumn + 7, "empty"},
        Refusal{"AddressNested", match("src = [[\"::1\"]]"), 2, kMatchColumn + 7, "found a list"},
        Refusal{"HostBits", match("src = \"10.0.0.129/25\""), 2, kMatchColumn + 6,
                "write \"10.0.0.128/25\" for the network or \"10.0.0.129\" for the one host"},
        Refusal{"HostBits6", match("src = \"2001:db8::1/32\""), 2, kMatchColumn + 6,
                "\"2001:db8::/32\""},
        Refusal{"PrefixLong", match("src = \"10.0.0.0/33\""), 2, kMatchColumn + 6, "0 to 32 bits"},
        Refusal{"PrefixLong6", match("src = \"::/129\""), 2, kMatchColumn + 6, "0 to 128 bits"},
        Refusal{"PrefixEmpty", match("src = \"10.0.0.0/\""), 2, kMatchColumn + 6, "prefix length"},
        Refusal{"PrefixSign", match("src = \"10.0.0.0/+8\""), 2, kMatchColumn + 6, "prefix length"},
        Refusal{"PortRange", match("port = 65536"), 2, kMatchColumn + 7, "0 to 65535"},
        Refusal{"PortNegative", match("port = -1"), 2, kMatchColumn + 7, "0 to 65535"},
        Refusal{"PortBackwards", match("src_port = \"9-1\""), 2, kMatchColumn + 11,
                "runs backwards; write \"1-9\""},
        Refusal{"PortRangeHigh", match("dst_port = [\"1-65536\"]"), 2, kMatchColumn + 12,
                "0 to 65535"},
        Refusal{"PortQuoted", match("port = \"80\""), 2, kMatchColumn + 7, "without quotes"},
        Refusal{"PortName", match("port = \"http\""), 2, kMatchColumn + 7, "\"a-b\""},
        Refusal{"PortOpenRange", match("port = \"80-\""), 2, kMatchColumn + 7, "\"a-b\""},
        Refusal{"PortType", match("port = 8.5"), 2, kMatchColumn + 7, "a port, \"a-b\" or a list"},
        Refusal{"Proto", match("proto = \"tpc\""), 2, kMatchColumn + 8, "did you mean \"tcp\"?"},
        Refusal{"ProtoRange", match("proto = 256"), 2, kMatchColumn + 8, "0 to 255"},
        Refusal{"Mac", match("mac = \"02:00:00:00:00\""), 2, kMatchColumn + 6, "02:00:5e"},
        Refusal{"MacDigit", match("mac = \"02:00:00:00:00:0g\""), 2, kMatchColumn + 6, "no MAC"},
        Refusal{"MacDashes", match("src_mac = \"02-00-00-00-00-01\""), 2, kMatchColumn + 10,
                "no MAC"},
        Refusal{"Vlan", match("vlan = 4096"), 2, kMatchColumn + 7, "0 to 4095"},
        Refusal{"VlanWord", match("inner_vlan = \"any\""), 2, kMatchColumn + 13, "\"a-b\""},
        Refusal{"VlanType", match("vlan = false"), 2, kMatchColumn + 7, "\"none\""},
        Refusal{"Ethertype", match("ethertype = 0x10000"), 2, kMatchColumn + 12, "0 to 65535"},
        Refusal{"EthertypeName", match("ethertype = \"appletalk\""), 2, kMatchColumn + 12,
                "names are ip, ipv4"},
        Refusal{"TcpFlags", match("tcp_flags = \"sin\""), 2, kMatchColumn + 12, "fin, syn, rst"},
        Refusal{"TcpFlagsEmpty", match("tcp_flags = \"\""), 2, kMatchColumn + 12, "unknown flag"},
        Refusal{"TcpFlagsComma", match("tcp_flags = \"syn,\""), 2, kMatchColumn + 12,
                "unknown flag"},
        Refusal{"TcpFlagsTwice", match("tcp_flags = \"syn,!syn\""), 2, kMatchColumn + 12, "twice"},
        Refusal{"TcpFlagsType", match("tcp_flags = 2"), 2, kMatchColumn + 12, "syn,!ack"},
        Refusal{"Dscp", match("dscp = 64"), 2, kMatchColumn + 7, "0 to 63"},
        Refusal{"Fragment", match("fragment = \"yes\""), 2, kMatchColumn + 11, "true or false"},
        Refusal{"FragmentList", match("fragment = [true]"), 2, kMatchColumn + 11, "found a list"},
        Refusal{"Length", match("length = \"64-65536\""), 2, kMatchColumn + 9, "0 to 65535"}),
    name_of);

TEST(Config, AllErrorsInFileOrder) {
  const auto parsed = parse(
      "[[policy]]\n"
      "name = \"p\"\n"
      "monitors = [\"nobody\"]\n"
      "slice = 1\n"
      "[[monitor]]\n"
      "name = \"ids\"\n"
      "port = \"e1\"\n"
      "[[tap]]\n"
      "mode = \"inline\"\n"
      "ports = [\"e1\"]\n"
      "[broker]\n"
      "poll = \"never\"\n",
      "t.toml");
  EXPECT_FALSE(parsed.config.has_value());
  std::vector<std::string> places;
  for (const auto& error : parsed.errors) {
    const auto line = format(error, "t.toml");
    places.push_back(line.substr(0, line.find(' ')));
  }
  // Policy and monitor are read after the tap: the order is that of the file all the same.
  const std::vector<std::string> expected = {
      "t.toml:3:13:", "t.toml:4:9:", "t.toml:7:8:", "t.toml:8:1:", "t.toml:10:9:", "t.toml:12:8:"};
  EXPECT_EQ(parsed.errors.size(), 6U) << all(parsed);
  EXPECT_EQ(places, expected) << all(parsed);
}

TEST(Config, TablesOfFlowsHaveALimitTogether) {
  const auto text_of = [](int policies) {
    std::string text = join({kTap, kMonitor});
    for (int i = 0; i < policies; ++i) {
      text += "[[policy]]\nname = \"p" + std::to_string(i) + "\"\nmonitors = [\"ids\"]\n" +
              "head = 1\nflow_entries = 16777216\n";
    }
    return text;
  };
  EXPECT_TRUE(parse(text_of(4), "t.toml").config.has_value());
  const auto parsed = parse(text_of(5), "t.toml");
  ASSERT_EQ(parsed.errors.size(), 1U);
  EXPECT_NE(parsed.errors[0].message.find("1280 MiB, at most 1024"), std::string::npos)
      << all(parsed);
}

TEST(Config, EmptyFileLacksTapAndMonitor) {
  for (const auto* text : {"", "\n", "# nothing\n", "\xef\xbb\xbf"}) {
    const auto parsed = parse(text, "t.toml");
    EXPECT_FALSE(parsed.config.has_value());
    EXPECT_EQ(parsed.errors.size(), 2U) << all(parsed);
  }
}

constexpr const char* kFull = R"([broker]
name    = "npb1"
workers = [2, 3]
umem    = { frames = 65536, frame_size = 4096 }
poll    = "busy"
control = "/tmp/npb1.sock"
metrics = "[::1]:9471"
log     = { level = "debug", format = "json" }

[[tap]]
name    = "wan"
mode    = "inline"
ports   = ["eth1", "eth2"]
capture = "tee"
hook    = "tc"
allow_management = true

[[tap]]
name      = "vms"
mode      = "host"
ports     = ["vnet0", "vnet1"]
capture   = "auto"
hook      = "xdp"
direction = "ingress"

[[tap]]
name      = "feed"
mode      = "span"
ports     = ["eth5"]
capture   = "redirect"
unmatched = "drop"

[[monitor]]
name  = "ids"
port  = "eth3"
queue = 1024

[[monitor]]
name = "disk"
port = "eth4"

[[policy]]
name     = "web"
taps     = ["feed", "wan"]
monitors = ["disk"]
match    = [
  { src = ["10.0.0.0/24", "2001:db8::/32"], proto = "tcp", dst_port = [80, 443, "8000-8100"] },
  { host = "10.1.2.3" },
  { dst = "::1", src_port = 0, port = "1-2", src_mac = "02:00:00:00:00:01", fragment = true },
  { dst_mac = ["ff:FF:ff:ff:ff:ff"], mac = "00:00:00:00:00:0a", vlan = [1, "10-20", "none"] },
  { inner_vlan = "none", ethertype = [0x0800, "pppoe"], tcp_flags = ["syn,!ack", " rst "] },
  { dscp = [46, "0-7"], length = "64-1518" },
]
except   = [ { proto = ["udp", 132], port = 53 } ]
sample   = { one_in = 10 }
meter    = { rate = "200Mbit/s", burst = "256KiB" }
slice    = 128

[[policy]]
name     = "rest"
monitors = ["ids", "disk"]
sample   = { flows = 0.25 }
meter    = { rate = "50kpps", burst = 1000 }
)";

TEST(Config, EverySecondNameIsRefusedWithTheLineOfTheFirst) {
  const std::string again = "[[policy]]\nname = \"all\"\nmonitors = [\"ids\"]\n";
  const auto parsed = parse(join({kTap, kMonitor, kPolicy, again, again}), "t.toml");
  ASSERT_EQ(parsed.errors.size(), 2U) << all(parsed);
  for (const auto& error : parsed.errors) {
    EXPECT_NE(error.message.find("policy \"all\" already, in line 8"), std::string::npos)
        << error.message;
  }
}

TEST(Config, TapsMonitorsAndPoliciesShareNoNames) {
  const auto config = good(
      "[[tap]]\nname = \"x\"\nmode = \"inline\"\nports = [\"e1\", \"e2\"]\n"
      "[[monitor]]\nname = \"x\"\nport = \"e3\"\n"
      "[[policy]]\nname = \"x\"\nmonitors = [\"x\"]\n");
  EXPECT_EQ(config.policies.size(), 1U);
}

TEST(Config, MetricsAreOffUnlessAnAddressIsGiven) {
  const auto metrics_of = [](const std::string& lines) {
    return good(join({"[broker]\n" + lines, kTap, kMonitor, kPolicy})).broker.metrics;
  };
  EXPECT_FALSE(metrics_of(""));
  EXPECT_FALSE(metrics_of("metrics = \"\"\n"));
  EXPECT_EQ(metrics_of("metrics = \"0.0.0.0:1\"\n"), (Endpoint{"0.0.0.0", 1}));
  EXPECT_EQ(metrics_of("metrics = \"[2001:db8::1]:65535\"\n"), (Endpoint{"2001:db8::1", 65535}));
}

TEST(Config, FullBroker) {
  const auto config = good(kFull);
  EXPECT_EQ(config.file, "t.toml");
  EXPECT_EQ(config.broker.name, "npb1");
  EXPECT_FALSE(config.broker.worker_count.has_value());
  EXPECT_EQ(config.broker.worker_cpus, (std::vector<std::uint32_t>{2, 3}));
  EXPECT_EQ(config.broker.frames, 65536U);
  EXPECT_EQ(config.broker.frame_size, 4096U);
  EXPECT_EQ(config.broker.poll, Poll::busy);
  EXPECT_EQ(config.broker.control, "/tmp/npb1.sock");
  EXPECT_EQ(config.broker.metrics, (Endpoint{"::1", 9471, true}));
  EXPECT_EQ(config.broker.log_level, LogLevel::debug);
  EXPECT_EQ(config.broker.log_format, LogFormat::json);
}

TEST(Config, ApiOnTcp) {
  const auto near = good(broker("api = \"127.9.9.9:9470\"\napi_token_file = \"/t\"")).broker.api;
  ASSERT_TRUE(near.has_value());
  EXPECT_EQ(near->at.address, "127.9.9.9");
  EXPECT_EQ(near->at.port, 9470);
  EXPECT_TRUE(near->at.loopback);
  EXPECT_EQ(near->token_file, "/t");
  EXPECT_EQ(near->cert, "");
  const auto near6 = good(broker("api = \"[::1]:1\"\napi_token_file = \"/t\"")).broker.api;
  ASSERT_TRUE(near6.has_value());
  EXPECT_EQ(near6->at.address, "::1");
  EXPECT_TRUE(near6->at.loopback);
  const auto far = good(broker("api = \"[2001:db8::1]:65535\"\napi_token_file = \"/t\"\n"
                               "api_cert = \"/c\"\napi_key = \"/k\""))
                       .broker.api;
  ASSERT_TRUE(far.has_value());
  EXPECT_EQ(far->at.port, 65535);
  EXPECT_FALSE(far->at.loopback);
  EXPECT_EQ(far->cert, "/c");
  EXPECT_EQ(far->key, "/k");
  EXPECT_FALSE(good(broker("")).broker.api.has_value());
  EXPECT_FALSE(good(broker("api = \"\"\napi_token_file = \"/t\"")).broker.api.has_value());
}

TEST(Config, FullTaps) {
  const auto config = good(kFull);
  ASSERT_EQ(config.taps.size(), 3U);
  const auto& wan = config.taps[0];
  EXPECT_EQ(wan.name, "wan");
  EXPECT_EQ(wan.mode, Mode::inline_pair);
  EXPECT_EQ(wan.ports, (std::vector<std::string>{"eth1", "eth2"}));
  EXPECT_EQ(wan.capture, Capture::tee);
  EXPECT_EQ(wan.hook, Hook::tc);
  EXPECT_TRUE(wan.allow_management);
  EXPECT_FALSE(wan.unmatched_drop);
  EXPECT_EQ(wan.at.line, 10U);
  const auto& vms = config.taps[1];
  EXPECT_EQ(vms.mode, Mode::host);
  EXPECT_EQ(vms.ports, (std::vector<std::string>{"vnet0", "vnet1"}));
  EXPECT_EQ(vms.capture, Capture::automatic);
  EXPECT_EQ(vms.hook, Hook::xdp);
  EXPECT_EQ(vms.direction, Direction::ingress);
  EXPECT_FALSE(vms.allow_management);
  const auto& feed = config.taps[2];
  EXPECT_EQ(feed.name, "feed");
  EXPECT_EQ(feed.mode, Mode::span);
  EXPECT_EQ(feed.capture, Capture::redirect);
  EXPECT_EQ(feed.hook, Hook::automatic);
  EXPECT_TRUE(feed.unmatched_drop);
}

TEST(Config, DirectionsAndClone) {
  const auto tap_of = [](const std::string& keys) {
    return good(tap("name = \"t\"\nmode = \"host\"\nports = [\"a\"]\n" + keys)).taps[0];
  };
  EXPECT_EQ(tap_of("").direction, Direction::both);
  EXPECT_EQ(tap_of("direction = \"both\"").direction, Direction::both);
  EXPECT_EQ(tap_of("direction = \"egress\"").direction, Direction::egress);
  EXPECT_EQ(tap_of("capture = \"clone\"").capture, Capture::clone);
  EXPECT_EQ(tap_of("capture = \"clone\"\nhook = \"tc\"").capture, Capture::clone);
}

TEST(Config, FullMonitors) {
  const auto config = good(kFull);
  ASSERT_EQ(config.monitors.size(), 2U);
  EXPECT_EQ(config.monitors[0].name, "ids");
  EXPECT_EQ(config.monitors[0].port, "eth3");
  EXPECT_EQ(config.monitors[0].queue, 1024U);
  EXPECT_EQ(config.monitors[0].at.line, 33U);
  EXPECT_EQ(config.monitors[1].name, "disk");
  EXPECT_EQ(config.monitors[1].queue, 4096U);
}

TEST(Config, RatesPrioritiesAndWeights) {
  const auto rate_of = [](const std::string& rate) {
    return good(monitor("name = \"m\"\nport = \"x\"" + rate)).monitors[0].rate;
  };
  EXPECT_FALSE(rate_of("").has_value());
  const auto bits = rate_of("\nrate = \"1.5Gbit/s\"");
  ASSERT_TRUE(bits.has_value());
  EXPECT_FALSE(bits->packets);
  EXPECT_EQ(bits->per_second, 1'500'000'000U);
  const auto packets = rate_of("\nrate = \"50kpps\"");
  ASSERT_TRUE(packets.has_value());
  EXPECT_TRUE(packets->packets);
  EXPECT_EQ(packets->per_second, 50'000U);

  const auto policy_of = [](const std::string& keys) { return good(rule(keys)).policies[0]; };
  EXPECT_EQ(policy_of("").priority, 0U);
  EXPECT_EQ(policy_of("").weight, 1U);
  const Policy policy = policy_of("priority = 7\nweight = 1000");
  EXPECT_EQ(policy.priority, 7U);
  EXPECT_EQ(policy.weight, 1000U);
}

TEST(Config, FullPolicies) {
  const auto config = good(kFull);
  ASSERT_EQ(config.policies.size(), 2U);
  const auto& web = config.policies[0];
  EXPECT_EQ(web.name, "web");
  EXPECT_EQ(web.taps, (std::vector<std::uint32_t>{2, 0}));
  EXPECT_EQ(web.monitors, (std::vector<std::uint32_t>{1}));
  EXPECT_EQ(web.at.line, 42U);
  ASSERT_TRUE(web.sample.has_value());
  EXPECT_EQ(web.sample->one_in, 10U);
  EXPECT_FALSE(web.sample->flows.has_value());
  ASSERT_TRUE(web.meter.has_value());
  EXPECT_EQ(web.meter->bits_per_second, 200'000'000U);
  EXPECT_EQ(web.meter->packets_per_second, 0U);
  EXPECT_EQ(web.meter->burst, 262'144U);
  EXPECT_EQ(web.slice, 128U);
  const auto& rest = config.policies[1];
  EXPECT_EQ(rest.taps, (std::vector<std::uint32_t>{0, 1, 2}));
  EXPECT_EQ(rest.monitors, (std::vector<std::uint32_t>{0, 1}));
  EXPECT_TRUE(rest.match.empty());
  EXPECT_TRUE(rest.except.empty());
  EXPECT_EQ(rest.sample->one_in, 0U);
  EXPECT_EQ(rest.sample->flows, 0.25);
  EXPECT_EQ(rest.meter->bits_per_second, 0U);
  EXPECT_EQ(rest.meter->packets_per_second, 50'000U);
  EXPECT_EQ(rest.meter->burst, 1000U);
  EXPECT_FALSE(rest.slice.has_value());
}

TEST(Config, FullMatch) {
  using Ranges = std::vector<Range>;
  const auto config = good(kFull);
  const auto& web = config.policies.at(0);
  ASSERT_EQ(web.match.size(), 6U);
  const auto& first = web.match[0];
  const Prefix ten{false, 24, {10, 0, 0, 0}};
  const Prefix doc{true, 32, {0x20, 0x01, 0x0d, 0xb8}};
  EXPECT_EQ(first.src, (std::vector<Prefix>{ten, doc}));
  EXPECT_EQ(first.proto, (Ranges{{6, 6}}));
  EXPECT_EQ(first.dst_port, (Ranges{{80, 80}, {443, 443}, {8000, 8100}}));
  EXPECT_TRUE(first.dst.empty() && first.host.empty() && first.port.empty() && first.vlan.empty());
  EXPECT_FALSE(first.fragment.has_value());
  EXPECT_EQ(web.match[1].host, (std::vector<Prefix>{{false, 32, {10, 1, 2, 3}}}));

  const auto& ends = web.match[2];
  EXPECT_EQ(ends.dst,
            (std::vector<Prefix>{{true, 128, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}}}));
  EXPECT_EQ(ends.src_port, (Ranges{{0, 0}}));
  EXPECT_EQ(ends.port, (Ranges{{1, 2}}));
  EXPECT_EQ(ends.src_mac, (std::vector<Mac>{{2, 0, 0, 0, 0, 1}}));
  EXPECT_EQ(ends.fragment, true);

  const auto& link = web.match[3];
  EXPECT_EQ(link.dst_mac, (std::vector<Mac>{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}));
  EXPECT_EQ(link.mac, (std::vector<Mac>{{0, 0, 0, 0, 0, 10}}));
  EXPECT_EQ(link.vlan, (Ranges{{1, 1}, {10, 20}, {VTAP_NO_VLAN, VTAP_NO_VLAN}}));

  const auto& kinds = web.match[4];
  EXPECT_EQ(kinds.inner_vlan, (Ranges{{VTAP_NO_VLAN, VTAP_NO_VLAN}}));
  EXPECT_EQ(kinds.ethertype, (Ranges{{0x0800, 0x0800}, {0x8863, 0x8864}}));
  ASSERT_EQ(kinds.tcp_flags.size(), 2U);
  EXPECT_EQ(kinds.tcp_flags[0].mask, 0x12);
  EXPECT_EQ(kinds.tcp_flags[0].value, 0x02);
  EXPECT_EQ(kinds.tcp_flags[1].mask, 0x04);
  EXPECT_EQ(kinds.tcp_flags[1].value, 0x04);
  EXPECT_EQ(web.match[5].dscp, (Ranges{{46, 46}, {0, 7}}));
  EXPECT_EQ(web.match[5].length, (Ranges{{64, 1518}}));

  ASSERT_EQ(web.except.size(), 1U);
  EXPECT_EQ(web.except[0].proto, (Ranges{{17, 17}, {132, 132}}));
  EXPECT_EQ(web.except[0].port, (Ranges{{53, 53}}));
}

TEST(Config, Defaults) {
  const auto parsed = parse(join({kTap, kMonitor, kPolicy}), "t.toml");
  ASSERT_TRUE(parsed.config.has_value()) << all(parsed);
  EXPECT_TRUE(parsed.warnings.empty());
  const auto& config = *parsed.config;
  EXPECT_EQ(config.broker.name, "vtap");
  EXPECT_EQ(config.broker.control, "/run/vtap/vtap.sock");
  EXPECT_FALSE(config.broker.worker_count.has_value());
  EXPECT_TRUE(config.broker.worker_cpus.empty());
  EXPECT_EQ(config.broker.frames, 32768U);
  EXPECT_EQ(config.broker.frame_size, 2048U);
  EXPECT_EQ(config.broker.poll, Poll::adaptive);
  EXPECT_EQ(config.broker.log_level, LogLevel::info);
  EXPECT_EQ(config.broker.log_format, LogFormat::text);
  EXPECT_EQ(config.taps.at(0).capture, Capture::automatic);
  EXPECT_EQ(config.taps.at(0).hook, Hook::automatic);
  EXPECT_EQ(config.monitors.at(0).queue, 4096U);
  EXPECT_EQ(config.policies.at(0).taps, (std::vector<std::uint32_t>{0}));
  EXPECT_FALSE(config.policies.at(0).sample || config.policies.at(0).meter);
}

TEST(Config, Workers) {
  EXPECT_EQ(good(broker("workers = 64")).broker.worker_count, 64U);
  EXPECT_FALSE(good(broker("workers = \"auto\"")).broker.worker_count.has_value());
  EXPECT_EQ(good(broker("name = \"n.1\"")).broker.control, "/run/vtap/n.1.sock");
}

TEST(Config, Limits) {
  EXPECT_EQ(good(tap(many_ports(VTAP_MAX_PORTS))).taps.at(0).ports.size(), 64U);
  const auto monitors = good(join({many_monitors(VTAP_MAX_MONITORS), kTap})).monitors;
  EXPECT_EQ(monitors.size(), 64U);
  // Half of 32768 frames in 64 equal parts.
  EXPECT_EQ(monitors.at(63).queue, 256U);
  EXPECT_EQ(good(broker("umem.frames = 1024")).monitors.at(0).queue, 512U);
}

TEST(Config, DotsInCommentsAndTextsAreNoKeyParts) {
  const std::string dots(200, '.');
  EXPECT_EQ(good(broker("name = \"a\" # " + dots + "\n# " + dots + " ' " + dots)).broker.name, "a");
  EXPECT_EQ(good("# it's" + dots + "\n" + broker("name = \"b\"")).broker.name, "b");
}

TEST(Config, Rates) {
  const auto meter = [](const std::string& keys) {
    return good(rule("meter = { " + keys + " }")).policies.at(0).meter.value_or(Meter{});
  };
  EXPECT_EQ(meter("rate = \"1.5Gbit/s\"").bits_per_second, 1'500'000'000U);
  EXPECT_EQ(meter("rate = \"64kbit/s\"").bits_per_second, 64'000U);
  EXPECT_EQ(meter("rate = \"8bit/s\"").bits_per_second, 8U);
  EXPECT_EQ(meter("rate = \"10000Gbit/s\"").bits_per_second, 10'000'000'000'000U);
  EXPECT_EQ(meter("rate = \"0.000000001Gbit/s\"").bits_per_second, 1U);
  EXPECT_EQ(meter("rate = \"1.488095Mpps\"").packets_per_second, 1'488'095U);
  EXPECT_EQ(meter("rate = \"7pps\"").packets_per_second, 7U);
  // Default bursts: 100 ms, at least 4 KiB or 4 packets.
  EXPECT_EQ(meter("rate = \"1Gbit/s\"").burst, 12'500'000U);
  EXPECT_EQ(meter("rate = \"1kbit/s\"").burst, 4096U);
  EXPECT_EQ(meter("rate = \"1Mpps\"").burst, 100'000U);
  EXPECT_EQ(meter("rate = \"1pps\"").burst, 4U);
  EXPECT_EQ(meter("rate = \"1Mbit/s\", burst = \"64KB\"").burst, 64'000U);
  EXPECT_EQ(meter("rate = \"1Mbit/s\", burst = \"1.5MiB\"").burst, 1'572'864U);
  EXPECT_EQ(meter("rate = \"1Mbit/s\", burst = 9000").burst, 9000U);

  const Meter plain = meter("rate = \"1Mbit/s\", exceed = \"drop\"");
  EXPECT_EQ(plain.exceed_slice, 0U);
  EXPECT_EQ(plain.exceed_one_in, 0U);
  EXPECT_EQ(plain.peak_per_second, 0U);
  EXPECT_EQ(plain.per, Per::policy);
  const Meter two = meter(
      "rate = \"8Mbit/s\", peak_rate = \"80Mbit/s\", exceed = { slice = 96 }, per = \"flow\", "
      "entries = 1000");
  EXPECT_EQ(two.bits_per_second, 8'000'000U);
  EXPECT_EQ(two.burst, 100'000U);
  EXPECT_EQ(two.peak_per_second, 80'000'000U);
  EXPECT_EQ(two.peak_burst, 1'000'000U);
  EXPECT_EQ(two.exceed_slice, 96U);
  EXPECT_EQ(two.per, Per::flow);
  EXPECT_EQ(two.entries, 1000U);
  const Meter packets = meter(
      "rate = \"1kpps\", peak_rate = \"1kpps\", peak_burst = 7, exceed.one_in = 5, per = \"dst\"");
  EXPECT_EQ(packets.peak_per_second, 1000U);
  EXPECT_EQ(packets.peak_burst, 7U);
  EXPECT_EQ(packets.exceed_one_in, 5U);
  EXPECT_EQ(packets.per, Per::dst);
  EXPECT_EQ(packets.entries, 65536U);
  EXPECT_EQ(meter("rate = \"1kpps\", per = \"src\"").per, Per::src);
}

TEST(Config, ValuesAtTheirBounds) {
  const auto first = [](const std::string& keys) {
    return good(match(keys)).policies.at(0).match.at(0);
  };
  using Ranges = std::vector<Range>;
  EXPECT_EQ(first("port = \"0-65535\"").port, (Ranges{{0, 65535}}));
  EXPECT_EQ(first("port = \"5-5\"").port, (Ranges{{5, 5}}));
  EXPECT_EQ(first("vlan = [0, 4095]").vlan, (Ranges{{0, 0}, {4095, 4095}}));
  EXPECT_EQ(first("dscp = 63").dscp, (Ranges{{63, 63}}));
  EXPECT_EQ(first("length = [60, \"65535-65535\"]").length, (Ranges{{60, 60}, {65535, 65535}}));
  EXPECT_EQ(first("proto = [\"ipv6-icmp\", \"icmpv6\", 255]").proto,
            (Ranges{{58, 58}, {58, 58}, {255, 255}}));
  EXPECT_EQ(first("ethertype = \"ipv6\"").ethertype, (Ranges{{0x86dd, 0x86dd}}));
  EXPECT_EQ(first("fragment = false").fragment, false);
  EXPECT_EQ(first("src = \"0.0.0.0/0\"").src, (std::vector<Prefix>{{false, 0, {}}}));
  EXPECT_EQ(first("src = \"::/0\"").src, (std::vector<Prefix>{{true, 0, {}}}));
  EXPECT_EQ(first("src = \"10.0.0.128/25\"").src,
            (std::vector<Prefix>{{false, 25, {10, 0, 0, 128}}}));
  EXPECT_EQ(good(rule("sample.flows = 1")).policies.at(0).sample->flows, 1.0);
  EXPECT_EQ(good(rule("slice = 14")).policies.at(0).slice, 14U);
  EXPECT_EQ(good(rule("slice = 14")).policies.at(0).slice_after, 0U);
  const auto flows =
      good(rule("slice = { bytes = 96, after = 4 }\nhead = 4294967295\nflow_entries = 77"));
  EXPECT_EQ(flows.policies.at(0).slice, 96U);
  EXPECT_EQ(flows.policies.at(0).slice_after, 4U);
  EXPECT_EQ(flows.policies.at(0).head, 4294967295U);
  EXPECT_EQ(flows.policies.at(0).flow_entries, 77U);
  EXPECT_EQ(good(rule("head = 1")).policies.at(0).flow_entries, 65536U);
}

TEST(Config, PossibleCombinations) {
  const std::string span = "name = \"t\"\nmode = \"span\"\nports = [\"a\"]\n";
  EXPECT_EQ(good(tap(span + "capture = \"tee\"\nhook = \"tc\"")).taps.at(0).hook, Hook::tc);
  EXPECT_EQ(good(tap(span + "capture = \"tee\"\nhook = \"xdp\"")).taps.at(0).capture, Capture::tee);
  const std::string pair = "name = \"t\"\nmode = \"inline\"\nports = [\"a\", \"b\"]\n";
  EXPECT_EQ(good(tap(pair + "capture = \"redirect\"\nhook = \"xdp\"")).taps.at(0).capture,
            Capture::redirect);
  EXPECT_EQ(good(tap(pair + "hook = \"tc\"")).taps.at(0).capture, Capture::automatic);
}

struct Warning {
  const char* name;
  std::string text;
  std::uint32_t line;
  std::uint32_t column;
  const char* message;
};

void PrintTo(const Warning& warning, std::ostream* out) { *out << warning.text; }

class Warned : public testing::TestWithParam<Warning> {};

TEST_P(Warned, OneWarningAtItsPlace) {
  const auto& expected = GetParam();
  const auto parsed = parse(expected.text, "t.toml");
  EXPECT_TRUE(parsed.config.has_value()) << all(parsed);
  ASSERT_EQ(parsed.warnings.size(), 1U);
  const auto& warning = parsed.warnings.front();
  EXPECT_EQ(warning.at.line, expected.line);
  EXPECT_EQ(warning.at.column, expected.column);
  EXPECT_NE(warning.message.find(expected.message), std::string::npos) << warning.message;
}

INSTANTIATE_TEST_SUITE_P(
    Config, Warned,
    testing::Values(
        Warning{"NoPolicy", join({kTap, kMonitor}), 1, 1, "[[policy]]"},
        Warning{"LongSlice", rule("slice = 2049"), 2, 9, "2048 bytes"},
        Warning{"LongSliceAfter", rule("slice = { bytes = 2049, after = 1 }"), 2, 19, "2048 bytes"},
        Warning{"LongExceed", rule("meter = { rate = \"1kpps\", exceed = { slice = 2049 } }"), 2,
                46, "2048 bytes"},
        Warning{"SliceBehindHead", rule("head = 5\nslice = { bytes = 64, after = 5 }"), 3, 9,
                "by head"},
        Warning{"SmallPeakBurst",
                thinned("rate = \"1Mbit/s\", peak_rate = \"2Mbit/s\", peak_burst = 2047"), 2, 65,
                "longer than the burst"},
        Warning{"SmallBurst", rule("meter = { rate = \"1Mbit/s\", burst = 2047 }"), 2, 37,
                "longer than the burst"}),
    [](const auto& instance) { return instance.param.name; });

TEST(Config, FormatIsOneLine) {
  EXPECT_EQ(format({{3, 9}, "slice: x"}, "tap.toml"), "tap.toml:3:9: slice: x");
  EXPECT_EQ(format({{}, "cannot be read"}, "tap.toml"), "tap.toml: cannot be read");
  EXPECT_EQ(format({{1, 1}, "a\nb\x1b"}, "f"), "f:1:1: a\\x0ab\\x1b");
}

TEST(Config, LoadReadsTheFile) {
  const std::string file = testing::TempDir() + "vtap_config_test.toml";
  std::ofstream(file) << kTap << kMonitor << kPolicy;
  const auto parsed = load(file);
  EXPECT_EQ(std::remove(file.c_str()), 0);
  ASSERT_TRUE(parsed.config.has_value()) << all(parsed);
  EXPECT_EQ(parsed.config->file, file);
  EXPECT_EQ(parsed.config->taps.at(0).name, "wan");
}

TEST(Config, LoadNamesTheReason) {
  const auto missing = load("/nonexistent/tap.toml");
  EXPECT_FALSE(missing.config.has_value());
  ASSERT_EQ(missing.errors.size(), 1U);
  EXPECT_NE(missing.errors[0].message.find("No such file"), std::string::npos)
      << missing.errors[0].message;
  const auto directory = load("/");
  ASSERT_EQ(directory.errors.size(), 1U);
  EXPECT_NE(directory.errors[0].message.find("directory"), std::string::npos)
      << directory.errors[0].message;
  const auto endless = load("/dev/zero");
  ASSERT_EQ(endless.errors.size(), 1U);
  EXPECT_NE(endless.errors[0].message.find("16 MiB"), std::string::npos);
}

}  // namespace
}  // namespace vtap::config
