// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "objects.hpp"
#include "policy_keys.hpp"
#include "toml_view.hpp"

namespace vtap::ctl {
namespace {

std::string text_or(const Json& object, const char* key, const std::string& otherwise) {
  const auto it = object.find(key);
  return it == object.end() ? otherwise : toml_value(*it);
}

std::string names(const Json& list, const std::string& otherwise) {
  std::string out;
  for (const Json& name : list) {
    if (name.is_string()) out += (out.empty() ? "" : ", ") + printable(name.get<std::string>());
  }
  return out.empty() ? otherwise : out;
}

/// Everything else that the policy says, as its file does.
std::string rest_text(const Json& policy) {
  std::string out;
  for (const auto& item : policy.items()) {
    const std::string& key = item.key();
    if (key == "name" || key == "taps" || key == "monitors" || key == "match") continue;
    out += (out.empty() ? "" : ", ") + printable(key) + " = " + toml_value(item.value());
  }
  return out;
}

Table policies(const Json& objects) {
  Table table({{"policy"}, {"taps"}, {"monitors"}, {"match"}, {""}});
  for (const Json& policy : objects) {
    if (!policy.is_object()) continue;
    table.row({text_of(policy, "name"), names(part_of(policy, "taps"), "all"),
               names(part_of(policy, "monitors"), "-"), text_or(policy, "match", "every frame"),
               rest_text(policy)});
  }
  return table;
}

const Kind kPolicies{"policy", "policies", kPolicy, policies};

void add_match_options(CLI::App& app, PolicyOptions& options) {
  const auto match = [&](const char* name, std::vector<std::string>& values, const char* what,
                         const char* type_name) {
    add_list(app, name, values, what, type_name)->group("Which packets");
  };
  match("--src", options.src, "Source address or prefix", "ADDRESS");
  match("--dst", options.dst, "Destination address or prefix", "ADDRESS");
  match("--host", options.host, "Either address", "ADDRESS");
  match("--proto", options.proto, "Protocol behind IP: name or number", "PROTOCOL");
  match("--src-port", options.src_port, "Source port, or a range A-B", "PORTS");
  match("--dst-port", options.dst_port, "Destination port, or a range A-B", "PORTS");
  match("--port", options.port, "Either port, or a range A-B", "PORTS");
  match("--vlan", options.vlan, "VLAN id, a range A-B, or none", "VLAN");
  app.add_option("--filter", options.filter, "pcap-filter(7) expression, on top of these")
      ->type_name("EXPRESSION")
      ->group("Which packets");
}

void add_copy_options(CLI::App& app, PolicyOptions& options) {
  const auto option = [&](const char* name, auto& value, const char* what, const char* type_name) {
    return app.add_option(name, value, what)->type_name(type_name)->group("What becomes of copies");
  };
  option("--sample", options.sample, "Every N-th packet, or a share F of the flows",
         "one_in=N|flows=F");
  option("--meter", options.meter, "No more than this rate, like 200Mbit/s or 50kpps", "RATE");
  whole_number(option("--slice", options.slice, "So many bytes of each frame", "BYTES"));
  whole_number(option("--priority", options.priority, "At the monitors, 0 to 7; 7 is served first",
                      "NUMBER"));
  one_of(
      option("--offload", options.offload, "Whether the kernel serves it without the broker", ""),
      {"auto", "never", "require"});
}

void add_policy_edit(CLI::App& group, Shell& shell, Edit edit) {
  auto options = std::make_shared<PolicyOptions>();
  CLI::App& app =
      add_edit(group, shell, kPolicies, edit, [options] { return policy_json(*options); });
  add_list(app, "--monitor", options->monitors, "Where the copies go", kMonitor);
  add_list(app, "--tap", options->taps, "Of which taps (default: all)", kTap);
  add_match_options(app, *options);
  add_copy_options(app, *options);
  exclude_others(app, "--from");
}

}  // namespace

void add_policy(CLI::App& app, Shell& shell) {
  CLI::App& group = add_group(app, shell, kPolicies, "Which packets are copied, and whereto");
  add_policy_edit(group, shell, Edit::add);
  add_policy_edit(group, shell, Edit::replace);
  add_rm(group, shell, kPolicies);
}

}  // namespace vtap::ctl
