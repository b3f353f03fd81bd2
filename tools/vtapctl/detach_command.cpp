// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "command_line.hpp"
#include "shell.hpp"

namespace vtap::ctl {
namespace {

Result<Exit> detach(const Session& session, const std::vector<std::string>& ports) {
  const Json body = ports.empty() ? Json::object() : Json{{"ports", ports}};
  auto reply = session.client.ask({Method::post, "/v1/detach", body.dump()});
  if (!reply) return reply.error();
  if (session.json) {
    session.print_body(reply->body);
    return Exit::done;
  }
  const Json& undone = part_of(reply->json, "undone");
  for (const Json& line : undone) {
    if (line.is_string()) session.io.out << printable(line.get<std::string>()) << "\n";
  }
  if (undone.empty()) session.io.out << "nothing was left to undo\n";
  return Exit::done;
}

}  // namespace

void add_detach(CLI::App& app, Shell& shell) {
  CLI::App* command = app.add_subcommand(
      "detach",
      "Gives back ports that the broker does not use any more, as they were found: these, or all "
      "that earlier configs left");
  auto ports = std::make_shared<std::vector<std::string>>();
  command->add_option("PORT", *ports)->type_name(kInterface);
  command->callback([&shell, ports] {
    shell.action = [ports](const Session& session) { return detach(session, *ports); };
  });
}

}  // namespace vtap::ctl
