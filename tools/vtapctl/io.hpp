// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <istream>
#include <optional>
#include <ostream>
#include <string>

#include "table.hpp"

namespace vtap::ctl {

/// The world that a command runs in; main() passes the real one.
struct Io {
  std::ostream& out;
  std::ostream& err;
  std::istream& in;
  std::function<std::string(const char* name)> variable;  ///< environment; empty: not set
  std::function<std::optional<Screen>()> terminal;        ///< size of the one behind `out`
  std::function<void(std::chrono::milliseconds)> pause;   ///< between two readings
  std::function<bool()> tick;                             ///< next second; false: enough
  std::filesystem::path sockets;                          ///< where brokers have theirs
  /// Does `work`; when the user has had enough before it is done, calls `end` beside it, perhaps
  /// more than once.
  std::function<void(const std::function<void()>& work, const std::function<void()>& end)>
      interruptible = [](const auto& work, const auto& /*end*/) { work(); };
};

}  // namespace vtap::ctl
