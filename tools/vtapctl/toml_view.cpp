// SPDX-License-Identifier: Apache-2.0
#include "toml_view.hpp"

#include <algorithm>

namespace vtap::ctl {
namespace {

/// JSON escapes a text as TOML does, but for the one control character that JSON lets through.
std::string quoted(const std::string& text) {
  std::string out;
  for (const char c : Json(text).dump(-1, ' ', true, Json::error_handler_t::replace)) {
    out += c == 0x7f ? "\\u007f" : std::string(1, c);
  }
  return out;
}

std::string key_text(const std::string& key) {
  const auto is_bare = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  };
  return !key.empty() && std::all_of(key.begin(), key.end(), is_bare) ? key : quoted(key);
}

std::string joined(const Json& value) {
  std::string out;
  for (const auto& item : value.items()) {
    out += out.empty() ? "" : ", ";
    if (value.is_object()) out += key_text(item.key()) + " = ";
    out += toml_value(item.value());
  }
  return out;
}

}  // namespace

std::string toml_value(const Json& value) {
  if (value.is_string()) return quoted(value.get<std::string>());
  if (value.is_array()) return "[" + joined(value) + "]";
  if (value.is_object()) return value.empty() ? "{}" : "{ " + joined(value) + " }";
  return value.dump();
}

std::string toml_view(const std::string& kind, const Json& object) {
  size_t widest = 0;
  for (const auto& item : object.items()) widest = std::max(widest, key_text(item.key()).size());
  std::string out = "[[" + kind + "]]\n";
  for (const auto& item : object.items()) {
    const std::string key = key_text(item.key());
    out += key + std::string(widest - key.size(), ' ') + " = " + toml_value(item.value()) + "\n";
  }
  return out;
}

}  // namespace vtap::ctl
