// SPDX-License-Identifier: Apache-2.0
#include "controller/prepare.hpp"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

namespace vtap::controller {

Result<Loaded> load_text(std::string text, const std::string& file) {
  config::Parsed parsed = config::parse(text, file);
  std::vector<std::string> warnings;
  for (const auto& warning : parsed.warnings) warnings.push_back(config::format(warning, file));
  if (parsed.config) return Loaded{std::move(text), std::move(*parsed.config), std::move(warnings)};
  std::string findings;
  const auto add = [&](const std::string& line) {
    findings += (findings.empty() ? "" : "\n") + line;
  };
  for (const auto& warning : warnings) add(warning + " (warning)");
  for (const auto& error : parsed.errors) add(config::format(error, file));
  return Error{std::move(findings), ErrorKind::usage};
}

Result<Loaded> load_file(const std::string& file) {
  auto text = config::read(file);
  if (!text) return text.error();
  return load_text(std::move(*text), file);
}

Result<Prepared> prepare(const config::Config& config) {
  auto resolved = engine::resolve(config);
  auto tables =
      plan::compile(config, resolved ? resolved->placements() : std::vector<plan::Placement>{});
  if (!resolved && !tables && resolved.error().kind == tables.error().kind) {
    return Error{resolved.error().message + '\n' + tables.error().message, tables.error().kind};
  }
  if (!resolved) return resolved.error();
  if (!tables) return tables.error();
  return Prepared{std::move(*tables), std::move(*resolved)};
}

}  // namespace vtap::controller
