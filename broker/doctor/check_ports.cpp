// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "doctor/checks.hpp"

namespace vtap::doctor {
namespace {

constexpr std::uint32_t ethernet_header = 14;
constexpr std::uint32_t vlan_tag = 4;
constexpr std::uint32_t xdp_headroom = 256;
constexpr std::uint32_t largest_frame_size = 4096;
/// Below it a burst at line rate overruns a ring before its interrupt is served.
constexpr std::uint32_t few_descriptors = 1024;

std::string set_mtu(const PortFacts& port, std::uint32_t mtu) {
  return "ip link set dev " + port.name + " mtu " + std::to_string(mtu);
}

std::string mtu_of(const PortFacts& port) {
  return port.name + " (MTU " + std::to_string(port.link->mtu) + ")";
}

void check_link(const PortFacts& port, Diagnoses& out) {
  const host::Link& link = *port.link;
  if (link.ready()) return;
  Finding finding{.id = "link-down",
                  .severity = Severity::warning,
                  .subject = port.name,
                  .what = port.owner + ": " + port.name,
                  .why = port.is_monitor() ? "copies for this monitor are dropped (dropped.down)"
                                           : "nothing is observed there",
                  .fix = {}};
  if (!link.up) {
    finding.what += " is down";
    finding.fix = "ip link set dev " + port.name + " up";
  } else {
    finding.what += " has no carrier";
    const auto& end = port.far_end;
    if (!end) {
      finding.fix = "check the cable and the device at its other end";
    } else if (!end->up && !end->name.empty()) {
      finding.fix = end->command("ip link set dev " + end->name + " up");
    }
  }
  out.push_back({std::move(finding)});
}

void check_frame_size(const Facts& facts, const PortFacts& port, Diagnoses& out) {
  const std::uint32_t longest = port.link->mtu + ethernet_header + vlan_tag;
  const std::uint32_t size = facts.config.broker.frame_size;
  const std::uint32_t holds = port.redirect ? size - xdp_headroom : size;
  if (longest <= holds) return;
  const std::uint32_t most = port.redirect ? largest_frame_size - xdp_headroom : largest_frame_size;
  const bool enough = longest <= most && size < largest_frame_size;
  out.push_back(
      {{.id = "mtu-frame-size",
        .severity = Severity::warning,
        .subject = port.name,
        .what = mtu_of(port) + " takes frames of " + std::to_string(longest) +
                " bytes, a frame of the UMEM holds " + std::to_string(holds),
        .why = "longer frames pass, but have no copy (missed.too_long)",
        .fix = enough ? "umem = { frames = " + std::to_string(facts.config.broker.frames) +
                            ", frame_size = 4096 }    # in [broker] of " + facts.config.file
                      : set_mtu(port, most - ethernet_header - vlan_tag) +
                            "    # the largest that can be copied"}});
}

void check_pair(const Facts& facts, const PortFacts& port, Diagnoses& out) {
  if (!port.output) return;
  const PortFacts& output = facts.ports[*port.output];
  if (!output.link || port.link->mtu <= output.link->mtu) return;
  out.push_back({{.id = "mtu-inline",
                  .severity = Severity::warning,
                  .subject = output.name,
                  .what = mtu_of(port) + " takes longer frames than " + mtu_of(output),
                  .why = "originals that are longer are lost between the two, as between the "
                         "ports of a bridge",
                  .fix = set_mtu(output, port.link->mtu)}});
}

/// The ports of a tap; they come in the order of the config.
std::vector<const PortFacts*> ports_of(const Facts& facts, std::uint32_t tap) {
  std::size_t first = 0;
  for (std::uint32_t i = 0; i < tap; ++i) first += facts.config.taps[i].ports.size();
  std::vector<const PortFacts*> ports;
  for (std::size_t i = 0; i < facts.config.taps[tap].ports.size(); ++i) {
    ports.push_back(&facts.ports[first + i]);
  }
  return ports;
}

/// The port with the longest copies that policies send to a monitor; null: none is longer than
/// `mtu` allows.
const PortFacts* longest_source(const Facts& facts, std::uint32_t monitor, std::uint32_t mtu) {
  const PortFacts* longest = nullptr;
  for (const config::Policy& policy : facts.config.policies) {
    const auto& to = policy.monitors;
    if (std::find(to.begin(), to.end(), monitor) == to.end()) continue;
    const bool short_copies =
        policy.slice && policy.slice_after == 0 && *policy.slice <= mtu + ethernet_header;
    if (short_copies) continue;
    for (const std::uint32_t tap : policy.taps) {
      for (const PortFacts* port : ports_of(facts, tap)) {
        if (!port->link || port->link->mtu <= (longest ? longest->link->mtu : mtu)) continue;
        longest = port;
      }
    }
  }
  return longest;
}

void check_monitor_mtu(const Facts& facts, std::uint32_t number, const PortFacts& port,
                       Diagnoses& out) {
  const PortFacts* const source = longest_source(facts, number, port.link->mtu);
  if (source == nullptr) return;
  out.push_back({{.id = "mtu-monitor",
                  .severity = Severity::warning,
                  .subject = port.name,
                  .what = port.owner + ": " + mtu_of(port) + " gets copies of " + mtu_of(*source),
                  .why = "copies that are longer are dropped, by the device or by its peer, "
                         "which no counter here sees",
                  .fix = set_mtu(port, source->link->mtu)}});
}

}  // namespace

void check_links(const Facts& facts, Diagnoses& out) {
  for (const PortFacts& port : facts.ports) {
    if (port.link) check_link(port, out);
  }
}

void check_mtu(const Facts& facts, Diagnoses& out) {
  const std::size_t taps = facts.ports.size() - facts.config.monitors.size();
  for (std::size_t i = 0; i < facts.ports.size(); ++i) {
    const PortFacts& port = facts.ports[i];
    if (!port.link) continue;
    if (i >= taps) {
      check_monitor_mtu(facts, static_cast<std::uint32_t>(i - taps), port, out);
      continue;
    }
    check_frame_size(facts, port, out);
    check_pair(facts, port, out);
  }
}

void check_rings(const Facts& facts, Diagnoses& out) {
  for (const PortFacts& port : facts.ports) {
    if (!port.rings) continue;
    const bool rx = port.is_tap();
    const std::uint32_t now = rx ? port.rings->rx : port.rings->tx;
    const std::uint32_t most = rx ? port.rings->rx_max : port.rings->tx_max;
    if (now >= most || now >= few_descriptors) continue;
    const std::string way = rx ? "rx" : "tx";
    out.push_back({{.id = "ring-size",
                    .severity = Severity::hint,
                    .subject = port.name,
                    .what = "the " + way + " ring has " + std::to_string(now) +
                            " descriptors, the card can have " + std::to_string(most),
                    .why = rx ? "bursts overrun it before the kernel looks (rx_missed_errors)"
                              : "bursts of copies do not fit (dropped.ring_full)",
                    .fix = "ethtool -G " + port.name + " " + way + " " + std::to_string(most)}});
  }
}

}  // namespace vtap::doctor
