// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <sstream>

#include "metrics/exposition.hpp"
#include "support/full_snapshot.hpp"

namespace vtap::metrics {
namespace {

using Json = nlohmann::json;
using test::full_snapshot;

struct Sample {
  std::string name;
  std::map<std::string, std::string> labels;
  double value = 0;
};

/// Reads what Prometheus would: comments apart, "name{label="value",...} value" lines.
std::vector<Sample> samples_of(const std::string& text) {
  static const std::regex line_form(R"(^([a-z_0-9]+)(\{(.*)\})? (\S+)$)");
  static const std::regex label_form(R"re(([a-z_]+)="((?:[^"\\]|\\.)*)",?)re");
  std::vector<Sample> samples;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind('#', 0) == 0) continue;
    std::smatch match;
    EXPECT_TRUE(std::regex_match(line, match, line_form)) << line;
    Sample sample{match[1], {}, std::stod(match[4])};
    const std::string labels = match[3];
    for (std::sregex_iterator it(labels.begin(), labels.end(), label_form), end; it != end; ++it) {
      sample.labels[(*it)[1]] = (*it)[2];
    }
    samples.push_back(std::move(sample));
  }
  return samples;
}

/// A number of the JSON: its key, the names of the things it belongs to, and the words around it.
struct Leaf {
  std::string key;                 ///< or the key of the object of reasons that it is in
  std::string reason;              ///< "ring_full" of {"dropped":{"ring_full":1}}
  std::vector<std::string> names;  ///< of all things around it, from the outermost
  double value = 0;
};

void find_leaves(const Json& json, Leaf at, std::vector<Leaf>& out) {
  if (json.is_number()) {
    at.value = json.get<double>();
    out.push_back(at);
  } else if (json.is_array()) {
    for (const Json& item : json) find_leaves(item, at, out);
  } else if (json.is_object()) {
    if (json.contains("name")) at.names.push_back(json["name"]);
    for (const auto& [key, value] : json.items()) {
      Leaf below = at;
      const bool reasons = at.key == "missed" || at.key == "not_passed" || at.key == "dropped";
      const bool colours = at.key == "metered";
      (reasons || colours ? below.reason : below.key) = key;
      if (colours) below.reason.resize(key.find("_frames"));
      find_leaves(value, below, out);
    }
  }
}

std::vector<Leaf> leaves_of(const stats::Snapshot& snapshot) {
  std::vector<Leaf> leaves;
  find_leaves(Json::parse(stats::to_json(snapshot)), {}, leaves);
  return leaves;
}

bool has_label(const Sample& sample, const std::string& value) {
  return std::ranges::any_of(sample.labels,
                             [&](const auto& label) { return label.second == value; });
}

/// Whether the sample is what the leaf says: in value or, of what tells things apart, in a label;
/// of the same things, for the same reason, under a name with the same words.
bool says(const Sample& sample, const Leaf& leaf) {
  if (!std::ranges::all_of(leaf.names, [&](const auto& n) { return has_label(sample, n); })) {
    return false;
  }
  if (leaf.key == "queue" || leaf.key == "cpu") {
    return sample.labels.count(leaf.key) != 0 &&
           sample.labels.at(leaf.key) == std::to_string(static_cast<int>(leaf.value));
  }
  if (leaf.key == "le_ns") {
    return sample.labels.count("le") != 0 && sample.labels.at("le") != "+Inf" &&
           std::stod(sample.labels.at("le")) == leaf.value / 1e9;
  }
  static const std::map<std::string, std::string> kOtherWords = {
      {"uptime_s", "uptime_seconds"},
      {"free", "free_frames"},
      {"last_round_age_s", "last_round_age_seconds"},
      {"sum_ns", "latency_seconds_sum"},
      {"count", "latency_seconds"}};
  const std::string word = kOtherWords.count(leaf.key) ? kOtherWords.at(leaf.key) : leaf.key;
  const double value = leaf.key == "sum_ns" ? leaf.value / 1e9 : leaf.value;
  if (sample.labels.count("le") != 0 && sample.labels.at("le") == "+Inf") return false;
  if (sample.value != value || sample.name.find(word) == std::string::npos) return false;
  return leaf.reason.empty() || has_label(sample, leaf.reason);
}

Service full_service() { return {"1.2.3", true, 1700000000.25, 601, 602}; }
std::string full_text() { return to_prometheus(full_snapshot(), full_service()); }

TEST(Exposition, EveryNumberOfTheJsonIsThere) {
  const auto samples = samples_of(full_text());
  const auto leaves = leaves_of(full_snapshot());
  ASSERT_GE(leaves.size(), 50U);
  std::set<double> seen;
  for (const Leaf& leaf : leaves) {
    const std::string what = leaf.key + ' ' + leaf.reason + ' ' + std::to_string(leaf.value);
    EXPECT_NE(leaf.value, 0) << what << ": full_snapshot() leaves it out";
    EXPECT_TRUE(seen.insert(leaf.value).second) << what << ": full_snapshot() has it twice";
    const auto said = std::ranges::count_if(samples, [&](const auto& s) { return says(s, leaf); });
    const bool tells_apart = leaf.key == "queue" || leaf.key == "cpu";
    EXPECT_TRUE(tells_apart ? said >= 1 : said == 1) << what << ": " << said << " times in\n"
                                                     << full_text();
  }
}

TEST(Exposition, SaysWhatTheBrokerIs) {
  const std::string text = full_text();
  for (
      const char* line :
      {R"(vtap_info{broker="npb1",version="1.2.3"} 1)",
       R"(vtap_tap_info{broker="npb1",tap="wan",mode="inline",capture="tee",hook="tc"} 1)",
       R"(vtap_tap_port_info{broker="npb1",tap="wan",port="eth1",hook="xdp"} 1)",
       R"(vtap_tap_port_up{broker="npb1",tap="wan",port="eth1"} 1)",
       R"(vtap_tap_port_queue_zero_copy{broker="npb1",tap="wan",port="eth1",queue="131",direction="rx+tx"} 1)",
       R"(vtap_tap_port_queue_zero_copy{broker="npb1",tap="wan",port="eth1",queue="132",direction="tx"} 0)",
       R"(vtap_policy_info{broker="npb1",policy="web",placement="broker"} 1)",
       R"(vtap_policy_metered_frames_total{broker="npb1",policy="web",colour="yellow"} 232)",
       R"(vtap_monitor_info{broker="npb1",monitor="ids",port="eth3"} 1)",
       R"(vtap_monitor_up{broker="npb1",monitor="ids"} 1)",
       R"(vtap_last_reload_success{broker="npb1"} 1)",
       R"(vtap_last_load_timestamp_seconds{broker="npb1"} 1700000000.25)",
       R"(vtap_reloads_total{broker="npb1",result="ok"} 601)",
       R"(vtap_reloads_total{broker="npb1",result="failed"} 602)"}) {
    EXPECT_NE(text.find(std::string(line) + '\n'), std::string::npos) << line << "\nin " << text;
  }
}

TEST(Exposition, LatencyIsAHistogramInSeconds) {
  stats::Snapshot s = full_snapshot();
  s.monitors[0].latency = {9, 1'500'000, {{1'000, 1}, {5'000, 3}, {1'000'000'000, 8}}};
  const std::string text = to_prometheus(s, {});
  for (const char* line :
       {R"(# TYPE vtap_monitor_copy_latency_seconds histogram)",
        R"(vtap_monitor_copy_latency_seconds_count{broker="npb1",monitor="ids"} 9)",
        R"(vtap_monitor_copy_latency_seconds_sum{broker="npb1",monitor="ids"} 0.0015)",
        R"(vtap_monitor_copy_latency_seconds_bucket{broker="npb1",monitor="ids",le="1e-06"} 1)",
        R"(vtap_monitor_copy_latency_seconds_bucket{broker="npb1",monitor="ids",le="5e-06"} 3)",
        R"(vtap_monitor_copy_latency_seconds_bucket{broker="npb1",monitor="ids",le="1"} 8)",
        R"(vtap_monitor_copy_latency_seconds_bucket{broker="npb1",monitor="ids",le="+Inf"} 9)"}) {
    EXPECT_NE(text.find(std::string(line) + '\n'), std::string::npos) << line << "\nin " << text;
  }
}

TEST(Exposition, DownAndFailedAreZero) {
  stats::Snapshot s = full_snapshot();
  s.taps[0].ports[0].state = "absent";
  s.monitors[0].state = "down";
  const std::string text = to_prometheus(s, {.version = "1", .last_reload_ok = false});
  EXPECT_NE(text.find(R"(vtap_tap_port_up{broker="npb1",tap="wan",port="eth1"} 0)"),
            std::string::npos);
  EXPECT_NE(text.find(R"(vtap_monitor_up{broker="npb1",monitor="ids"} 0)"), std::string::npos);
  EXPECT_NE(text.find(R"(vtap_last_reload_success{broker="npb1"} 0)"), std::string::npos);
  EXPECT_EQ(text.find("vtap_last_load_timestamp_seconds"), std::string::npos);
}

TEST(Exposition, FamiliesStandTogetherAndNoSeriesIsThereTwice) {
  stats::Snapshot s = full_snapshot();
  s.taps.push_back(s.taps[0]);
  s.taps[1].name = "lan";
  s.taps[1].ports.push_back(s.taps[1].ports[0]);
  s.taps[1].ports[1].name = "eth2";
  s.policies.push_back(s.policies[0]);
  s.policies[1].name = "dns";
  s.monitors.push_back(s.monitors[0]);
  s.monitors[1].name = "disk";
  s.workers.push_back(s.workers[0]);  // on the same CPU
  s.monitors[0].dropped.emplace_back("down", 10);
  const std::string text = to_prometheus(s, full_service());
  const std::regex histogram_part("seconds_(count|sum|bucket)$");
  std::set<std::string> series;
  std::set<std::string> done;
  std::string family;
  for (const Sample& sample : samples_of(text)) {
    const std::string of = std::regex_replace(sample.name, histogram_part, "seconds");
    if (of != family) {
      EXPECT_TRUE(done.insert(of).second) << of << " in two places";
      family = of;
    }
    std::string key = sample.name;
    for (const auto& [name, value] : sample.labels) key += ' ' + name + '=' + value;
    EXPECT_TRUE(series.insert(key).second) << key << " twice";
  }
  EXPECT_NE(text.find(R"(dropped_frames_total{broker="npb1",monitor="ids",reason="down"} 323)"),
            std::string::npos)
      << "a reason given twice is added up";
}

TEST(Exposition, OddNamesAndRatiosStayValid) {
  stats::Snapshot s;
  s.name = "b";
  s.uptime_s = std::nan("");
  stats::TapPort port;
  port.name = "a\"b\\c\n\xff\xc3\xa9";
  s.taps = {{"wan", "span", "tee", "tc", {port}}};
  s.workers = {{0, 0, 0, 0, std::nan("")}};
  const std::string text = to_prometheus(s, {});
  EXPECT_NE(text.find(R"(port="a\"b\\c\n)"
                      "\xef\xbf\xbd\xc3\xa9\""),
            std::string::npos)
      << text;
  EXPECT_EQ(text.find("nan"), std::string::npos);
  EXPECT_EQ(text.find("Nan"), std::string::npos);
}

TEST(Exposition, CountersAreExactTo2To53) {
  stats::Snapshot s;
  s.umem.frames = 9007199254740991;
  EXPECT_NE(to_prometheus(s, {}).find("vtap_umem_frames{broker=\"\"} 9007199254740991\n"),
            std::string::npos);
}

}  // namespace
}  // namespace vtap::metrics
