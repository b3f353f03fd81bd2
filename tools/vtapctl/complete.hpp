// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "endpoint.hpp"
#include "io.hpp"

namespace CLI {
class App;
}

namespace vtap::ctl {

/// The hidden command that the completion scripts call: `vtapctl __complete WORD...`.
inline constexpr const char* kComplete = "__complete";

/// Printed alone, it has the shell complete file names.
inline constexpr const char* kCompleteFiles = ":files";

/// Prints what may stand in place of the last of `words`, one a line: subcommands, options, or
/// values, found in the command tree itself; names of policies, monitors and taps come from the
/// broker, asked at the address that the words before name (`target` is where the options of `app`
/// would put it). Where there is no answer it prints nothing, and no message.
void complete(CLI::App& app, Target& target, const std::vector<std::string>& words, const Io& io);

}  // namespace vtap::ctl
