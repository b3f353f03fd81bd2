// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>

#include "table.hpp"
#include "views.hpp"

namespace vtap::ctl {
namespace {

/// Queue numbers as ranges: "0-3,5".
std::string ranges_text(std::vector<std::uint64_t> numbers) {
  std::sort(numbers.begin(), numbers.end());
  std::string out;
  for (size_t first = 0; first < numbers.size();) {
    size_t last = first;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    out += (out.empty() ? "" : ",") + std::to_string(numbers[first]);
    if (last > first) out += "-" + std::to_string(numbers[last]);
    first = last + 1;
  }
  return out;
}

/// What the kernel granted: "rx+tx 0-3 zero-copy; tx 4 copy". "-" for a port without AF_XDP.
std::string queues_text(const Json& queues) {
  std::map<std::string, std::map<std::string, std::vector<std::uint64_t>>> granted;
  for (const Json& queue : queues) {
    const auto it = queue.find("zero_copy");
    const bool zero_copy = it != queue.end() && it->is_boolean() && it->get<bool>();
    granted[zero_copy ? "zero-copy" : "copy"][text_of(queue, "direction")].push_back(
        count_of(queue, "queue"));
  }
  std::string out;
  for (const auto& [how, directions] : granted) {
    for (const auto& [direction, numbers] : directions) {
      out += (out.empty() ? "" : "; ") + (direction == "-" ? "" : direction + " ") +
             ranges_text(numbers) + " " + how;
    }
  }
  return out.empty() ? "-" : out;
}

/// What is known of one thing: by /v1/status, which says what it is, and by two readings of
/// /v1/stats, which say how much of it there is. Either may lack it.
class Known {
 public:
  Known(const Interval& interval, const Json& status, const Json& before, const Json& after)
      : interval_(interval), status_(status), before_(before), after_(after) {}

  [[nodiscard]] std::string text(const char* key) const {
    const std::string said = text_of(status_, key);
    return said == "-" ? text_of(after_, key) : said;
  }
  [[nodiscard]] const Json& part(const char* key) const {
    const Json& said = part_of(status_, key);
    return said.empty() ? part_of(after_, key) : said;
  }
  [[nodiscard]] double rate(const char* key) const {
    return interval_.per_second(before_, after_, key);
  }
  [[nodiscard]] double drop_rate() const {
    return interval_.per_second(total_of(part_of(before_, "dropped")),
                                total_of(part_of(after_, "dropped")));
  }
  /// One thing in this one.
  [[nodiscard]] Known inner(const char* key, const Json& like) const {
    return {interval_, named(part_of(status_, key), like), named(part_of(before_, key), like),
            named(part_of(after_, key), like)};
  }

 private:
  const Interval& interval_;
  const Json& status_;
  const Json& before_;
  const Json& after_;
};

/// "a, b" of a list of names, or of objects with names.
std::string names_text(const Json& list) {
  std::string out;
  for (const Json& item : list) {
    const std::string name =
        item.is_string() ? printable(item.get<std::string>()) : text_of(item, "name");
    out += (out.empty() ? "" : ", ") + name;
  }
  return out.empty() ? "-" : out;
}

std::string reason_text(const std::string& why) { return why == "-" ? "" : why; }

Table taps(const Known& broker) {
  Table table({{"tap"},
               {"mode"},
               {"capture"},
               {"port"},
               {"state"},
               {"hook"},
               {"in", true},
               {"", true},
               {"copied", true},
               {"queues"},
               {""}});
  for (const Json& item : broker.part("taps")) {
    const Known tap = broker.inner("taps", item);
    std::string why = reason_text(tap.text("why"));
    for (const Json& port_item : tap.part("ports")) {
      const Known port = tap.inner("ports", port_item);
      const std::string hook = port.text("hook");
      table.row({tap.text("name"), tap.text("mode"), tap.text("capture"), port.text("name"),
                 port.text("state"), hook == "-" ? tap.text("hook") : hook,
                 pps_text(port.rate("rx_frames")), bits_text(port.rate("rx_bytes")),
                 pps_text(port.rate("copied_frames")), queues_text(port.part("queues")), why});
      why.clear();  // once is enough
    }
  }
  return table;
}

Table policies(const Known& broker) {
  Table table(
      {{"policy"}, {"placement"}, {"taps"}, {"matched", true}, {"", true}, {"to monitors"}, {""}});
  for (const Json& item : broker.part("policies")) {
    const Known policy = broker.inner("policies", item);
    table.row({policy.text("name"), policy.text("placement"), names_text(policy.part("taps")),
               pps_text(policy.rate("matched_frames")), bits_text(policy.rate("matched_bytes")),
               names_text(policy.part("monitors")), reason_text(policy.text("why"))});
  }
  return table;
}

Table monitors(const Known& broker) {
  Table table(
      {{"monitor"}, {"port"}, {"state"}, {"out", true}, {"", true}, {"dropped", true}, {"queues"}});
  for (const Json& item : broker.part("monitors")) {
    const Known monitor = broker.inner("monitors", item);
    table.row({monitor.text("name"), monitor.text("port"), monitor.text("state"),
               pps_text(monitor.rate("tx_frames")), bits_text(monitor.rate("tx_bytes")),
               pps_text(monitor.drop_rate()), queues_text(monitor.part("queues"))});
  }
  return table;
}

std::string config_line(const Json& config) {
  if (config.empty()) return "";
  std::string out =
      "config " + text_of(config, "file") + ", loaded " + text_of(config, "loaded_at");
  if (!is_set(config, "persisted", true))
    out += "; changed since, and not written back (--persist)";
  return out + "\n";
}

std::string status_heading(const Interval& interval, const Json& status) {
  if (status.empty()) return heading(interval.after());
  return text_of(status, "name") + "   vtap-broker " + text_of(status, "version") + "   up " +
         duration_text(number_of(status, "uptime_s")) + "   generation " +
         std::to_string(count_of(status, "generation")) + "   " +
         (is_set(status, "ready") ? "ready" : "not ready") + "\n" +
         config_line(part_of(status, "config"));
}

std::string problems_text(const Interval& interval, const Json& status) {
  const std::vector<std::string> found = problems(interval, status);
  if (found.empty()) return "Nothing is wrong.\n";
  std::string out = "What is wrong\n";
  for (const std::string& text : found) out += "  " + text + "\n";
  return out;
}

}  // namespace

std::string status_view(const Interval& interval, const Json& status, Screen screen) {
  const Known broker(interval, status, interval.before(), interval.after());
  const std::vector<Section> sections = {
      {"Taps", taps(broker)}, {"Policies", policies(broker)}, {"Monitors", monitors(broker)}};
  return status_heading(interval, status) + sections_text(sections, {0, screen.columns}) + "\n" +
         problems_text(interval, status);
}

}  // namespace vtap::ctl
