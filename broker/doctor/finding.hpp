// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "vtap/result.hpp"

namespace vtap::doctor {

enum class Severity {
  ok,       ///< looked at and fine; only listed on request
  hint,     ///< could be faster, or is worth knowing
  warning,  ///< copies are lost or differ from the wire
  error,    ///< the broker cannot start like this, or originals are lost
};

/// "ok", "hint", "warning", "error".
std::string_view name_of(Severity severity);

struct Finding {
  std::string id;  ///< a word for programs, such as "vlan-offload"; docs/doctor.md has all
  Severity severity = Severity::ok;
  std::string subject;  ///< the port, or what else it is about
  std::string what;
  std::string why;     ///< why it matters
  std::string fix;     ///< the command that mends it, or the line of the config; empty: none does
  bool safe = false;   ///< --fix may do it: no original is touched, and --detach undoes it
  bool fixed = false;  ///< --fix did it, and the finding is gone
};

/// {"findings":[{"id":...,"severity":...,"subject":...,"what":...,"why":...,"fix":...,"safe":...,
/// "fixed":...}]}
std::string to_json(const std::vector<Finding>& findings, int indent = -1);

/// The inverse. Error: not of that form.
Result<std::vector<Finding>> from_json(std::string_view text);

/// Whether an error is left: exit code 1 of a doctor.
bool has_error(const std::vector<Finding>& findings);

}  // namespace vtap::doctor
