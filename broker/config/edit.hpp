// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "config/json.hpp"
#include "vtap/result.hpp"

/// Edits of a config's text that leave everything else as it is, byte for byte: order, spacing,
/// comments. Both ways to write tables are understood, [[policy]] and policy = [{ ... }].
///
/// Comments inside a table that is replaced or removed go with it; those above and below it stay.
/// Each result has been parsed again and found to hold what was meant.
namespace vtap::config {

enum class Section { tap, monitor, policy };

/// The key of its tables: "tap".
std::string_view name_of(Section section) noexcept;

/// `text` with a table more, behind the others of its kind. `item` has its keys, "name" among them.
/// Errors: conflict where that name exists; usage where item has no TOML form.
Result<std::string> add(std::string_view text, Section section, const Json& item);

/// `text` with `item` in the place of the table called `name`. Errors: usage, also where there is
/// none of that name.
Result<std::string> replace(std::string_view text, Section section, std::string_view name,
                            const Json& item);

/// `text` without the table called `name`. Errors as replace().
Result<std::string> remove(std::string_view text, Section section, std::string_view name);

}  // namespace vtap::config
