// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "table.hpp"
#include "views.hpp"

namespace vtap::ctl {
namespace {

/// The rates of one object between two answers.
class Rates {
 public:
  Rates(const Interval& interval, const Json& before, const Json& after)
      : interval_(interval), before_(before), after_(after) {}

  [[nodiscard]] double per_second(const char* key) const {
    return interval_.per_second(before_, after_, key);
  }
  [[nodiscard]] double reasons_per_second(const char* key) const {
    return interval_.per_second(total_of(part_of(before_, key)), total_of(part_of(after_, key)));
  }
  [[nodiscard]] std::string frames(const char* key) const { return pps_text(per_second(key)); }
  [[nodiscard]] std::string bytes(const char* key) const { return bits_text(per_second(key)); }
  [[nodiscard]] std::string reasons(const char* key) const {
    return pps_text(reasons_per_second(key));
  }

 private:
  const Interval& interval_;
  const Json& before_;
  const Json& after_;
};

Table taps(const Interval& interval) {
  Table table({{"tap"},
               {"port"},
               {"state"},
               {"in", true},
               {"", true},
               {"passed", true},
               {"matched", true},
               {"copied", true},
               {"missed", true},
               {"not passed", true}});
  for (const Json& tap : part_of(interval.after(), "taps")) {
    const Json& old_tap = named(part_of(interval.before(), "taps"), tap);
    for (const Json& port : part_of(tap, "ports")) {
      const Rates rates(interval, named(part_of(old_tap, "ports"), port), port);
      table.row({text_of(tap, "name"), text_of(port, "name"), text_of(port, "state"),
                 rates.frames("rx_frames"), rates.bytes("rx_bytes"), rates.frames("passed_frames"),
                 rates.frames("matched_frames"), rates.frames("copied_frames"),
                 rates.reasons("missed"), rates.reasons("not_passed")},
                rates.per_second("rx_frames"));
    }
  }
  table.sort();
  return table;
}

Table policies(const Interval& interval) {
  Table table({{"policy"}, {"matched", true}, {"", true}, {"dropped", true}});
  for (const Json& policy : part_of(interval.after(), "policies")) {
    const Rates rates(interval, named(part_of(interval.before(), "policies"), policy), policy);
    table.row({text_of(policy, "name"), rates.frames("matched_frames"),
               rates.bytes("matched_bytes"), rates.reasons("dropped")},
              rates.per_second("matched_frames"));
  }
  table.sort();
  return table;
}

Table copies(const Interval& interval) {
  Table table({{"policy"}, {"monitor"}, {"sent", true}, {"", true}, {"already sent", true}});
  for (const Json& policy : part_of(interval.after(), "policies")) {
    const Json& old_policy = named(part_of(interval.before(), "policies"), policy);
    for (const Json& monitor : part_of(policy, "monitors")) {
      const Rates rates(interval, named(part_of(old_policy, "monitors"), monitor), monitor);
      table.row({text_of(policy, "name"), text_of(monitor, "name"), rates.frames("sent_frames"),
                 rates.bytes("sent_bytes"), rates.frames("already_sent")},
                rates.per_second("sent_frames") + rates.per_second("already_sent"));
    }
  }
  table.sort();
  return table;
}

Table monitors(const Interval& interval) {
  Table table({{"monitor"}, {"port"}, {"state"}, {"out", true}, {"", true}, {"dropped", true}});
  for (const Json& monitor : part_of(interval.after(), "monitors")) {
    const Rates rates(interval, named(part_of(interval.before(), "monitors"), monitor), monitor);
    table.row({text_of(monitor, "name"), text_of(monitor, "port"), text_of(monitor, "state"),
               rates.frames("tx_frames"), rates.bytes("tx_bytes"), rates.reasons("dropped")},
              rates.per_second("tx_frames") + rates.reasons_per_second("dropped"));
  }
  table.sort();
  return table;
}

const Json& worker_on(const Json& workers, std::uint64_t cpu) {
  static const Json kNone = Json::object();
  for (const Json& worker : workers) {
    if (count_of(worker, "cpu") == cpu) return worker;
  }
  return kNone;
}

/// idle_ratio is a share of the whole life; this is the share of the interval.
double asleep_in(const Interval& interval, const Json& before, const Json& after) {
  const auto slept = [](const Json& stats, const Json& worker) {
    return number_of(worker, "idle_ratio") * number_of(stats, "uptime_s");
  };
  const double now = slept(interval.after(), after) - slept(interval.before(), before);
  return std::clamp(now / interval.seconds(), 0.0, 1.0);
}

Table workers(const Interval& interval) {
  Table table(
      {{"cpu", true}, {"bursts", true}, {"frames", true}, {"wakeups", true}, {"asleep", true}});
  for (const Json& worker : part_of(interval.after(), "workers")) {
    const std::uint64_t cpu = count_of(worker, "cpu");
    const Json& before = worker_on(part_of(interval.before(), "workers"), cpu);
    const auto rate = [&](const char* key) {
      return rate_text(interval.per_second(before, worker, key), "/s");
    };
    table.row({std::to_string(cpu), rate("bursts"), rate("frames"), rate("wakeups"),
               percent_text(asleep_in(interval, before, worker))},
              interval.per_second(before, worker, "frames"));
  }
  table.sort();
  return table;
}

}  // namespace

std::string rates_view(const Interval& interval, Screen screen) {
  const std::vector<Section> sections = {{"Taps (per second)", taps(interval)},
                                         {"Policies", policies(interval)},
                                         {"Copies", copies(interval)},
                                         {"Monitors", monitors(interval)},
                                         {"Workers", workers(interval)}};
  return heading(interval.after()) + sections_text(sections, screen, 1);
}

}  // namespace vtap::ctl
