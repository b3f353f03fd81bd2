// SPDX-License-Identifier: Apache-2.0
#include "engine/resolve.hpp"

#include <sched.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <sstream>

#include "engine/place.hpp"
#include "host/attach.hpp"
#include "pipeline/scheduler.hpp"
#include "plan/kernel_filters.hpp"

namespace vtap::engine {
namespace {

using config::Capture;
using config::Mode;

std::string_view mode_name(Mode mode) {
  switch (mode) {
    case Mode::inline_pair:
      return "inline";
    case Mode::host:
      return "host";
    case Mode::span:
      return "span";
  }
  return "";
}

std::string_view hook_name(host::Hook hook) { return hook == host::Hook::xdp ? "xdp" : "tc"; }

std::string_view direction_name(const ResolvedTap& how) {
  if (!how.egress) return "ingress only";
  if (!how.ingress) return "egress only";
  return how.hook == host::Hook::tc ? "both directions" : "both directions, egress at tc";
}

std::vector<std::uint32_t> usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<std::uint32_t> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return {0};
  for (std::uint32_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

std::string numbers(const std::vector<std::uint32_t>& values) {
  std::string text;
  for (const std::uint32_t value : values)
    text += (text.empty() ? "" : ", ") + std::to_string(value);
  return text;
}

class Resolver {
 public:
  explicit Resolver(const config::Config& config) : config_(config) {}

  Result<Attempt> run() {
    auto routes = host::default_route_links();
    if (!routes) return routes.error();
    routes_ = std::move(*routes);
    Resolved resolved;
    resolved.worker_cpus = choose_cpus();
    for (const auto& tap : config_.taps) resolved.taps.push_back(resolve_tap(tap));
    for (const auto& monitor : config_.monitors) {
      resolved.monitors.push_back(resolve_monitor(monitor));
    }
    for (Refusal& refusal : place_policies(config_, resolved)) {
      problem(refusal.at, "offload", "policies", std::move(refusal.message));
    }
    return Attempt{std::move(resolved), std::move(problems_)};
  }

 private:
  void problem(config::Position at, const char* id, const std::string& subject,
               std::string message) {
    problems_.push_back({at, id, subject, std::move(message)});
  }

  [[nodiscard]] bool carries_default_route(const host::Link& link) const {
    return std::ranges::any_of(routes_,
                               [&](const auto& route) { return route.ifindex == link.ifindex; });
  }

  std::optional<host::Link> find(config::Position at, const std::string& what,
                                 const std::string& port) {
    auto link = host::find_link(port);
    if (!link) {
      problem(at, "no-port", port, what + ": " + link.error().message);
      return std::nullopt;
    }
    if (link->loopback || !link->ethernet) {
      problem(at, "not-ethernet", port, what + ": port " + port + " is not an Ethernet device");
      return std::nullopt;
    }
    if (const auto stranger = host::strangers_xdp(*link))
      problem(at, "foreign-xdp", port, what + ": " + *stranger);
    return std::move(*link);
  }

  std::vector<std::uint32_t> choose_cpus() {
    const config::Broker& broker = config_.broker;
    const auto usable = usable_cpus();
    for (const std::uint32_t cpu : broker.worker_cpus) {
      if (std::ranges::find(usable, cpu) != usable.end()) continue;
      problem(broker.workers_at, "workers", "workers",
              "workers: CPU " + std::to_string(cpu) +
                  " is not one of those that this process may use: " + numbers(usable));
    }
    if (!broker.worker_cpus.empty()) return broker.worker_cpus;
    // The highest CPUs: interrupts, and with them the tee, tend to be on the lowest.
    const auto automatic = static_cast<std::uint32_t>(std::max<std::size_t>(usable.size() / 4, 1));
    const std::uint32_t count = broker.worker_count.value_or(automatic);
    if (count > usable.size()) {
      problem(broker.workers_at, "workers", "workers",
              "workers: this process may use only " + std::to_string(usable.size()) +
                  " CPUs; write \"auto\" or " + std::to_string(usable.size()) + " at most");
      return {};
    }
    return {usable.end() - count, usable.end()};
  }

  ResolvedTap resolve_tap(const config::Tap& tap) {
    ResolvedTap resolved;
    const std::string what = "tap " + tap.name;
    for (const std::string& port : tap.ports) {
      const auto link = find(tap.at, what, port);
      if (!link) continue;
      check_tap_port(tap, what, *link);
      resolved.links.push_back(*link);
    }
    choose_direction(tap, resolved);
    choose_capture(tap, resolved);
    choose_hook(tap, resolved);
    return resolved;
  }

  void check_tap_port(const config::Tap& tap, const std::string& what, const host::Link& link) {
    if (!tap.allow_management && carries_default_route(link)) {
      problem(tap.at, "default-route", link.name,
              what + ": port " + link.name +
                  " carries the default route; a tap there can cut off your own "
                  "access. Choose another port, or write allow_management = true "
                  "in this tap");
    }
    if (tap.mode == Mode::inline_pair) check_alone(tap.at, what, link);
  }

  void check_alone(config::Position at, const std::string& what, const host::Link& link) {
    if (link.has_master()) {
      problem(at, "master", link.name,
              what + ": port " + link.name +
                  " belongs to a bridge, bond or other master; remove it from there "
                  "(ip link set " +
                  link.name + " nomaster) or choose another port");
    }
    if (link.has_uppers) {
      problem(at, "uppers", link.name,
              what + ": port " + link.name +
                  " carries other devices (VLAN, macvlan, ...); remove them or choose "
                  "another port");
    }
  }

  static void choose_direction(const config::Tap& tap, ResolvedTap& resolved) {
    if (tap.mode != Mode::host) return;
    resolved.ingress = tap.direction != config::Direction::egress;
    resolved.egress = tap.direction != config::Direction::ingress;
  }

  static void choose_capture(const config::Tap& tap, ResolvedTap& resolved) {
    resolved.capture = tap.capture;
    if (tap.capture == Capture::automatic) {
      const bool redirects = tap.mode == Mode::span && tap.hook != config::Hook::tc;
      resolved.capture = redirects ? Capture::redirect : Capture::tee;
    }
  }

  void choose_hook(const config::Tap& tap, ResolvedTap& resolved) {
    if (resolved.capture == Capture::redirect) {
      resolved.hook = host::Hook::xdp;
      resolved.why = "redirect takes frames at XDP";
    } else if (resolved.capture == Capture::clone) {
      resolved.why = "only TC can clone";
    } else if (!resolved.ingress) {
      resolved.why = "only TC sees what leaves";
    } else if (tap.hook != config::Hook::automatic) {
      resolved.hook = tap.hook == config::Hook::xdp ? host::Hook::xdp : host::Hook::tc;
      resolved.why = "hook is forced by the config";
    } else {
      const auto at_tc = std::ranges::find_if(resolved.links, [](const host::Link& link) {
        return host::natural_hook(link) == host::Hook::tc;
      });
      const host::Link* const loser = loser_of_long_frames(tap, resolved);
      if (at_tc != resolved.links.end()) {
        resolved.why = at_tc->name + " (" + at_tc->driver + ") delivers skbs, complete only at TC";
      } else if (loser != nullptr) {
        resolved.why = loser->name + " takes frames too long to be sent on by XDP";
      } else {
        resolved.hook = host::Hook::xdp;
        resolved.why = "frames are complete at XDP";
      }
    }
    if (resolved.hook != host::Hook::xdp) return;
    check_native(tap, resolved);
    check_long_frames(tap, resolved);
  }

  /// The port of an inline pair at XDP of which frames can be lost, as they are too long for the
  /// other.
  static const host::Link* loser_of_long_frames(const config::Tap& tap,
                                                const ResolvedTap& resolved) {
    if (tap.mode != Mode::inline_pair || resolved.links.size() != 2) return nullptr;
    const host::Link& one = resolved.links[0];
    const host::Link& two = resolved.links[1];
    if (host::loses_long_frames(one, two)) return &one;
    return host::loses_long_frames(two, one) ? &two : nullptr;
  }

  void check_long_frames(const config::Tap& tap, const ResolvedTap& resolved) {
    const host::Link* const loser = loser_of_long_frames(tap, resolved);
    if (loser == nullptr) return;
    problem(tap.at, "long-frames", loser->name,
            "tap " + tap.name + ": port " + loser->name + " (MTU " + std::to_string(loser->mtu) +
                ") takes frames that lie in several buffers, and XDP cannot send those on to the "
                "other port here; set an MTU of " +
                std::to_string(host::kOneBufferMtu) +
                " at most, or write hook = \"tc\" and capture = \"tee\"");
  }

  void check_native(const config::Tap& tap, const ResolvedTap& resolved) {
    if (tap.mode == Mode::span) return;  // generic XDP serves a span, slowly
    for (const host::Link& link : resolved.links) {
      if (host::has_native_xdp(link)) continue;
      problem(tap.at, "no-native-xdp", link.name,
              "tap " + tap.name + ": port " + link.name + " (" + link.driver +
                  ") has no native XDP; write hook = \"tc\" and capture = \"tee\"");
    }
  }

  ResolvedMonitor resolve_monitor(const config::Monitor& monitor) {
    const std::string what = "monitor " + monitor.name;
    const auto link = find(monitor.at, what, monitor.port);
    if (!link) return {};
    if (carries_default_route(*link)) {
      problem(monitor.at, "default-route", link->name,
              what + ": port " + link->name +
                  " carries the default route and cannot be a monitor port; "
                  "choose another one");
    }
    check_alone(monitor.at, what, *link);
    return {*link, host::has_native_xdp(*link) ? host::Hook::xdp : host::Hook::tc};
  }

  const config::Config& config_;
  std::vector<Problem> problems_;
  std::vector<host::DefaultRoute> routes_;
};

}  // namespace

std::string_view capture_name(Capture capture) {
  switch (capture) {
    case Capture::automatic:
      return "auto";
    case Capture::tee:
      return "tee";
    case Capture::redirect:
      return "redirect";
    case Capture::clone:
      return "clone";
  }
  return "";
}

namespace {

std::string join(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

template <typename Named>
std::string names(const std::vector<std::uint32_t>& indexes, const std::vector<Named>& of) {
  std::vector<std::string> words;
  for (const std::uint32_t index : indexes) words.push_back(of[index].name);
  return join(words);
}

}  // namespace

std::vector<plan::Placement> Resolved::placements() const {
  std::vector<plan::Placement> placements;
  for (const ResolvedPolicy& policy : policies) placements.push_back(policy.placement);
  return placements;
}

bool Resolved::in_kernel(const config::Config& config, std::uint32_t monitor) const {
  for (std::size_t i = 0; i < policies.size(); ++i) {
    if (policies[i].placement != plan::Placement::kernel) continue;
    const auto& served = config.policies[i].monitors;
    if (std::ranges::find(served, monitor) != served.end()) return true;
  }
  return false;
}

bool Resolved::cloned_at_tc(const config::Config& config, std::uint32_t monitor) const {
  for (std::size_t i = 0; i < policies.size(); ++i) {
    const config::Policy& policy = config.policies[i];
    if (policies[i].placement != plan::Placement::kernel) continue;
    if (std::ranges::find(policy.monitors, monitor) == policy.monitors.end()) continue;
    if (std::ranges::any_of(policy.taps, [&](auto tap) { return taps[tap].at_tc(); })) return true;
  }
  return false;
}

namespace {

/// Who judges a policy's filter.
std::string filter_note(const config::Policy& policy, const Result<void>& in_kernel) {
  if (!policy.filter) return {};
  if (in_kernel) return ", filter in the kernel and in the broker";
  return ", filter in the broker alone (" + in_kernel.error().message + ")";
}

/// As the config has it, in the largest unit that makes a whole number.
std::string rate_text(config::Rate rate) {
  static constexpr std::array kBits{"bit/s", "kbit/s", "Mbit/s", "Gbit/s"};
  static constexpr std::array kPackets{"pps", "kpps", "Mpps"};
  std::span<const char* const> units = kBits;
  if (rate.packets) units = kPackets;
  std::size_t unit = 0;
  while (unit + 1 < units.size() && rate.per_second % 1000 == 0) {
    rate.per_second /= 1000;
    ++unit;
  }
  return std::to_string(rate.per_second) + units[unit];
}

}  // namespace

std::string loop_warnings(const config::Config& config, const Resolved& resolved) {
  std::vector<std::string> outside;
  std::vector<std::string> at_xdp;
  std::vector<std::string> broadcast;
  for (const auto& monitor : resolved.monitors) {
    if (!monitor.link.far_end_here) outside.push_back(monitor.link.name);
  }
  for (std::size_t i = 0; i < resolved.taps.size(); ++i) {
    const ResolvedTap& how = resolved.taps[i];
    if (how.ingress && how.hook == host::Hook::xdp) at_xdp.push_back(config.taps[i].name);
    if (!resolved.fan.sets[i].empty()) broadcast.push_back(config.taps[i].name);
  }
  std::string text;
  if (!outside.empty()) {
    text += "warning: copies leave this network namespace by " + join(outside) +
            " and lose the mark by which a tap knows them; nothing there may lead back to a tapped "
            "port\n";
  }
  if (!at_xdp.empty() && outside.size() < resolved.monitors.size()) {
    text += "warning: marks are not seen at xdp (tap " + join(at_xdp) +
            "); no monitor port may lead back to its ports\n";
  }
  if (!broadcast.empty() && at_xdp.size() < resolved.taps.size()) {
    text += "warning: copies that the kernel sends at xdp (tap " + join(broadcast) +
            ") bear no mark; no monitor port may lead back to a tapped port\n";
  }
  return text;
}

Result<Attempt> try_resolve(const config::Config& config) { return Resolver(config).run(); }

Result<Resolved> resolve(const config::Config& config) {
  auto attempt = try_resolve(config);
  if (!attempt) return attempt.error();
  std::string text;
  for (Problem& problem : attempt->problems) {
    text += (text.empty() ? "" : "\n") +
            config::format({problem.at, std::move(problem.message)}, config.file);
  }
  if (!text.empty()) return Error{std::move(text), ErrorKind::usage};
  return std::move(attempt->resolved);
}

std::string describe(const config::Config& config, const Resolved& resolved) {
  std::ostringstream text;
  text << "plan of " << config.file << " (broker " << config.broker.name << ")\n";
  for (std::size_t i = 0; i < config.taps.size(); ++i) {
    const auto& tap = config.taps[i];
    const auto& how = resolved.taps[i];
    text << "tap " << tap.name << ": " << mode_name(tap.mode) << ", ports " << join(tap.ports)
         << ", capture " << capture_name(how.capture) << " at " << hook_name(how.hook) << " ("
         << how.why << ")";
    if (tap.mode == Mode::host) text << ", " << direction_name(how);
    text << '\n';
  }
  for (std::size_t i = 0; i < config.monitors.size(); ++i) {
    const auto& monitor = config.monitors[i];
    text << "monitor " << monitor.name << ": port " << monitor.port << ", "
         << (resolved.monitors[i].link.ready() ? "up" : "down");
    if (monitor.rate) text << ", rate " << rate_text(*monitor.rate);
    if (pipeline::schedule_of(config, static_cast<std::uint32_t>(i))) {
      text << ", scheduled, queue " << monitor.queue;
    }
    text << '\n';
  }
  const auto filters = plan::kernel_filters(config);
  for (std::size_t i = 0; i < config.policies.size(); ++i) {
    const auto& policy = config.policies[i];
    const auto& how = resolved.policies[i];
    text << "policy " << policy.name << ": placement "
         << (how.placement == plan::Placement::kernel ? "kernel" : "broker") << " (" << how.why
         << "), taps " << names(policy.taps, config.taps) << ", monitors "
         << names(policy.monitors, config.monitors) << filter_note(policy, filters[i]);
    if (policy.priority != 0) text << ", priority " << std::uint32_t{policy.priority};
    if (policy.weight != 1) text << ", weight " << policy.weight;
    text << '\n';
  }
  text << loop_warnings(config, resolved);
  return text.str();
}

}  // namespace vtap::engine
