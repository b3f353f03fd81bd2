// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "host/link.hpp"
#include "vtap/result.hpp"

/// Programs and filters of others on a port.
namespace vtap::host {

struct ForeignProgram {
  enum class Where { xdp, tc_ingress, tc_egress };
  Where where = Where::xdp;
  std::string name;           ///< of the BPF program; else the kind of the filter ("u32", ...)
  std::uint32_t id = 0;       ///< of the BPF program; 0: unknown, or it is none
  bool ahead_of_ours = true;  ///< sees frames before a program of ours; where we have none: would
  std::string remove;         ///< the command that takes it away
};

/// Errors: missing privilege (CAP_SYS_ADMIN, to ask whose a program is).
Result<std::vector<ForeignProgram>> foreign_programs(const Link& link);

}  // namespace vtap::host
