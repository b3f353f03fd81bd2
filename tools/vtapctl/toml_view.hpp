// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "json_view.hpp"

namespace vtap::ctl {

/// One value as TOML on one line: `{ proto = "tcp", port = [80, 443] }`. Every character that is
/// not ASCII is escaped, so that no name drives a terminal.
std::string toml_value(const Json& value);

/// A table of the config as its file has it: "[[policy]]" and a line for each key.
std::string toml_view(const std::string& kind, const Json& object);

}  // namespace vtap::ctl
