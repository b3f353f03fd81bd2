// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "doctor/finding.hpp"

namespace vtap::doctor {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array severities = {Severity::ok, Severity::hint, Severity::warning,
                                   Severity::error};

Json finding_json(const Finding& finding) {
  return {{"id", finding.id},           {"severity", name_of(finding.severity)},
          {"subject", finding.subject}, {"what", finding.what},
          {"why", finding.why},         {"fix", finding.fix},
          {"safe", finding.safe},       {"fixed", finding.fixed}};
}

/// Throws nlohmann's exceptions; they stop in from_json.
Finding finding_of(const Json& json) {
  const auto severity = json.at("severity").get<std::string>();
  const auto known = std::find_if(severities.begin(), severities.end(),
                                  [&](Severity each) { return name_of(each) == severity; });
  return {.id = json.at("id"),
          .severity = known == severities.end() ? Severity::warning : *known,
          .subject = json.at("subject"),
          .what = json.at("what"),
          .why = json.at("why"),
          .fix = json.at("fix"),
          .safe = json.at("safe"),
          .fixed = json.at("fixed")};
}

}  // namespace

std::string_view name_of(Severity severity) {
  switch (severity) {
    case Severity::ok:
      return "ok";
    case Severity::hint:
      return "hint";
    case Severity::warning:
      return "warning";
    case Severity::error:
      return "error";
  }
  return "";
}

std::string to_json(const std::vector<Finding>& findings, int indent) {
  Json list = Json::array();
  for (const Finding& finding : findings) list.push_back(finding_json(finding));
  // Names of programs are bytes of somebody else.
  return Json{{"findings", std::move(list)}}.dump(indent, ' ', false,
                                                  Json::error_handler_t::replace);
}

Result<std::vector<Finding>> from_json(std::string_view text) {
  try {
    const Json document = Json::parse(text);
    std::vector<Finding> findings;
    for (const Json& each : document.at("findings")) findings.push_back(finding_of(each));
    return findings;
  } catch (const Json::exception& error) {
    return Error{std::string("not a doctor's findings: ") + error.what()};
  }
}

bool has_error(const std::vector<Finding>& findings) {
  return std::any_of(findings.begin(), findings.end(), [](const Finding& finding) {
    return finding.severity == Severity::error && !finding.fixed;
  });
}

}  // namespace vtap::doctor
