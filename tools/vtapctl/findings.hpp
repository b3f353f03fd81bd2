// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "json_view.hpp"

/// The doctor's findings as text: {"id","severity","subject","what","why","fix","safe","fixed"}.
namespace vtap::ctl {

/// error, warning, hint, ok, and what this version does not know; in the broker's order among
/// equals.
std::vector<Json> by_severity(const Json& findings);

/// "error: eth1: what; why; mend it by `command`"
std::string one_line(const Json& finding);

/// `vtapctl doctor`: what, why and the command that mends it, for each; the good ones as a number.
std::string doctor_view(const Json& findings);

/// One of severity error that is not mended.
bool has_error(const Json& findings);

}  // namespace vtap::ctl
