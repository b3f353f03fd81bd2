// SPDX-License-Identifier: Apache-2.0
#include "doctor/doctor.hpp"

#include <spdlog/spdlog.h>

#include <array>

#include "doctor/checks.hpp"
#include "doctor/view.hpp"

namespace vtap::doctor {
namespace {

constexpr std::array checks = {
    check_kernel,    check_realtime,     check_capabilities, check_memlock,
    check_bpffs,     check_tun,          check_config,       check_links,
    check_foreign,   check_xdp_features, check_unfinished,   check_outputs,
    check_mtu,       check_offloads,     check_host_lro,     check_promisc,
    check_ipv6,      check_queue_limit,  check_queue_cover,  check_queues_of_workers,
    check_zero_copy, check_rings,        check_loops,        check_isolation,
    check_governor,  check_siblings,     check_irqbalance};

}  // namespace

Diagnoses diagnose(const Facts& facts) {
  Diagnoses found;
  for (const Check check : checks) check(facts, found);
  return found;
}

Running running_from(const stats::Snapshot& snapshot) {
  Running running;
  const auto add = [&](const std::string& port, const std::vector<stats::QueueInfo>& queues) {
    for (const stats::QueueInfo& queue : queues) {
      running.queues.push_back({.port = port,
                                .queue = queue.queue,
                                .rx = queue.direction.compare(0, 2, "rx") == 0,
                                .zero_copy = queue.zero_copy});
    }
  };
  for (const stats::Tap& tap : snapshot.taps) {
    for (const stats::TapPort& port : tap.ports) add(port.name, port.queues);
  }
  for (const stats::Monitor& monitor : snapshot.monitors) add(monitor.port, monitor.queues);
  for (const stats::Worker& worker : snapshot.workers) running.worker_cpus.push_back(worker.cpu);
  return running;
}

std::vector<Finding> examine(const config::Config& config, const Running* running,
                             const Options& options) {
  std::vector<Finding> findings;
  for (Diagnosis& each : diagnose(gather(config, running, options))) {
    if (each.finding.severity == Severity::ok && !options.verbose) continue;
    findings.push_back(std::move(each.finding));
  }
  return findings;
}

void log(const std::vector<Finding>& findings) {
  for (const Finding& finding : findings) {
    if (finding.severity == Severity::error) spdlog::error("{}", log_line(finding));
    if (finding.severity == Severity::warning) spdlog::warn("{}", log_line(finding));
  }
}

}  // namespace vtap::doctor
