// SPDX-License-Identifier: Apache-2.0
#include "command_line.hpp"
#include "shell.hpp"

namespace vtap::ctl {
namespace {

Result<Exit> reload(const Session& session) {
  auto reply = session.client.ask({Method::post, "/v1/reload"});
  if (!reply) return reply.error();
  if (session.json) {
    session.print_body(reply->body);
  } else {
    session.io.out << "reloaded (generation " << count_of(reply->json, "generation") << ")\n";
  }
  return Exit::done;
}

}  // namespace

void add_reload(CLI::App& app, Shell& shell) {
  app.add_subcommand("reload", "Have the broker read its config file again")->callback([&shell] {
    shell.action = reload;
  });
}

}  // namespace vtap::ctl
