// SPDX-License-Identifier: Apache-2.0
#include "command_line.hpp"
#include "shell.hpp"
#include "views.hpp"

namespace vtap::ctl {
namespace {

constexpr std::chrono::milliseconds kBetweenReadings{500};

const Request kStatus{Method::get, "/v1/status"};
const Request kStats{Method::get, "/v1/stats"};

/// The status document; an empty object from a broker that has none.
Result<Json> read_status(const Client& client) {
  auto answer = client.send(kStatus);
  if (!answer) return answer.error();
  if (answer->status == 404 || answer->status == 501) return Json::object();
  auto reply = client.granted(std::move(answer).value(), kStatus);
  if (!reply) return reply.error();
  return std::move(reply->json);
}

Result<Exit> print_json(const Session& session) {
  auto reply = session.client.ask(kStatus);
  if (!reply) return reply.error();
  session.print_body(reply->body);
  return Exit::done;
}

Result<Exit> print_status(const Session& session) {
  if (session.json) return print_json(session);
  auto before = session.client.ask(kStats);
  if (!before) return before.error();
  session.io.pause(kBetweenReadings);
  auto after = session.client.ask(kStats);
  if (!after) return after.error();
  auto status = read_status(session.client);
  if (!status) return status.error();
  session.io.out << status_view(Interval(before->json, after->json), *status,
                                session.io.terminal().value_or(Screen{}));
  return Exit::done;
}

}  // namespace

void add_status(CLI::App& app, Shell& shell) {
  app.add_subcommand("status", "What runs, how fast, and what is wrong")->callback([&shell] {
    shell.action = print_status;
  });
}

}  // namespace vtap::ctl
