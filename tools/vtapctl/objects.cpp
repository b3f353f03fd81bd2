// SPDX-License-Identifier: Apache-2.0
#include "objects.hpp"

#include <fstream>
#include <iterator>
#include <memory>

#include "toml_view.hpp"

namespace vtap::ctl {
namespace {

/// What `add`, `replace` and `rm` are told.
struct Change {
  std::string name;
  std::string from;
  bool persist = false;
};

std::string path_of(const Kind& kind) { return std::string("/v1/") + kind.plural; }

std::string path_of(const Kind& kind, const std::string& name) {
  return path_of(kind) + "/" + encoded(name);
}

Error usage(const std::string& message) { return {message, ErrorKind::usage}; }

Result<Exit> list(const Session& session, const Kind& kind) {
  auto reply = session.client.ask({Method::get, path_of(kind)});
  if (!reply) return reply.error();
  if (session.json) {
    session.print_body(reply->body);
  } else {
    session.io.out << kind.table(part_of(reply->json, kind.plural)).text();
  }
  return Exit::done;
}

Result<Exit> show(const Session& session, const Kind& kind, const std::string& name) {
  auto reply = session.client.ask({Method::get, path_of(kind, name)});
  if (!reply) return reply.error();
  if (session.json) {
    session.print_body(reply->body);
  } else {
    session.io.out << toml_view(kind.name, reply->json);
  }
  return Exit::done;
}

Result<std::string> read_all(const std::string& file, std::istream& standard_input) {
  std::ifstream opened;
  if (file != "-") opened.open(file);
  std::istream& in = file == "-" ? standard_input : opened;
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (in.bad() || (file != "-" && !opened.is_open())) return usage("cannot read " + file);
  return text;
}

/// The JSON of a file as it is, but for the name: that of the command where it has none.
Result<Json> read_from(const Change& said, std::istream& standard_input) {
  auto text = read_all(said.from, standard_input);
  if (!text) return text.error();
  Json json = Json::parse(*text, nullptr, false);
  if (!json.is_object())
    return usage(said.from + " is not a JSON object of the keys of the config");
  if (json.contains("name") && json["name"] != Json(said.name)) {
    return usage(said.from + " is for the name " + json["name"].dump() + ", the command for \"" +
                 said.name + "\"");
  }
  return json;
}

Result<Json> body_of(const Change& said, const Build& build, std::istream& standard_input) {
  auto keys = said.from.empty() ? build() : read_from(said, standard_input);
  if (!keys) return keys.error();
  Json body = {{"name", said.name}};
  body.update(*keys);
  return body;
}

Result<Exit> edit(const Session& session, const Kind& kind, Edit edit, const Change& said,
                  const Build& build) {
  auto body = body_of(said, build, session.io.in);
  if (!body) return body.error();
  const bool adds = edit == Edit::add;
  const Request request{adds ? Method::post : Method::put,
                        (adds ? path_of(kind) : path_of(kind, said.name)) + query(said.persist),
                        body->dump(-1, ' ', false, Json::error_handler_t::replace)};
  const auto done = [&](int status) {
    const char* what = adds || status == 201 ? " added" : " replaced";
    return std::string(kind.name) + " " + said.name + what;
  };
  return change(session, request, done, said.persist);
}

Result<Exit> remove(const Session& session, const Kind& kind, const Change& said) {
  const Request request{Method::remove, path_of(kind, said.name) + query(said.persist)};
  const auto done = [&](int) { return std::string(kind.name) + " " + said.name + " removed"; };
  return change(session, request, done, said.persist);
}

CLI::Option* add_name(CLI::App& app, std::string& name, const char* type_name) {
  return app.add_option("NAME", name)->required()->type_name(type_name);
}

}  // namespace

CLI::App& add_group(CLI::App& app, Shell& shell, const Kind& kind, const std::string& description) {
  CLI::App* group = app.add_subcommand(kind.name, description);
  group->require_subcommand(1);
  group->add_subcommand("list", std::string("All ") + kind.plural + ", in the order of the config")
      ->callback([&shell, kind] {
        shell.action = [kind](const Session& session) { return list(session, kind); };
      });
  CLI::App* shown = group->add_subcommand("show", "All keys of one");
  auto name = std::make_shared<std::string>();
  add_name(*shown, *name, kind.type_name);
  shown->callback([&shell, kind, name] {
    shell.action = [kind, name](const Session& session) { return show(session, kind, *name); };
  });
  return *group;
}

void add_rm(CLI::App& group, Shell& shell, const Kind& kind) {
  CLI::App* removed = group.add_subcommand("rm", "Takes one away");
  auto said = std::make_shared<Change>();
  add_name(*removed, said->name, kind.type_name);
  add_persist(*removed, said->persist);
  removed->callback([&shell, kind, said] {
    shell.action = [kind, said](const Session& session) { return remove(session, kind, *said); };
  });
}

CLI::App& add_edit(CLI::App& group, Shell& shell, const Kind& kind, Edit how, Build build) {
  const bool adds = how == Edit::add;
  CLI::App* edited = adds
                         ? group.add_subcommand("add", "Adds one behind the others")
                         : group.add_subcommand("replace", "Puts another in its place, or adds it");
  auto said = std::make_shared<Change>();
  add_name(*edited, said->name, adds ? "NAME" : kind.type_name);
  edited
      ->add_option("--from", said->from,
                   "Take the keys from this file, as JSON; \"-\": from standard input")
      ->type_name(kFile);
  add_persist(*edited, said->persist);
  edited->callback([&shell, kind, how, said, build = std::move(build)] {
    shell.action = [kind, how, said, build](const Session& session) {
      return edit(session, kind, how, *said, build);
    };
  });
  return *edited;
}

Result<Exit> change(const Session& session, const Request& request,
                    const std::function<std::string(int status)>& done, bool persist) {
  auto reply = session.client.ask(request);
  if (!reply) return reply.error();
  if (session.json) {
    session.print_body(reply->body);
  } else {
    session.io.out << done(reply->status) << " (generation " << count_of(reply->json, "generation")
                   << (persist ? ", written to the config file" : ", until the next reload")
                   << ")\n";
  }
  return Exit::done;
}

std::string query(bool persist) { return persist ? "?persist=true" : ""; }

void add_persist(CLI::App& app, bool& persist) {
  app.add_flag("--persist", persist, "Write the change to the config file as well");
}

}  // namespace vtap::ctl
