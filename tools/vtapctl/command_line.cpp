// SPDX-License-Identifier: Apache-2.0
#include "command_line.hpp"

#include <algorithm>
#include <memory>

#include "complete.hpp"
#include "shell.hpp"

namespace vtap::ctl {
namespace {

/// Without the lists of options that exclude each other, which say more than anybody reads.
class Help : public CLI::Formatter {
 public:
  [[nodiscard]] std::string make_option_opts(const CLI::Option* option) const override {
    if (option->get_items_expected_max() == 0 || option->get_positional()) return "";
    return " " + option->get_type_name() + (option->get_expected_max() > 1 ? " ..." : "");
  }
};

void add_target(CLI::App& app, Target& target) {
  CLI::Option* socket =
      app.add_option("--socket", target.socket,
                     "Control socket of the broker (default: /run/vtap/vtap.sock, or the only "
                     "*.sock in /run/vtap)");
  socket->type_name(kFile);
  app.add_option("--url", target.url,
                 "Its TCP address instead, http(s)://HOST:PORT (default: $VTAP_URL)")
      ->type_name("URL")
      ->excludes(socket);
  app.add_option("--token-file", target.token_file,
                 "Token for that address (default: $VTAP_TOKEN_FILE)")
      ->type_name(kFile)
      ->excludes(socket);
  app.add_option("--cacert", target.ca_file,
                 "PEM file of who signed its certificate (default: the system's authorities)")
      ->type_name(kFile)
      ->excludes(socket);
}

void describe(CLI::App& app, Shell& shell) {
  app.set_version_flag("--version", "vtapctl " VTAP_VERSION);
  app.formatter(std::make_shared<Help>());
  app.require_subcommand(1);
  app.fallthrough();  // --socket and --json may also stand behind the command
  add_target(app, shell.target);
  app.add_flag("--json", shell.json, "Print the broker's JSON");
  add_status(app, shell);
  add_stats(app, shell);
  add_policy(app, shell);
  add_monitor(app, shell);
  add_tap(app, shell);
  add_config(app, shell);
  add_reload(app, shell);
  add_detach(app, shell);
  add_doctor(app, shell);
  add_capture(app, shell);
  add_completion(app, shell);
}

Result<Exit> act(const Shell& shell, const Io& io) {
  if (!shell.asks_broker) return shell.action(Session{io, Client(Endpoint{}), shell.json});
  const Target target = with_environment(shell.target, io.variable);
  if (target.url.empty() && !target.token_file.empty()) {
    return Error{"--token-file is for a broker at a --url", ErrorKind::usage};
  }
  auto endpoint = endpoint_of(target, io.sockets);
  if (!endpoint) return endpoint.error();
  const Client client(std::move(endpoint).value());
  return shell.action(Session{io, client, shell.json});
}

Exit exit_of(const Error& error) {
  if (error.kind == ErrorKind::usage) return Exit::usage;
  if (error.kind == ErrorKind::unsupported) return Exit::unsupported;
  return Exit::failed;
}

/// CLI11 takes its arguments from the back.
std::vector<std::string> reversed(std::vector<std::string> arguments) {
  std::reverse(arguments.begin(), arguments.end());
  return arguments;
}

}  // namespace

CLI::Option* add_list(CLI::App& app, const std::string& name, std::vector<std::string>& values,
                      const std::string& description, const char* type_name) {
  return app.add_option(name, values, description)
      ->delimiter(',')
      ->allow_extra_args(false)
      ->type_name(type_name);
}

CLI::Option* one_of(CLI::Option* option, const std::vector<std::string>& words) {
  std::string all;
  for (const std::string& word : words) all += (all.empty() ? "" : "|") + word;
  const auto check = [words, all](std::string& given) -> std::string {
    const bool known = std::find(words.begin(), words.end(), given) != words.end();
    return known ? "" : given + " is none of " + all;
  };
  return option->check(CLI::Validator(check, ""))->type_name(all);
}

CLI::Option* whole_number(CLI::Option* option) {
  const auto check = [](std::string& given) -> std::string {
    const bool digits = given.find_first_not_of("0123456789") == std::string::npos;
    return digits && !given.empty() ? "" : given + " is not a whole number";
  };
  return option->check(CLI::Validator(check, ""));
}

void exclude_others(CLI::App& app, const std::string& from) {
  CLI::Option* source = app.get_option(from);
  for (CLI::Option* option : app.get_options([](const CLI::Option* each) {
         return each->get_items_expected_max() > 0 && !each->get_positional();
       })) {
    if (option != source) option->excludes(source);
  }
}

void Session::print_body(const std::string& body) const {
  io.out << body << (!body.empty() && body.back() == '\n' ? "" : "\n") << std::flush;
}

Exit run(const std::vector<std::string>& arguments, const Io& io) {
  Shell shell;
  CLI::App app("Looks at and controls a running vtap-broker", "vtapctl");
  describe(app, shell);
  if (!arguments.empty() && arguments.front() == kComplete) {
    complete(app, shell.target, {arguments.begin() + 1, arguments.end()}, io);
    return Exit::done;
  }
  try {
    app.parse(reversed(arguments));
  } catch (const CLI::RequiredError& error) {
    // A mistyped command counts as none at all.
    for (const std::string& word : app.remaining(true)) {
      io.err << "vtapctl: there is no command or option " << printable(word) << "\n";
    }
    app.exit(error, io.out, io.err);
    return Exit::usage;
  } catch (const CLI::ParseError& error) {
    return app.exit(error, io.out, io.err) == 0 ? Exit::done : Exit::usage;  // 0: --help
  }
  const Result<Exit> result = act(shell, io);
  if (!result) io.err << "vtapctl: " << result.error().message << "\n";
  if (!result) return exit_of(result.error());
  io.out.flush();
  return io.out ? result.value() : Exit::failed;  // nobody reads any more
}

}  // namespace vtap::ctl
