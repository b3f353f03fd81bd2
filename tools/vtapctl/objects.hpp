// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "command_line.hpp"
#include "shell.hpp"
#include "table.hpp"

/// What `policy`, `monitor` and `tap` have in common: named tables of the config.
namespace vtap::ctl {

struct Kind {
  const char* name;       ///< "policy"
  const char* plural;     ///< "policies": in the path and in the answer
  const char* type_name;  ///< of arguments that take a name
  Table (*table)(const Json& objects);
};

/// The group itself, with `list` and `show NAME`.
CLI::App& add_group(CLI::App& app, Shell& shell, const Kind& kind, const std::string& description);

/// `rm NAME`.
void add_rm(CLI::App& group, Shell& shell, const Kind& kind);

/// Makes the JSON of a table from what the options say; without `name`, which is put in front.
using Build = std::function<Result<Json>()>;

/// `add NAME` or `replace NAME`, which also take --from FILE instead of the options. Returns the
/// subcommand for the options to be added to, and `build` is asked once they are parsed.
enum class Edit { add, replace };
CLI::App& add_edit(CLI::App& group, Shell& shell, const Kind& kind, Edit edit, Build build);

/// Sends a change, and says what was done and which generation runs then.
Result<Exit> change(const Session& session, const Request& request,
                    const std::function<std::string(int status)>& done, bool persist);

/// The query of a change.
std::string query(bool persist);

/// The flag --persist.
void add_persist(CLI::App& app, bool& persist);

}  // namespace vtap::ctl
