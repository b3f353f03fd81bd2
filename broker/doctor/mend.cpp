// SPDX-License-Identifier: Apache-2.0
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "doctor/checks.hpp"
#include "host/state.hpp"

namespace vtap::doctor {
namespace {

class Mender {
 public:
  explicit Mender(const Options& options) : options_(options) {}

  Result<void> operator()(const SetUpAgain& remedy) const {
    const auto state = options_.state_dir.empty() ? host::StateDir::open()
                                                  : host::StateDir::open(options_.state_dir);
    if (!state) return state.error();
    const auto done =
        host::set_up_again(state.value(), remedy.port, remedy.demand, remedy.held_here);
    if (!done) return done.error();
    if (!done.value().empty()) return Error{done.value().front()};
    return {};
  }

  Result<void> operator()(const MountBpffs&) const {
    const std::filesystem::path where = options_.root / "sys/fs/bpf";
    if (::mount("bpf", where.c_str(), "bpf", 0, nullptr) == 0) return {};
    return Error{"cannot mount bpffs at " + where.string() + ": " + std::strerror(errno)};
  }

 private:
  const Options& options_;
};

bool same(const Finding& a, const Finding& b) {
  return a.id == b.id && a.subject == b.subject && a.what == b.what;
}

bool among(const std::vector<Finding>& findings, const Finding& wanted) {
  return std::any_of(findings.begin(), findings.end(),
                     [&](const Finding& each) { return same(each, wanted); });
}

}  // namespace

std::vector<Finding> mend(const config::Config& config, const Running* running,
                          const Options& options) {
  Diagnoses found = diagnose(gather(config, running, options));
  std::vector<std::string> failures(found.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (!found[i].remedy) continue;
    const Result<void> done = std::visit(Mender(options), *found[i].remedy);
    if (!done) failures[i] = done.error().message;
  }
  const std::vector<Finding> now = examine(config, running, options);
  std::vector<Finding> findings;
  for (std::size_t i = 0; i < found.size(); ++i) {
    Finding& finding = found[i].finding;
    if (finding.severity == Severity::ok && !options.verbose) continue;
    findings.push_back(finding);
    if (!finding.safe) continue;
    findings.back().fixed = failures[i].empty() && !among(now, finding);
    if (!failures[i].empty()) findings.back().what += "; not mended: " + failures[i];
  }
  for (const Finding& each : now) {
    const bool known = std::any_of(found.begin(), found.end(), [&](const Diagnosis& before) {
      return same(before.finding, each);
    });
    if (!known) findings.push_back(each);
  }
  return findings;
}

}  // namespace vtap::doctor
