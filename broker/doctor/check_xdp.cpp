// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>

#include "doctor/checks.hpp"

namespace vtap::doctor {
namespace {

using Where = host::ForeignProgram::Where;

bool at_xdp(const PortFacts& port) { return port.is_tap() && port.spec.hook == host::Hook::xdp; }

std::string hook_tc(const Facts& facts, const PortFacts& port) {
  return "hook = \"tc\", capture = \"tee\"    # in [[tap]] (" + port.owner + ") of " +
         facts.config.file;
}

std::string features_text(std::uint64_t features) {
  constexpr std::array<std::pair<std::uint64_t, const char*>, 7> names{{
      {host::xdp_act::basic, "native"},
      {host::xdp_act::redirect, "redirect"},
      {host::xdp_act::ndo_xmit, "ndo_xmit"},
      {host::xdp_act::zero_copy, "zero-copy"},
      {host::xdp_act::hw_offload, "hw-offload"},
      {host::xdp_act::rx_sg, "rx-sg"},
      {host::xdp_act::ndo_xmit_sg, "ndo_xmit-sg"},
  }};
  std::string text;
  for (const auto& [bit, name] : names) {
    if ((features & bit) != 0) text += (text.empty() ? "" : ", ") + std::string(name);
  }
  return text.empty() ? "none" : text;
}

/// Switches by which the other end of a pair leaves frames unfinished.
bool leaves_unfinished(const std::string& feature) {
  constexpr std::array<std::string_view, 8> names{"tx-checksum-ipv4",    "tx-checksum-ip-generic",
                                                  "tx-checksum-ipv6",    "tx-checksum-sctp",
                                                  "tx-tcp-segmentation", "tx-tcp6-segmentation",
                                                  "tx-vlan-hw-insert",   "tx-vlan-stag-hw-insert"};
  return std::find(names.begin(), names.end(), feature) != names.end();
}

/// The command for the other end of a veth; empty: it finishes its frames.
std::string finish_frames(const host::FarEnd& end) {
  if (end.features.empty()) {
    return "ethtool -K " + (end.name.empty() ? std::string("PEER") : end.name) +
           " tx off tso off txvlan off tx-vlan-stag-hw-insert off    # at the other end";
  }
  std::string off;
  for (const auto& [name, feature] : end.features) {
    if (feature.active && leaves_unfinished(name)) off += " " + name + " off";
  }
  return off.empty() ? "" : end.command("ethtool -K " + end.name + off);
}

void check_frames(const Facts& facts, const PortFacts& port, Diagnoses& out) {
  const host::Link& link = *port.link;
  if (host::natural_hook(link) == host::Hook::xdp || !at_xdp(port)) return;
  std::string fix = hook_tc(facts, port);
  std::string seen;
  if (port.far_end) {
    const std::string other = finish_frames(*port.far_end);
    if (other.empty()) return;
    if (!port.far_end->features.empty()) fix = other;
    // A broker that runs has given up entering namespaces; who starts a doctor may.
    if (facts.running && port.far_end->features.empty()) {
      seen = "; whether its other end finishes them cannot be seen from within the broker";
      fix = "vtap-broker -c " + facts.config.file + " --doctor    # looks there";
    }
  }
  out.push_back({{.id = "unfinished-frames",
                  .severity = Severity::warning,
                  .subject = port.name,
                  .what = port.owner + " looks at " + port.name + " (" + link.driver +
                          ") at XDP, where frames can be unfinished" +
                          (port.forced ? "" : " (a span is redirected by itself)") + seen,
                  .why = "XDP sees neither a VLAN tag kept beside the packet nor whether its "
                         "checksum is complete: copies lack tags and have wrong checksums, and "
                         "originals that XDP sends on are lost or damaged as well",
                  .fix = fix}});
}

/// Whether XDP can redirect to it. Drivers other than veth may show it only with a program.
bool takes_frames(const PortFacts& port) {
  const host::Link& link = *port.link;
  const bool veth = link.kind == "veth";
  if (link.xdp_features) return host::takes_redirected(link) || (!veth && !port.in_use);
  if (!veth || !port.far_end) return host::takes_redirected(link);
  const auto gro = port.far_end->features.find("rx-gro");
  return gro == port.far_end->features.end() || gro->second.active;
}

std::string let_poll(const Facts& facts, const PortFacts& port, const PortFacts& tap) {
  if (port.link->kind != "veth" || !port.far_end) return hook_tc(facts, tap);
  const host::FarEnd& end = *port.far_end;
  if (end.name.empty()) return "ethtool -K PEER gro on    # at the other end of " + port.name;
  return end.command("ethtool -K " + end.name + " gro on");
}

Finding no_xmit(const PortFacts& port) {
  const bool veth = port.link->kind == "veth";
  return {.id = "no-ndo-xmit",
          .severity = Severity::warning,
          .subject = port.name,
          .what = port.name + " (" + port.link->driver + ") takes no frames that XDP redirects" +
                  (veth ? ": its other end does not poll" : ""),
          .why = "copies that the kernel sends there are lost (dropped.no_xmit)",
          .fix = {}};
}

const char* place_of(Where where) {
  switch (where) {
    case Where::xdp:
      return "at XDP";
    case Where::tc_ingress:
      return "at TC ingress";
    case Where::tc_egress:
      return "at TC egress";
  }
  return "";
}

/// Whether a filter of others comes between this port's frames and us.
bool interferes(const PortFacts& port, const host::ForeignProgram& program) {
  if (program.where == Where::xdp) return false;  // refused: see check_config
  if (program.where == Where::tc_egress) {
    return port.is_monitor() ? port.spec.skb_output : port.egress && program.ahead_of_ours;
  }
  return port.is_tap() && port.spec.hook == host::Hook::tc && program.ahead_of_ours;
}

}  // namespace

void check_foreign(const Facts& facts, Diagnoses& out) {
  for (const PortFacts& port : facts.ports) {
    for (const host::ForeignProgram& program : port.foreign) {
      if (program.where == Where::xdp) continue;
      const bool wrong = interferes(port, program);
      const std::string id = program.id == 0 ? "" : " (id " + std::to_string(program.id) + ")";
      out.push_back(
          {{.id = "foreign-tc",
            .severity = wrong ? Severity::warning : Severity::ok,
            .subject = port.name,
            .what = "somebody else's filter \"" + program.name + "\"" + id + " " +
                    place_of(program.where) +
                    (wrong ? " sees frames before us" : ", behind ours or out of the way"),
            .why = port.is_monitor() ? "it may drop or change copies that are cloned to here"
                                     : "what it drops or redirects has no copy, and what it "
                                       "changes is copied as changed",
            .fix = program.remove}});
    }
  }
}

void check_xdp_features(const Facts& facts, Diagnoses& out) {
  for (const PortFacts& port : facts.ports) {
    if (!port.link) continue;
    const host::Link& link = *port.link;
    if (at_xdp(port) && (!host::has_native_xdp(link) || link.xdp_mode == host::XdpMode::generic)) {
      out.push_back({{.id = "generic-xdp",
                      .severity = Severity::warning,
                      .subject = port.name,
                      .what = port.owner + ": " + port.name + " (" + link.driver +
                              ") has no native XDP with redirect; the program runs in generic mode",
                      .why = "each frame is an skb first, and often copied once more to get its "
                             "headroom: slower than TC",
                      .fix = hook_tc(facts, port)}});
      continue;
    }
    out.push_back({{.id = "xdp-features",
                    .subject = port.name,
                    .what = link.driver + ": " +
                            (link.xdp_features ? features_text(*link.xdp_features)
                                               : std::string("not told by this kernel")),
                    .why = {},
                    .fix = {}}});
  }
}

void check_unfinished(const Facts& facts, Diagnoses& out) {
  for (const PortFacts& port : facts.ports) {
    if (port.link) check_frames(facts, port, out);
  }
}

void check_outputs(const Facts& facts, Diagnoses& out) {
  for (const PortFacts& port : facts.ports) {
    if (port.broadcast && port.link && !takes_frames(port)) {
      Finding finding = no_xmit(port);
      finding.fix = port.link->kind == "veth" ? let_poll(facts, port, port)
                                              : "offload = \"never\"    # in the policies of " +
                                                    port.owner + " in " + facts.config.file;
      out.push_back({std::move(finding)});
    }
    if (!port.output || !at_xdp(port)) continue;
    const PortFacts& output = facts.ports[*port.output];
    if (!output.link || takes_frames(output)) continue;
    Finding finding = no_xmit(output);
    finding.severity = Severity::error;
    finding.why = "originals from " + port.name + " vanish in the kernel";
    finding.fix = let_poll(facts, output, port);
    out.push_back({std::move(finding)});
  }
}

}  // namespace vtap::doctor
