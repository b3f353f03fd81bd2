// SPDX-License-Identifier: Apache-2.0
#include "config/json.hpp"

#include <toml++/toml.h>

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "config/values.hpp"

namespace vtap::config {
namespace {

constexpr std::size_t kMaxDepth = 16;     // a config has 4
constexpr std::size_t kLineLength = 100;  // characters; longer lists go over several lines

// ---- TOML -> JSON

Json json_of(const toml::node& node);

Json json_of(const toml::table& table) {
  // toml++ sorts by name; what people wrote has an order of its own.
  std::vector<toml::table::const_iterator> entries;
  for (auto entry = table.cbegin(); entry != table.cend(); ++entry) entries.push_back(entry);
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return a->first.source().begin < b->first.source().begin;
  });
  Json out = Json::object();
  for (const auto& entry : entries) out[std::string(entry->first.str())] = json_of(entry->second);
  return out;
}

template <typename Date>
std::string date_text(const Date& date) {
  std::ostringstream out;
  out << date;
  return out.str();
}

Json json_of(const toml::node& node) {
  return node.visit([](const auto& value) -> Json {
    if constexpr (toml::is_table<decltype(value)>) {
      return json_of(static_cast<const toml::table&>(value));
    } else if constexpr (toml::is_array<decltype(value)>) {
      Json out = Json::array();
      for (const toml::node& element : value) out.push_back(json_of(element));
      return out;
    } else if constexpr (toml::is_date<decltype(value)> || toml::is_time<decltype(value)> ||
                         toml::is_date_time<decltype(value)>) {
      return date_text(value.get());
    } else {
      return value.get();
    }
  });
}

// ---- JSON -> TOML

/// Thrown and caught in this file only: a value deep inside has no TOML form.
struct Impossible : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <typename Value>
std::string scalar(Value value) {
  const toml::value<Value> node(std::move(value));
  std::ostringstream out;
  out << toml::toml_formatter(node, toml::format_flags::allow_unicode_strings);
  return out.str();
}

std::string integer(const Json& value) {
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX) {
    throw Impossible(value.dump() + " is larger than an integer can be");
  }
  return std::to_string(value.get<std::int64_t>());
}

std::string key_text(const std::string& key) {
  constexpr std::string_view kBare =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
  const bool bare = !key.empty() && key.find_first_not_of(kBare) == std::string::npos;
  return bare ? key : scalar(key);
}

std::string inline_text(const Json& value, std::size_t depth);

std::string list_text(const Json& list, std::size_t depth) {
  std::string out;
  for (const Json& element : list) {
    out.append(out.empty() ? "[" : ", ").append(inline_text(element, depth + 1));
  }
  return out.empty() ? "[]" : out + ']';
}

std::string table_text(const Json& table, std::size_t depth) {
  std::string out;
  for (const auto& [key, value] : table.items()) {
    out.append(out.empty() ? "{ " : ", ").append(key_text(key)).append(" = ");
    out.append(inline_text(value, depth + 1));
  }
  return out.empty() ? "{}" : out + " }";
}

std::string inline_text(const Json& value, std::size_t depth) {
  if (depth > kMaxDepth) throw Impossible("it is nested too deep");
  switch (value.type()) {
    case Json::value_t::object:
      return table_text(value, depth);
    case Json::value_t::array:
      return list_text(value, depth);
    case Json::value_t::string:
      return scalar(value.get<std::string>());
    case Json::value_t::boolean:
      return value.get<bool>() ? "true" : "false";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      return integer(value);
    case Json::value_t::number_float:
      return scalar(value.get<double>());
    default:
      throw Impossible("null is no value here; leave the key out");
  }
}

/// A list over several lines: each table on its own, other elements as many as fit.
std::string long_list(const Json& list, const std::string& indent) {
  std::string out = "[";
  std::size_t column = kLineLength;
  for (const Json& element : list) {
    const std::string text = inline_text(element, 2) + ',';
    if (element.is_object() || column + text.size() >= kLineLength) {
      out.append("\n").append(indent).append("  ");
      column = indent.size() + 2;
    } else {
      out += ' ';
    }
    out += text;
    column += text.size() + 1;
  }
  return out.append("\n").append(indent).append("]");
}

std::string value_lines(const Json& value, const std::string& indent, std::size_t room) {
  std::string line = inline_text(value, 1);
  if (!value.is_array() || value.empty()) return line;
  const bool tables = value.size() > 1 && value.front().is_object();
  return tables || line.size() > room ? long_list(value, indent) : line;
}

Error impossible(const std::string& key, const Impossible& error) {
  return {(key.empty() ? "" : key + ": ") + error.what(), ErrorKind::usage};
}

}  // namespace

Result<Json> to_json(std::string_view text) {
  try {
    return json_of(static_cast<const toml::table&>(toml::parse(text)));
  } catch (const toml::parse_error& error) {
    const auto& at = error.source().begin;
    return Error{std::to_string(at.line) + ':' + std::to_string(at.column) + ": " +
                     std::string(error.description()),
                 ErrorKind::usage};
  }
}

Result<std::string> to_toml(const Json& value) {
  try {
    return inline_text(value, 1);
  } catch (const Impossible& error) {
    return impossible({}, error);
  }
}

Result<std::string> to_toml_lines(const Json& object, const std::string& indent) {
  std::string out;
  for (const auto& [key, value] : object.items()) {
    try {
      const std::string head = indent + key_text(key) + " = ";
      const std::size_t room = head.size() < kLineLength ? kLineLength - head.size() : 0;
      out.append(head).append(value_lines(value, indent, room)).append("\n");
    } catch (const Impossible& error) {
      return impossible(key, error);
    }
  }
  return out;
}

}  // namespace vtap::config
