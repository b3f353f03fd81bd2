// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "client.hpp"
#include "endpoint.hpp"
#include "io.hpp"
#include "vtap/result.hpp"

namespace CLI {
class App;
}

namespace vtap::ctl {

/// Exit codes of vtapctl, those of DESIGN 7.2.
enum class Exit : int {
  done = 0,
  failed = 1,       ///< the broker refused or failed, or is not there
  usage = 2,        ///< the command line, or a config that does not load
  unsupported = 3,  ///< missing privilege or kernel feature
};

/// What a running command has at hand.
struct Session {
  const Io& io;
  const Client& client;
  bool json;  ///< --json: the broker's answer instead of text for people

  /// Prints the broker's answer as it came, on a line of its own.
  void print_body(const std::string& body) const;
};

using Action = std::function<Result<Exit>(const Session&)>;

/// What the command line says, filled while it is parsed.
struct Shell {
  Target target;
  bool json = false;
  bool asks_broker = true;  ///< false: the command needs no address
  Action action;            ///< of the one command that was given
};

/// The groups of commands: each adds its own to `app`. What they parse into lives as long as `app`.
void add_status(CLI::App& app, Shell& shell);
void add_stats(CLI::App& app, Shell& shell);
void add_policy(CLI::App& app, Shell& shell);
void add_monitor(CLI::App& app, Shell& shell);
void add_tap(CLI::App& app, Shell& shell);
void add_config(CLI::App& app, Shell& shell);
void add_reload(CLI::App& app, Shell& shell);
void add_detach(CLI::App& app, Shell& shell);
void add_doctor(CLI::App& app, Shell& shell);
void add_capture(CLI::App& app, Shell& shell);
void add_completion(CLI::App& app, Shell& shell);

/// All of vtapctl but the process around it. `arguments`: without the program's name.
Exit run(const std::vector<std::string>& arguments, const Io& io);

}  // namespace vtap::ctl
