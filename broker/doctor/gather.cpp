// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "doctor/facts.hpp"
#include "host/attach.hpp"
#include "host/state.hpp"

namespace vtap::doctor {
namespace {

host::Role role_of(config::Mode mode) {
  switch (mode) {
    case config::Mode::inline_pair:
      return host::Role::tap_inline;
    case config::Mode::host:
      return host::Role::tap_host;
    case config::Mode::span:
      return host::Role::tap_span;
  }
  return host::Role::tap_host;
}

class Gatherer {
 public:
  Gatherer(const config::Config& config, const Running* running, const Options& options)
      : running_(running), options_(options), state_(state_of(options)) {
    facts_.config = config;
    if (running != nullptr) facts_.running = *running;
  }

  Facts run() && {
    auto attempt = engine::try_resolve(facts_.config);
    if (attempt) {
      facts_.attempt = std::move(*attempt);
    } else {
      facts_.attempt.problems.push_back({{}, "machine", "machine", attempt.error().message});
    }
    if (auto links = host::links()) links_ = std::move(*links);
    if (auto routes = host::default_route_links()) routes_ = std::move(*routes);
    for (std::size_t i = 0; i < facts_.config.taps.size(); ++i) add_tap(i);
    for (std::size_t i = 0; i < facts_.config.monitors.size(); ++i) add_monitor(i);
    const auto& cpus = running_ != nullptr && !running_->worker_cpus.empty()
                           ? running_->worker_cpus
                           : facts_.attempt.resolved.worker_cpus;
    facts_.machine = gather_machine(cpus, options_.root);
    return std::move(facts_);
  }

 private:
  static Result<host::StateDir> state_of(const Options& options) {
    return options.state_dir.empty() ? host::StateDir::open()
                                     : host::StateDir::open(options.state_dir);
  }

  void add_tap(std::size_t number) {
    const config::Tap& tap = facts_.config.taps[number];
    const auto& taps = facts_.attempt.resolved.taps;
    const engine::ResolvedTap how = number < taps.size() ? taps[number] : engine::ResolvedTap{};
    const std::size_t first = facts_.ports.size();
    for (const std::string& name : tap.ports) {
      PortFacts port;
      port.name = name;
      port.owner = "tap " + tap.name;
      port.spec = {.name = name, .role = role_of(tap.mode), .hook = how.hook};
      port.egress = how.egress;
      port.redirect = how.capture == config::Capture::redirect;
      port.forced = tap.hook == config::Hook::xdp || tap.capture == config::Capture::redirect;
      if (tap.mode == config::Mode::inline_pair && tap.ports.size() == 2) {
        port.output = first + (facts_.ports.size() == first ? 1 : 0);
      }
      facts_.ports.push_back(std::move(port));
      look(facts_.ports.back());
    }
    for (std::size_t i = first; i < facts_.ports.size(); ++i) {
      PortFacts& port = facts_.ports[i];
      if (!port.redirect || !port.output || !port.link) continue;
      const auto& output = facts_.ports[*port.output].link;
      port.spec.by_stack = output && host::refuses_zero_copy_frames(*port.link, *output);
    }
  }

  void add_monitor(std::size_t number) {
    const auto index = static_cast<std::uint32_t>(number);
    const engine::Resolved& resolved = facts_.attempt.resolved;
    PortFacts port;
    port.name = facts_.config.monitors[number].port;
    port.owner = "monitor " + facts_.config.monitors[number].name;
    port.spec = {.name = port.name, .role = host::Role::monitor, .hook = host::Hook::tc};
    const bool kernel = !resolved.policies.empty() && resolved.in_kernel(facts_.config, index);
    port.spec.skb_output = kernel && resolved.cloned_at_tc(facts_.config, index);
    port.broadcast = kernel && xdp_sends_to(index);
    look(port);
    if (port.link && host::has_native_xdp(*port.link)) port.spec.hook = host::Hook::xdp;
    facts_.ports.push_back(std::move(port));
  }

  [[nodiscard]] bool xdp_sends_to(std::uint32_t monitor) const {
    const engine::Resolved& resolved = facts_.attempt.resolved;
    for (std::size_t i = 0; i < resolved.policies.size(); ++i) {
      const config::Policy& policy = facts_.config.policies[i];
      if (resolved.policies[i].placement != plan::Placement::kernel) continue;
      if (std::ranges::find(policy.monitors, monitor) == policy.monitors.end()) continue;
      if (std::ranges::any_of(policy.taps, [&](std::uint32_t tap) {
            return resolved.taps[tap].ingress && resolved.taps[tap].hook == host::Hook::xdp;
          })) {
        return true;
      }
    }
    return false;
  }

  void look(PortFacts& port) {
    const auto found = std::ranges::find_if(
        links_, [&](const host::Link& link) { return link.name == port.name; });
    if (found == links_.end()) return;
    port.link = *found;
    const host::Link& link = *port.link;
    std::optional<std::string> holder;
    if (state_) holder = host::PortClaim::holder(*state_, port.name);
    const std::string me = "(process " + std::to_string(::getpid()) + ")";
    port.held_here = running_ != nullptr && holder && holder->find(me) != std::string::npos;
    port.in_use = holder || host::carries_ours(link);
    if (auto features = host::features(port.name)) port.features = std::move(*features);
    if (auto foreign = host::foreign_programs(link)) port.foreign = std::move(*foreign);
    port.far_end = host::far_end(link);
    port.rings = host::ring_sizes(port.name);
    for (const host::DefaultRoute& route : routes_) {
      if (route.ifindex == link.ifindex) port.default_route = route;
    }
    for (const host::Link& other : links_) {
      if (other.lower == link.ifindex) port.uppers.push_back(other.name);
      if (other.ifindex == link.master) port.master = other.name;
    }
    if (const auto global = host::has_global_ipv6(link.ifindex)) port.global_ipv6 = global.value();
    if (const auto off = host::disable_ipv6(port.name)) {
      port.ipv6_on = off.value().has_value() && *off.value() != "1";
    }
  }

  const Running* running_;
  const Options& options_;
  Result<host::StateDir> state_;
  Facts facts_;
  std::vector<host::Link> links_;
  std::vector<host::DefaultRoute> routes_;
};

}  // namespace

Facts gather(const config::Config& config, const Running* running, const Options& options) {
  return Gatherer(config, running, options).run();
}

}  // namespace vtap::doctor
