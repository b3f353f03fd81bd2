// SPDX-License-Identifier: Apache-2.0
#include "control/api.hpp"

#include <httplib.h>

#include <algorithm>
#include <charconv>
#include <exception>
#include <optional>
#include <set>
#include <string_view>
#include <type_traits>

#include "control/openapi.hpp"
#include "filter/filter.hpp"

namespace vtap::control {
namespace {

using config::Section;

/// What stands for {name}, if `path` fits `pattern`; empty for a pattern without.
std::optional<std::string> match(std::string_view pattern, std::string_view path) {
  constexpr std::string_view kName = "{name}";
  if (!pattern.ends_with(kName)) {
    return pattern == path ? std::optional<std::string>("") : std::nullopt;
  }
  pattern.remove_suffix(kName.size());
  if (!path.starts_with(pattern)) return std::nullopt;
  const auto name = path.substr(pattern.size());
  // Divided before it is decoded: a %2F is part of a name.
  if (name.empty() || name.find('/') != std::string_view::npos) return std::nullopt;
  return httplib::detail::decode_url(std::string(name), false);
}

/// Takes ?persist=true out of the query; whatever else is there is refused, as a mistyped persist
/// would be ignored otherwise.
std::optional<Reply> read_query(const Api::Route& route, Call& call) {
  for (const auto& [key, value] : call.query) {
    if (std::ranges::count(route.query, std::string_view(key)) != 0) {
      if (call.query.count(key) == 1) continue;
      return refusal(400, key + " is there twice");
    }
    if (key != "persist" || std::string_view(route.method) == "GET") {
      return refusal(400, std::string(route.path) + " takes no " + key);
    }
    if (value != "true" && value != "false") return refusal(400, "persist is true or false");
    call.persist = value == "true";
  }
  return std::nullopt;
}

/// A whole number between 1 and `most`, if the query has `key`. Throws a Reply for anything else.
template <typename Number>
void read_number(const Call& call, const std::string& key, std::uint64_t most, Number& into) {
  const auto found = call.query.find(key);
  if (found == call.query.end()) return;
  const std::string& text = found->second;
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value == 0 || value > most) {
    throw refusal(400, key + " is a whole number from 1 to " + std::to_string(most));
  }
  into = static_cast<Number>(value);
}

std::optional<std::string> text_in(const Call& call, const std::string& key) {
  const auto found = call.query.find(key);
  if (found == call.query.end()) return std::nullopt;
  return found->second;
}

/// Throws a Reply.
CaptureRequest capture_of(const Call& call) {
  CaptureRequest out;
  out.policy = text_in(call, "policy");
  out.tap = text_in(call, "tap");
  out.filter = text_in(call, "filter");
  if (out.policy && out.tap) throw refusal(400, "a capture is of a policy or of a tap, not both");
  read_number(call, "snaplen", 65535, out.snaplen);
  read_number(call, "frames", 1'000'000'000'000, out.frames);
  read_number(call, "rate", 1'000'000, out.frames_per_s);
  if (!out.filter) return out;
  const auto compiled = filter::Filter::compile(*out.filter);
  if (!compiled) throw refusal(400, "filter: " + compiled.error().message);
  return out;
}

Reply pass_on(const std::function<std::string()>& json, const char* without) {
  return json ? Reply{200, json()} : refusal(501, without);
}

/// The ports of {"ports":["eth1"]}; none for {} or no body.
std::variant<std::vector<std::string>, Reply> ports_of(const std::string& body) {
  if (body.empty()) return std::vector<std::string>{};
  const Json json = Json::parse(body, nullptr, false);
  const Reply bad = refusal(400, R"(the body is {"ports":["eth1"]}, or {} for all that is left)");
  if (!json.is_object()) return bad;
  std::vector<std::string> ports;
  for (const auto& [key, list] : json.items()) {
    if (key != "ports" || !list.is_array()) return bad;
    for (const Json& port : list) {
      if (!port.is_string()) return bad;
      ports.push_back(port.get<std::string>());
    }
    // Not "all": that is what nobody means by an empty list.
    if (ports.empty()) return bad;
  }
  return ports;
}

}  // namespace

template <config::Section Which, auto Answer>
Reply Api::of_section(Api& api, const Call& call) {
  if constexpr (std::is_invocable_v<decltype(Answer), Changes&, Section>) {
    return (api.changes_.*Answer)(Which);
  } else {
    return (api.changes_.*Answer)(Which, call);
  }
}

const std::vector<Api::Route>& Api::routes() {
  constexpr auto kTap = Section::tap;
  constexpr auto kMonitor = Section::monitor;
  constexpr auto kPolicy = Section::policy;
  static const std::vector<Route> kRoutes = {
      {"GET", "/v1/version", false, own<&Api::version>},
      {"GET", "/v1/status", false, own<&Api::status>},
      {"GET", "/v1/stats", false, own<&Api::stats>},
      {"GET", "/v1/metrics", false, own<&Api::metrics>},
      {"GET", "/v1/openapi.json", false,
       [](Api& /*api*/, const Call& /*call*/) {
         return Reply{200, std::string(openapi_document())};
       }},
      {"GET", "/v1/config", false,
       [](Api& api, const Call& /*call*/) { return api.changes_.config(); }},
      {"PUT", "/v1/config", true,
       [](Api& api, const Call& call) { return api.changes_.replace_config(call); }},
      {"GET", "/v1/taps", false, of_section<kTap, &Changes::list>},
      {"POST", "/v1/taps", true, of_section<kTap, &Changes::create>},
      {"GET", "/v1/taps/{name}", false, of_section<kTap, &Changes::show>},
      {"PUT", "/v1/taps/{name}", true, of_section<kTap, &Changes::replace>},
      {"DELETE", "/v1/taps/{name}", false, of_section<kTap, &Changes::remove>},
      {"GET", "/v1/monitors", false, of_section<kMonitor, &Changes::list>},
      {"POST", "/v1/monitors", true, of_section<kMonitor, &Changes::create>},
      {"GET", "/v1/monitors/{name}", false, of_section<kMonitor, &Changes::show>},
      {"PUT", "/v1/monitors/{name}", true, of_section<kMonitor, &Changes::replace>},
      {"DELETE", "/v1/monitors/{name}", false, of_section<kMonitor, &Changes::remove>},
      {"GET", "/v1/policies", false, of_section<kPolicy, &Changes::list>},
      {"POST", "/v1/policies", true, of_section<kPolicy, &Changes::create>},
      {"GET", "/v1/policies/{name}", false, of_section<kPolicy, &Changes::show>},
      {"PUT", "/v1/policies/{name}", true, of_section<kPolicy, &Changes::replace>},
      {"DELETE", "/v1/policies/{name}", false, of_section<kPolicy, &Changes::remove>},
      {"POST", "/v1/reload", false, own<&Api::reload>},
      {"GET", "/v1/doctor", false, own<&Api::doctor>},
      {"POST", "/v1/doctor/fix", false, own<&Api::doctor_fix>},
      {"POST", "/v1/detach", true, own<&Api::detach>},
      {"GET",
       "/v1/capture",
       false,
       own<&Api::capture>,
       {"policy", "tap", "filter", "snaplen", "frames", "rate"}},
  };
  return kRoutes;
}

std::variant<Api::Match, Reply> Api::find(const std::string& method, const std::string& target) {
  const auto end = std::min(target.find_first_of("?#"), target.size());
  const std::string_view path = std::string_view(target).substr(0, end);
  bool known = false;
  for (const Route& route : routes()) {
    auto name = match(route.path, path);
    if (!name) continue;
    known = true;
    if (method != route.method) continue;
    Match found{&route, {.name = std::move(*name), .query = {}, .body = {}}};
    if (end < target.size() && target[end] == '?') {
      const auto query = target.substr(end + 1, target.find('#', end) - end - 1);
      httplib::detail::parse_query_text(query, found.call.query);
    }
    if (auto refused = read_query(route, found.call)) return *refused;
    return found;
  }
  if (known) return refusal(405, std::string(path) + " does not take " + method);
  return refusal(404, "there is no " + std::string(path));
}

Reply Api::answer(const Match& match) {
  try {
    return match.route->answer(*this, match.call);
  } catch (const Reply& refused) {
    return refused;
  } catch (const std::exception& error) {
    return refusal(500, error.what());
  } catch (...) {
    return refusal(500, "unknown exception");
  }
}

Reply Api::version(const Call& /*call*/) {
  return reply(200, {{"name", "vtap-broker"}, {"version", handlers_.version}});
}

Reply Api::stats(const Call& /*call*/) {
  return pass_on(handlers_.stats_json, "this broker gives no counters");
}

Reply Api::status(const Call& /*call*/) {
  return pass_on(handlers_.status_json, "this broker gives no status");
}

Reply Api::metrics(const Call& /*call*/) {
  if (!handlers_.metrics_text) return refusal(501, "this broker gives no metrics");
  return {200, handlers_.metrics_text(), "text/plain; version=0.0.4; charset=utf-8"};
}

Reply Api::reload(const Call& /*call*/) {
  if (!handlers_.reload) return refusal(501, "this broker cannot reload its config");
  const std::unique_lock alone(reloading_, std::try_to_lock);
  if (!alone) return refusal(409, "another reload is running");
  auto result = handlers_.reload();
  if (!result) return refusal(result.error());
  return reply(200, {{"reloaded", true}, {"generation", *result}});
}

Reply Api::doctor(const Call& /*call*/) {
  if (!handlers_.doctor_json) return refusal(501, "this broker has no doctor");
  return {200, handlers_.doctor_json(false)};
}

Reply Api::doctor_fix(const Call& /*call*/) {
  if (!handlers_.doctor_json) return refusal(501, "this broker has no doctor");
  return {200, handlers_.doctor_json(true)};
}

Reply Api::detach(const Call& call) {
  if (!handlers_.detach) return refusal(501, "this broker cannot detach ports while it runs");
  auto ports = ports_of(call.body);
  if (const auto* refused = std::get_if<Reply>(&ports)) return *refused;
  auto undone = handlers_.detach(std::get<0>(ports));
  return undone ? Reply{200, *undone} : refusal(undone.error());
}

Reply Api::capture(const Call& call) {
  if (!handlers_.capture) return refusal(501, "this broker captures nothing");
  auto stream = handlers_.capture(capture_of(call));
  if (!stream) return refusal(stream.error());
  return {200, "", "application/x-pcapng", std::move(*stream)};
}

}  // namespace vtap::control
