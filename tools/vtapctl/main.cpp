// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <iostream>
#include <optional>
#include <thread>

#include "client.hpp"
#include "views.hpp"

namespace {

using vtap::Error;
using vtap::Result;
using vtap::ctl::Client;
using vtap::ctl::Interval;
using vtap::ctl::Json;

constexpr std::chrono::milliseconds kStatusInterval{500};
constexpr timespec kWatchInterval{1, 0};

constexpr int kOk = 0, kFailed = 1, kUsage = 2;

struct Options {
  std::string socket;
  bool json = false;
  bool watch = false;
};

Result<Json> fetch(const Client& client) {
  auto body = client.stats();
  if (!body) return body.error();
  return vtap::ctl::parse_stats(*body);
}

/// False when nobody reads any more (`vtapctl ... | head`).
bool print(const std::string& text) { return static_cast<bool>(std::cout << text << std::flush); }

Result<void> print_json(const Client& client) {
  auto body = client.stats();
  if (!body) return body.error();
  print(*body + "\n");
  return {};
}

Result<void> print_stats(const Client& client) {
  auto stats = fetch(client);
  if (!stats) return stats.error();
  print(vtap::ctl::stats_view(*stats));
  return {};
}

Result<void> print_status(const Client& client) {
  auto before = fetch(client);
  if (!before) return before.error();
  std::this_thread::sleep_for(kStatusInterval);
  auto after = fetch(client);
  if (!after) return after.error();
  print(vtap::ctl::status_view(Interval(*before, *after)));
  return {};
}

Result<void> reload(const Client& client) {
  auto done = client.reload();
  if (!done) return done;
  print("reloaded\n");
  return {};
}

/// Waits for the next second; false when the user has had enough. The signals are blocked and
/// fetched here, so there is no handler, and no screen is left half drawn.
class Ticker {
 public:
  Ticker() {
    ::sigemptyset(&signals_);
    ::sigaddset(&signals_, SIGINT);
    ::sigaddset(&signals_, SIGTERM);
    ::sigprocmask(SIG_BLOCK, &signals_, nullptr);
  }

  [[nodiscard]] bool next() const {
    return ::sigtimedwait(&signals_, nullptr, &kWatchInterval) < 0;
  }

 private:
  sigset_t signals_;
};

Result<void> watch_json(const Client& client) {
  const Ticker ticker;
  do {
    auto body = client.stats();
    if (!body) return body.error();
    if (!print(*body + "\n")) return {};
  } while (ticker.next());
  return {};
}

/// Like top: drawn in place on a terminal, one block below the other elsewhere.
bool draw(const std::string& screen) {
  if (::isatty(STDOUT_FILENO) == 0) return print(screen + "\n");
  return print("\x1b[H\x1b[2J" + screen + "\nCtrl-C ends\n");
}

Result<void> watch_rates(const Client& client) {
  const Ticker ticker;
  auto before = fetch(client);
  if (!before) return before.error();
  while (ticker.next()) {
    auto after = fetch(client);
    if (!after) return after.error();
    if (!draw(vtap::ctl::rates_view(Interval(*before, *after)))) break;
    before = std::move(after);
  }
  return {};
}

Result<void> run_stats(const Client& client, const Options& options) {
  if (options.watch) return options.json ? watch_json(client) : watch_rates(client);
  return options.json ? print_json(client) : print_stats(client);
}

Result<void> run(const std::string& command, const Options& options) {
  Result<std::string> socket = options.socket;
  if (options.socket.empty()) socket = vtap::ctl::default_socket(vtap::ctl::kSocketDirectory);
  if (!socket) return socket.error();
  const Client client(*socket);
  if (command == "status") return print_status(client);
  if (command == "stats") return run_stats(client, options);
  return reload(client);
}

/// Describes the command line; what it parses ends up in `options`.
void describe(CLI::App& app, Options& options) {
  app.set_version_flag("--version", "vtapctl " VTAP_VERSION);
  app.add_option("--socket", options.socket,
                 "Control socket of the broker (default: /run/vtap/vtap.sock, or the only *.sock "
                 "in /run/vtap)")
      ->type_name("PATH");
  app.require_subcommand(1);
  app.fallthrough();  // --socket may also stand behind the command
  app.add_subcommand("status", "What runs, how fast, and what is wrong");
  CLI::App* stats = app.add_subcommand("stats", "All counters since the broker started");
  stats->add_flag("--json", options.json, "Print the broker's JSON, one line");
  stats->add_flag("--watch", options.watch, "Every second until Ctrl-C; rates unless --json");
  app.add_subcommand("reload", "Have the broker read its config again");
}

int main_or_throw(int argc, char** argv) {
  Options options;
  CLI::App app("Looks at and controls a running vtap-broker", "vtapctl");
  describe(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kOk : kUsage;  // exit() prints; --help is no failure
  }
  const Result<void> result = run(app.get_subcommands().front()->get_name(), options);
  if (!result) std::cerr << "vtapctl: " << result.error().message << "\n";
  return result && std::cout ? kOk : kFailed;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a write to a broker or reader that is gone fails instead
  try {
    return main_or_throw(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "vtapctl: " << error.what() << "\n";
    return kFailed;
  }
}
