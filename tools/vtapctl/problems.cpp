// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <string_view>

#include "findings.hpp"
#include "table.hpp"
#include "views.hpp"

namespace vtap::ctl {
namespace {

/// Which counters tell of a loss, and what a reader needs to know about each reason.
struct Advice {
  std::string_view reason, text;
};

constexpr std::array kMissed = {
    Advice{"no_free_frame", "no frame was free: raise broker.umem.frames"},
    Advice{"ring_full", "the workers do not keep up: give broker.workers more CPUs"},
    Advice{"too_long", "longer than broker.umem.frame_size holds"},
    Advice{"super_packet",
           "no tun device to cut GSO super-packets (modprobe tun), or too many frames"},
    Advice{"leg", "the kernel could not cut them: is vtapleg0 up?"},
};
constexpr std::array kNotPassed = {
    Advice{"tx_failed", "the other port did not take them"},
    Advice{"too_long", "longer than the other port's MTU allows"},
    Advice{"rx_ring_full", "the workers do not keep up: give broker.workers more CPUs"},
    Advice{"no_free_frame", "no frame was free: raise broker.umem.frames"},
    Advice{"stale", "the broker hung, and they were too old to be sent"},
};
constexpr std::array kMonitorDropped = {
    Advice{"ring_full", "the monitor's port is slower than its copies: sample, meter or slice"},
    Advice{"queue_full", "more arrives than the monitor's rate and queue take"},
    Advice{"down", "the monitor was down"},
    Advice{"device", "the device dropped them: MTU of both ends, and is anybody reading?"},
    Advice{"clone_failed", "the port's queueing discipline did not take them"},
};

template <size_t N>
std::string advice_on(const std::array<Advice, N>& known, std::string_view reason) {
  for (const Advice& advice : known) {
    if (advice.reason == reason) return ": " + std::string(advice.text);
  }
  return "";
}

/// Collects one sentence per counter that should be zero and is not.
class Findings {
 public:
  explicit Findings(const Interval& interval) : interval_(interval) {}

  void add(std::string text) { texts_.push_back(std::move(text)); }

  /// `what`: whose frames, and what befell them.
  template <size_t N>
  void add_losses(const std::string& what, const Json& before, const Json& after,
                  const std::array<Advice, N>& known) {
    for (const auto& item : after.items()) {
      const std::string& reason = item.key();
      const std::uint64_t frames = count_of(after, reason.c_str());
      if (frames == 0) continue;
      const double rate = interval_.per_second(before, after, reason.c_str());
      add(what + " " + std::to_string(frames) + " (" + printable(reason) + ", " +
          (rate > 0 ? "now " + pps_text(rate) : "not growing") + ")" + advice_on(known, reason));
    }
  }

  [[nodiscard]] std::vector<std::string> take() { return std::move(texts_); }

 private:
  const Interval& interval_;
  std::vector<std::string> texts_;
};

/// What the status document says, or stats where that has no such list.
const Json& list_in(const Interval& interval, const Json& status, const char* key) {
  const Json& said = part_of(status, key);
  return said.empty() ? part_of(interval.after(), key) : said;
}

void look_at_states(const Interval& interval, const Json& status, Findings& findings) {
  for (const Json& tap : list_in(interval, status, "taps")) {
    for (const Json& port : part_of(tap, "ports")) {
      const std::string state = text_of(port, "state");
      if (state == "up" || state == "-") continue;
      findings.add("tap " + text_of(tap, "name") + ", port " + text_of(port, "name") +
                   ": the port is " + state);
    }
  }
  for (const Json& monitor : list_in(interval, status, "monitors")) {
    const std::string state = text_of(monitor, "state");
    if (state == "up") continue;
    findings.add("monitor " + text_of(monitor, "name") + ": its port " + text_of(monitor, "port") +
                 " is " + state + "; it gets no copies");
  }
}

void look_at_port(const Json& tap, const Json& old_port, const Json& port, Findings& findings) {
  const std::string who = "tap " + text_of(tap, "name") + ", port " + text_of(port, "name") + ": ";
  findings.add_losses(who + "originals not passed", part_of(old_port, "not_passed"),
                      part_of(port, "not_passed"), kNotPassed);
  findings.add_losses(who + "copies missed", part_of(old_port, "missed"), part_of(port, "missed"),
                      kMissed);
}

void look_at_taps(const Interval& interval, Findings& findings) {
  for (const Json& tap : part_of(interval.after(), "taps")) {
    const Json& old_tap = named(part_of(interval.before(), "taps"), tap);
    for (const Json& port : part_of(tap, "ports")) {
      look_at_port(tap, named(part_of(old_tap, "ports"), port), port, findings);
    }
  }
}

/// The reasons that nobody asked for: these drop what the config has them drop.
Json unwanted(const Json& dropped) {
  Json out = dropped.is_object() ? dropped : Json::object();
  for (const char* asked_for : {"once", "sample", "head", "meter"}) out.erase(asked_for);
  return out;
}

void look_at_policies(const Interval& interval, Findings& findings) {
  for (const Json& policy : part_of(interval.after(), "policies")) {
    const Json& old = named(part_of(interval.before(), "policies"), policy);
    findings.add_losses("policy " + text_of(policy, "name") + ": copies dropped",
                        part_of(old, "dropped"), unwanted(part_of(policy, "dropped")),
                        std::array<Advice, 0>{});
  }
}

void look_at_monitors(const Interval& interval, Findings& findings) {
  for (const Json& monitor : part_of(interval.after(), "monitors")) {
    const std::string who = "monitor " + text_of(monitor, "name") + ": ";
    const Json& old = named(part_of(interval.before(), "monitors"), monitor);
    findings.add_losses(who + "copies dropped", part_of(old, "dropped"),
                        part_of(monitor, "dropped"), kMonitorDropped);
  }
}

void look_at_memory(const Interval& interval, Findings& findings) {
  const Json& umem = part_of(interval.after(), "umem");
  if (count_of(umem, "frames") == 0 || count_of(umem, "free") > 0) return;
  findings.add("memory: none of the " + std::to_string(count_of(umem, "frames")) +
               " frames is free");
}

void look_at_reload(const Json& status, Findings& findings) {
  const Json& reload = part_of(status, "last_reload");
  if (is_set(reload, "ok", true)) return;
  const auto error = reload.find("error");
  const bool said = error != reload.end() && error->is_string();
  findings.add("the last reload failed (" + text_of(reload, "at") +
               "), the config before it runs on:" +
               (said ? listed(error->get<std::string>(), "      ") : " see the log"));
}

void look_at_doctor(const Json& status, Findings& findings) {
  for (const Json& finding : by_severity(part_of(status, "findings"))) {
    if (!is_set(finding, "fixed")) findings.add(one_line(finding));
  }
}

}  // namespace

std::vector<std::string> problems(const Interval& interval, const Json& status) {
  Findings findings(interval);
  look_at_reload(status, findings);
  if (!is_set(status, "ready", true)) findings.add("not ready: not every port carries yet");
  look_at_states(interval, status, findings);
  look_at_taps(interval, findings);
  look_at_monitors(interval, findings);
  look_at_policies(interval, findings);
  look_at_memory(interval, findings);
  look_at_doctor(status, findings);
  return findings.take();
}

}  // namespace vtap::ctl
