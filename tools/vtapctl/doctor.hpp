// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "json_view.hpp"
#include "vtap/result.hpp"

namespace vtap::ctl {

/// The doctor's checks for a config file without a running broker: {"findings":[...]} as GET
/// /v1/doctor gives it. `fix`: does the safe ones first. Errors: usage for a config that does not
/// load, unsupported for a missing privilege. Nothing defines it yet, and nothing calls it:
/// `vtapctl doctor` asks the broker.
Result<Json> doctor_offline(const std::string& file, bool fix);

}  // namespace vtap::ctl
