// SPDX-License-Identifier: Apache-2.0
#include <vtap/abi.h>

#include <algorithm>

#include "doctor/checks.hpp"
#include "pipeline/scheduler.hpp"

namespace vtap::doctor {
namespace {

/// The command that gives a device so many queues.
std::string set_queues(const PortFacts& port, const std::string& way, std::uint32_t count) {
  const bool apart = !port.link->kind.empty();  // veth and others; cards have them combined
  return "ethtool -L " + port.name + " " + (apart ? way : "combined") + " " + std::to_string(count);
}

std::string queues(std::uint32_t count, const std::string& way) {
  return std::to_string(count) + " " + way + (count == 1 ? " queue" : " queues");
}

bool has_zero_copy(const host::Link& link) {
  return (link.xdp_features.value_or(0) & host::xdp_act::zero_copy) != 0;
}

/// What kept a queue from zero-copy, as far as the kernel tells.
std::string why_copy(const host::Link& link) {
  if (!link.xdp_features) return "this kernel does not tell whether " + link.driver + " can";
  if (!has_zero_copy(link)) return "the driver " + link.driver + " has no AF_XDP zero-copy";
  if (link.xdp_mode != host::XdpMode::native) {
    return "the driver " + link.driver + " can, but no native XDP program is attached";
  }
  return "the driver " + link.driver +
         " can, but refused (queues without interrupt, MTU above a frame, ring sizes, or a device "
         "without the needed feature: see dmesg)";
}

void copy_mode(const PortFacts& port, const std::string& which, Diagnoses& out) {
  const bool refused = has_zero_copy(*port.link);
  out.push_back({{.id = "zero-copy",
                  .severity = refused ? Severity::warning : Severity::hint,
                  .subject = port.name,
                  .what = port.owner + ": " + which + " in copy mode, " + why_copy(*port.link),
                  .why = "the kernel copies each frame once more",
                  .fix = refused ? "dmesg | tail    # what the driver says" : std::string()}});
}

void check_granted(const Running& running, const PortFacts& port, Diagnoses& out) {
  std::uint32_t all = 0;
  std::uint32_t granted = 0;
  for (const Running::Queue& queue : running.queues) {
    if (queue.port != port.name) continue;
    ++all;
    granted += queue.zero_copy ? 1 : 0;
  }
  if (all == 0) return;
  const std::string sockets = std::to_string(all) + (all == 1 ? " socket" : " sockets");
  if (granted < all) {
    copy_mode(port, std::to_string(all - granted) + " of " + sockets, out);
    return;
  }
  out.push_back({{.id = "zero-copy",
                  .subject = port.name,
                  .what = port.owner + ": zero-copy granted for " + sockets,
                  .why = {},
                  .fix = {}}});
}

bool uses_sockets(const PortFacts& port) { return port.redirect || port.uses_tx_sockets(); }

std::uint32_t worker_count(const Facts& facts) {
  return static_cast<std::uint32_t>(facts.machine.workers.size());
}

void check_idle_workers(const Facts& facts, Diagnoses& out) {
  std::uint32_t receiving = 0;
  for (const PortFacts& port : facts.ports) {
    if (!port.is_tap()) continue;
    if (!port.link || port.egress) return;  // what leaves comes from any CPU
    receiving += port.link->rx_queues;
  }
  if (receiving == 0 || worker_count(facts) <= receiving) return;
  out.push_back({{.id = "idle-workers",
                  .severity = Severity::hint,
                  .subject = "workers",
                  .what = std::to_string(worker_count(facts)) + " workers, but the taps have " +
                          queues(receiving, "RX"),
                  .why = "frames come in on no more CPUs than there are queues: the other workers "
                         "have nothing to do, but own their share of the memory",
                  .fix = "workers = " + std::to_string(receiving) + "    # in [broker] of " +
                         facts.config.file}});
}

void check_tx_queues(const Facts& facts, std::uint32_t monitor, const PortFacts& port,
                     Diagnoses& out) {
  if (pipeline::schedule_of(facts.config, monitor)) return;  // one worker serves it in any case
  if (port.link->tx_queues >= worker_count(facts)) return;
  out.push_back(
      {{.id = "shared-tx-queues",
        .severity = Severity::hint,
        .subject = port.name,
        .what = port.owner + ": " + port.name + " has " + queues(port.link->tx_queues, "TX") +
                " for " + std::to_string(worker_count(facts)) + " workers",
        .why = "copies of the other workers cross to those that own a queue",
        .fix = set_queues(port, "tx", worker_count(facts))}});
}

}  // namespace

void check_queue_limit(const Facts& facts, Diagnoses& out) {
  for (const PortFacts& port : facts.ports) {
    if (!port.redirect || !port.link || port.link->rx_queues <= VTAP_MAX_QUEUES) continue;
    out.push_back({{.id = "too-many-queues",
                    .severity = Severity::error,
                    .subject = port.name,
                    .what = port.name + " has " + queues(port.link->rx_queues, "RX") +
                            ", redirect serves " + std::to_string(VTAP_MAX_QUEUES) + " at most",
                    .why = "the broker refuses to start",
                    .fix = set_queues(port, "rx", VTAP_MAX_QUEUES)}});
  }
}

void check_queue_cover(const Facts& facts, Diagnoses& out) {
  if (!facts.running) return;
  for (const PortFacts& port : facts.ports) {
    if (!port.redirect || !port.link) continue;
    const auto& all = facts.running->queues;
    const auto served = static_cast<std::uint32_t>(std::count_if(
        all.begin(), all.end(),
        [&](const Running::Queue& queue) { return queue.rx && queue.port == port.name; }));
    if (served >= port.link->rx_queues) continue;
    out.push_back(
        {{.id = "uncovered-queues",
          .severity = Severity::warning,
          .subject = port.name,
          .what = port.name + " has " + queues(port.link->rx_queues, "RX") +
                  " now, the broker serves " + std::to_string(served),
          .why = "frames of the others take the plain path and have no copy "
                 "(missed.no_socket)",
          .fix = set_queues(port, "rx", std::max(served, 1U)) + "    # or restart the broker"}});
  }
}

void check_queues_of_workers(const Facts& facts, Diagnoses& out) {
  if (worker_count(facts) < 2) return;
  check_idle_workers(facts, out);
  const std::size_t taps = facts.ports.size() - facts.config.monitors.size();
  for (std::size_t i = taps; i < facts.ports.size(); ++i) {
    if (!facts.ports[i].link || !uses_sockets(facts.ports[i])) continue;
    check_tx_queues(facts, static_cast<std::uint32_t>(i - taps), facts.ports[i], out);
  }
}

void check_zero_copy(const Facts& facts, Diagnoses& out) {
  for (const PortFacts& port : facts.ports) {
    if (!port.link || !uses_sockets(port)) continue;
    if (facts.running) {
      check_granted(*facts.running, port, out);
    } else if (port.link->xdp_features && !has_zero_copy(*port.link)) {
      copy_mode(port, "sockets will be", out);
    }
  }
}

}  // namespace vtap::doctor
