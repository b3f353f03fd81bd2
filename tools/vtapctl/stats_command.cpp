// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "command_line.hpp"
#include "shell.hpp"
#include "views.hpp"

namespace vtap::ctl {
namespace {

const Request kStats{Method::get, "/v1/stats"};
constexpr size_t kFootLines = 3;  // an empty one, the foot, and the one that the cursor stands on

Result<Exit> print_stats(const Session& session) {
  auto reply = session.client.ask(kStats);
  if (!reply) return reply.error();
  if (session.json) {
    session.print_body(reply->body);
  } else {
    session.io.out << stats_view(reply->json);
  }
  return Exit::done;
}

Result<Exit> watch_json(const Session& session) {
  do {
    auto reply = session.client.ask(kStats);
    if (!reply) return reply.error();
    session.print_body(reply->body);
  } while (session.io.out && session.io.tick());
  return Exit::done;
}

/// Every line erases what it replaces, so that the screen does not flicker.
std::string redrawn(const std::string& screen) {
  std::string out = "\x1b[H";
  for (const char c : screen) out += c == '\n' ? "\x1b[K\n" : std::string(1, c);
  return out + "\x1b[J";
}

/// Like top: drawn in place on a terminal, one block below the other elsewhere.
void draw(const Io& io, const Interval& interval) {
  const std::optional<Screen> terminal = io.terminal();
  if (!terminal) {
    io.out << rates_view(interval) << "\n" << std::flush;
    return;
  }
  Screen screen = *terminal;
  if (screen.rows > 0) screen.rows = std::max(screen.rows, kFootLines + 1) - kFootLines;
  io.out << redrawn(rates_view(interval, screen) + "\nCtrl-C ends\n") << std::flush;
}

Result<Exit> watch_rates(const Session& session) {
  auto before = session.client.ask(kStats);
  if (!before) return before.error();
  if (session.io.terminal()) session.io.out << "\x1b[2J";
  while (session.io.out && session.io.tick()) {
    auto after = session.client.ask(kStats);
    if (!after) return after.error();
    draw(session.io, Interval(before->json, after->json));
    before = std::move(after);
  }
  return Exit::done;
}

}  // namespace

void add_stats(CLI::App& app, Shell& shell) {
  CLI::App* stats = app.add_subcommand("stats", "All counters since the broker started");
  auto watch = std::make_shared<bool>(false);
  stats->add_flag("--watch", *watch, "Every second until Ctrl-C; rates unless --json");
  stats->callback([&shell, watch] {
    shell.action = [watch](const Session& session) {
      if (!*watch) return print_stats(session);
      return session.json ? watch_json(session) : watch_rates(session);
    };
  });
}

}  // namespace vtap::ctl
