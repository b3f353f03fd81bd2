// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "config/config.hpp"
#include "host/link.hpp"
#include "vtap/result.hpp"

/// From "auto" to what this machine can do. Reads the machine, changes nothing.
namespace vtap::engine {

struct ResolvedTap {
  config::Capture capture = config::Capture::tee;  ///< never automatic
  host::Hook hook = host::Hook::tc;
  std::string why;                ///< for --check and the log
  std::vector<host::Link> links;  ///< by port
};

struct ResolvedMonitor {
  host::Link link;
  host::Hook hook = host::Hook::tc;  ///< of the program that drops what arrives there
};

struct Resolved {
  std::vector<std::uint32_t> worker_cpus;  ///< one worker on each
  std::vector<ResolvedTap> taps;
  std::vector<ResolvedMonitor> monitors;
};

/// Errors: all that is wrong with the machine for this config, one "file:line:column: ..." a line;
/// `usage` kind. CPUs that this process may not use, a missing port, somebody else's XDP program on
/// it, a tap on the default route, a port that cannot play its role.
Result<Resolved> resolve(const config::Config& config);

/// The plan for people: what --check prints.
std::string describe(const config::Config& config, const Resolved& resolved);

}  // namespace vtap::engine
