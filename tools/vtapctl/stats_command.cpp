// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "command_line.hpp"
#include "shell.hpp"
#include "views.hpp"

namespace vtap::ctl {
namespace {

const Request kStats{Method::get, "/v1/stats"};
constexpr const char* kFoot = "\nCtrl-C ends";  // the cursor stays behind it
constexpr size_t kFootLines = 2;

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

/// No more than `rows` lines, all of them whole; 0: all.
std::string upper_part(const std::string& text, size_t rows) {
  size_t end = 0;
  for (; rows > 0; --rows) {
    const size_t line = text.find('\n', end);
    if (line == std::string::npos) return text;
    end = line + 1;
  }
  return end == 0 ? text : text.substr(0, end);
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
  // A line too many would scroll, and nothing be where it was drawn.
  io.out << redrawn(upper_part(rates_view(interval, screen), screen.rows) + kFoot) << std::flush;
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
  if (session.io.terminal()) session.io.out << "\n";
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
