// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "vtap/result.hpp"

/// A config as JSON: the TOML keys as they were written, in their order, nothing filled in.
namespace vtap::config {

using Json = nlohmann::ordered_json;

/// A TOML text, such as that of a config that parse() has accepted. Dates become strings, numbers
/// that JSON does not have (inf, nan) null. Errors: usage, with line and column.
Result<Json> to_json(std::string_view text);

/// `value` as TOML on one line: "text", 3, [1, 2], { one_in = 10 }.
/// Errors: usage; TOML has no null and no integers of more than 63 bits.
Result<std::string> to_toml(const Json& value);

/// The keys of `object` as TOML, one a line, long lists and lists of tables over several; each line
/// begins with `indent` and ends with "\n". Errors as to_toml().
Result<std::string> to_toml_lines(const Json& object, const std::string& indent = {});

}  // namespace vtap::config
