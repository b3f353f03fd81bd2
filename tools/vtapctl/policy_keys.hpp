// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "json_view.hpp"
#include "vtap/result.hpp"

namespace vtap::ctl {

/// What the options of `policy add` and `policy replace` say; empty: not given.
struct PolicyOptions {
  std::vector<std::string> monitors, taps;
  std::vector<std::string> src, dst, host, proto, src_port, dst_port, port, vlan;
  std::string filter, sample, meter, offload;
  std::optional<std::uint64_t> slice, priority;
};

/// The TOML keys of such a policy as JSON (docs/config.md), without its name. Whether the values
/// are right is for the broker to say. Errors (usage): no monitor; a sample that is neither
/// one_in=N nor flows=F.
Result<Json> policy_json(const PolicyOptions& options);

}  // namespace vtap::ctl
