// SPDX-License-Identifier: Apache-2.0
#include "findings.hpp"

#include <algorithm>
#include <array>

namespace vtap::ctl {
namespace {

constexpr std::array<const char*, 4> kSeverities = {"error", "warning", "hint", "ok"};

size_t rank_of(const Json& finding) {
  const std::string severity = text_of(finding, "severity");
  return static_cast<size_t>(std::find(kSeverities.begin(), kSeverities.end(), severity) -
                             kSeverities.begin());
}

bool has(const Json& finding, const char* key) { return text_of(finding, key) != "-"; }

std::string what_text(const Json& finding) {
  return (has(finding, "subject") ? text_of(finding, "subject") + ": " : "") +
         text_of(finding, "what");
}

std::string mend_text(const Json& finding) {
  if (is_set(finding, "fixed")) return "  mended: " + text_of(finding, "fix") + "\n";
  if (!has(finding, "fix")) return "";
  const bool safe = is_set(finding, "safe");
  return "  mend: " + text_of(finding, "fix") +
         (safe ? "   (safe: `vtapctl doctor --fix` does it)" : "") + "\n";
}

std::string block(const Json& finding) {
  return text_of(finding, "severity") + "  " + what_text(finding) + "\n" +
         (has(finding, "why") ? "  why: " + text_of(finding, "why") + "\n" : "") +
         mend_text(finding);
}

bool is_ok(const Json& finding) { return text_of(finding, "severity") == "ok"; }

}  // namespace

std::vector<Json> by_severity(const Json& findings) {
  std::vector<Json> sorted(findings.begin(), findings.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Json& a, const Json& b) { return rank_of(a) < rank_of(b); });
  return sorted;
}

std::string one_line(const Json& finding) {
  return text_of(finding, "severity") + ": " + what_text(finding) +
         (has(finding, "why") ? "; " + text_of(finding, "why") : "") +
         (has(finding, "fix") ? "; mend it by `" + text_of(finding, "fix") + "`" : "");
}

std::string doctor_view(const Json& findings) {
  std::string out;
  size_t good = 0;
  for (const Json& finding : by_severity(findings)) {
    if (is_ok(finding)) {
      ++good;
    } else {
      out += block(finding);
    }
  }
  if (out.empty()) out = "Nothing is wrong.\n";
  if (good == 0) return out;
  return out + std::to_string(good) + (good == 1 ? " check is" : " checks are") + " fine.\n";
}

bool has_error(const Json& findings) {
  return std::any_of(findings.begin(), findings.end(), [](const Json& finding) {
    return text_of(finding, "severity") == "error" && !is_set(finding, "fixed");
  });
}

}  // namespace vtap::ctl
