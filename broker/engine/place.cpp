// SPDX-License-Identifier: Apache-2.0
#include "engine/place.hpp"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace vtap::engine {
namespace {

using config::Capture;
using config::Mode;
using config::Offload;
using plan::Placement;
using plan::set_of;

/// The bytes of one super-packet's frames: 64 KiB, and for all frames but the first headers again,
/// which are no more as long as frames carry at least what their headers take.
constexpr std::uint64_t kSuperPacketBytes = 128 << 10;

bool at_xdp(const ResolvedTap& how) { return how.ingress && how.hook == host::Hook::xdp; }

/// What a super-packet has to fit: at TC the kernel passes or drops it whole.
std::string burst_obstacle(const config::Meter& meter) {
  const bool by_packets = meter.packets_per_second != 0;
  const std::uint64_t least = by_packets ? std::uint64_t{VTAP_MAX_CUT} : kSuperPacketBytes;
  const auto too_small = [&](const std::string& burst) {
    return "a " + burst + " of less than " +
           (by_packets ? std::to_string(least) + " packets"
                       : std::to_string(least >> 10U) + "KiB") +
           " may be less than one super-packet, which the kernel passes or drops whole";
  };
  if (meter.burst < least) return too_small("burst");
  if (meter.peak_per_second != 0 && meter.peak_burst < least) return too_small("peak_burst");
  return {};
}

/// What a policy asks for at TC that differs from frame to frame of a super-packet, or that only
/// the device's output could do.
std::string tc_obstacle(const config::Policy& policy) {
  if (policy.meter) {
    if (std::string why = burst_obstacle(*policy.meter); !why.empty()) return why;
  }
  if (policy.slice) return "it slices";
  for (const auto* matches : {&policy.match, &policy.except}) {
    for (const config::Match& match : *matches) {
      if (!match.length.empty()) return "it asks for the length of a frame";
      if (!match.tcp_flags.empty()) return "it asks for TCP flags";
    }
  }
  return {};
}

/// What the kernel can do at no hook.
std::string policy_obstacle(const config::Policy& policy) {
  if (policy.offload == Offload::never) return "it has offload = \"never\"";
  if (policy.filter) return "it has a filter";
  if (policy.sample && policy.sample->flows) return "it samples flows";
  if (policy.head) return "it has head";
  if (policy.meter) {
    if (policy.meter->per != config::Per::policy) return "its meter is for each host or flow";
    if (policy.meter->exceed_slice != 0) return "its meter slices what exceeds the rate";
  }
  if (policy.slice_after != 0) return "it slices after the first packets of a flow";
  if (policy.once) return "it has once = true";
  if (policy.priority != 0) return "it has a priority";
  if (policy.weight != 1) return "it has a weight";
  return {};
}

class Placer {
 public:
  Placer(const config::Config& config, Resolved& resolved) : config_(config), resolved_(resolved) {
    for (const ResolvedTap& how : resolved.taps) at_xdp_.push_back(at_xdp(how));
  }

  std::vector<Refusal> run() {
    resolved_.policies.assign(
        config_.policies.size(),
        {Placement::broker, "the kernel selects and copies, the broker fans out"});
    resolved_.fan.sets.resize(config_.taps.size());
    for (const auto& policy : config_.policies) obstacles_.push_back(obstacle(policy));
    place_required();
    place_automatic();
    choose_captures();
    return std::move(refusals_);
  }

 private:
  /// Why the kernel cannot serve a policy; empty: it can.
  [[nodiscard]] std::string obstacle(const config::Policy& policy) const {
    if (std::string why = policy_obstacle(policy); !why.empty()) return why;
    for (const std::uint32_t monitor : policy.monitors) {
      if (config_.monitors[monitor].rate) {
        return "monitor " + config_.monitors[monitor].name + " has a rate";
      }
    }
    for (const std::uint32_t tap : policy.taps) {
      if (!resolved_.taps[tap].at_tc()) continue;
      if (std::string why = tc_obstacle(policy); !why.empty()) return why;
    }
    for (const std::uint32_t tap : policy.taps) {
      if (std::string why = tap_obstacle(tap); !why.empty()) {
        return "tap " + config_.taps[tap].name + " " + why;
      }
    }
    for (const std::uint32_t monitor : policy.monitors) {
      if (std::string why = monitor_obstacle(policy, monitor); !why.empty()) return why;
    }
    return {};
  }

  [[nodiscard]] std::string tap_obstacle(std::uint32_t tap) const {
    const ResolvedTap& how = resolved_.taps[tap];
    const Mode mode = config_.taps[tap].mode;
    if (!at_xdp_[tap]) {
      if (how.capture == Capture::tee) return {};
      return "has capture " + std::string(capture_name(how.capture)) +
             " at tc, the kernel clones only from a tee";
    }
    if (mode == Mode::host) {
      return "is a host tap at xdp: one verdict cannot pass a frame up the stack and broadcast it";
    }
    if (mode == Mode::inline_pair && how.capture != Capture::tee) {
      return "has capture redirect: its originals go to the broker, the kernel broadcasts "
             "only from a tee";
    }
    const auto generic = std::ranges::find_if_not(how.links, host::has_native_xdp);
    if (generic == how.links.end()) return {};
    return "has port " + generic->name + " (" + generic->driver +
           "), which has no native XDP; generic XDP is too slow to be worth a broadcast";
  }

  [[nodiscard]] std::string monitor_obstacle(const config::Policy& policy,
                                             std::uint32_t monitor) const {
    const host::Link& link = resolved_.monitors[monitor].link;
    const bool broadcasts =
        std::ranges::any_of(policy.taps, [&](std::uint32_t tap) { return at_xdp_[tap]; });
    if (!broadcasts || link.name.empty() || host::has_native_xdp(link)) return {};
    return "monitor port " + link.name + " (" + link.driver +
           ") has no native XDP, and takes no frames that XDP redirects";
  }

  /// Why `auto` leaves to the broker what the kernel could do; empty: it does not. A broadcast
  /// costs an original more than a tee does, so only taps that consume theirs; and where AF_XDP is
  /// zero-copy the broker is faster.
  [[nodiscard]] std::string drawback(const config::Policy& policy) const {
    for (const std::uint32_t tap : policy.taps) {
      const std::string name = "tap " + config_.taps[tap].name;
      if (config_.taps[tap].mode != Mode::span || !at_xdp_[tap]) {
        return name + " is not a span tap at xdp";
      }
      if (config_.taps[tap].capture == Capture::tee) return name + " has capture = \"tee\"";
      for (const host::Link& link : resolved_.taps[tap].links) {
        const std::string port = name + ": port " + link.name;
        if (!link.xdp_features) return port + ": this kernel does not tell what it can";
        if ((*link.xdp_features & host::xdp_act::zero_copy) != 0) return port + " has zero-copy";
      }
    }
    for (const std::uint32_t monitor : policy.monitors) {
      const host::Link& link = resolved_.monitors[monitor].link;
      if (link.xdp_features && host::takes_redirected(link)) continue;
      return "monitor port " + link.name + " takes no frames that XDP redirects at present";
    }
    return {};
  }

  /// What the config asks for.
  void place_required() {
    const auto& policies = config_.policies;
    for_each_group(Capture::redirect, [&](const std::vector<std::size_t>& group) {
      const auto required = std::ranges::find_if(
          group, [&](std::size_t i) { return policies[i].offload == Offload::require; });
      if (required == group.end()) return;
      const auto hindered =
          std::ranges::find_if(group, [&](std::size_t i) { return !obstacles_[i].empty(); });
      if (hindered != group.end()) {
        refuse(*required, *hindered, obstacles_[*hindered]);
      } else if (const std::string why = place(group); !why.empty()) {
        refuse(*required, *required, why);
      }
    });
  }

  /// What is better off there. Of taps, all policies or none: what is left would need a tee.
  void place_automatic() {
    for_each_group(Capture::automatic, [&](const std::vector<std::size_t>& group) {
      if (std::ranges::any_of(group, [&](std::size_t i) { return in_kernel(i); })) return;
      std::string why;
      for (const std::size_t i : group) {
        if (why.empty())
          why = obstacles_[i].empty() ? drawback(config_.policies[i]) : obstacles_[i];
      }
      if (why.empty()) why = place(group);
      for (const std::size_t i : group) {
        if (!in_kernel(i) && on_span(i)) resolved_.policies[i].why += "; not the kernel: " + why;
      }
    });
  }

  /// Places all of them in the kernel, or none: then says why.
  std::string place(const std::vector<std::size_t>& group) {
    std::vector<Placement> placements = resolved_.placements();
    for (const std::size_t i : group) placements[i] = Placement::kernel;
    auto fan = plan::fan_out(config_, placements, at_xdp_);
    if (!fan) return fan.error().message;
    resolved_.fan = std::move(*fan);
    for (const std::size_t i : group) {
      const auto& taps = config_.policies[i].taps;
      const bool xdp = std::ranges::any_of(taps, [&](std::uint32_t tap) { return at_xdp_[tap]; });
      const bool tc =
          std::ranges::any_of(taps, [&](std::uint32_t tap) { return resolved_.taps[tap].at_tc(); });
      resolved_.policies[i] = {Placement::kernel,
                               !xdp ? "the kernel clones to the monitor's port"
                               : tc ? "the kernel clones and broadcasts to the monitor's port"
                                    : "the kernel broadcasts to the monitor's port"};
    }
    return {};
  }

  /// A span tap whose frames the kernel broadcasts has no AF_XDP sockets; what the broker serves
  /// there is teed first.
  void choose_captures() {
    for (std::uint32_t tap = 0; tap < config_.taps.size(); ++tap) {
      ResolvedTap& how = resolved_.taps[tap];
      if (resolved_.fan.sets[tap].empty() || how.capture != Capture::redirect) continue;
      how.capture = Capture::tee;
      how.why = "the kernel broadcasts, and frames for the broker are copied";
    }
  }

  [[nodiscard]] bool in_kernel(std::size_t policy) const {
    return resolved_.policies[policy].placement == Placement::kernel;
  }

  [[nodiscard]] bool on_span(std::size_t policy) const {
    return std::ranges::any_of(config_.policies[policy].taps, [&](std::uint32_t tap) {
      return config_.taps[tap].mode == Mode::span && at_xdp_[tap];
    });
  }

  void refuse(std::size_t required, std::size_t hindered, const std::string& why) {
    const bool itself = required == hindered;
    const bool shares_monitor = (set_of(config_.policies[required].monitors) &
                                 set_of(config_.policies[hindered].monitors)) != 0 ||
                                joining_taps(hindered, Capture::redirect) == 0;
    const config::Policy& policy = config_.policies[required];
    refusals_.push_back(
        {policy.at, "policy " + policy.name + ": offload = \"require\" is impossible: " +
                        (itself ? why
                                : "policy " + config_.policies[hindered].name + " shares a " +
                                      (shares_monitor ? "monitor" : "span tap") +
                                      " with it, and cannot be placed in the kernel: " + why) +
                        "; write offload = \"auto\"" +
                        (itself ? "" : ", or give it a monitor of its own")});
  }

  /// Policies that share a monitor, or a span tap at XDP with that capture or `redirect`, are
  /// placed together, by whoever is the strictest of them.
  template <typename Use>
  void for_each_group(Capture joined, Use use) {
    std::vector<bool> seen(config_.policies.size(), false);
    for (std::size_t first = 0; first < seen.size(); ++first) {
      if (seen[first]) continue;
      const std::vector<std::size_t> group = group_of(first, joined);
      for (const std::size_t i : group) seen[i] = true;
      use(group);
    }
  }

  [[nodiscard]] std::vector<std::size_t> group_of(std::size_t first, Capture joined) const {
    std::vector<std::size_t> group;
    std::uint64_t monitors = set_of(config_.policies[first].monitors);
    std::uint64_t taps = joining_taps(first, joined);
    for (std::size_t before = ~std::size_t{0}; group.size() != before;) {
      before = group.size();
      group.clear();
      for (std::size_t i = 0; i < config_.policies.size(); ++i) {
        const std::uint64_t its_monitors = set_of(config_.policies[i].monitors);
        const std::uint64_t its_taps = joining_taps(i, joined);
        if ((its_monitors & monitors) == 0 && (its_taps & taps) == 0) continue;
        group.push_back(i);
        monitors |= its_monitors;
        taps |= its_taps;
      }
    }
    return group;
  }

  /// There are at most as many taps as ports.
  [[nodiscard]] std::uint64_t joining_taps(std::size_t policy, Capture joined) const {
    static_assert(VTAP_MAX_PORTS <= 64 && VTAP_MAX_MONITORS <= 64);
    std::uint64_t set = 0;
    for (const std::uint32_t tap : config_.policies[policy].taps) {
      const config::Tap& of = config_.taps[tap];
      if (of.mode != Mode::span || !at_xdp_[tap]) continue;
      if (of.capture == Capture::redirect || of.capture == joined) set |= std::uint64_t{1} << tap;
    }
    return set;
  }

  const config::Config& config_;
  Resolved& resolved_;
  std::vector<bool> at_xdp_;            ///< by tap
  std::vector<std::string> obstacles_;  ///< by policy
  std::vector<Refusal> refusals_;
};

}  // namespace

std::vector<Refusal> place_policies(const config::Config& config, Resolved& resolved) {
  return Placer(config, resolved).run();
}

}  // namespace vtap::engine
