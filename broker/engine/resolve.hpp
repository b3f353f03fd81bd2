// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "config/config.hpp"
#include "host/link.hpp"
#include "plan/fan_out.hpp"
#include "plan/plan.hpp"
#include "vtap/result.hpp"

/// From "auto" to what this machine can do. Reads the machine, changes nothing.
namespace vtap::engine {

struct ResolvedTap {
  config::Capture capture = config::Capture::tee;  ///< never automatic
  host::Hook hook = host::Hook::tc;                ///< of ingress, if that is observed
  bool ingress = true;
  bool egress = false;            ///< always at TC
  std::string why;                ///< for --check and the log
  std::vector<host::Link> links;  ///< by port

  /// Whether packets come by that may have to be cut: a program of it sits at TC.
  [[nodiscard]] bool at_tc() const noexcept { return egress || hook == host::Hook::tc; }
};

struct ResolvedMonitor {
  host::Link link;
  host::Hook hook = host::Hook::tc;  ///< of the program that drops what arrives there
};

struct ResolvedPolicy {
  plan::Placement placement = plan::Placement::broker;
  std::string why;  ///< for --check
};

struct Resolved {
  std::vector<std::uint32_t> worker_cpus;  ///< one worker on each
  std::vector<ResolvedTap> taps;
  std::vector<ResolvedMonitor> monitors;
  std::vector<ResolvedPolicy> policies;

  plan::FanOut fan;  ///< what is broadcast at XDP

  /// By policy, for the plan.
  [[nodiscard]] std::vector<plan::Placement> placements() const;
  /// Whether the kernel serves the policies of this monitor.
  [[nodiscard]] bool in_kernel(const config::Config& config, std::uint32_t monitor) const;
  /// Whether some of its copies are clones that TC makes.
  [[nodiscard]] bool cloned_at_tc(const config::Config& config, std::uint32_t monitor) const;
};

/// The word of the config.
std::string_view capture_name(config::Capture capture);

/// Errors: all that is wrong with the machine for this config, one "file:line:column: ..." a line;
/// `usage` kind. CPUs that this process may not use, a missing port, somebody else's XDP program on
/// it, a tap on the default route, a port that cannot play its role.
Result<Resolved> resolve(const config::Config& config);

/// What is wrong with the machine for a config.
struct Problem {
  config::Position at;
  std::string id;       ///< a word for programs, such as "foreign-xdp"
  std::string subject;  ///< the port, or what else it is about
  std::string message;
};

/// As resolve(), and what could be resolved in spite of the problems: ports that are not there are
/// not among the links.
struct Attempt {
  Resolved resolved;
  std::vector<Problem> problems;
};
Result<Attempt> try_resolve(const config::Config& config);

/// Where a copy could come back and not be known as one: one warning a line.
std::string loop_warnings(const config::Config& config, const Resolved& resolved);

/// The plan for people: what --check prints.
std::string describe(const config::Config& config, const Resolved& resolved);

}  // namespace vtap::engine
