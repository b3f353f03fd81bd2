// SPDX-License-Identifier: Apache-2.0
#include "policy_keys.hpp"

#include <charconv>

namespace vtap::ctl {
namespace {

/// A number where the whole text is one, else the text: ports and VLANs are either.
Json number_or_text(const std::string& text) {
  std::uint64_t number = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error == std::errc() && stop == end && !text.empty()) return number;
  return text;
}

void put(Json& match, const char* key, const std::vector<std::string>& values, bool numbers) {
  Json list = Json::array();
  for (const std::string& value : values) {
    list.push_back(numbers ? number_or_text(value) : Json(value));
  }
  if (!list.empty()) match[key] = list.size() == 1 ? list.front() : list;
}

Json match_of(const PolicyOptions& options) {
  Json match = Json::object();
  put(match, "src", options.src, false);
  put(match, "dst", options.dst, false);
  put(match, "host", options.host, false);
  put(match, "proto", options.proto, true);
  put(match, "src_port", options.src_port, true);
  put(match, "dst_port", options.dst_port, true);
  put(match, "port", options.port, true);
  put(match, "vlan", options.vlan, true);
  return match;
}

/// "one_in=10" or "flows=0.25".
Result<Json> sample_of(const std::string& text) {
  const size_t equals = text.find('=');
  const std::string key = text.substr(0, equals);
  const Json value =
      equals == std::string::npos ? Json() : Json::parse(text.substr(equals + 1), nullptr, false);
  const bool right =
      key == "one_in" ? value.is_number_unsigned() : key == "flows" && value.is_number();
  if (right) return Json{{key, value}};
  return Error{"--sample " + text + ": write one_in=N or flows=F, for example one_in=10",
               ErrorKind::usage};
}

}  // namespace

Result<Json> policy_json(const PolicyOptions& options) {
  if (options.monitors.empty()) {
    return Error{"a policy needs a monitor for its copies: --monitor NAME", ErrorKind::usage};
  }
  Json policy = Json::object();
  if (!options.taps.empty()) policy["taps"] = options.taps;
  policy["monitors"] = options.monitors;
  const Json match = match_of(options);
  if (!match.empty()) policy["match"] = Json::array({match});
  if (!options.filter.empty()) policy["filter"] = options.filter;
  if (!options.sample.empty()) {
    auto sample = sample_of(options.sample);
    if (!sample) return sample.error();
    policy["sample"] = *sample;
  }
  if (!options.meter.empty()) policy["meter"] = {{"rate", options.meter}};
  if (options.slice) policy["slice"] = *options.slice;
  if (options.priority) policy["priority"] = *options.priority;
  if (!options.offload.empty()) policy["offload"] = options.offload;
  return policy;
}

}  // namespace vtap::ctl
