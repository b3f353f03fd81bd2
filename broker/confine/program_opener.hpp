// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "vtap/fd.hpp"
#include "vtap/result.hpp"

namespace vtap::confine {

/// A thread that opens BPF programs by their id, and can do nothing else.
///
/// To tell whose program is attached to a port, and to replace it only if it is ours, the broker
/// needs a descriptor of it; for that the kernel asks for CAP_SYS_ADMIN, and for nothing less. That
/// capability is worth root. So one thread has it, and nothing but it, behind a filter with this
/// one command of one system call; all other threads are rid of it.
class ProgramOpener {
 public:
  /// Starts the thread, which keeps CAP_SYS_ADMIN of what the caller has. Errors: as for
  /// confine_this_thread().
  static Result<std::unique_ptr<ProgramOpener>> start();
  ProgramOpener(const ProgramOpener&) = delete;
  ProgramOpener& operator=(const ProgramOpener&) = delete;
  ~ProgramOpener();  ///< ends the thread

  /// A new descriptor of the program, which the caller closes; -1 and errno if it cannot be had
  /// (ENOENT: there is none). Any thread; one at a time, the others wait.
  int open(std::uint32_t id);

 private:
  struct Answer {
    int fd = -1;
    int error = 0;
  };

  ProgramOpener() = default;
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Result<void>> confined_;  ///< once the thread has tried
  std::optional<std::uint32_t> wanted_;
  std::optional<Answer> answer_;
  bool stop_ = false;
  std::mutex callers_;  ///< held for a whole question and answer
  std::thread thread_;
};

}  // namespace vtap::confine
