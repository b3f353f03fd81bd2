// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "config/config.hpp"
#include "doctor/finding.hpp"
#include "stats/snapshot.hpp"

/// What is wrong with a machine for a config, why it matters, and what mends it (docs/doctor.md).
namespace vtap::doctor {

/// What only a live broker knows.
struct Running {
  /// What the kernel granted for one AF_XDP socket.
  struct Queue {
    std::string port;
    std::uint32_t queue = 0;
    bool rx = false;
    bool zero_copy = false;
  };
  std::vector<Queue> queues;
  std::vector<std::uint32_t> worker_cpus;
};

/// As the counters of a broker show it.
Running running_from(const stats::Snapshot& snapshot);

struct Options {
  bool verbose = false;                  ///< list what is fine, too
  std::filesystem::path root = "/";      ///< where proc, sys and dev are
  std::filesystem::path state_dir = {};  ///< of the journals; empty: where brokers have it
};

/// Looks at the machine; changes nothing. `running`: of the broker in this process; null: none runs
/// here. Reads by netlink and ioctl, loads small BPF objects to see whether the kernel takes them;
/// for the control thread.
std::vector<Finding> examine(const config::Config& config, const Running* running,
                             const Options& options = {});

/// Does what is safe, looks again, and marks what is gone as fixed. Findings as they were before,
/// with what failed in `what`, and new ones behind.
std::vector<Finding> mend(const config::Config& config, const Running* running,
                          const Options& options = {});

/// Errors and warnings, one line each, to the log.
void log(const std::vector<Finding>& findings);

}  // namespace vtap::doctor
