// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <utility>

#include "command_line.hpp"
#include "findings.hpp"
#include "shell.hpp"

namespace vtap::ctl {
namespace {

constexpr std::chrono::seconds kPatience{30};  // it looks at every port of the machine

Result<Exit> examine(const Session& session, bool fix) {
  const Request look{Method::get, "/v1/doctor", {}, kPatience};
  const Request mend{Method::post, "/v1/doctor/fix", {}, kPatience};
  const Request& request = fix ? mend : look;
  auto answer = session.client.send(request);
  if (!answer) {
    return Error{answer.error().message +
                     "; where none runs, `vtap-broker -c FILE --doctor` looks at the machine",
                 answer.error().kind};
  }
  auto reply = session.client.granted(std::move(answer).value(), request);
  if (!reply) return reply.error();
  const Json& findings = part_of(reply->json, "findings");
  if (!findings.is_array()) {
    return Error{"the vtap-broker at " + session.client.endpoint().name() +
                 " answers without findings; is it of another version?"};
  }
  if (session.json) {
    session.print_body(reply->body);
  } else {
    session.io.out << doctor_view(findings);
  }
  return has_error(findings) ? Exit::failed : Exit::done;
}

}  // namespace

void add_doctor(CLI::App& app, Shell& shell) {
  CLI::App* doctor = app.add_subcommand(
      "doctor", "What of this machine stands in the running broker's way, and what mends it");
  auto fix = std::make_shared<bool>(false);
  doctor->add_flag("--fix", *fix, "Mend what is safe to mend");
  doctor->callback([&shell, fix] {
    shell.action = [fix](const Session& session) { return examine(session, *fix); };
  });
}

}  // namespace vtap::ctl
