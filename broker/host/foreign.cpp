// SPDX-License-Identifier: Apache-2.0
#include "host/foreign.hpp"

#include <linux/if_ether.h>

#include <algorithm>
#include <array>
#include <cstdio>

#include "host/attach.hpp"
#include "host/bpf_program.hpp"
#include "host/tcx.hpp"

namespace vtap::host {
namespace {

using Where = ForeignProgram::Where;

std::string hex(std::uint32_t value) {
  std::array<char, 16> text{};
  std::snprintf(text.data(), text.size(), "%#x", value);
  return text.data();
}

std::string xdp_removal(const Link& link, const std::string& program) {
  if (program == "xdp_dispatcher") return "xdp-loader unload " + link.name + " --all";
  const char* mode = link.xdp_mode == XdpMode::generic    ? "xdpgeneric"
                     : link.xdp_mode == XdpMode::hardware ? "xdpoffload"
                                                          : "xdp";
  return "ip link set dev " + link.name + " " + mode + " off";
}

Result<void> add_xdp(const Link& link, std::vector<ForeignProgram>& found) {
  if (link.xdp_prog_id == 0) return {};
  const Result<std::optional<Program>> program = program_of_id(link.xdp_prog_id);
  if (!program) return program.error();
  if (!program.value() || has_our_name(program.value()->name)) return {};
  found.push_back({.where = Where::xdp,
                   .name = program.value()->name,
                   .id = link.xdp_prog_id,
                   .remove = xdp_removal(link, program.value()->name)});
  return {};
}

std::string filter_removal(const Link& link, const char* direction, const TcFilter& filter) {
  std::array<char, 8> protocol{};
  std::snprintf(protocol.data(), protocol.size(), "0x%04x", filter.protocol);
  const bool all = filter.protocol == ETH_P_ALL;
  return "tc filter del dev " + link.name + " " + direction + " protocol " +
         (all ? "all" : protocol.data()) + " pref " + std::to_string(filter.priority) + " handle " +
         hex(filter.handle) + " " + filter.kind;
}

Result<void> add_filters(const Link& link, Direction direction,
                         std::vector<ForeignProgram>& found) {
  const bool in = direction == Direction::ingress;
  const Result<std::vector<TcFilter>> filters = tc_filters(link.ifindex, direction);
  if (!filters) return filters.error();
  const auto& all = filters.value();
  const auto ours = std::find_if(all.begin(), all.end(), [](const auto& f) { return f.ours; });
  // Programs by tcx run before all filters; without it, ours gets the first priority that is free.
  const bool before_filters = has_tcx() && ours == all.end();
  for (auto filter = all.begin(); filter != all.end(); ++filter) {
    // u32 and others list hash tables of theirs beside the filters: handles without a node.
    const bool head =
        filter->handle == 0 || (filter->kind == "u32" && (filter->handle & 0xfffU) == 0);
    if (filter->ours || head) continue;
    const bool first = ours == all.end() ? filter->priority == 1 : filter < ours;
    found.push_back({.where = in ? Where::tc_ingress : Where::tc_egress,
                     .name = filter->program.empty() ? filter->kind : filter->program,
                     .ahead_of_ours = !before_filters && first,
                     .remove = filter_removal(link, in ? "ingress" : "egress", *filter)});
  }
  return {};
}

Result<void> add_tcx(const Link& link, Direction direction, std::vector<ForeignProgram>& found) {
  const bool in = direction == Direction::ingress;
  const Result<std::vector<TcxProgram>> programs = tcx_programs(link.ifindex, direction);
  if (!programs) return programs.error();
  const auto& all = programs.value();
  const auto ours = std::find_if(all.begin(), all.end(), [](const auto& p) { return p.ours; });
  for (auto program = all.begin(); program != all.end(); ++program) {
    if (program->ours) continue;
    // Where none of ours is, it will come before all others.
    found.push_back({.where = in ? Where::tc_ingress : Where::tc_egress,
                     .name = program->name,
                     .id = program->id,
                     .ahead_of_ours = ours != all.end() && program < ours,
                     .remove = program->link_id != 0
                                   ? "bpftool link detach id " + std::to_string(program->link_id)
                                   : std::string("bpftool net detach tcx_") +
                                         (in ? "ingress" : "egress") + " dev " + link.name});
  }
  return {};
}

}  // namespace

Result<std::vector<ForeignProgram>> foreign_programs(const Link& link) {
  std::vector<ForeignProgram> found;
  if (Result<void> added = add_xdp(link, found); !added) return added.error();
  for (const Direction direction : {Direction::ingress, Direction::egress}) {
    if (Result<void> added = add_tcx(link, direction, found); !added) return added.error();
    if (Result<void> added = add_filters(link, direction, found); !added) return added.error();
  }
  return found;
}

}  // namespace vtap::host
