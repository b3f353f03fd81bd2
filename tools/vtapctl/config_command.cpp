// SPDX-License-Identifier: Apache-2.0
#include "command_line.hpp"
#include "shell.hpp"

namespace vtap::ctl {
namespace {

Result<Exit> print_config(const Session& session) {
  auto reply = session.client.ask({Method::get, "/v1/config"});
  if (!reply) return reply.error();
  if (session.json) {
    session.print_body(reply->body);
    return Exit::done;
  }
  const auto text = reply->json.find("text");
  if (text == reply->json.end() || !text->is_string()) {
    return Error{"the vtap-broker at " + session.client.endpoint().name() +
                 " gives no text of its config; see `vtapctl config --json`"};
  }
  // Byte for byte into files and pipes; a terminal is not to be driven by it.
  const auto config = text->get<std::string>();
  session.print_body(session.io.terminal() ? printable_lines(config) : config);
  return Exit::done;
}

}  // namespace

void add_config(CLI::App& app, Shell& shell) {
  app.add_subcommand("config", "The config as it runs, with all changes made to it")
      ->callback([&shell] { shell.action = print_config; });
}

}  // namespace vtap::ctl
