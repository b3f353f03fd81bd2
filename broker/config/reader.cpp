// SPDX-License-Identifier: Apache-2.0
#include "config/reader.hpp"

namespace vtap::config {
namespace {

std::string_view type_name(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a decimal number";
    case toml::node_type::boolean:
      return "a boolean";
    case toml::node_type::array:
      return "a list";
    case toml::node_type::table:
      return "a table";
    default:
      return "a date or time";
  }
}

}  // namespace

Position position(const toml::source_region& region) noexcept {
  return {region.begin.line, region.begin.column};
}

void Field::error(std::string_view message) const {
  findings_.errors.push_back({at(), std::string(key_).append(": ").append(message)});
}

void Field::warn(std::string_view message) const {
  findings_.warnings.push_back({at(), std::string(key_).append(": ").append(message)});
}

void Field::wrong_type(std::string_view expected) const {
  error("expected " + std::string(expected) + ", found " + std::string(type_name(node_)));
}

const std::string* Field::text(std::string_view expected) const {
  const auto* value = node_.as_string();
  if (value == nullptr) {
    wrong_type(expected);
    return nullptr;
  }
  return &value->get();
}

std::optional<std::uint64_t> Field::integer(std::uint64_t min, std::uint64_t max,
                                            std::string_view expected) const {
  const auto* value = node_.as_integer();
  if (value == nullptr) {
    wrong_type(expected);
    return std::nullopt;
  }
  const auto number = value->get();
  if (number < 0 || static_cast<std::uint64_t>(number) < min ||
      static_cast<std::uint64_t>(number) > max) {
    error(std::to_string(number) + " is out of range; " + std::to_string(min) + " to " +
          std::to_string(max) + " is possible");
    return std::nullopt;
  }
  return static_cast<std::uint64_t>(number);
}

std::optional<double> Field::real() const {
  // Not value<double>(): that refuses integers which a double cannot hold, without a word.
  if (const auto* value = node_.as_integer()) {
    return static_cast<double>(value->get());
  }
  if (const auto* value = node_.as_floating_point()) {
    return value->get();
  }
  wrong_type("a number");
  return std::nullopt;
}

std::optional<bool> Field::boolean() const {
  const auto* value = node_.as_boolean();
  if (value == nullptr) {
    wrong_type("true or false");
    return std::nullopt;
  }
  return value->get();
}

const toml::table* Field::table(std::string_view expected) const {
  const auto* value = node_.as_table();
  if (value == nullptr) {
    wrong_type(expected);
  }
  return value;
}

void refuse_unknown(Findings& findings, const toml::table& table, std::string_view where,
                    std::span<const std::string_view> known) {
  for (const auto& [key, node] : table) {
    if (std::find(known.begin(), known.end(), key.str()) != known.end()) {
      continue;
    }
    const auto hint = did_you_mean(key.str(), known);
    findings.errors.push_back(
        {position(key.source()), "unknown key " + quoted(key.str()) + " in " + std::string(where) +
                                     (hint.empty() ? "; known are " + join(known) : hint)});
  }
}

void refuse_absent(Findings& findings, const toml::table& table, std::string_view where,
                   std::string_view key, std::string_view expected) {
  findings.errors.push_back(
      {position(table.source()),
       std::string(where) + " has no " + quoted(key) + "; write " + std::string(expected)});
}

void Names::claim(Findings& findings, const toml::table& table, std::string_view kind,
                  const std::string& name) {
  if (name.empty()) {
    return;
  }
  const auto [first, is_new] = lines_.emplace(name, table.source().begin.line);
  if (is_new) {
    return;
  }
  Field(findings, "name", *table.get("name"))
      .error("there is a " + std::string(kind) + " " + quoted(name) + " already, in line " +
             std::to_string(first->second) + "; a name belongs to one " + std::string(kind));
}

std::optional<Field> find(Findings& findings, const toml::table& table, std::string_view key) {
  if (const auto* node = table.get(key)) {
    return Field(findings, key, *node);
  }
  return std::nullopt;
}

}  // namespace vtap::config
