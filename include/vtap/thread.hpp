// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <system_error>
#include <thread>
#include <utility>

#include "vtap/result.hpp"

namespace vtap {

/// A thread that does `work`. Fails where the system grants none: a limit on tasks or memory, or a
/// time namespace that the process is only half in (Linux before 6.3).
template <typename Work>
Result<std::thread> start_thread(Work&& work) {
  try {
    return std::thread(std::forward<Work>(work));
  } catch (const std::system_error& error) {
    return Error{"cannot start a thread: " + error.code().message() +
                 "; look at the limits on tasks and memory (`ulimit -u`, `ulimit -s`, TasksMax= of "
                 "the service)"};
  }
}

}  // namespace vtap
