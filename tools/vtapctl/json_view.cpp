// SPDX-License-Identifier: Apache-2.0
#include "json_view.hpp"

#include <algorithm>

namespace vtap::ctl {
namespace {

const Json kNothing = Json::object();

const Json* find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() ? nullptr : &*it;
}

}  // namespace

Result<Json> parse_stats(const std::string& body) {
  Json parsed = Json::parse(body, nullptr, false);
  if (!parsed.is_object()) {
    return Error{"the broker's answer is not the JSON of `stats`; is it a vtap-broker?"};
  }
  return parsed;
}

std::uint64_t count_of(const Json& object, const char* key) {
  const Json* value = find(object, key);
  return value != nullptr && value->is_number_unsigned() ? value->get<std::uint64_t>() : 0;
}

double number_of(const Json& object, const char* key) {
  const Json* value = find(object, key);
  return value != nullptr && value->is_number() ? value->get<double>() : 0.0;
}

bool is_set(const Json& object, const char* key, bool otherwise) {
  const Json* value = find(object, key);
  return value != nullptr && value->is_boolean() ? value->get<bool>() : otherwise;
}

std::string printable(std::string text) {
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  std::replace_if(text.begin(), text.end(), is_control, '?');
  return text;
}

std::string printable_lines(std::string text) {
  const auto is_control = [](char c) {
    return (static_cast<unsigned char>(c) < 0x20 && c != '\n') || c == 0x7f;
  };
  std::replace_if(text.begin(), text.end(), is_control, '?');
  return text;
}

std::string listed(const std::string& text, const std::string& indent) {
  const std::string lines = printable_lines(text.substr(0, text.find_last_not_of(" \n") + 1));
  if (lines.find('\n') == std::string::npos) return " " + lines;
  std::string out = "\n" + indent;
  for (const char c : lines) out += c == '\n' ? "\n" + indent : std::string(1, c);
  return out;
}

std::string text_of(const Json& object, const char* key) {
  const Json* value = find(object, key);
  if (value == nullptr || !value->is_string()) return "-";
  const auto text = value->get<std::string>();
  return text.empty() ? "-" : printable(text);
}

const Json& part_of(const Json& object, const char* key) {
  const Json* value = find(object, key);
  return value != nullptr && value->is_structured() ? *value : kNothing;
}

const Json& named(const Json& objects, const Json& like) {
  const Json* name = find(like, "name");
  if (name == nullptr) return kNothing;
  for (const Json& object : objects) {
    const Json* other = find(object, "name");
    if (other != nullptr && *other == *name) return object;
  }
  return kNothing;
}

std::uint64_t total_of(const Json& reasons) {
  std::uint64_t total = 0;
  for (const Json& value : reasons) {
    if (value.is_number_unsigned()) total += value.get<std::uint64_t>();
  }
  return total;
}

Interval::Interval(const Json& before, const Json& after)
    : before_(before),
      after_(after),
      seconds_(number_of(after, "uptime_s") - number_of(before, "uptime_s")) {
  if (seconds_ > 0) return;
  before_ = kNothing;
  seconds_ = std::max(number_of(after, "uptime_s"), 0.001);
}

double Interval::per_second(std::uint64_t old_value, std::uint64_t new_value) const {
  return new_value <= old_value ? 0.0 : static_cast<double>(new_value - old_value) / seconds_;
}

double Interval::per_second(const Json& old_object, const Json& new_object, const char* key) const {
  return per_second(count_of(old_object, key), count_of(new_object, key));
}

}  // namespace vtap::ctl
