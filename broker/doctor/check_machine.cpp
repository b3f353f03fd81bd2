// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "doctor/checks.hpp"

namespace vtap::doctor {
namespace {

constexpr std::uint64_t unlimited = ~std::uint64_t{0};

/// Sockets that a broker opens for this config, one per queue at most.
std::uint64_t sockets(const Facts& facts) {
  const auto workers = std::max<std::uint64_t>(facts.machine.workers.size(), 1);
  std::uint64_t count = 0;
  for (const PortFacts& port : facts.ports) {
    if (!port.link) continue;
    if (port.redirect) count += port.link->rx_queues;
    if (port.uses_tx_sockets()) count += std::min<std::uint64_t>(workers, port.link->tx_queues);
  }
  return std::max<std::uint64_t>(count, 1);
}

std::string join(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ",") + word;
  return text;
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return text;
}

}  // namespace

void check_kernel(const Facts& facts, Diagnoses& out) {
  const Machine& machine = facts.machine;
  bool complete = machine.probed;
  for (const Probe& probe : machine.probes) {
    if (probe.works) continue;
    complete = false;
    out.push_back({{.id = "kernel-feature",
                    .severity = probe.needed ? Severity::error : Severity::hint,
                    .subject = "kernel",
                    .what = "Linux " + machine.kernel + " has no " + probe.what,
                    .why = probe.needed ? "the broker needs it for " + probe.why : probe.why,
                    .fix = probe.needed ? "boot Linux 6.1 or later, as distributions build it"
                                        : "boot a newer kernel"}});
  }
  if (!complete) return;
  out.push_back({{.id = "kernel-feature",
                  .subject = "kernel",
                  .what = "Linux " + machine.kernel + " has all " +
                          std::to_string(machine.probes.size()) + " features that were tried",
                  .why = {},
                  .fix = {}}});
}

void check_realtime(const Facts& facts, Diagnoses& out) {
  if (!facts.machine.realtime) return;
  out.push_back({{.id = "preempt-rt",
                  .severity = Severity::error,
                  .subject = "kernel",
                  .what = "this kernel is PREEMPT_RT",
                  .why = "a tap program may be preempted by another on its CPU there, and both "
                         "write to the same ring; the broker refuses to start",
                  .fix = "boot a kernel without PREEMPT_RT"}});
}

void check_capabilities(const Facts& facts, Diagnoses& out) {
  // A broker that runs had what it needs, and gave up what it does not need any more.
  if (facts.running) return;
  const Privileges& mine = facts.machine.privileges;
  if (mine.missing.empty()) {
    out.push_back({{.id = "capabilities",
                    .subject = "process",
                    .what = "all capabilities that are needed",
                    .why = {},
                    .fix = {}}});
    return;
  }
  const std::string all = join(mine.missing);
  out.push_back(
      {{.id = "capabilities",
        .severity = Severity::error,
        .subject = "process",
        .what = "missing privilege: " + all + "; what needs it was not looked at",
        .why = "the broker refuses to start without",
        .fix = mine.out_of_reach.empty()
                   ? "setcap " + lower(all) + "+ep " + mine.executable
                   : "grant " + join(mine.out_of_reach) +
                         " to the service or container (CapabilityBoundingSet= and "
                         "AmbientCapabilities= of its unit, --cap-add of the container)"}});
}

void check_memlock(const Facts& facts, Diagnoses& out) {
  const Privileges& mine = facts.machine.privileges;
  const config::Broker& broker = facts.config.broker;
  // Every socket registers the frames for itself, and each time the kernel counts them.
  const std::uint64_t wanted = std::uint64_t{broker.frames} * broker.frame_size * sockets(facts);
  // The broker asks for no limit at all; where it may not, it keeps what it has.
  const bool raises = mine.may_raise || mine.memlock_most == unlimited;
  const std::uint64_t most = raises ? unlimited : mine.memlock;
  if (mine.may_lock || most >= wanted) {
    const bool unbound = mine.may_lock || most == unlimited;
    out.push_back({{.id = "memlock",
                    .subject = "process",
                    .what = unbound ? "locked memory is not limited"
                                    : "locked memory: " + std::to_string(most) + " bytes",
                    .why = {},
                    .fix = {}}});
    return;
  }
  out.push_back({{.id = "memlock",
                  .severity = Severity::error,
                  .subject = "process",
                  .what = "RLIMIT_MEMLOCK is " + std::to_string(most) +
                          " bytes, the frames of all sockets take " + std::to_string(wanted),
                  .why = "the kernel counts the memory of AF_XDP sockets against it (BPF maps "
                         "count for the memory cgroup), and without CAP_IPC_LOCK the limit holds: "
                         "no socket opens",
                  .fix = "ulimit -l unlimited    # in the shell that starts the broker; of a "
                         "systemd unit: LimitMEMLOCK=infinity"}});
}

void check_bpffs(const Facts& facts, Diagnoses& out) {
  if (facts.machine.bpffs) {
    out.push_back(
        {{.id = "bpffs", .subject = "machine", .what = "bpffs is mounted", .why = {}, .fix = {}}});
    return;
  }
  Diagnosis found{{.id = "bpffs",
                   .severity = Severity::hint,
                   .subject = "machine",
                   .what = "no bpffs at /sys/fs/bpf (`ip netns exec` hides it)",
                   .why = "the broker pins nothing, but bpftool, xdp-loader and `ip link ... xdp` "
                          "need it there",
                   .fix = "mount -t bpf bpf /sys/fs/bpf"}};
  // A broker that runs has given up mounting.
  if (!facts.running) {
    found.finding.safe = true;
    found.remedy = MountBpffs{};
  }
  out.push_back(std::move(found));
}

void check_tun(const Facts& facts, Diagnoses& out) {
  const auto& taps = facts.attempt.resolved.taps;
  const bool cuts =
      std::any_of(taps.begin(), taps.end(), [](const auto& tap) { return tap.at_tc(); });
  if (facts.machine.tun || !cuts) return;
  out.push_back({{.id = "tun",
                  .severity = Severity::warning,
                  .subject = "machine",
                  .what = "there is no /dev/net/tun",
                  .why = "taps at TC cut super-packets by a tun device; without it there are no "
                         "copies of them (missed.super_packet)",
                  .fix = "modprobe tun"}});
}

}  // namespace vtap::doctor
