// SPDX-License-Identifier: Apache-2.0
// docs/openapi.json against the code: the same routes, and answers that fit its schemas.
#include "control/openapi.hpp"

#include <gtest/gtest.h>
#include <httplib.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>
#include <utility>

#include "control/api.hpp"
#include "control/server.hpp"
#include "stats/snapshot.hpp"

namespace vtap::control {
namespace {

using Doc = nlohmann::json;

const Doc& document() {
  static const Doc kDocument = Doc::parse(openapi_document());
  return kDocument;
}

/// `node`, or what it refers to.
const Doc& resolved(const Doc& node) {
  const Doc* out = &node;
  while (out->contains("$ref")) {
    const auto path = (*out)["$ref"].get<std::string>();
    out = &document().at(Doc::json_pointer(path.substr(1)));
  }
  return *out;
}

// ---- the part of JSON Schema that the document uses; anything else throws

std::string misfit(const Doc& value, const Doc& schema, const std::string& where);

bool has_type(const Doc& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  throw std::logic_error("type " + type);
}

std::string misfit_of_object(const Doc& value, const Doc& schema, const std::string& where) {
  for (const auto& key : schema.value("required", Doc::array())) {
    if (!value.contains(key)) return where + " has no " + key.get<std::string>();
  }
  const Doc properties = schema.value("properties", Doc::object());
  const Doc others = schema.value("additionalProperties", Doc(true));
  for (const auto& [key, member] : value.items()) {
    const std::string place = where + '/' + key;
    if (properties.contains(key)) {
      if (auto why = misfit(member, properties[key], place); !why.empty()) return why;
    } else if (others == false) {
      return place + " is not in the schema";
    } else if (others.is_object()) {
      if (auto why = misfit(member, others, place); !why.empty()) return why;
    }
  }
  return "";
}

std::string misfit_of_choice(const Doc& value, const Doc& choices, bool only_one,
                             const std::string& where) {
  int fits = 0;
  for (const Doc& choice : choices) fits += misfit(value, choice, where).empty() ? 1 : 0;
  return fits == 1 || (fits > 1 && !only_one) ? "" : where + " fits " + std::to_string(fits);
}

/// Where and why `value` does not fit, or nothing.
std::string misfit(const Doc& value, const Doc& unresolved, const std::string& where) {
  const Doc& schema = resolved(unresolved);
  static const std::set<std::string> kIgnored = {
      "description",         "example", "default", "format", "required", "properties",
      "additionalProperties"};
  for (const auto& [key, rule] : schema.items()) {
    std::string why;
    if (kIgnored.count(key) != 0) continue;
    if (key == "type") {
      if (!has_type(value, rule)) why = where + " is no " + rule.get<std::string>();
    } else if (key == "enum") {
      if (std::find(rule.begin(), rule.end(), value) == rule.end()) why = where + " not in enum";
    } else if (key == "pattern") {
      if (value.is_string() &&
          !std::regex_search(value.get<std::string>(), std::regex(rule.get<std::string>()))) {
        why = where + " does not match";
      }
    } else if (key == "minimum") {
      if (value.is_number() && value < rule) why = where + " is too small";
    } else if (key == "maximum") {
      if (value.is_number() && value > rule) why = where + " is too large";
    } else if (key == "minItems") {
      if (value.is_array() && value.size() < rule) why = where + " is too short";
    } else if (key == "items") {
      for (std::size_t i = 0; value.is_array() && why.empty() && i < value.size(); ++i) {
        why = misfit(value[i], rule, where + '/' + std::to_string(i));
      }
    } else if (key == "anyOf" || key == "oneOf") {
      why = misfit_of_choice(value, rule, key == "oneOf", where);
    } else {
      throw std::logic_error("the validator knows no " + key);
    }
    if (!why.empty()) return why;
  }
  return value.is_object() ? misfit_of_object(value, schema, where) : "";
}

std::string misfit(const Doc& value, const char* schema) {
  return misfit(value, document()["components"]["schemas"].at(schema), schema);
}

// ---- the document alone

TEST(OpenApi, HasTheRoutesOfTheCodeAndNoOthers) {
  std::set<std::string> coded;
  for (const Api::Route& route : Api::routes()) {
    EXPECT_TRUE(coded.insert(std::string(route.method) + ' ' + route.path).second) << route.path;
  }
  std::set<std::string> described;
  for (const auto& [path, item] : document()["paths"].items()) {
    for (const auto& [method, operation] : item.items()) {
      if (method == "parameters") continue;
      std::string upper = method;
      for (char& c : upper) c = static_cast<char>(std::toupper(c));
      described.insert(upper + ' ' + path);
    }
  }
  EXPECT_EQ(coded, described);
}

TEST(OpenApi, HasTheBodiesAndParametersOfTheCode) {
  for (const Api::Route& route : Api::routes()) {
    const std::string name = std::string(route.method) + ' ' + route.path;
    std::string method = route.method;
    for (char& c : method) c = static_cast<char>(std::tolower(c));
    const Doc& path = document()["paths"].at(route.path);
    const Doc& operation = path.at(method);
    EXPECT_EQ(operation.contains("requestBody"), route.takes_body) << name;
    EXPECT_EQ(operation["responses"].contains("408"), route.takes_body) << name;
    const bool named = std::string(route.path).ends_with("{name}");
    EXPECT_EQ(path.contains("parameters"), named) << name;
    EXPECT_EQ(operation["responses"].contains("404"), named && method != "put") << name;
    std::set<std::string> query;
    bool persists = false;
    for (const Doc& parameter : operation.value("parameters", Doc::array())) {
      if (resolved(parameter)["name"] == "persist") {
        persists = true;
      } else {
        query.insert(parameter.at("name").get<std::string>());
      }
    }
    EXPECT_EQ(query, std::set<std::string>(route.query.begin(), route.query.end())) << name;
    // What makes a generation from an edit can be written back.
    EXPECT_EQ(persists,
              route.takes_body != (method == "delete") && std::string(route.path) != "/v1/detach")
        << name;
  }
}

TEST(OpenApi, EveryReferenceLeadsSomewhereAndEveryPartIsUsed) {
  std::set<std::string> used;
  const std::function<void(const Doc&)> walk = [&](const Doc& node) {
    if (node.is_object() && node.contains("$ref")) {
      EXPECT_NO_THROW(resolved(node)) << node;
      used.insert(node["$ref"].get<std::string>());
    }
    for (const Doc& child : node) {
      if (child.is_structured()) walk(child);
    }
  };
  walk(document());
  for (const auto& kind : {"schemas", "responses", "parameters"}) {
    for (const auto& [name, part] : document()["components"][kind].items()) {
      EXPECT_EQ(used.count(std::string("#/components/") + kind + '/' + name), 1U) << name;
    }
  }
}

TEST(OpenApi, TheValidatorFindsWhatDoesNotFit) {
  const auto json = [](const char* text) { return Doc::parse(text); };
  EXPECT_EQ(misfit(json(R"({"error":"x"})"), "Error"), "");
  for (const char* const bad : {R"({})", R"({"error":3})", R"({"error":"x","more":1})", R"([])"}) {
    EXPECT_NE(misfit(json(bad), "Error"), "") << bad;
  }
  EXPECT_EQ(
      misfit(json(R"({"name":"a","monitors":["m"],"match":[{"port":[80,"1-2"]}]})"), "Policy"), "");
  for (const char* const bad :
       {R"({"name":"a"})", R"({"name":"a b","monitors":["m"]})", R"({"name":"a","monitors":[]})",
        R"({"name":"a","monitors":["m"],"weight":0})",
        R"({"name":"a","monitors":["m"],"weight":1001})",
        R"({"name":"a","monitors":["m"],"offload":"x"})",
        R"({"name":"a","monitors":["m"],"slice":"x"})",
        R"({"name":"a","monitors":["m"],"match":[{"port":[true]}]})"}) {
    EXPECT_NE(misfit(json(bad), "Policy"), "") << bad;
  }
}

// ---- against a server

constexpr auto kText =
    "# all that a policy can say\n"
    "[[tap]]\nname = \"wan\"\nmode = \"span\"\nports = [\"eth1\"]\ncapture = \"auto\"\nhook = "
    "\"xdp\"\n"
    "unmatched = \"drop\"\nallow_management = false\n"
    "[[monitor]]\nname = \"ids\"\nport = \"eth3\"\nrate = \"1Gbit/s\"\nqueue = 4096\n"
    "[[policy]]\nname = \"web\"\ntaps = [\"wan\"]\nmonitors = [\"ids\"]\n"
    "match = [{ src = [\"10.0.0.0/24\"], dst = \"::1\", proto = \"tcp\", port = [80, "
    "\"8000-8100\"] }]\n"
    "except = [{ vlan = \"none\", ethertype = 0x0800, fragment = true, dscp = 46 }]\n"
    "filter = \"ip\"\nsample = { flows = 0.25 }\nhead = 3\n"
    "meter = { rate = \"50kpps\", burst = 1000, peak_rate = \"60kpps\", exceed = { one_in = 2 }, "
    "per = \"src\", entries = 64 }\n"
    "slice = { bytes = 128, after = 10 }\nflow_entries = 4\npriority = 7\nweight = 2\nonce = true\n"
    "offload = \"never\"\n"
    "[[policy]]\nname = \"dns\"\nmonitors = [\"ids\"]\nslice = 64\nmeter = { rate = \"1Mbit/s\", "
    "burst = \"64KiB\", exceed = \"drop\" }\nsample = { one_in = 2 }\n";

constexpr auto kStatus = R"({"name":"npb1","version":"0.1.0","generation":3,"uptime_s":12.5,
 "config":{"file":"/etc/vtap/tap.toml","loaded_at":"2026-01-01T00:00:00Z","persisted":true},
 "last_reload":{"ok":false,"at":"2026-01-01T00:00:00Z","error":"tap.toml:3:1: no"},"ready":true,
 "taps":[{"name":"wan","mode":"inline","capture":"tee","hook":"xdp","why":"x",
          "ports":[{"name":"eth1","state":"up"}]}],
 "monitors":[{"name":"ids","port":"eth3","state":"up","queues":[{"queue":0,"zero_copy":false}]}],
 "policies":[{"name":"web","placement":"broker","why":"x","taps":["wan"],"monitors":["ids"]}],
 "findings":[]})";

stats::Snapshot counters() {
  stats::Snapshot out;
  out.name = "npb1";
  out.taps.emplace_back().ports.emplace_back().queues.emplace_back();
  out.policies.emplace_back().monitors.emplace_back();
  out.monitors.emplace_back().queues.emplace_back();
  out.workers.emplace_back();
  return out;
}

/// Bytes once, and then the end.
class Once final : public Stream {
 public:
  std::optional<std::string> next(bool /*last*/) override {
    return std::exchange(done_, true) ? std::nullopt : std::optional<std::string>("bytes");
  }

 private:
  bool done_ = false;
};

class OpenApiServed : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "vtap-openapi.XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  static Handlers whole(Result<std::uint32_t>& applied) {
    return {.version = "1.2.3",
            .stats_json = [] { return stats::to_json(counters()); },
            .status_json = [] { return std::string(kStatus); },
            .config =
                [] {
                  return RunningConfig{kText, "/etc/tap.toml", 3};
                },
            .reload = [&applied] { return applied; },
            .apply = [&applied](const std::string&, std::uint32_t, bool) { return applied; },
            .doctor_json =
                [](bool fix) {
                  return std::string(R"({"findings":[{"id":"x","severity":"hint","subject":"e",)"
                                     R"("what":"w","why":"y","fix":"f","safe":true,"fixed":)") +
                         (fix ? "true}]}" : "false}]}");
                },
            .detach = [](const std::vector<std::string>&) -> Result<std::string> {
              return std::string(R"({"undone":["eth1: x"]})");
            },
            .capture = [](const CaptureRequest&) -> Result<std::unique_ptr<Stream>> {
              return std::unique_ptr<Stream>(std::make_unique<Once>());
            },
            .metrics_text = [] { return std::string("# none\n"); }};
  }

  void serve(Handlers handlers) {
    server_ = nullptr;
    auto server = ControlServer::open({.path = path()}, std::move(handlers));
    ASSERT_TRUE(server.ok()) << server.error().message;
    server_ = std::move(server).value();
  }
  [[nodiscard]] std::string path() const { return (directory_ / "t.sock").string(); }

  /// The status of one request, whose answer is what the document says of that status.
  int ask(const Api::Route& route, const std::string& target, const std::string& body = "") {
    httplib::Client client(path(), 80);
    client.set_address_family(AF_UNIX);
    httplib::Request request;
    request.method = route.method;
    request.path = target;
    request.body = body;
    const auto result = client.send(request);
    EXPECT_TRUE(result) << target;
    if (!result) return 0;
    std::string method = route.method;
    for (char& c : method) c = static_cast<char>(std::tolower(c));
    const Doc& operation = document()["paths"].at(route.path).at(method);
    const std::string name = method + ' ' + target + ": " + std::to_string(result->status);
    const std::string status = std::to_string(result->status);
    EXPECT_TRUE(operation["responses"].contains(status)) << name << ' ' << result->body;
    if (!operation["responses"].contains(status)) return result->status;
    const Doc& content = resolved(operation["responses"][status])["content"];
    const std::string type = result->get_header_value("Content-Type");
    const std::string media = type.substr(0, type.find(';'));
    EXPECT_TRUE(content.contains(media)) << name << ' ' << type;
    if (media == "application/json") {
      EXPECT_EQ(misfit(Doc::parse(result->body), content[media]["schema"], ""), "")
          << name << result->body;
    }
    return result->status;
  }

  /// A body that `route` takes, and that fits its schema.
  static std::string body_for(const Api::Route& route) {
    static const std::map<std::string, Doc> kBodies = {
        {"NewConfig", {{"text", "x = 1\n"}}},
        {"Tap", {{"name", "new"}, {"mode", "host"}, {"ports", {"eth9"}}}},
        {"Monitor", {{"name", "new"}, {"port", "eth9"}}},
        {"Policy", {{"name", "new"}, {"monitors", {"ids"}}}},
        {"UnnamedTap", {{"mode", "host"}, {"ports", {"eth9"}}}},
        {"UnnamedMonitor", {{"port", "eth9"}}},
        {"UnnamedPolicy", {{"monitors", {"ids"}}}},
        {"Detach", {{"ports", {"eth1"}}}}};
    if (!route.takes_body) return "";
    std::string method = route.method;
    for (char& c : method) c = static_cast<char>(std::tolower(c));
    const Doc& schema = document()["paths"]
                            .at(route.path)
                            .at(method)["requestBody"]["content"]["application/json"]["schema"];
    const auto reference = schema["$ref"].get<std::string>();
    const Doc& body = kBodies.at(reference.substr(reference.rfind('/') + 1));
    EXPECT_EQ(misfit(body, schema, ""), "") << route.path;
    return body.dump();
  }

  /// A target of `route` that names something that exists.
  static std::string target_of(const Api::Route& route) {
    std::string target = route.path;
    const auto at = target.find("{name}");
    if (at == std::string::npos) return target;
    const bool tap = target.find("taps") != std::string::npos;
    const bool monitor = target.find("monitors") != std::string::npos;
    return target.substr(0, at) + (tap ? "wan" : monitor ? "ids" : "web");
  }

  std::filesystem::path directory_;
  std::unique_ptr<ControlServer> server_;
};

TEST_F(OpenApiServed, IsServedAsItStandsInTheDocs) {
  Result<std::uint32_t> applied = 4;
  serve(whole(applied));
  httplib::Client client(path(), 80);
  client.set_address_family(AF_UNIX);
  const auto result = client.Get("/v1/openapi.json");
  ASSERT_TRUE(result);
  EXPECT_EQ(result->body, openapi_document());
}

TEST_F(OpenApiServed, EveryRouteAnswersAsTheDocumentSays) {
  Result<std::uint32_t> applied = 4;
  serve(whole(applied));
  for (const Api::Route& route : Api::routes()) {
    const bool creates = std::string(route.method) == "POST" &&
                         document()["paths"][route.path]["post"]["responses"].contains("201");
    EXPECT_EQ(ask(route, target_of(route), body_for(route)), creates ? 201 : 200) << route.path;
  }
}

TEST_F(OpenApiServed, EveryFailureIsAsTheDocumentSays) {
  Result<std::uint32_t> applied = 4;
  serve(whole(applied));
  for (const Api::Route& route : Api::routes()) {
    const std::string target = target_of(route);
    EXPECT_EQ(ask(route, target + "?persits=true", body_for(route)), 400);
    if (route.takes_body) {
      EXPECT_EQ(ask(route, target, "{"), 400) << target;
      EXPECT_EQ(ask(route, target, std::string((4U << 20U) + 1, ' ')), 413) << target;
    } else if (std::string(route.method) != "GET") {
      EXPECT_EQ(ask(route, target, "{}"), 413) << target;
    }
    if (!std::string(route.path).ends_with("{name}")) continue;
    const bool put = std::string(route.method) == "PUT";
    EXPECT_EQ(ask(route, target + "x", body_for(route)), put ? 201 : 404) << target;
  }
  for (const auto& [kind, status] : {std::pair(ErrorKind::usage, 422),
                                     {ErrorKind::conflict, 409},
                                     {ErrorKind::unsupported, 501},
                                     {ErrorKind::runtime, 500}}) {
    applied = Error{"no", kind};
    for (const Api::Route& route : Api::routes()) {
      if (std::string(route.method) == "GET" ||
          std::string(route.path).find("/d") != std::string::npos)
        continue;
      EXPECT_EQ(ask(route, target_of(route), body_for(route)), status) << route.path;
    }
  }
}

TEST_F(OpenApiServed, ABrokerThatHasNoneOfItSaysSo) {
  serve({.version = "1"});
  for (const Api::Route& route : Api::routes()) {
    const std::string path = route.path;
    if (path == "/v1/version" || path == "/v1/openapi.json") continue;
    EXPECT_EQ(ask(route, target_of(route), body_for(route)), 501) << path;
  }
}

}  // namespace
}  // namespace vtap::control
