// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <CLI/CLI.hpp>
#include <initializer_list>
#include <string>
#include <vector>

namespace vtap::ctl {

/// What an option or argument takes, by the type name that --help shows; completion goes by it.
inline constexpr const char* kPolicy = "POLICY";        ///< name of a policy of the running broker
inline constexpr const char* kMonitor = "MONITOR";      ///< of a monitor
inline constexpr const char* kTap = "TAP";              ///< of a tap
inline constexpr const char* kInterface = "INTERFACE";  ///< network interface of this machine
inline constexpr const char* kFile = "FILE";            ///< path of a file

/// May be given several times, or once with commas between the values; never takes the words
/// behind.
CLI::Option* add_list(CLI::App& app, const std::string& name, std::vector<std::string>& values,
                      const std::string& description, const char* type_name);

/// One of a few words; the type name is "a|b|c".
CLI::Option* one_of(CLI::Option* option, const std::vector<std::string>& words);

/// Digits only: CLI11 takes -1 for the largest number there is.
CLI::Option* whole_number(CLI::Option* option);

/// `from` gives all that the other options of `app` would, but for flags: not both.
void exclude_others(CLI::App& app, const std::string& from);

}  // namespace vtap::ctl
