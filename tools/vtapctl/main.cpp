// SPDX-License-Identifier: Apache-2.0
#include <sys/ioctl.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <thread>

#include "shell.hpp"

namespace {

using vtap::ctl::Screen;

/// Waits for the next second; false when the user has had enough. The signals are blocked and
/// fetched here, so there is no handler, and no screen is left half drawn.
class Ticker {
 public:
  void interruptible(const std::function<void()>& work, const std::function<void()>& end) {
    if (!blocked_) block();
    std::atomic<bool> done{false};
    std::thread waiter([&] {
      constexpr timespec soon{0, 100'000'000};
      while (!done) {
        if (::sigtimedwait(&signals_, nullptr, &soon) >= 0) end();
      }
    });
    work();
    done = true;
    waiter.join();
  }

  [[nodiscard]] bool next() {
    if (!blocked_) block();
    constexpr timespec second{1, 0};
    return ::sigtimedwait(&signals_, nullptr, &second) < 0;
  }

 private:
  void block() {
    ::sigemptyset(&signals_);
    ::sigaddset(&signals_, SIGINT);
    ::sigaddset(&signals_, SIGTERM);
    ::sigprocmask(SIG_BLOCK, &signals_, nullptr);
    blocked_ = true;
  }

  sigset_t signals_{};
  bool blocked_ = false;
};

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

/// Of what standard output shows on; none for files and pipes.
std::optional<Screen> terminal() {
  winsize size{};
  if (::isatty(STDOUT_FILENO) == 0) return {};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) return Screen{};
  return Screen{size.ws_row, size.ws_col};
}

void sleep_for(std::chrono::milliseconds time) { std::this_thread::sleep_for(time); }

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a write to a broker or reader that is gone fails instead
  try {
    Ticker ticker;
    const vtap::ctl::Io io{
        std::cout,
        std::cerr,
        std::cin,
        variable,
        terminal,
        sleep_for,
        [&] { return ticker.next(); },
        vtap::ctl::kSocketDirectory,
        [&](const auto& work, const auto& end) { ticker.interruptible(work, end); }};
    return static_cast<int>(vtap::ctl::run({argv + 1, argv + argc}, io));
  } catch (const std::exception& error) {
    std::cerr << "vtapctl: " << error.what() << "\n";
    return static_cast<int>(vtap::ctl::Exit::failed);
  }
}
