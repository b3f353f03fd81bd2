// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vtap/abi.h>

#include <cstdint>
#include <vector>

#include "filter/filter.hpp"
#include "plan/plan.hpp"
#include "vtap/fd.hpp"
#include "vtap/result.hpp"

namespace vtap::io {

enum class ProgramHook : std::uint8_t { xdp, tc };

/// A filter of one tap, and the policy that has it.
struct PortFilter {
  const filter::Filter* filter = nullptr;
  plan::Tables::Tops tops;
};

/// Of the policies on a tap.
std::vector<PortFilter> filters_of(const config::Config& config, const plan::Tables& tables,
                                   std::uint32_t tap);

struct Filters {
  UniqueFd program;
  std::size_t left_out = 0;  ///< the last so many: the verifier did not take them with the others
};

/// Loads the generated program of a port (docs/decisions/0015): notes in vtap_cpu::rejected which
/// policies' filters reject the frame in vtap_cpu::headers, and goes on with the program behind it.
/// Filters that have no translation are left out. `out_fd`: the devmap of an inline port at XDP.
Result<Filters> load_filters(ProgramHook hook, const vtap_port_config& config,
                             const std::vector<PortFilter>& filters, int cpus_fd, int chain_fd,
                             int out_fd);

}  // namespace vtap::io
