// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <csignal>
#include <functional>
#include <optional>

namespace vtap::gen {

/// Holds SIGINT, SIGTERM and SIGUSR1 back, so that they are taken by wait() and nothing is left
/// behind. To be made before anything is attached; one per process.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// Until SIGINT or SIGTERM come, or `seconds` have passed. For each SIGUSR1 before: on_user().
  void wait(std::optional<double> seconds = std::nullopt,
            const std::function<void()>& on_user = {}) const;

 private:
  sigset_t set_{};
  sigset_t before_{};
};

}  // namespace vtap::gen
