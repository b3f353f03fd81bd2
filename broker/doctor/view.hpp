// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "doctor/finding.hpp"

namespace vtap::doctor {

/// The findings for people, worst first, and a last line that sums up.
std::string view(std::vector<Finding> findings);

/// One finding in one line, for the log.
std::string log_line(const Finding& finding);

}  // namespace vtap::doctor
