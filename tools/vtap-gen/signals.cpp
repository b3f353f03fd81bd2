// SPDX-License-Identifier: Apache-2.0
#include "signals.hpp"

#include <chrono>
#include <ctime>

namespace vtap::gen {

StopSignals::StopSignals() {
  sigemptyset(&set_);
  sigaddset(&set_, SIGINT);
  sigaddset(&set_, SIGTERM);
  sigaddset(&set_, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set_, &before_);
}

StopSignals::~StopSignals() { sigprocmask(SIG_SETMASK, &before_, nullptr); }

void StopSignals::wait(std::optional<double> seconds, const std::function<void()>& on_user) const {
  using Clock = std::chrono::steady_clock;
  constexpr double forever = 1e9;
  const auto until = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                        std::chrono::duration<double>(seconds.value_or(forever)));
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(until - Clock::now());
    if (left.count() <= 0) return;
    const timespec timeout{.tv_sec = static_cast<time_t>(left.count() / 1'000'000'000),
                           .tv_nsec = static_cast<long>(left.count() % 1'000'000'000)};
    const int signal = sigtimedwait(&set_, nullptr, &timeout);
    if (signal == SIGINT || signal == SIGTERM) return;
    if (signal == SIGUSR1 && on_user) on_user();
  }
}

}  // namespace vtap::gen
