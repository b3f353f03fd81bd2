// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <map>

#include "doctor/checks.hpp"

/// Settings that the broker makes when it takes a port: found otherwise, somebody has turned them
/// since. Before it runs they are no finding, unless the device will refuse them.
namespace vtap::doctor {
namespace {

struct Kind {
  const char* id;
  const char* why;
};

constexpr Kind vlan{"vlan-offload",
                    "the device takes VLAN tags out of frames, or leaves them to the next one: "
                    "copies or originals lack their tags"};
constexpr Kind lro{"lro", "the device merges frames for good: copies are not what was on the wire"};
constexpr Kind gro{"gro",
                   "frames are merged before the tap: originals leave in other pieces than they "
                   "came in"};
constexpr Kind transmit{"tx-offload",
                        "copies that TC clones to here leave uncut, or with unfinished checksums"};

Kind kind_of(const std::string& feature) {
  if (feature.find("vlan") != std::string::npos) return vlan;
  if (feature == "rx-lro") return lro;
  return feature.compare(0, 3, "rx-") == 0 ? gro : transmit;
}

std::string ethtool(const std::string& port, const std::vector<std::string>& features) {
  std::string text = "ethtool -K " + port;
  for (const std::string& feature : features) text += " " + feature + " off";
  return text;
}

std::string join(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

/// Features that should be off and are on, by kind.
using ByKind = std::map<std::string, std::vector<std::string>>;

void found_on(const PortFacts& port, ByKind& to_turn, ByKind& fixed) {
  for (const std::string& name : host::demand_of(port.spec).features_off) {
    const auto found = port.features.find(name);
    if (found == port.features.end() || !found->second.active) continue;
    (found->second.changeable ? to_turn : fixed)[kind_of(name).id].push_back(name);
  }
}

void check_port(const Facts& facts, const PortFacts& port, Diagnoses& out) {
  ByKind to_turn;
  ByKind fixed;
  found_on(port, to_turn, fixed);
  for (const auto& [id, names] : fixed) {
    out.push_back(
        {{.id = id,
          .severity = Severity::warning,
          .subject = port.name,
          .what = join(names) + " of " + port.name + " is on and cannot be turned off",
          .why = kind_of(names.front()).why,
          .fix = port.spec.hook == host::Hook::xdp && port.is_tap()
                     ? "hook = \"tc\"    # in [[tap]] (" + port.owner + ") of " + facts.config.file
                     : std::string()}});
  }
  if (!port.in_use) return;
  for (const auto& [id, names] : to_turn) {
    host::Demand demand;
    demand.features_off = names;
    out.push_back({{.id = id,
                    .severity = Severity::warning,
                    .subject = port.name,
                    .what = port.owner + ": " + join(names) + " of " + port.name + " is on again",
                    .why = kind_of(names.front()).why,
                    .fix = ethtool(port.name, names),
                    .safe = true},
                   SetUpAgain{port.name, std::move(demand), port.held_here}});
  }
}

bool no_ipv6(const PortFacts& port) { return host::demand_of(port.spec).no_ipv6; }

}  // namespace

void check_offloads(const Facts& facts, Diagnoses& out) {
  for (const PortFacts& port : facts.ports) {
    if (port.link) check_port(facts, port, out);
  }
}

void check_host_lro(const Facts& facts, Diagnoses& out) {
  for (const PortFacts& port : facts.ports) {
    if (port.spec.role != host::Role::tap_host || port.spec.hook != host::Hook::tc) continue;
    const auto found = port.features.find("rx-lro");
    if (found == port.features.end() || !found->second.active) continue;
    out.push_back({{.id = "lro",
                    .severity = Severity::warning,
                    .subject = port.name,
                    .what = port.owner + ": rx-lro of " + port.name + " is on",
                    .why = lro.why,
                    .fix = ethtool(port.name, {"rx-lro"})}});
  }
}

void check_promisc(const Facts& facts, Diagnoses& out) {
  for (const PortFacts& port : facts.ports) {
    if (!port.link || !port.in_use || port.link->promisc) continue;
    if (!host::demand_of(port.spec).promisc) continue;
    host::Demand demand;
    demand.promisc = true;
    out.push_back({{.id = "promisc",
                    .severity = Severity::warning,
                    .subject = port.name,
                    .what = port.owner + ": " + port.name + " is not promiscuous any more",
                    .why = "the device drops frames for other addresses: originals of an inline "
                           "tap are lost, a span sees next to nothing",
                    .fix = "ip link set dev " + port.name + " promisc on",
                    .safe = true},
                   SetUpAgain{port.name, std::move(demand), port.held_here}});
  }
}

void check_ipv6(const Facts& facts, Diagnoses& out) {
  for (const PortFacts& port : facts.ports) {
    if (!port.link || !no_ipv6(port)) continue;
    Finding finding{.id = "ipv6",
                    .severity = Severity::warning,
                    .subject = port.name,
                    .what = {},
                    .why =
                        "the host sends neighbour discovery and router solicitations of its "
                        "own there, among originals or copies",
                    .fix = {}};
    if (port.global_ipv6) {
      finding.what =
          port.owner + ": " + port.name + " carries an IPv6 address, so the broker leaves IPv6 on";
      finding.fix = "ip -6 addr flush dev " + port.name + " scope global";
      out.push_back({std::move(finding)});
    } else if (port.in_use && port.ipv6_on) {
      finding.what = port.owner + ": IPv6 is on again on " + port.name;
      finding.fix = "sysctl -w net/ipv6/conf/" + port.name + "/disable_ipv6=1";
      finding.safe = true;
      host::Demand demand;
      demand.no_ipv6 = true;
      out.push_back({std::move(finding), SetUpAgain{port.name, std::move(demand), port.held_here}});
    }
  }
}

}  // namespace vtap::doctor
