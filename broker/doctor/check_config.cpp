// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <sstream>

#include "doctor/checks.hpp"

/// What the broker refuses to start with, as it says it itself; and its warnings of --check.
namespace vtap::doctor {
namespace {

const PortFacts* port_of(const Facts& facts, const std::string& name) {
  const auto found = std::find_if(facts.ports.begin(), facts.ports.end(),
                                  [&](const PortFacts& port) { return port.name == name; });
  return found == facts.ports.end() ? nullptr : &*found;
}

std::string in_config(const Facts& facts, const std::string& line, const std::string& where) {
  return line + "    # in " + where + " of " + facts.config.file;
}

std::string remove_uppers(const PortFacts& port) {
  std::string text;
  for (const std::string& upper : port.uppers) {
    text += (text.empty() ? "" : "; ") + ("ip link del dev " + upper);
  }
  return text;
}

std::string remove_route(const PortFacts& port) {
  const std::string what = "route del default dev " + port.name;
  std::string text = port.default_route.ipv4 ? "ip " + what : "";
  if (port.default_route.ipv6) text += (text.empty() ? "" : "; ") + ("ip -6 " + what);
  return text + "    # or choose another port";
}

std::string remove_xdp(const PortFacts& port) {
  for (const host::ForeignProgram& program : port.foreign) {
    if (program.where == host::ForeignProgram::Where::xdp) return program.remove;
  }
  return {};
}

std::string fix_of(const Facts& facts, const engine::Problem& problem) {
  const PortFacts* const port = port_of(facts, problem.subject);
  if (problem.id == "no-port")
    return "ip -br link    # lists what is there, for " + facts.config.file;
  if (problem.id == "workers") return in_config(facts, "workers = \"auto\"", "[broker]");
  if (problem.id == "offload") return in_config(facts, "offload = \"auto\"", "the policy");
  if (port == nullptr) return {};
  if (problem.id == "foreign-xdp") return remove_xdp(*port);
  if (problem.id == "master") return "ip link set dev " + port->name + " nomaster";
  if (problem.id == "uppers") return remove_uppers(*port);
  if (problem.id == "long-frames") {
    return "ip link set dev " + port->name + " mtu " + std::to_string(host::kOneBufferMtu);
  }
  if (problem.id == "no-native-xdp") {
    return in_config(facts, "hook = \"tc\"", "[[tap]] (" + port->owner + ")") +
           ", and capture = \"tee\"";
  }
  if (problem.id == "default-route") {
    return port->is_monitor()
               ? remove_route(*port)
               : in_config(facts, "allow_management = true", "[[tap]] (" + port->owner + ")");
  }
  return {};
}

std::string why_of(const std::string& id) {
  constexpr std::array<std::pair<const char*, const char*>, 9> whys{{
      {"foreign-xdp", "it sees frames before a tap, and a port has room for one XDP program"},
      {"master", "the bridge or bond takes what arrives, and sends of its own"},
      {"uppers", "devices on top send and receive of their own here"},
      {"default-route", "a tap or copies there can cut off your own access"},
      {"no-native-xdp", "generic XDP comes after the copy into an skb: slower than TC"},
      {"long-frames", "the kernel drops longer originals, and nobody counts them"},
      {"no-port", "all ports of the config must be there at the start"},
      {"workers", "workers are pinned to CPUs"},
      {"offload", "it says \"require\", and the kernel cannot do this policy here"},
  }};
  for (const auto& [known, why] : whys) {
    if (id == known) return std::string(why) + "; the broker refuses to start";
  }
  return "the broker refuses to start";
}

}  // namespace

void check_config(const Facts& facts, Diagnoses& out) {
  for (const engine::Problem& problem : facts.attempt.problems) {
    out.push_back({{.id = problem.id,
                    .severity = Severity::error,
                    .subject = problem.subject,
                    .what = problem.message,
                    .why = why_of(problem.id),
                    .fix = fix_of(facts, problem)}});
  }
}

void check_loops(const Facts& facts, Diagnoses& out) {
  if (!facts.attempt.problems.empty()) return;  // not all is resolved
  constexpr std::string_view prefix = "warning: ";
  std::istringstream lines(engine::loop_warnings(facts.config, facts.attempt.resolved));
  for (std::string line; std::getline(lines, line);) {
    if (line.compare(0, prefix.size(), prefix) == 0) line.erase(0, prefix.size());
    out.push_back({{.id = "loop",
                    .severity = Severity::hint,
                    .subject = "monitors",
                    .what = line,
                    .why = "a copy that comes back is copied again, without end",
                    .fix = {}}});
  }
}

}  // namespace vtap::doctor
