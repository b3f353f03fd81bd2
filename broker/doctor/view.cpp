// SPDX-License-Identifier: Apache-2.0
#include "doctor/view.hpp"

#include <algorithm>

namespace vtap::doctor {
namespace {

/// What others name may hold anything: a terminal gets no control characters from here.
std::string printable(const std::string& text) {
  std::string shown = text;
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return shown;
}

std::string counted(std::size_t count, const std::string& word) {
  return std::to_string(count) + " " + word + (count == 1 ? "" : "s");
}

std::string section(const Finding& finding) {
  const std::string severity = finding.fixed ? "fixed" : std::string(name_of(finding.severity));
  std::string text = severity + ": " + printable(finding.subject) + ": " + printable(finding.what) +
                     " [" + finding.id + "]\n";
  if (!finding.why.empty()) text += "    why: " + printable(finding.why) + "\n";
  if (!finding.fix.empty() && !finding.fixed) {
    text += "    fix: " + printable(finding.fix) + "\n";
    if (finding.safe) text += "         (--fix does it)\n";
  }
  return text;
}

std::string summary(const std::vector<Finding>& findings) {
  const auto count = [&](Severity severity) {
    return static_cast<std::size_t>(std::count_if(
        findings.begin(), findings.end(),
        [&](const Finding& finding) { return finding.severity == severity && !finding.fixed; }));
  };
  const auto fixed = static_cast<std::size_t>(
      std::count_if(findings.begin(), findings.end(), [](const Finding& f) { return f.fixed; }));
  std::string text = counted(count(Severity::error), "error") + ", " +
                     counted(count(Severity::warning), "warning") + ", " +
                     counted(count(Severity::hint), "hint");
  if (fixed != 0) text += "; " + std::to_string(fixed) + " fixed";
  return text + "\n";
}

}  // namespace

std::string view(std::vector<Finding> findings) {
  std::stable_sort(findings.begin(), findings.end(),
                   [](const Finding& a, const Finding& b) { return a.severity > b.severity; });
  std::string text;
  for (const Finding& finding : findings) text += section(finding);
  return text + summary(findings);
}

std::string log_line(const Finding& finding) {
  std::string text = "doctor: " + printable(finding.subject) + ": " + printable(finding.what);
  if (!finding.fix.empty()) text += "; fix: " + printable(finding.fix);
  return text + " [" + finding.id + "]";
}

}  // namespace vtap::doctor
