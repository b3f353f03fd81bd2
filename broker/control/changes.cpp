// SPDX-License-Identifier: Apache-2.0
#include "control/changes.hpp"

#include <optional>
#include <utility>

namespace vtap::control {
namespace {

constexpr int kTries = 4;  // a reload between is rare; one each time is somebody's loop

const char* plural(config::Section section) {
  switch (section) {
    case config::Section::tap:
      return "taps";
    case config::Section::monitor:
      return "monitors";
    case config::Section::policy:
      break;
  }
  return "policies";
}

std::string quoted(const std::string& name) {
  return Json(name).dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// The tables of one kind, in file order.
Json tables_of(const std::string& text, config::Section section) {
  auto parsed = config::to_json(text);
  if (!parsed) throw refusal(500, "the running config: " + parsed.error().message);
  const auto found = parsed->find(config::name_of(section));
  return found != parsed->end() && found->is_array() ? *found : Json::array();
}

std::optional<Json> find(const Json& tables, const std::string& name) {
  for (const Json& table : tables) {
    if (table.is_object() && table.value("name", Json()) == name) return table;
  }
  return std::nullopt;
}

Reply no_such(config::Section section, const std::string& name) {
  return refusal(404, "there is no " + std::string(config::name_of(section)) + ' ' + quoted(name));
}

Json object_of(const std::string& body) {
  try {
    Json parsed = Json::parse(body);
    if (parsed.is_object()) return parsed;
  } catch (const Json::exception& error) {
    throw refusal(400, std::string("the body is no JSON: ") + error.what());
  }
  throw refusal(400, "the body is a JSON object");
}

std::string take(Result<std::string> text) {
  if (!text) throw refusal(text.error());
  return std::move(text).value();
}

/// The keys of a table whose name stands in the path; the body may repeat it.
Json item_of(const Call& call) {
  const Json body = object_of(call.body);
  if (body.value("name", Json(call.name)) != call.name) {
    throw refusal(400,
                  "the name in the body is another than that in the path; to rename, create "
                  "the new one and delete the old");
  }
  Json item = {{"name", call.name}};
  item.update(body);
  return item;
}

}  // namespace

Reply Changes::config() const {
  if (!handlers_.config) return refusal(501, "this broker does not show its config");
  const RunningConfig running = handlers_.config();
  auto parsed = config::to_json(running.text);
  if (!parsed) return refusal(500, parsed.error().message);
  return reply(200, {{"file", running.file},
                     {"generation", running.generation},
                     {"text", running.text},
                     {"config", std::move(*parsed)}});
}

Reply Changes::list(Section section) const {
  if (!handlers_.config) return refusal(501, "this broker does not show its config");
  return reply(200, {{plural(section), tables_of(handlers_.config().text, section)}});
}

Reply Changes::show(Section section, const Call& call) const {
  if (!handlers_.config) return refusal(501, "this broker does not show its config");
  const auto found = find(tables_of(handlers_.config().text, section), call.name);
  return found ? reply(200, *found) : no_such(section, call.name);
}

Reply Changes::replace_config(const Call& call) {
  const Json body = object_of(call.body);
  for (const auto& [key, value] : body.items()) {
    const bool known =
        key == "text" ? value.is_string() : key == "generation" && value.is_number_unsigned();
    if (!known) {
      return refusal(400,
                     R"(the body is {"text":"..."}, and "generation": the one it is based on)");
    }
  }
  if (!body.contains("text")) return refusal(400, R"(the body has no "text")");
  const auto edit = [&](const RunningConfig& running) {
    if (body.value("generation", std::uint64_t{running.generation}) != running.generation) {
      throw refusal(409, "generation " + std::to_string(running.generation) +
                             " runs: another change came first; read the config again");
    }
    return body["text"].get<std::string>();
  };
  return change(edit, call.persist, 200);
}

Reply Changes::create(Section section, const Call& call) {
  const Json item = object_of(call.body);
  if (!item.contains("name") || !item["name"].is_string()) {
    return refusal(400, R"(the body has no "name")");
  }
  return change(
      [&](const RunningConfig& running) { return take(config::add(running.text, section, item)); },
      call.persist, 201);
}

Reply Changes::replace(Section section, const Call& call) {
  const Json item = item_of(call);
  int status = 200;
  return change(
      [&](const RunningConfig& running) {
        const bool exists = find(tables_of(running.text, section), call.name).has_value();
        status = exists ? 200 : 201;
        return take(exists ? config::replace(running.text, section, call.name, item)
                           : config::add(running.text, section, item));
      },
      call.persist, status);
}

Reply Changes::remove(Section section, const Call& call) {
  return change(
      [&](const RunningConfig& running) {
        if (!find(tables_of(running.text, section), call.name)) {
          throw no_such(section, call.name);
        }
        return take(config::remove(running.text, section, call.name));
      },
      call.persist, 200);
}

Reply Changes::change(const Edit& edit, bool persist, const int& status) {
  if (!handlers_.config || !handlers_.apply) {
    return refusal(501, "this broker's config cannot be changed while it runs");
  }
  const std::lock_guard alone(changing_);
  RunningConfig running = handlers_.config();
  for (int tries = 1;; ++tries) {
    auto applied = handlers_.apply(edit(running), running.generation, persist);
    if (applied) return reply(status, {{"generation", *applied}});
    RunningConfig now = handlers_.config();
    const bool overtaken =
        applied.error().kind == ErrorKind::conflict && now.generation != running.generation;
    if (!overtaken || tries == kTries) return refusal(applied.error());
    running = std::move(now);
  }
}

}  // namespace vtap::control
